"""What a notebook's pod says to come to a node pool, and what it asks for there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebuild.emit.prewarm.pausepods import describe_selector, describe_toleration
from imagebuild.emit.prewarm.pools import Pool


def describe_tolerations(pool: Pool) -> list[dict[str, str]]:
    """The pool's taints, tolerated."""
    return [describe_toleration(toleration) for toleration in pool.tolerations]


def describe_node_terms(pool: Pool) -> list[dict[str, Any]]:
    """All of the pool's labels as one NodeSelectorTerm (core/v1)."""
    return [{"matchExpressions": [{"key": key, "operator": "In", "values": list(values)} for key, values in pool.labels.items()]}]


def describe_affinity(pool: Pool) -> dict[str, Any]:
    """The same as an affinity alone, for what takes no node selector."""
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": describe_node_terms(pool)}}}


def describe_placement(pool: Pool) -> dict[str, Any]:
    """``nodeSelector``, ``affinity`` and ``tolerations`` of a pod, as far as they are needed."""
    tolerations = describe_tolerations(pool)
    return {**describe_selector(pool.labels), **({"tolerations": tolerations} if tolerations else {})}


def describe_resources(cpu: str, memory: str, devices: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Requests equal to limits: a quota counts requests, and Kubeflow's page needs them to be there."""
    wanted = {"cpu": cpu, "memory": memory}
    return {"requests": wanted, "limits": {**wanted, **{name: str(count) for name, count in (devices or {}).items() if count}}}


def describe_pool_resources(pool: Pool) -> dict[str, Any]:
    """What the pool's table says a notebook there asks for."""
    notebook = pool.notebook
    return describe_resources(str(notebook.cpu), notebook.memory, {notebook.resource: notebook.gpu})


def name_pool(pool: Pool) -> str:
    """What a form shows."""
    return pool.notebook.display_name or pool.name


def explain_pool(pool: Pool) -> str:
    """One sentence for a form: the pool's own, or what it gives."""
    notebook = pool.notebook
    if notebook.description:
        return notebook.description
    devices = f", {notebook.gpu} {notebook.resource}" if notebook.gpu else ""
    return f"{notebook.cpu} CPU, {notebook.memory} memory{devices}"
