"""What a pod says to come to a node pool (a notebook's, or one that keeps images there), and what a notebook asks for there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebuild.emit.prewarm.pools import Pool, Toleration


def describe_tolerations(pool: Pool) -> list[dict[str, str]]:
    """Tolerations of core/v1 for the pool's taints."""
    return [_describe_toleration(toleration) for toleration in pool.tolerations]


def _describe_toleration(toleration: Toleration) -> dict[str, str]:
    """One of them, without empty fields."""
    fields = {"key": toleration.key, "operator": toleration.operator, "value": toleration.value, "effect": toleration.effect}
    return {name: value for name, value in fields.items() if value}


def describe_selector(labels: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """``nodeSelector`` for labels with one value, node affinity for the others; both must hold."""
    single, several = split_labels(labels)
    selector: dict[str, Any] = {}
    if single:
        selector["nodeSelector"] = single
    if several:
        required = {"nodeSelectorTerms": [{"matchExpressions": several}]}
        selector["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return selector


def describe_label_selector(labels: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """The same as a LabelSelector (apimachinery meta/v1)."""
    single, several = split_labels(labels)
    return {**({"matchLabels": single} if single else {}), **({"matchExpressions": several} if several else {})}


def split_labels(labels: dict[str, tuple[str, ...]]) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """(labels with one value, expressions for those with several)."""
    single = {key: values[0] for key, values in labels.items() if len(values) == 1}
    return single, [{"key": key, "operator": "In", "values": list(values)} for key, values in labels.items() if len(values) > 1]


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
