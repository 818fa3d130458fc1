"""What an earlier pre-warm left in a cluster when mode, split or pools have changed since: commands that delete it, by label.

Every object carries ``app.kubernetes.io/name: imagebuild-prewarm`` and says which set it is of (``app.kubernetes.io/part-of``: the
namespace), so that two sets in one cluster leave each other alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

NAME = "imagebuild-prewarm"
_LABELS = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/managed-by": "imagebuild"}


class _Kind(NamedTuple):
    kind: str
    resource: str  # as kubectl takes it, with its group
    has_namespace: bool
    is_custom: bool  # not every cluster knows it


_KINDS = (
    _Kind("DaemonSet", "daemonsets.apps", True, False),
    _Kind("ImagePullJob", "imagepulljobs.apps.kruise.io", True, True),
    _Kind("PinnedImageSet", "pinnedimagesets.machineconfiguration.openshift.io", False, True),
    _Kind("NodeReadinessRule", "nodereadinessrules.readiness.node.x-k8s.io", False, True),
)


def label_set(namespace: str) -> dict[str, str]:
    """The labels of every object of the set in this namespace."""
    return {**_LABELS, "app.kubernetes.io/part-of": namespace}


def list_prune_commands(objects: Sequence[dict[str, Any]], namespace: str) -> list[str]:
    """For a shell, a kubectl line per kind: deletes what has our labels and is not among ``objects``, the whole set of ``namespace``.

    The namespace itself (it may hold a pull secret) and the PriorityClass are never among what is deleted.
    """
    lines = [
        "# What imagebuild prewarm wrote earlier and this set does not have. Run it when the new pods are ready: until then the old",
        "# ones hold their images. The namespace and the PriorityClass stay.",
    ]
    for kind in _KINDS:
        names = sorted(item["metadata"]["name"] for item in objects if item["kind"] == kind.kind)
        labels = _LABELS if kind.has_namespace else label_set(namespace)  # the namespace says it already, of those before the label too
        parts = ["kubectl", "delete", kind.resource]
        parts += [f"--namespace={namespace}"] if kind.has_namespace else []
        parts += ["--selector=" + ",".join(f"{key}={value}" for key, value in labels.items())]
        parts += ["--field-selector=" + ",".join(f"metadata.name!={name}" for name in names)] if names else []
        known = f"if kubectl get crd {kind.resource} >/dev/null 2>&1; then " if kind.is_custom else ""
        lines.append(f"{known}{shlex.join(parts)}{'; fi' if known else ''}")
    return lines
