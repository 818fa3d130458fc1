"""Images for spawner forms, and what Kubernetes would say of a pod."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import kubernetes_validate
import msgspec
from kubernetes_validate import utils

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, Status
from imagebuild.emit.prewarm.pools import Pool, PoolNotebook, Toleration
from imagebuild.oci.model import Digest
from imagebuild.servers import Kind
from imagebuild.tagforms import name_kept

# It reads half a megabyte of schemas for each object; here once for all.
utils.schema_contents = functools.cache(utils.schema_contents)
utils.all_versions = functools.cache(utils.all_versions)

OLDEST, NEWEST = "1.25.0", "1.37.0"  # of the schemas that kubernetes-validate brings
GPU = Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule")
A100 = Pool("a100", {"cloud.google.com/gke-nodepool": ("a100-pool",)}, ("cosml",), (GPU,), "10%", 0)
MIG = Pool(
    "mig", {"nvidia.com/mig.config": ("all-1g.5gb", "all-2g.10gb")}, None, (), "10%", 0,
    notebook=PoolNotebook("A slice", "", "500m", "1500Mi", 2, "nvidia.com/mig-1g.5gb"),
)  # fmt: skip


def make_image(
    team: str = "cosml",
    quarter: str = "2026q4",
    packages: dict[str, str] | None = None,
    *,
    status: Status = "current",
    kind: Kind = "jupyter",
    keep: str = "",
    host: str = "registry.example",
) -> CatalogueEntry:
    digest = Digest.of(f"{team}:{quarter}".encode())
    year, number = quarter.split("q")
    return CatalogueEntry(
        team=team,
        quarter=quarter,
        tag=f"{quarter}-{digest.hex[-12:]}",
        digest=digest,
        created=f"{year}-{int(number) * 3 - 2:02}-01T00:00:00Z",
        kind=kind,
        image=f"{host}/ml/{team}",
        repository=f"ml/{team}",
        current=status == "current",
        title=f"Team {team}: tables",
        description="Tabular work",
        base="starter",
        base_digest="sha256:" + "b" * 64,
        port=8888,
        python="3.11.2",
        packages={"pandas": "2.2.3"} if packages is None else packages,
        status=status,
        kept=(name_kept(keep),) if keep else (),
    )


HISTORY = (
    make_image("cosml", "2026q4", {"pandas": "2.3.0", "polars": "1.9.0"}),
    make_image("cosml", "2026q3", status="kept", keep="churn-q3"),
    make_image("cosml", "2026q2", {"pandas": "2.2.3", "dask": "2024.1.0"}, status="retired"),
    make_image("apps", "2026q4", {}, kind="vscode"),
    make_image("stats", "2026q4", {"rpy2": "3.5.17"}, kind="rstudio"),
    make_image("stats", "2026q3", {"rpy2": "3.5.16"}, kind="rstudio", status="previous"),
)


def age(entries: Sequence[CatalogueEntry], *newer: CatalogueEntry) -> list[CatalogueEntry]:
    """The same images after newer ones of their teams were pushed."""
    teams = {entry.team for entry in newer}

    def demote(entry: CatalogueEntry) -> CatalogueEntry:
        status: Status = "kept" if entry.kept else "previous" if entry.current else "retired"
        return msgspec.structs.replace(entry, current=False, status=status) if entry.team in teams else entry

    return [*newer, *map(demote, entries)]


def listing(entries: Sequence[CatalogueEntry]) -> CatalogueListing:
    return CatalogueListing(tuple(entries), 0)


def check_pod(spec: dict[str, Any], namespace: str = "alice") -> None:
    """A pod's spec against Kubernetes' own strict schemas, the oldest and the newest there are."""
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": namespace}, "spec": spec}
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(document, version, strict=True)
