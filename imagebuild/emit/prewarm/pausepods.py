"""Pods that keep images on their node: by an image volume, or by a program that waits inside each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from imagebuild.emit.manifest.naming import make_name
from imagebuild.emit.manifest.yaml import Note
from imagebuild.emit.prewarm.pools import Pool, PrewarmSettings
from imagebuild.emit.prewarm.scheduling import describe_selector, describe_tolerations
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Reference

PRIORITY_CLASS = "imagebuild-prewarm"
READINESS_TAINT = "readiness.k8s.io/images-not-ready"
_HOLD_FOLDER = "/imagebuild-hold"
_FOREVER = "2147483647"  # seconds; every sleep takes that
_CONTAINER = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
_RESOURCES = {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}}


class HeldImage(msgspec.Struct, frozen=True):
    """One image of a pool."""

    team: str
    reference: Reference  # with its digest

    @property
    def pulled(self) -> str:
        """By digest alone."""
        return str(msgspec.structs.replace(self.reference, tag=""))


def parse_pinned(text: str, what: str, key: str) -> str:
    """A helper image's reference by digest alone; ConfigurationError for one that is missing or not pinned."""
    hint = f'set {key} in [prewarm] of images/pools.toml, as in "registry.example.com/{key.partition("-")[0]}@sha256:..."'
    if not text:
        raise ConfigurationError(f"no {what} image is configured", hint)
    try:
        reference = Reference.parse(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what} image: {error.message}", hint) from None
    if reference.digest is None:
        raise ConfigurationError(f"the {what} image {text} is not named by its digest", hint)
    return str(msgspec.structs.replace(reference, tag=""))


def describe_pod(pool: Pool, images: Sequence[HeldImage], settings: PrewarmSettings) -> dict[str, Any]:
    """The pod's spec, for :attr:`PrewarmSettings.mode` image-volume or hold. The restricted Pod Security level takes both."""
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "priorityClassName": PRIORITY_CLASS,
        **describe_selector(pool.labels),
    }
    tolerations = describe_tolerations(pool)
    if settings.readiness_condition:  # the nodes that the images are not on yet are those that must be reached
        tolerations.append({"key": READINESS_TAINT, "operator": "Exists", "effect": "NoSchedule"})
    if tolerations:
        pod["tolerations"] = tolerations
    if settings.pull_secret:
        pod["imagePullSecrets"] = Note(
            ("The same secret as the notebooks': a kubelet checks private images again for each credential (from 1.35).",),
            [{"name": settings.pull_secret}],
        )
    return pod | (_hold_by_volume(images, settings) if settings.mode == "image-volume" else _hold_by_waiting(images, settings))


def _explain_policy(settings: PrewarmSettings) -> str:
    if settings.pull_policy == "IfNotPresent":
        return "A digest cannot go stale, so IfNotPresent is exact; Always would ask the registry at each start and pull nothing newer."
    return "Always asks the registry at each start, which a digest does not need: a registry that is down keeps these pods from starting."


def _hold_by_volume(images: Sequence[HeldImage], settings: PrewarmSettings) -> dict[str, Any]:
    volumes = [(make_name("warm", image.team), image) for image in images]
    return {
        "securityContext": Note(
            ("No runAsUser: the pause image names a numeric user, and OpenShift wants to choose its own.",),
            {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        ),
        "containers": [
            {
                "name": "hold",
                "image": parse_pinned(settings.pause_image, "pause", "pause-image"),
                "imagePullPolicy": "IfNotPresent",
                "resources": Note(("No GPU is asked for, and none is given: the pause image sets no NVIDIA variables.",), _RESOURCES),
                "securityContext": _CONTAINER,
                "volumeMounts": [{"name": name, "mountPath": f"/warm/{name}", "readOnly": True} for name, _ in volumes],
            }
        ],
        "volumes": Note(
            ("The pod is ready when all of these are pulled and unpacked.", _explain_policy(settings)),
            [{"name": name, "image": {"reference": image.pulled, "pullPolicy": settings.pull_policy}} for name, image in volumes],
        ),
    }


def _hold_by_waiting(images: Sequence[HeldImage], settings: PrewarmSettings) -> dict[str, Any]:
    """Containers, not init containers: one image that cannot be pulled does not keep the others away."""
    mount = {"name": "hold", "mountPath": _HOLD_FOLDER, "readOnly": True}
    security: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    why = "OpenShift chooses the user; elsewhere set hold-user: an image whose user is a name would be refused."
    if settings.hold_user:
        security = {"runAsNonRoot": True, "runAsUser": settings.hold_user, "seccompProfile": {"type": "RuntimeDefault"}}
        why = "Nobody: nothing of the images is run but the program that waits, and an image's own user may be a name."
    return {
        "securityContext": Note((why,), security),
        "initContainers": [
            {
                "name": "bring-hold",
                "image": parse_pinned(settings.hold_image, "hold", "hold-image"),
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/busybox", "cp", "/bin/busybox", f"{_HOLD_FOLDER}/sleep"],
                "resources": _RESOURCES,
                "securityContext": _CONTAINER,
                "volumeMounts": [{"name": "hold", "mountPath": _HOLD_FOLDER}],
            }
        ],
        "containers": [
            {
                "name": make_name("warm", image.team),
                "image": image.pulled,
                "imagePullPolicy": Note((_explain_policy(settings),), settings.pull_policy),
                "command": [f"{_HOLD_FOLDER}/sleep", _FOREVER],
                "env": Note(
                    ("Where the nvidia runtime is the default, a CUDA image would be given every GPU of the node.",),
                    [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}],
                ),
                "resources": _RESOURCES,
                "securityContext": _CONTAINER,
                "volumeMounts": [mount],
            }
            for image in images
        ],
        "volumes": [{"name": "hold", "emptyDir": {"sizeLimit": "16Mi"}}],
    }
