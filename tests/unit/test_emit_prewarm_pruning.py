"""What ``prewarm --prune`` deletes: read as kubectl reads it, of clusters that earlier sets were applied to."""

from __future__ import annotations

import itertools
import shlex
from typing import Any

import msgspec
import pytest

from imagebuild.emit.manifest.merging import strip_types
from imagebuild.emit.prewarm.daemonsets import describe_prewarm
from imagebuild.emit.prewarm.pools import Pool, PrewarmSettings
from imagebuild.emit.prewarm.pruning import list_prune_commands
from imagebuild.oci.model import Digest
from tests.support.forms import A100, HISTORY, MIG, age, make_image

HELPER = f"registry.example/helper@{Digest.of(b'helper')}"
OLD = [entry for entry in HISTORY if entry.current]
NEW = [entry for entry in age(HISTORY, make_image("cosml", "2027q1")) if entry.current]
T4 = msgspec.structs.replace(A100, name="t4", labels={"eks.amazonaws.com/nodegroup": ("t4",)}, teams=None)
KINDS = {
    "daemonsets.apps": "DaemonSet",
    "imagepulljobs.apps.kruise.io": "ImagePullJob",
    "pinnedimagesets.machineconfiguration.openshift.io": "PinnedImageSet",
    "nodereadinessrules.readiness.node.x-k8s.io": "NodeReadinessRule",
}
Object = dict[str, Any]


def describe(pools: list[Pool], entries: Any = OLD, namespace: str = "imagebuild-prewarm", **changes: Any) -> list[Object]:
    settings = PrewarmSettings(pause_image=HELPER, hold_image=HELPER, **changes)
    return [strip_types(item.document.value) for item in describe_prewarm(pools, entries, settings, namespace=namespace)]


def name_object(item: Object) -> tuple[str, str, str]:
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def run_commands(lines: list[str], cluster: list[Object]) -> list[Object]:
    """What is left: each command lists by kind, namespace, labels and fields, and deletes what it finds."""
    for line in lines:
        if line.startswith("#"):
            continue
        words = shlex.split(line.removesuffix("; fi").partition("; then ")[2] or line)
        assert words[:2] == ["kubectl", "delete"]
        options = dict(word.removeprefix("--").split("=", 1) for word in words[3:])
        labels = dict(part.split("=") for part in options["selector"].split(","))
        spared = {part.removeprefix("metadata.name!=") for part in options.get("field-selector", "").split(",")}

        def is_doomed(item: Object, kind: str, options: dict[str, str], labels: dict[str, str], spared: set[str]) -> bool:
            kind_here, namespace, name = name_object(item)
            own = item["metadata"].get("labels", {}).items()
            return kind_here == kind and options.get("namespace", "") == namespace and labels.items() <= own and name not in spared

        cluster = [item for item in cluster if not is_doomed(item, KINDS[words[2]], options, labels, spared)]
    return cluster


SETS: dict[str, dict[str, Any]] = {
    "volumes": {"pools": [A100, T4]},
    "one pool": {"pools": [T4]},
    "split": {"pools": [A100, T4], "split": True},
    "hold": {"pools": [A100, MIG], "mode": "hold"},
    "readiness": {"pools": [A100, T4], "readiness_condition": "example.com/Ready"},
    "pinned": {"pools": [A100, T4], "mode": "pinned-image-set"},
    "jobs": {"pools": [A100, T4], "mode": "image-pull-job"},
    "newer jobs": {"pools": [A100, T4], "mode": "image-pull-job", "entries": NEW},
}
OTHERS: list[Object] = [
    {"kind": "DaemonSet", "metadata": {"name": "prewarm-a100", "namespace": "imagebuild-prewarm"}},
    {"kind": "DaemonSet", "metadata": {"name": "x", "namespace": "kube-system", "labels": {"app.kubernetes.io/managed-by": "imagebuild"}}},
    {"kind": "PinnedImageSet", "metadata": {"name": "theirs", "labels": {"machineconfiguration.openshift.io/role": "worker"}}},
    {"kind": "WorkspaceKind", "metadata": {"name": "jupyterlab", "labels": {"app.kubernetes.io/managed-by": "imagebuild"}}},
    {"kind": "Secret", "metadata": {"name": "registry", "namespace": "imagebuild-prewarm"}},
]


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(SETS, 2)))
def test_what_is_left_is_the_new_set_and_what_is_not_of_it(before: str, after: str) -> None:
    new = describe(**SETS[after])
    elsewhere = describe(**{**SETS[before], "namespace": "other-prewarm"})  # a set of its own in the same cluster
    cluster = {name_object(item): item for item in [*describe(**SETS[before]), *new]}
    stays = {name for name in cluster if name[0] in ("Namespace", "PriorityClass")}
    others = [item for item in elsewhere if item["kind"] != "PriorityClass"]
    left = run_commands(list_prune_commands(new, "imagebuild-prewarm"), [*cluster.values(), *others, *OTHERS])
    expected = {*stays, *map(name_object, new), *map(name_object, others), *map(name_object, OTHERS)}
    assert {name_object(item) for item in left} == expected


def test_every_object_has_the_labels_that_apply_prunes_by() -> None:
    for options in SETS.values():
        for item in describe(**options):
            assert item["metadata"]["labels"].items() >= {
                ("app.kubernetes.io/name", "imagebuild-prewarm"),
                ("app.kubernetes.io/part-of", "imagebuild-prewarm"),
            }


def test_labels_of_pods_and_selectors_are_what_they_were() -> None:
    """A DaemonSet's selector cannot be changed, and another label on the pods would start them all again."""
    daemonset = next(item for item in describe([A100]) if item["kind"] == "DaemonSet")
    own = {"app.kubernetes.io/name": "imagebuild-prewarm", "app.kubernetes.io/instance": "prewarm-a100"}
    assert daemonset["spec"]["selector"] == {"matchLabels": own}
    assert daemonset["spec"]["template"]["metadata"]["labels"] == {**own, "sidecar.istio.io/inject": "false"}
