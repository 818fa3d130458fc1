"""Kubernetes objects that keep team images on the nodes that will need them, pool by pool.

Four ways (``mode`` in pools.toml): *image-volume*, a DaemonSet whose pod mounts the images and runs nothing of them (Kubernetes
1.35 or newer, with containerd 2.1 or CRI-O); *hold*, a DaemonSet with one waiting container per image, for older clusters;
*pinned-image-set*, OpenShift's own; *image-pull-job*, OpenKruise's. In the first two the kubelet pulls and unpacks, the
pod becomes ready when that is done, and what a running pod uses is never garbage-collected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, find_reference
from imagebuild.emit.manifest.naming import check_namespace, make_name
from imagebuild.emit.manifest.yaml import Document, Note, render_documents
from imagebuild.emit.prewarm.pausepods import PRIORITY_CLASS, READINESS_TAINT, HeldImage, describe_pod
from imagebuild.emit.prewarm.pools import Pool, PrewarmSettings
from imagebuild.emit.prewarm.pruning import NAME, label_set
from imagebuild.emit.prewarm.scheduling import describe_label_selector
from imagebuild.errors import UsageError
from imagebuild.text import suggest

_PRIORITY = -1000  # notebooks without a class of their own have 0
HEADER = "Written by imagebuild prewarm from images/pools.toml and the images in the registry; don't edit."
_NEEDS = {
    "image-volume": (
        "kubectl apply -f FILE, again after every new image. Needs image volumes: Kubernetes 1.35 or newer (before that,",
        "the ImageVolume feature gate) with containerd 2.1 or newer, or CRI-O.",
    ),
    "hold": ("kubectl apply -f FILE, again after every new image. Works with every Kubernetes that is supported.",),
    "pinned-image-set": (
        "oc apply -f FILE, again after every new image. Needs OpenShift with machineconfiguration.openshift.io/v1 (4.20 has it).",
    ),
    "image-pull-job": (
        "kubectl apply -f FILE, again after every new image. Needs OpenKruise. What it pulled is held by nothing: over its threshold the",
        "kubelet may remove it again.",
    ),
}


_PRUNE = (
    "What earlier ones wrote and this one does not (another mode, split, other pools, jobs of older images) stays in the cluster until",
    "it is deleted: imagebuild prewarm --prune writes the commands.",
)


class NamedDocument(msgspec.Struct, frozen=True):
    """One object and the file it would be alone in."""

    file: str
    document: Document


def choose_images(pool: Pool, entries: Sequence[CatalogueEntry]) -> list[CatalogueEntry]:
    """The current image of each of the pool's teams, by team; a team without one is a UsageError."""
    current = {entry.team: entry for entry in sorted(entries, key=lambda entry: entry.team) if entry.current}
    if pool.teams is None and not current:
        raise UsageError(f"pool {pool.name} takes every team, and no team has a pushed image", "run imagebuild image TEAM first")
    for team in pool.teams or ():
        if team not in current:
            known = f"; {suggest(team, list(current))}" if current else ""
            raise UsageError(f"pool {pool.name}: team {team} has no pushed image", f"run imagebuild image {team} first{known}")
    return [current[team] for team in (pool.teams if pool.teams is not None else sorted(current))]


def describe_prewarm(
    pools: Sequence[Pool],
    entries: Sequence[CatalogueEntry],
    settings: PrewarmSettings,
    *,
    namespace: str = "imagebuild-prewarm",
    registry_prefix: str = "",
) -> list[NamedDocument]:
    """Every object, in the order to apply them. The same input gives the same documents.

    A team without a pushed image is a UsageError; a helper image that is not named by digest, or a team image without a
    name to pull by, a ConfigurationError (see ``registry_prefix`` in :func:`find_reference`).
    """
    check_namespace(namespace)
    documents = []
    if settings.mode != "pinned-image-set":
        documents.append(NamedDocument("namespace.yaml", Document((), _describe_namespace(namespace))))
    if settings.mode in ("image-volume", "hold"):
        documents.append(NamedDocument("priorityclass.yaml", Document((), _describe_priority(namespace))))
    for pool in sorted(pools, key=lambda pool: pool.name):
        chosen = choose_images(pool, entries)
        images = [HeldImage(entry.team, find_reference(entry, registry_prefix)) for entry in chosen]
        comments = {entry.team: f"  {entry.team}: {entry.tag}, {entry.title or 'no title'}" for entry in chosen}
        for name, held, value in _describe_pool(pool, images, settings, namespace):
            comment = (f"Pool {pool.name}", *(comments[image.team] for image in held))
            documents.append(NamedDocument(f"{name}.yaml", Document(comment, value)))
        if settings.readiness_condition:
            documents.append(_describe_readiness(pool, settings.readiness_condition, namespace))
    return documents


def render_prewarm(
    pools: Sequence[Pool],
    entries: Sequence[CatalogueEntry],
    settings: PrewarmSettings,
    *,
    namespace: str = "imagebuild-prewarm",
    registry_prefix: str = "",
) -> str:
    """:func:`describe_prewarm` as one YAML stream; the same input gives the same bytes."""
    documents = [item.document for item in describe_prewarm(pools, entries, settings, namespace=namespace, registry_prefix=registry_prefix)]
    first = msgspec.structs.replace(documents[0], comment=(HEADER, *_NEEDS[settings.mode], *_PRUNE, *documents[0].comment))
    return render_documents([first, *documents[1:]])


def render_kustomization(documents: Sequence[NamedDocument], settings: PrewarmSettings) -> dict[str, str]:
    """File name -> text, of a folder that ``kubectl apply -k`` and GitOps controllers take; each begins with :data:`HEADER`."""
    files = {}
    for item in documents:
        files[item.file] = render_documents([msgspec.structs.replace(item.document, comment=(HEADER, *item.document.comment))])
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [item.file for item in documents],
    }
    files["kustomization.yaml"] = render_documents([Document((HEADER, *_NEEDS[settings.mode]), kustomization)])
    return files


Described = list[tuple[str, Sequence[HeldImage], dict[str, Any]]]  # (name, what it holds, the object)


def _describe_pool(pool: Pool, images: Sequence[HeldImage], settings: PrewarmSettings, namespace: str) -> Described:
    name = make_name("prewarm", pool.name)
    if settings.mode == "pinned-image-set":
        return [(name, images, _describe_pinned_set(pool, name, images, namespace))]
    if settings.mode == "image-pull-job":
        jobs = [(make_name("prewarm", f"{pool.name}-{item.team}-{_short(item)}"), item) for item in images]
        return [(job, [item], _describe_pull_job(pool, job, item, settings, namespace)) for job, item in jobs]
    if settings.split:
        parts = [(make_name("prewarm", f"{pool.name}-{item.team}"), item) for item in images]
        return [(part, [item], _describe_daemonset(pool, part, [item], settings, namespace)) for part, item in parts]
    return [(name, images, _describe_daemonset(pool, name, images, settings, namespace))]


def _short(image: HeldImage) -> str:
    assert image.reference.digest is not None  # find_reference always has one
    return image.reference.digest.hex[:12]


def _describe_namespace(namespace: str) -> dict[str, Any]:
    labels = {**label_set(namespace), "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}


def _describe_priority(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": PRIORITY_CLASS, "labels": label_set(namespace)},
        "value": Note(("Below every notebook: on a full node this pod goes first, and pushes nobody out.",), _PRIORITY),
        "preemptionPolicy": "Never",
        "description": "Pods that only keep notebook images on their node",
    }


def _describe_daemonset(pool: Pool, name: str, images: Sequence[HeldImage], settings: PrewarmSettings, namespace: str) -> dict[str, Any]:
    selector = {"app.kubernetes.io/name": NAME, "app.kubernetes.io/instance": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": namespace, "labels": {**selector, **label_set(namespace)}},
        "spec": {
            "selector": {"matchLabels": selector},
            "updateStrategy": Note(
                (
                    "maxSurge holds the old image until the new one is there (both on disk for a while);",
                    "maxUnavailable lets it go first. Few nodes at once: all of them would storm the registry.",
                ),
                {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxSurge": pool.max_surge, "maxUnavailable": pool.max_unavailable},
                },
            ),
            "template": {
                "metadata": {"labels": {**selector, "sidecar.istio.io/inject": "false"}},
                "spec": describe_pod(pool, images, settings),
            },
        },
    }


def _describe_pinned_set(pool: Pool, name: str, images: Sequence[HeldImage], namespace: str) -> dict[str, Any]:
    """OpenShift's ``machineconfiguration.openshift.io/v1`` PinnedImageSet: digests only, at most 500."""
    role = pool.machine_config_pool or pool.name
    return {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "PinnedImageSet",
        "metadata": {
            "name": name,
            "labels": Note(
                ("The machine config pool whose nodes these are (oc get machineconfigpools).",),
                {"machineconfiguration.openshift.io/role": role, **label_set(namespace)},
            ),
        },
        "spec": {"pinnedImages": [{"name": image.pulled} for image in images]},
    }


def _describe_pull_job(pool: Pool, name: str, image: HeldImage, settings: PrewarmSettings, namespace: str) -> dict[str, Any]:
    """OpenKruise's ``apps.kruise.io/v1alpha1`` ImagePullJob; it never completes, so that nodes which join later pull too."""
    spec: dict[str, Any] = {
        "image": image.pulled,
        "parallelism": pool.max_surge if pool.surges else pool.max_unavailable,
        "selector": describe_label_selector(pool.labels),
        "completionPolicy": Note(("Never completes: nodes that join later pull it too.",), {"type": "Never"}),
        "pullPolicy": {"backoffLimit": 3, "timeoutSeconds": 3600},
    }
    if settings.pull_secret:
        spec["pullSecrets"] = [settings.pull_secret]
    labels = {**label_set(namespace), "app.kubernetes.io/instance": make_name("prewarm", pool.name)}
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "apps.kruise.io/v1alpha1", "kind": "ImagePullJob", "metadata": metadata, "spec": spec}


def _describe_readiness(pool: Pool, condition: str, namespace: str) -> NamedDocument:
    """The node-readiness-controller's ``readiness.node.x-k8s.io/v1alpha1`` NodeReadinessRule."""
    name = make_name("prewarm", pool.name)
    return NamedDocument(
        f"{name}-readiness.yaml",
        Document(
            (
                f"Pool {pool.name}: notebooks wait for a new node until the images are there. Something on the node has to set the",
                f"condition {condition} once the pre-warm pod is ready (the controller's readiness reporter, or your own): until then no",
                "notebook is scheduled there.",
            ),
            {
                "apiVersion": "readiness.node.x-k8s.io/v1alpha1",
                "kind": "NodeReadinessRule",
                "metadata": {"name": name, "labels": label_set(namespace)},
                "spec": {
                    "conditions": [{"type": condition, "requiredStatus": "True"}],
                    "taint": {"key": READINESS_TAINT, "effect": "NoSchedule"},
                    "enforcementMode": Note(("Once for each new node: a later image may arrive while notebooks run.",), "bootstrap-only"),
                    "nodeSelector": describe_label_selector(pool.labels),
                },
            },
        ),
    )
