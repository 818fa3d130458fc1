"""A whole team image made by hand, entry by entry: base, layer, lock, recipe and companions, in a layout folder."""

from __future__ import annotations

import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from imagebuild import annotations as names
from imagebuild.layer.model import Codec
from imagebuild.lock.file.lockfile import lock_digest
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST, Digest, Manifest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts
from imagebuild.recipe import CONSTRAINTS_PATH, Recipe
from imagebuild.supply.referrers import make_companions
from imagebuild.workspace import Workspace
from tests.support import images
from tests.support.builders import render_record

SITE = "usr/lib/python3/dist-packages"
Entries = list[tuple[tarfile.TarInfo, bytes]]


def make_distribution(name: str, version: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """An installed distribution: path below the site folder -> content."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n".encode()
    content = {**files, f"{info}/METADATA": metadata, f"{info}/INSTALLER": b"pip\n"}
    return {**content, f"{info}/RECORD": render_record(content, f"{info}/RECORD")}


@dataclass
class HandMade:
    """What goes into the image; change it, then :meth:`push`. ``files``: path below the site folder -> content."""

    root: Path
    files: dict[str, bytes] = field(
        default_factory=lambda: make_distribution("demo", "1.0", {"demo/__init__.py": b"x = 1\n", "demo/data.txt": b"some text\n"})
    )
    packages: tuple[tuple[str, str], ...] = (("demo", "1.0"),)
    index: str = "default"
    further: Entries = field(default_factory=list)  # at the end of the layer
    over: list[Entries] = field(default_factory=list)  # more layers
    config: dict[str, Any] = field(default_factory=dict)  # over the image's own
    notes: dict[str, str | None] = field(default_factory=dict)
    companions: bool = True
    base_entries: Entries = field(default_factory=list)

    def __post_init__(self) -> None:
        self.workspace = Workspace(self.root, quiet=True)
        self.store = LayoutStore(self.workspace.state / "registry")

    def push(self) -> RawManifest:
        """Put it under ``cosml:1``."""
        distribution = make_distribution("basekit", "1.5", {"basekit/__init__.py": b"y = 2\n"})
        entries = [
            images.entry("etc"), images.entry("etc/passwd", b"jovyan:x:1000:100::/home/jovyan:/bin/sh\n"), images.entry("home"),
            images.entry("home/jovyan", uid=1000), images.entry("tmp", mode=0o1777), images.entry("usr"), images.entry("usr/lib"),
            images.entry("usr/lib/python3"), images.entry(SITE), *place(distribution), *self.base_entries,
        ]  # fmt: skip
        settings = {"User": "1000", "Env": ["PATH=/usr/bin", "HOME=/home/jovyan"], "Entrypoint": ["tini", "--"], "Cmd": ["jupyter", "lab"]}
        raw = images.push_image(self.store, [images.make_layer(entries)], settings, compression="zstd")
        base = images.read_image(self.store, raw, self.workspace.cache)
        lock = self.make_lock(base.inventory.fingerprint, base.inventory.digest)
        environment = {"PIP_CONSTRAINT": CONSTRAINTS_PATH}
        annotations = {
            names.CREATED: lock.cutoff, names.BASE_NAME: base.reference, names.BASE_DIGEST: str(raw.digest), names.FORMAT: "1",
            names.TEAM: "cosml", names.QUARTER: lock.quarter, names.BASE: "test", names.KIND: "jupyter", names.LOCK: lock_digest(lock),
        }  # fmt: skip
        wheels_of = tuple(sorted((item.filename, item.sha256) for item in lock.packages))
        recipe = Recipe(1, 1, "direct", "cosml", lock.quarter, lock.cutoff, "linux/amd64", str(base.inventory.digest),
                        wheels_of, Codec(), "", environment, annotations)  # fmt: skip
        constraints = [images.entry("etc"), images.entry("etc/imagebuild"), images.entry(CONSTRAINTS_PATH[1:], b"demo==1.0\n")]
        folders = [images.entry("usr"), images.entry("usr/lib"), images.entry("usr/lib/python3"), images.entry(SITE)]
        layers = [images.make_layer([*constraints, *folders, *place(self.files), *self.further]), *map(images.make_layer, self.over)]
        image = self._put(base.config_data, base.manifest, layers, recipe, environment)
        if self.companions:
            wheels = {item.name: self._make_wheel(item) for item in lock.packages}
            made = make_companions(base, lock, recipe, repository="cosml", digest=image.digest, wheels=wheels, system={})
            attach_artifacts(self.store, "cosml", image.descriptor, made)
        return image

    def make_lock(self, fingerprint: str, digest: str) -> Lock:
        packages = tuple(
            LockedPackage(
                name,
                version,
                f"{name}-{version}-py3-none-any.whl",
                Digest.of(name.encode()).hex,
                10,
                10,
                self.index,
                via=("requirements.in",),
            )
            for name, version in self.packages
        )
        return Lock("cosml", "test", digest, fingerprint, "3.11.2", "linux/amd64", {}, "pip-tools 7.6.2", "2026-10-01T00:00:00Z", packages)

    def _make_wheel(self, item: LockedPackage) -> Path:
        path = self.root / item.filename
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"{item.name}-{item.version}.dist-info/METADATA", f"Name: {item.name}\nVersion: {item.version}\n")
        return path

    def _put(self, base_config: bytes, base: Manifest, layers: list[bytes], recipe: Recipe, environment: dict[str, str]) -> RawManifest:
        config = json.loads(base_config)
        config["rootfs"]["diff_ids"] += [str(Digest.of(layer)) for layer in layers]
        config["history"] += [{"created_by": "hand"} for _ in layers]
        config["config"]["Env"] += [f"{name}={value}" for name, value in environment.items()]
        config["config"]["Labels"] = recipe.labels
        config["config"] |= self.config
        stored = [images.push_blob(self.store, OCI_LAYER_ZSTD, zstandard.ZstdCompressor(level=1).compress(layer)) for layer in layers]
        described = images.push_blob(self.store, OCI_CONFIG, json.dumps(config).encode())
        notes: dict[str, str | None] = {**recipe.labels, names.DELTA_COMPRESSED: str(sum(item.size for item in stored)), **self.notes}
        described_config, *described_layers = [
            {"mediaType": item.media_type, "digest": item.digest, "size": item.size} for item in (described, *base.layers, *stored)
        ]
        manifest = {
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described_config, "layers": described_layers,
            "annotations": {name: value for name, value in notes.items() if value is not None},
        }  # fmt: skip
        image = RawManifest(json.dumps(manifest).encode(), OCI_MANIFEST)
        self.store.put_manifest("cosml", image, "1")
        return image

    def attach(self, image: RawManifest, artifact_type: str, document: Any) -> None:
        attach_artifacts(self.store, "cosml", image.descriptor, [Artifact(artifact_type, artifact_type, msgspec.json.encode(document))])


def place(files: dict[str, bytes]) -> Entries:
    """Entries for files below the site folder, folders first."""
    folders = {name[:position] for name in files for position, letter in enumerate(name) if letter == "/"}
    made = [images.entry(f"{SITE}/{name}") for name in sorted(folders)]
    return [*made, *(images.entry(f"{SITE}/{name}", data) for name, data in files.items())]
