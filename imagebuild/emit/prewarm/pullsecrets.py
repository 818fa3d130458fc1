"""Whether pre-warm pods and notebooks may use the same images.

Since Kubernetes 1.35 a kubelet remembers with which pull secret, or without any, it pulled an image, by the image's repository
(KEP-2535). A pod with that secret, or another one that says the same, starts; for others it asks the registry again, and what needs
a login does not start without one. What a kubelet did not pull itself (mode pinned-image-set, image-pull-job, a node image) is
taken as it is, by the policy that is its default.
"""

from __future__ import annotations

from collections.abc import Sequence

from imagebuild.emit.prewarm.pools import Pool, PrewarmSettings

_PULLED_BY_KUBELET = ("image-volume", "hold")


def warn_of_secrets(settings: PrewarmSettings, pools: Sequence[Pool]) -> tuple[str, ...]:
    """Pools whose pre-warm pods have a pull secret and their notebooks none, or the other way round."""
    if settings.mode not in _PULLED_BY_KUBELET:
        return ()
    without = [pool.name for pool in pools if settings.pull_secret and not pool.notebook.pull_secret]
    alone = [pool.name for pool in pools if pool.notebook.pull_secret and not settings.pull_secret]
    warnings = []
    if without:
        warnings.append(
            f"{_name(without)}: pre-warm pods pull with the secret {settings.pull_secret}, and [pool.{without[0]}.notebook] names no "
            "pull-secret: since Kubernetes 1.35 a notebook without one cannot start a private image that is there already"
        )
    if alone:
        warnings.append(
            f"{_name(alone)}: notebooks pull with a secret, and [prewarm] names no pull-secret: pre-warm pods cannot pull a private image"
        )
    return tuple(warnings)


def warn_of_notebook_secret(settings: PrewarmSettings, pull_secret: str) -> tuple[str, ...]:
    """The same for one notebook."""
    if settings.mode not in _PULLED_BY_KUBELET or bool(settings.pull_secret) == bool(pull_secret):
        return ()
    if pull_secret:
        return (
            f"the notebook pulls with the secret {pull_secret}, and pre-warm pods with none ([prewarm] pull-secret in images/pools.toml): "
            "they cannot pull a private image",
        )
    return (
        f"pre-warm pods pull with the secret {settings.pull_secret}, and this notebook names none: since Kubernetes 1.35 it cannot start a "
        "private image that is there already, unless its service account has a secret that says the same (--pull-secret)",
    )


def warn_of_references(settings: PrewarmSettings, pull_from: str) -> tuple[str, ...]:
    """``pull_from``: what was given on the command line; empty for nothing."""
    if not pull_from or not settings.pull_from or pull_from.rstrip("/") == settings.pull_from.rstrip("/"):
        return ()
    return (
        f"--pull-from {pull_from} is not the pull-from of images/pools.toml ({settings.pull_from}): under another name an image is pulled "
        "again, and its pull secret asked for again",
    )


def _name(pools: Sequence[str]) -> str:
    return f"pool{'s' * (len(pools) > 1)} {', '.join(pools)}"
