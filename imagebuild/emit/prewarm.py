"""Kubernetes manifests that keep team images on the nodes that will need them: one DaemonSet per node pool.

The team image is an *image volume* of a pod that does nothing. The kubelet pulls and unpacks it, the pod becomes ready
when that is done, and what a running pod mounts is never garbage-collected. Nothing of the image is run, so it needs
no shell, no numeric user and no GPU. Image volumes are on by default from Kubernetes 1.35, with containerd 2.1 or CRI-O;
the restricted Pod Security level allows them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, find_reference
from imagebuild.emit.pools import Pool, Toleration
from imagebuild.emit.yaml import Document, Note, render_documents
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import Reference
from imagebuild.toml import suggest

_PRIORITY_CLASS = "imagebuild-prewarm"
_PRIORITY = -1000  # notebooks without a class of their own have 0
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_NAME_LIMIT = 52  # leaves room for what Kubernetes appends within 63 characters


def render_prewarm(
    pools: Sequence[Pool],
    entries: Sequence[CatalogueEntry],
    *,
    namespace: str = "imagebuild-prewarm",
    pause_image: str,
    pull_secret: str | None = None,
    registry_prefix: str = "",
) -> str:
    """One YAML stream: Namespace, PriorityClass, and a DaemonSet per pool with the current image of each of its teams.

    The same input gives the same bytes. A team without a pushed image is a UsageError; a pause image that is not named
    by digest, or a team image without a name to pull by, a ConfigurationError (see ``registry_prefix`` in
    :func:`find_reference`).
    """
    if len(namespace) > 63 or not _LABEL.fullmatch(namespace):
        raise ConfigurationError(f"not a namespace: {namespace!r}", "at most 63 lower-case letters, digits and hyphens")
    pause = _check_pause(pause_image)
    current = {entry.team: entry for entry in sorted(entries, key=lambda entry: entry.team) if entry.current}
    documents = [
        Document(
            (
                "Written by imagebuild prewarm from images/pools.toml and the images in the registry; don't edit.",
                "kubectl apply -f FILE, again after every new image. Needs image volumes: Kubernetes 1.35 or newer (before that,",
                "the ImageVolume feature gate) with containerd 2.1 or newer, or CRI-O.",
            ),
            _describe_namespace(namespace),
        ),
        Document((), _describe_priority()),
    ]
    for pool in sorted(pools, key=lambda pool: pool.name):
        chosen = _choose_images(pool, current)
        images = [(entry, find_reference(entry, registry_prefix)) for entry in chosen]
        documents.append(
            Document(
                (f"Pool {pool.name}", *(f"  {entry.team}: {entry.tag}, {entry.title or 'no title'}" for entry in chosen)),
                _describe_daemonset(pool, images, namespace, pause, pull_secret),
            )
        )
    return render_documents(documents)


def _check_pause(text: str) -> Reference:
    hint = 'set pause-image in [prewarm] of images/pools.toml, as in "registry.k8s.io/pause:3.10@sha256:..."'
    if not text:
        raise ConfigurationError("no pause image is configured", hint)
    try:
        reference = Reference.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"pause image: {error.message}", hint) from None
    if reference.digest is None:
        raise ConfigurationError(f"the pause image {text} is not named by its digest", hint)
    return reference


def _choose_images(pool: Pool, current: dict[str, CatalogueEntry]) -> list[CatalogueEntry]:
    if pool.teams is None and not current:
        raise UsageError(f"pool {pool.name} takes every team, and no team has a pushed image", "run imagebuild image TEAM first")
    for team in pool.teams or ():
        if team not in current:
            known = f"; {suggest(team, list(current))}" if current else ""
            raise UsageError(f"pool {pool.name}: team {team} has no pushed image", f"run imagebuild image {team} first{known}")
    return [current[team] for team in (pool.teams if pool.teams is not None else sorted(current))]


def _make_name(prefix: str, text: str) -> str:
    """A DNS-1123 label; two texts never share one, since what had to be changed carries a hash of the original."""
    plain = f"{prefix}-{text}"
    if len(plain) <= _NAME_LIMIT and _LABEL.fullmatch(plain):
        return plain
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    kept = re.sub(r"[^a-z0-9]+", "-", plain.lower())[: _NAME_LIMIT - 9].strip("-")
    return f"{kept}-{mark}"


def _describe_namespace(namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "imagebuild",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    }


def _describe_priority() -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": _PRIORITY_CLASS, "labels": {"app.kubernetes.io/managed-by": "imagebuild"}},
        "value": Note(("Below every notebook: on a full node this pod goes first, and pushes nobody out.",), _PRIORITY),
        "preemptionPolicy": "Never",
        "globalDefault": False,
        "description": "Pods that only keep notebook images on their node",
    }


def _describe_daemonset(
    pool: Pool, images: list[tuple[CatalogueEntry, Reference]], namespace: str, pause: Reference, pull_secret: str | None
) -> dict[str, Any]:
    name = _make_name("prewarm", pool.name)
    selector = {"app.kubernetes.io/name": "imagebuild-prewarm", "app.kubernetes.io/instance": name}
    metadata = {"name": name, "namespace": namespace, "labels": {**selector, "app.kubernetes.io/managed-by": "imagebuild"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": metadata,
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
                "spec": _describe_pod(pool, images, pause, pull_secret),
            },
        },
    }


def _describe_pod(pool: Pool, images: list[tuple[CatalogueEntry, Reference]], pause: Reference, pull_secret: str | None) -> dict[str, Any]:
    volumes = [(_make_name("warm", entry.team), entry, reference) for entry, reference in images]
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "priorityClassName": _PRIORITY_CLASS,
        **_describe_selector(pool.labels),
    }
    if pool.tolerations:
        pod["tolerations"] = [_describe_toleration(toleration) for toleration in pool.tolerations]
    if pull_secret:
        pod["imagePullSecrets"] = Note(
            ("The same secret as the notebooks': a kubelet checks private images again for each credential (from 1.35).",),
            [{"name": pull_secret}],
        )
    pod |= {
        "securityContext": Note(
            ("No runAsUser: the pause image names a numeric user, and OpenShift wants to choose its own.",),
            {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        ),
        "containers": [
            {
                "name": "hold",
                "image": str(msgspec.structs.replace(pause, tag="")),
                "imagePullPolicy": "IfNotPresent",
                "resources": Note(
                    ("No GPU is asked for, and none is given: the pause image sets no NVIDIA variables.",),
                    {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
                ),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": name, "mountPath": f"/warm/{name}", "readOnly": True} for name, _, _ in volumes],
            }
        ],
        "volumes": Note(
            (
                "The pod is ready when all of these are pulled and unpacked. A digest cannot go stale, so IfNotPresent is",
                "exact; Always would ask the registry at each start and pull nothing newer.",
            ),
            [
                {
                    "name": name,
                    "image": {"reference": str(msgspec.structs.replace(reference, tag="")), "pullPolicy": "IfNotPresent"},
                }
                for name, _, reference in volumes
            ],
        ),
    }
    return pod


def _describe_selector(labels: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """``nodeSelector`` for labels with one value, node affinity for the others; both must hold."""
    single = {key: values[0] for key, values in labels.items() if len(values) == 1}
    several = [{"key": key, "operator": "In", "values": list(values)} for key, values in labels.items() if len(values) > 1]
    selector: dict[str, Any] = {}
    if single:
        selector["nodeSelector"] = single
    if several:
        required = {"nodeSelectorTerms": [{"matchExpressions": several}]}
        selector["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return selector


def _describe_toleration(toleration: Toleration) -> dict[str, str]:
    fields = {"key": toleration.key, "operator": toleration.operator, "value": toleration.value, "effect": toleration.effect}
    return {name: value for name, value in fields.items() if value}
