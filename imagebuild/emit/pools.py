"""``images/pools.toml``: the GPU node pools, how their nodes are told apart, and whose images they keep ready."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from imagebuild.errors import ConfigurationError
from imagebuild.toml import decode_toml

# Pool labels are there from the node's first second; what a GPU operator labels (the last two) comes after the driver.
_SHORT_FORMS = {
    "gke": "cloud.google.com/gke-nodepool",
    "eks": "eks.amazonaws.com/nodegroup",
    "karpenter": "karpenter.sh/nodepool",
    "aks": "kubernetes.azure.com/agentpool",
    "gpu_product": "nvidia.com/gpu.product",
    "mig": "nvidia.com/mig.config",
}

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN_PART = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_LABEL_KEY = re.compile(rf"(?:(?={'[^/]{1,253}'}/){_DOMAIN_PART}(?:\.{_DOMAIN_PART})*/)?{_NAME}")
_LABEL_VALUE = re.compile(rf"(?:{_NAME})?")
_PERCENT = re.compile(r"(?:100|[1-9]?[0-9])%")

Values = str | tuple[str, ...]


class Toleration(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """A pod's toleration (Kubernetes core/v1)."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class _PoolTable(msgspec.Struct, frozen=True, rename="kebab"):
    """``[pool.NAME]`` as written."""

    teams: tuple[str, ...] | Literal["*"]
    labels: dict[str, Values] = {}
    gke: Values = ()
    eks: Values = ()
    karpenter: Values = ()
    aks: Values = ()
    gpu_product: Values = ()
    mig: Values = ()
    tolerations: tuple[Toleration, ...] = (Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule"),)
    max_surge: str | int | None = None
    max_unavailable: str | int | None = None


class _PrewarmTable(msgspec.Struct, frozen=True, rename="kebab"):
    """``[prewarm]`` as written."""

    pause_image: str = ""
    pull_secret: str | None = None


class _File(msgspec.Struct, frozen=True):
    """The file as written."""

    prewarm: _PrewarmTable = _PrewarmTable()
    pool: dict[str, _PoolTable] = {}


class Pool(msgspec.Struct, frozen=True):
    """One node pool. A node belongs to it when each label has one of its values."""

    name: str
    labels: dict[str, tuple[str, ...]]  # sorted by key
    teams: tuple[str, ...] | None  # None: every team with an image
    tolerations: tuple[Toleration, ...]
    max_surge: str | int  # exactly one of these two is not zero
    max_unavailable: str | int


class PoolFile(msgspec.Struct, frozen=True):
    """All of ``pools.toml``, checked; pools sorted by name."""

    pause_image: str  # "" where the file names none
    pull_secret: str | None
    pools: tuple[Pool, ...]


def load_pools(path: Path) -> PoolFile:
    """Read and check the file. Whatever Kubernetes would refuse later is a ConfigurationError that names the pool."""
    table = decode_toml(path, _File)
    if not table.pool:
        raise ConfigurationError(f"{path} has no pool", "add a [pool.NAME] with the labels of its nodes and its teams")
    pools = tuple(_check_pool(name, table.pool[name], f"{path}: pool {name}") for name in sorted(table.pool))
    return PoolFile(table.prewarm.pause_image, table.prewarm.pull_secret, pools)


def _check_pool(name: str, table: _PoolTable, where: str) -> Pool:
    if not name.strip():
        raise ConfigurationError(f"{where}has no name", "write [pool.NAME]")
    if not table.teams:
        raise ConfigurationError(f"{where} has no teams", 'list some, or write teams = "*" for every team with an image')
    surge, unavailable = table.max_surge, table.max_unavailable
    if surge is None and unavailable is None:
        surge = "10%"  # the old image stays held until the new one is there
    surge, unavailable = surge or 0, unavailable or 0
    for key, value in (("max-surge", surge), ("max-unavailable", unavailable)):
        if not (value >= 0 if isinstance(value, int) else _PERCENT.fullmatch(value)):
            raise ConfigurationError(f"{where}: {key} is {value!r}", 'write a number of nodes, or a share as in "10%"')
    if (surge in (0, "0%")) == (unavailable in (0, "0%")):
        raise ConfigurationError(
            f"{where}: exactly one of max-surge and max-unavailable must be more than zero",
            "max-surge keeps the old image held until the new one is there; max-unavailable takes less disk",
        )
    for toleration in table.tolerations:
        _check_toleration(toleration, where)
    return Pool(
        name, _merge_labels(table, where), None if table.teams == "*" else tuple(sorted(set(table.teams))),
        table.tolerations, surge, unavailable,
    )  # fmt: skip


def _merge_labels(table: _PoolTable, where: str) -> dict[str, tuple[str, ...]]:
    """The raw labels and the short forms as one selector."""
    written: list[tuple[str, Values]] = [*table.labels.items(), *((key, getattr(table, short)) for short, key in _SHORT_FORMS.items())]
    labels: dict[str, tuple[str, ...]] = {}
    for key, value in written:
        values = (value,) if isinstance(value, str) else value
        if not values and key not in table.labels:
            continue  # a short form that was not used
        if key in labels:
            raise ConfigurationError(f"{where} names the label {key} twice", "keep the short form or the raw label")
        if not _LABEL_KEY.fullmatch(key):
            raise ConfigurationError(f"{where}: not a label: {key!r}", "as in nvidia.com/gpu.product; see kubectl get nodes --show-labels")
        for one in values:
            if not _LABEL_VALUE.fullmatch(one):
                raise ConfigurationError(f"{where}: not a value of a label: {one!r}", "at most 63 letters, digits and . - _")
        if not values:
            raise ConfigurationError(f"{where}: label {key} has no value", "name one, or a list of those it may have")
        labels[key] = tuple(dict.fromkeys(values))
    if not labels:
        raise ConfigurationError(
            f"{where} selects no nodes by anything, which would be all of them",
            f"give labels = {{...}} or one of {', '.join(short.replace('_', '-') for short in _SHORT_FORMS)}",
        )
    return dict(sorted(labels.items()))


def _check_toleration(toleration: Toleration, where: str) -> None:
    """The API server's own rules, said before it is asked."""
    problem = ""
    if not toleration.key and toleration.operator != "Exists":
        problem = 'one without a key must have operator = "Exists"'
    elif toleration.key and not _LABEL_KEY.fullmatch(toleration.key):
        problem = f"not a taint's key: {toleration.key!r}"
    elif toleration.value and toleration.operator == "Exists":
        problem = 'one with a value must have operator = "Equal"'
    elif not _LABEL_VALUE.fullmatch(toleration.value):
        problem = f"not a taint's value: {toleration.value!r}"
    if problem:
        raise ConfigurationError(f"{where}: wrong toleration: {problem}", "see kubectl describe node for the taints of the pool")
