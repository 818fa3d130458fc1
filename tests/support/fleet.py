"""A fleet of team images as two years leave it: 50 teams, 8 quarters, six bases; the same every time it is made."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from imagebuild import annotations as names
from imagebuild.catalogue.clusterkinds import BEGIN, END, KINDS
from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, read_catalogue
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.store import Store

QUARTERS = tuple(f"{year}q{number}" for year in (2025, 2026) for number in (1, 2, 3, 4))
_TEAMS = [
    "churn",
    "pricing",
    "risk",
    "fraud",
    "search",
    "ranking",
    "ads",
    "vision",
    "speech",
    "forecasting",
    "logistics",
    "routing",
    "supply",
    "warehouse",
    "returns",
    "basket",
    "loyalty",
    "segments",
    "credit",
    "claims",
    "actuary",
    "treasury",
    "audit",
    "energy",
    "grid",
    "weather",
    "maps",
    "mobility",
    "telemetry",
    "sensors",
    "quality",
    "yield",
    "battery",
    "genomics",
    "imaging",
    "trials",
    "pharmacy",
    "claims-nlp",
    "contracts",
    "legal-search",
    "support",
    "chat",
    "translation",
    "summaries",
    "recommender",
    "feed",
    "media",
    "video",
    "catalogue-ml",
    "cosml",
]
_BASES = (  # name, kind, GiB, Python
    ("starter", "jupyter", 0.11, "3.11.2"),
    ("jupyter-scipy", "jupyter", 1.1, "3.12.8"),
    ("jupyter-pytorch-cuda-full", "jupyter", 6.4, "3.12.8"),
    ("odh-tensorflow-cuda", "jupyter", 5.2, "3.12.9"),
    ("codeserver-python", "vscode", 0.9, "3.12.8"),
    ("rstudio-tidyverse", "rstudio", 1.3, "3.12.8"),
)
_PACKAGES = {  # name -> first version, and how much of it changes in a quarter
    "pandas": (2, 2, 1), "scikit-learn": (1, 4, 1), "numpy": (1, 26, 1), "lightgbm": (4, 3, 0), "xgboost": (2, 0, 3), "polars": (1, 1, 0),
    "duckdb": (1, 0, 0), "statsmodels": (0, 14, 1), "transformers": (4, 44, 0), "timm": (1, 0, 9), "accelerate": (0, 33, 0),
    "sentence-transformers": (3, 0, 1), "pyarrow": (16, 1, 0), "plotly": (5, 22, 0), "matplotlib": (3, 8, 4), "mlflow": (2, 14, 0),
    "optuna": (3, 6, 1), "shap": (0, 45, 1), "geopandas": (0, 14, 4), "spacy": (3, 7, 4), "ortools": (9, 9, 0), "prophet": (1, 1, 5),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One image to push. ``size`` is what its layers would have in life; what is pushed is small."""

    team: str
    tag: str
    base: str
    notes: dict[str, str]
    size: int


def make_fleet(teams: int = 50, quarters: Sequence[str] = QUARTERS, seed: int = 7) -> list[Made]:
    """``teams`` times ``quarters`` images, oldest first."""
    dice = random.Random(seed)
    fleet = []
    for team in (_TEAMS * 2)[:teams]:
        base, kind, gib, python = dice.choice(_BASES)
        wanted = sorted(dice.sample(sorted(_PACKAGES), dice.randint(3, 8)))
        versions = {name: list(_PACKAGES[name]) for name in wanted}
        delta = dice.randint(20, 260) << 20
        for number, quarter in enumerate(quarters):
            for version in versions.values():
                if dice.random() < 0.5:
                    version[1], version[2] = (version[1] + 1, 0) if dice.random() < 0.4 else (version[1], version[2] + 1)
            if dice.random() < 0.15 and (new := dice.choice(sorted(set(_PACKAGES) - set(versions)))):
                versions[new] = list(_PACKAGES[new])
                delta += dice.randint(5, 60) << 20
            delta = int(delta * dice.uniform(0.95, 1.1))
            year, part = quarter.split("q")
            created = f"{year}-{3 * int(part) - 2:02}-{1 + dice.randrange(9):02}T06:00:00Z"
            notes = {
                names.FORMAT: "1",
                names.TEAM: team,
                names.QUARTER: quarter,
                names.CREATED: created,
                names.KIND: kind,
                names.TITLE: f"{team.replace('-', ' ').capitalize()}: {', '.join(list(versions)[:2])}",
                names.DESCRIPTION: f"Notebooks of the {team} team",
                names.VERSION: f"{quarter}-{dice.getrandbits(48):012x}",
                names.BASE: base,
                names.BASE_NAME: f"registry.example.com/bases/{base}:{1 + number // 2}",
                names.BASE_DIGEST: Digest.of(f"{base} {number // 2}".encode()),
                names.PORT: "8888",
                names.PYTHON: python,
                names.PACKAGES: json.dumps({name: ".".join(map(str, version)) for name, version in sorted(versions.items())}),
                names.OWNERS: json.dumps([f"{team}@example.com"]),
                names.DELTA_COMPRESSED: str(delta),
                names.DELTA_INSTALLED: str(int(delta * 3.4)),
            }
            fleet.append(Made(team, notes[names.VERSION], base, notes, int(gib * (1 + 0.02 * number) * (1 << 30)) + delta))
    return fleet


def push_fleet(store: Store, fleet: Sequence[Made], namespace: str = "ml") -> None:
    """Real manifests with a config, three base layers and a layer of their own, all of them there.

    Teams side by side, and the images of one after each other: distribution 2.8 does not write a repository's link to a blob in one
    step, so that a manifest put while another upload of the same blob ends may be told that the blob is unknown.
    """

    def push(images: list[Made]) -> None:
        for made in images:
            repository = f"{namespace}/{made.team}" if namespace else made.team
            layers = [f"{made.base} layer {number}".encode() * 40 for number in range(3)] + [made.tag.encode() * 40]
            push_image(store, repository, made.tag, made.notes, layers)

    teams: dict[str, list[Made]] = {}
    for made in fleet:
        teams.setdefault(made.team, []).append(made)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(push, teams.values()))


def push_image(store: Store, repository: str, tag: str, notes: dict[str, str], layers: Sequence[bytes] = (b"layer",)) -> Digest:
    """One image; its layers are any bytes."""
    described = []
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest.of(data) for data in layers]}}
    for media_type, data in ((OCI_CONFIG, json.dumps(config).encode()), *((OCI_LAYER_ZSTD, data) for data in layers)):
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        store.put_blob(repository, descriptor, data)
        described.append({"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size})
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
    manifest = RawManifest(json.dumps({**document, "annotations": notes}).encode(), OCI_MANIFEST)
    return store.put_manifest(repository, manifest, tag)


def list_fleet(fleet: Sequence[Made], folder: Path, host: str = "registry.example.com") -> CatalogueListing:
    """The listing of a fleet with the sizes it would have, as a registry ``host`` would give it."""
    import msgspec

    store = LayoutStore(folder)
    for made in fleet:
        push_image(store, f"ml/{made.team}", made.tag, made.notes)
    sizes = {(made.team, made.tag): made.size for made in fleet}

    def as_there(entry: CatalogueEntry) -> CatalogueEntry:
        return msgspec.structs.replace(entry, image=f"{host}/{entry.repository}", size=sizes[entry.team, entry.tag])

    listing = read_catalogue(store)
    return msgspec.structs.replace(listing, entries=tuple(as_there(entry) for entry in listing.entries))


def write_cluster(
    path: Path, objects: Sequence[Any], taken: datetime, *, asked: Sequence[str] | None = None, has: Sequence[str] = ("pods", "secrets")
) -> Path:
    """A dump as the printed command writes it: ``objects`` and a pod, taken at that time of that kinds (None: all there are)."""
    pod = {"kind": "Pod", "metadata": {"namespace": "kube-system", "name": "dns"}, "spec": {"containers": [{"image": "busybox"}]}}
    names = [kind.resource for kind in KINDS] if asked is None else asked
    begin = {"kind": BEGIN, "taken": taken.strftime("%Y-%m-%dT%H:%M:%SZ"), "has": ",".join(has), "asked": ",".join(names)}
    listed = {"kind": "List", "apiVersion": "v1", "items": [pod, *objects], "metadata": {"resourceVersion": ""}}
    path.write_text("\n".join(json.dumps(item) for item in (begin, listed, {"kind": END})) + "\n")
    os.utime(path, (taken.timestamp(), taken.timestamp()))
    return path
