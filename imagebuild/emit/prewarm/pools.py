"""``images/pools.toml``: the GPU node pools, how their nodes are recognised, and whose images they keep ready."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from imagebuild.config import parse_size
from imagebuild.emit.prewarm.quantities import parse_quantity
from imagebuild.errors import ConfigurationError
from imagebuild.toml import decode_toml

# Pool labels are there from the node's first second; what a GPU operator labels (gpu-product, mig) comes after the driver.
_SHORT_FORMS = {
    "gke": "cloud.google.com/gke-nodepool",
    "eks": "eks.amazonaws.com/nodegroup",
    "karpenter": "karpenter.sh/nodepool",
    "aks": "kubernetes.azure.com/agentpool",
    "gpu_product": "nvidia.com/gpu.product",
    "mig": "nvidia.com/mig.config",
    "arch": "kubernetes.io/arch",
}
MIG_PROFILE = re.compile(r"[1-9]g\.[0-9]+gb(?:\.me|\+me)?")  # of one GPU instance: 1g.5gb

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_DOMAIN_PART = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_LABEL_KEY = re.compile(rf"(?:(?={'[^/]{1,253}'}/){_DOMAIN_PART}(?:\.{_DOMAIN_PART})*/)?{_NAME}")
_LABEL_VALUE = re.compile(rf"(?:{_NAME})?")
_PERCENT = re.compile(r"(?:100|[1-9]?[0-9])%")

SECRET = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")  # a DNS subdomain, but for its length

Values = str | tuple[str, ...]


class Toleration(msgspec.Struct, frozen=True, rename="kebab", omit_defaults=True):
    """A pod's toleration (Kubernetes core/v1)."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""


class PoolNotebook(msgspec.Struct, frozen=True, rename="kebab"):
    """``[pool.NAME.notebook]``: what a notebook on the pool asks for, in spawner forms and ``imagebuild notebook --pool``."""

    display_name: str = ""  # "": the pool's name
    description: str = ""
    cpu: str | int | float = 4
    memory: str = "16Gi"
    gpu: int = 1  # how many of ``resource``; 0 for none
    resource: str = "nvidia.com/gpu"  # "nvidia.com/mig-1g.5gb" where the operator's MIG strategy is mixed
    pull_secret: str = ""  # what its image is pulled with; "": none is named


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
    arch: Values = ()
    time_sliced: bool = False
    disk: str | int | None = None
    machine_config_pool: str = ""
    tolerations: tuple[Toleration, ...] = (Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule"),)
    max_surge: str | int | None = None
    max_unavailable: str | int | None = None
    notebook: PoolNotebook = PoolNotebook()


Mode = Literal["image-volume", "hold", "pinned-image-set", "image-pull-job"]


class PrewarmSettings(msgspec.Struct, frozen=True, rename="kebab"):
    """``[prewarm]``: how images are kept on nodes, whatever the pool."""

    pause_image: str = ""  # "" where the file names none
    pull_secret: str | None = None
    pull_from: str = ""  # HOST[/PREFIX] of a mirror, as in --pull-from, for pods and forms alike; "": the registry itself
    mode: Mode = "image-volume"
    hold_image: str = ""  # mode hold: an image with a static busybox at /bin/busybox, by digest
    hold_user: int = 65534  # mode hold: who holds; 0 leaves it to the cluster (OpenShift)
    pull_policy: Literal["IfNotPresent", "Always"] = "IfNotPresent"
    split: bool = False  # one DaemonSet per image
    readiness_condition: str = ""  # a node condition, for a NodeReadinessRule per pool; "" for none
    rate: str | int = "100 MiB"  # of a node's pull, per second
    disk_threshold: int = 85  # percent of the disk at which the kubelet begins to remove images (imageGCHighThresholdPercent)


class _File(msgspec.Struct, frozen=True):
    """The file as written."""

    prewarm: PrewarmSettings = PrewarmSettings()
    pool: dict[str, _PoolTable] = {}


class Pool(msgspec.Struct, frozen=True):
    """One node pool. A node belongs to it when each label has one of its values."""

    name: str
    labels: dict[str, tuple[str, ...]]  # sorted by key
    teams: tuple[str, ...] | None  # None: every team with an image
    tolerations: tuple[Toleration, ...]
    max_surge: str | int  # exactly one of these two is not zero
    max_unavailable: str | int
    disk: int | None = None  # bytes for images and containers on a node; None: not said
    machine_config_pool: str = ""  # OpenShift's, for pinned image sets; "": the pool's name
    notebook: PoolNotebook = PoolNotebook()

    @property
    def surges(self) -> bool:
        """Whether old and new images are on a node together while an update rolls out."""
        return self.max_surge not in (0, "0%")


class PoolFile(msgspec.Struct, frozen=True):
    """All of ``pools.toml``, checked; pools sorted by name."""

    settings: PrewarmSettings
    pools: tuple[Pool, ...]


def load_pools(path: Path) -> PoolFile:
    """Read and check the file. Whatever Kubernetes would refuse later is a ConfigurationError that names the pool."""
    table = decode_toml(path, _File)
    if not table.pool:
        raise ConfigurationError(f"{path} has no pool", "add a [pool.NAME] with the labels of its nodes and its teams")
    pools = tuple(_check_pool(name, table.pool[name], f"{path}: pool {name}") for name in sorted(table.pool))
    _check_settings(table.prewarm, str(path))
    return PoolFile(table.prewarm, pools)


def read_pools(path: Path) -> PoolFile:
    """The same; where there is no such file no pools, and what is the default."""
    return load_pools(path) if path.is_file() else PoolFile(PrewarmSettings(), ())


def _check_settings(settings: PrewarmSettings, where: str) -> None:
    try:
        rate = parse_size(settings.rate)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: rate: {error.message}", 'bytes a second, as in "100 MiB"') from None
    problem = ""
    if not rate:
        problem = "rate is zero"
    elif not 1 <= settings.disk_threshold <= 100:
        problem = f"disk-threshold is {settings.disk_threshold}, which is not a percentage"
    elif settings.hold_user < 0:
        problem = f"hold-user is {settings.hold_user}"
    elif settings.pull_secret is not None and not SECRET.fullmatch(settings.pull_secret):
        problem = f"pull-secret is {settings.pull_secret!r}, which is not a secret's name"
    elif settings.readiness_condition and not _LABEL_KEY.fullmatch(settings.readiness_condition):
        problem = f"readiness-condition is {settings.readiness_condition!r}, which is not the type of a node condition"
    if problem:
        raise ConfigurationError(f"{where}: [prewarm] {problem}", "see docs/kubernetes.md")


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
    try:
        disk = None if table.disk is None else parse_size(table.disk)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: disk: {error.message}", error.hint) from None
    if table.machine_config_pool and not _LABEL_VALUE.fullmatch(table.machine_config_pool):
        raise ConfigurationError(f"{where}: not a machine config pool: {table.machine_config_pool!r}", "see oc get machineconfigpools")
    labels = _merge_labels(_name_gpu(table, where), where)
    if problem := find_strategy_problem(labels, [table.notebook.resource] if table.notebook.gpu else []):
        raise ConfigurationError(f"{where}: {problem[0]}", problem[1])
    return Pool(
        name, labels, None if table.teams == "*" else tuple(sorted(set(table.teams))),
        table.tolerations, surge, unavailable, disk, table.machine_config_pool, _check_notebook(table.notebook, where),
    )  # fmt: skip


def find_strategy_problem(labels: Mapping[str, Sequence[str]], resources: Sequence[str]) -> tuple[str, str] | None:
    """(what is wrong, what helps) where labels and resources are those of two MIG strategies of the GPU operator: no node has both.

    With the single strategy a node's product is called after the slice (``A100-SXM4-40GB-MIG-1g.5gb``) and slices are
    ``nvidia.com/gpu``; with the mixed one the product keeps its name and slices are ``nvidia.com/mig-1g.5gb``.
    """
    cut = [value for value in labels.get("nvidia.com/gpu.product", ()) if "-MIG-" in value]
    mixed = [resource for resource in resources if resource.startswith("nvidia.com/mig-")]
    if not cut or not mixed:
        return None
    return (
        f"no node has both the product {cut[0]} (MIG strategy single) and the resource {mixed[0]} (strategy mixed)",
        'single: resource = "nvidia.com/gpu"; mixed: name the layout instead of the product\'s slice, mig = "all-1g.10gb" for one',
    )


def _check_notebook(notebook: PoolNotebook, where: str) -> PoolNotebook:
    for key, value in (("cpu", str(notebook.cpu)), ("memory", notebook.memory)):
        parse_quantity(value, f"{where}: notebook: {key}")
    if notebook.pull_secret and not SECRET.fullmatch(notebook.pull_secret):
        raise ConfigurationError(f"{where}: notebook: not a secret's name: {notebook.pull_secret!r}", "lower-case letters, digits, . and -")
    if notebook.gpu < 0 or (notebook.gpu and ("/" not in notebook.resource or not _LABEL_KEY.fullmatch(notebook.resource))):
        raise ConfigurationError(
            f"{where}: notebook: {notebook.gpu} of {notebook.resource!r}", 'gpu is a number, resource as in "nvidia.com/mig-1g.5gb"'
        )
    return notebook


def _name_gpu(table: _PoolTable, where: str) -> _PoolTable:
    """``gpu-product``, ``mig`` and ``time-sliced`` as the GPU operator's labels say it together.

    With a GPU cut into equal parts the product itself is called so (``A100-SXM4-40GB-MIG-1g.5gb``), with a shared one too
    (``-SHARED``); without a product the layout's label stands for a MIG profile.
    """
    products = (table.gpu_product,) if isinstance(table.gpu_product, str) else table.gpu_product
    profiles = (table.mig,) if isinstance(table.mig, str) else table.mig
    plain = [item for item in profiles if MIG_PROFILE.fullmatch(item)]
    if plain and len(plain) != len(profiles):
        raise ConfigurationError(f"{where}: mig names profiles and layouts together", 'write profiles ("1g.5gb") or layouts ("all-1g.5gb")')
    if table.time_sliced and not products:
        raise ConfigurationError(f"{where}: time-sliced needs the GPU's product", 'add gpu-product = "Tesla-T4"')
    if plain and products:
        marks = [item.replace("+", ".") for item in plain]
        products, profiles = tuple(f"{product}-MIG-{mark}" for product in products for mark in marks), ()
    elif plain:
        profiles = tuple(f"all-{item}" for item in plain)
    if table.time_sliced:
        products = tuple(item if item.endswith("-SHARED") else f"{item}-SHARED" for item in products)
    return msgspec.structs.replace(table, gpu_product=products, mig=profiles)


def _merge_labels(table: _PoolTable, where: str) -> dict[str, tuple[str, ...]]:
    """The raw labels and the short forms as one selector."""
    short_forms = [(key, getattr(table, short)) for short, key in _SHORT_FORMS.items()]
    written: list[tuple[str, Values]] = [*table.labels.items(), *((key, values) for key, values in short_forms if values != ())]
    labels: dict[str, tuple[str, ...]] = {}
    for key, value in written:
        values = (value,) if isinstance(value, str) else value
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
            f"{where} has no labels, so it would select every node",
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
