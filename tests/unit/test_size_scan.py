"""Layers above a base, whoever wrote them: every byte is somebody's, and what a higher layer hides is told."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import pytest
import zstandard

from imagebuild import annotations as names
from imagebuild.catalogue.lookup import find_named_image
from imagebuild.errors import IntegrityError, UsageError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.size.baselayers import find_base_layers
from imagebuild.size.image import measure_image
from imagebuild.size.model import encode_size_report
from imagebuild.size.terminal import draw_bar, format_size_report
from imagebuild.workspace import Workspace
from tests.support.images import pack_files

SITE = "usr/lib/python3/dist-packages"
TYPES = {"gzip": "application/vnd.oci.image.layer.v1.tar+gzip", "zstd": "application/vnd.oci.image.layer.v1.tar+zstd"}


def push(store: LayoutStore, repository: str, tars: list[bytes], codec: str = "zstd", notes: dict[str, str] | None = None) -> Digest:
    """An image of these layers, tagged 1."""
    layers = []
    for tar in tars:
        half = len(tar) // 2  # gzip: two members after one another
        data = zstandard.compress(tar) if codec == "zstd" else gzip.compress(tar[:half]) + gzip.compress(tar[half:])
        layers.append(Descriptor(TYPES[codec], Digest.of(data), len(data)))
        store.put_blob(repository, layers[-1], data)
    diff_ids = ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
    descriptor = Descriptor(OCI_CONFIG, Digest.of(config), len(config))
    store.put_blob(repository, descriptor, config)

    def describe(item: Descriptor) -> dict[str, object]:
        return {"mediaType": item.media_type, "digest": item.digest, "size": item.size}

    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": describe(descriptor), "layers": list(map(describe, layers))}
    raw = RawManifest(json.dumps({**document, "annotations": notes or {}}).encode(), OCI_MANIFEST)
    return store.put_manifest(repository, raw, "1")


def installed(name: str, files: dict[str, bytes], needs: tuple[str, ...] = ()) -> dict[str, bytes]:
    """A distribution as pip leaves it."""
    info = f"{name}-1.0.dist-info"
    metadata = "".join([f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", *(f"Requires-Dist: {item}\n" for item in needs)])
    rows = "".join(f"{path},,\r\n" for path in (*files, f"{info}/METADATA", f"{info}/RECORD"))
    found = {**files, f"{info}/METADATA": metadata.encode(), f"{info}/RECORD": rows.encode()}
    return {f"{SITE}/{path}": data for path, data in found.items()}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "images").mkdir()
    return Workspace(tmp_path, quiet=True)


BASE = pack_files({"bin/sh": os.urandom(3000)})


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_every_stored_byte_is_somebodys(workspace: Workspace, codec: str) -> None:
    heavy = os.urandom(400_000)  # takes in the registry what it takes on the disk
    files = {
        **installed("light", {"light/__init__.py": b"x = 1\n" * 40_000, "light/tests/t.py": b"y\n"}, ("heavy>=1", "extra; extra == 'x'")),
        **installed("heavy", {"heavy/data.bin": heavy}),
        "opt/alone": b"z" * 1000,
    }
    store = workspace.layout
    push(store, "base", [BASE], codec)
    push(store, "app", [BASE, pack_files(files)], codec)
    image = find_named_image(workspace, f"oci:{store.folder}:app:1")
    report = measure_image(workspace, image, base=f"oci:{store.folder}:base:1")
    assert (report.base_found, report.layers) == ("--base", 1)
    assert report.compressed == image.manifest.layers[1].size
    assert report.installed == sum(map(len, files.values()))
    assert report.files == len(files)
    packages = {item.name: item for item in report.packages}
    assert set(packages) == {"light", "heavy", "(no package)"}
    assert packages["heavy"].compressed == pytest.approx(len(heavy), rel=0.05)
    assert packages["light"].compressed < 40_000
    assert packages["light"].kinds["tests"] == 2
    assert packages["heavy"].chain == ("light", "heavy")
    assert sum(item.compressed for item in report.packages) == pytest.approx(report.compressed, abs=2000)
    assert [(item.name, item.along) for item in report.removals] == [("light", ("heavy",))]
    assert report.largest[0].path == f"/{SITE}/heavy/data.bin"
    assert json.loads(encode_size_report(report))["kinds"]["data"] == len(heavy) + 1000


def test_the_base_is_found_by_the_layers_whatever_their_compression(workspace: Workspace) -> None:
    push(workspace.layout, "base", [BASE], "gzip")
    push(workspace.layout, "app", [BASE, pack_files({"x": b"1"})], "zstd")
    image = find_named_image(workspace, f"oci:{workspace.layout.folder}:app:1")
    below = find_base_layers(workspace, image)
    assert (below.found, below.layers) == ("nothing", 0)
    assert "name it with --base" in below.notes[-1]
    base = find_named_image(workspace, f"oci:{workspace.layout.folder}:base:1")
    folder = workspace.cache / "bases" / base.digest.hex
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_bytes(base.raw.data)
    (folder / "config.json").write_bytes(base.config_data)
    below = find_base_layers(workspace, image)
    assert (below.found, below.layers, below.digest) == ("common layers", 1, str(base.digest))


def test_the_base_is_found_by_annotation_and_a_wrong_one_is_told(workspace: Workspace) -> None:
    digest = push(workspace.layout, "bases/b", [BASE])
    notes = {names.BASE_NAME: "layout:bases/b:1", names.BASE_DIGEST: str(digest)}
    push(workspace.layout, "app", [BASE, pack_files({"x": b"1"})], notes=notes)
    below = find_base_layers(workspace, find_named_image(workspace, f"oci:{workspace.layout.folder}:app:1"))
    assert (below.found, below.layers) == ("annotation", 1)
    push(workspace.layout, "app", [pack_files({"x": b"1"})], notes=notes)
    image = find_named_image(workspace, f"oci:{workspace.layout.folder}:app:1")
    assert "has other lower layers" in find_base_layers(workspace, image).notes[0]
    with pytest.raises(UsageError, match="is not the base of"):
        find_base_layers(workspace, image, f"oci:{workspace.layout.folder}:bases/b:1")


def test_what_a_higher_layer_hides_is_still_pulled(workspace: Workspace) -> None:
    first = pack_files({"a/gone": b"1" * 100, "a/kept": b"2" * 10, "b/one": b"3" * 1000, "c": b"4" * 50, "d/x": b"5" * 7})
    second = pack_files({"a/.wh.gone": b"", "b/.wh..wh..opq": b"", "b/new": b"6", "c": b"7" * 5, "d": b"8"})
    push(workspace.layout, "app", [first, second])
    report = measure_image(workspace, find_named_image(workspace, f"oci:{workspace.layout.folder}:app:1"))
    assert report.hidden == 100 + 1000 + 50 + 7
    assert {item.path for item in report.largest} == {"/a/kept", "/b/new", "/c", "/d"}
    assert report.installed == 10 + 1 + 5 + 1
    assert "still pulled" in format_size_report(report)


@pytest.mark.slow
def test_a_layer_that_unpacks_to_very_much_takes_little_memory(workspace: Workspace) -> None:
    import tracemalloc

    tar = pack_files({"zeros": bytes(120 << 20)})
    push(workspace.layout, "app", [tar])
    del tar
    image = find_named_image(workspace, f"oci:{workspace.layout.folder}:app:1")
    assert image.manifest.layers[0].size < 40_000
    tracemalloc.start()
    try:
        report = measure_image(workspace, image)
        assert tracemalloc.get_traced_memory()[1] < 90 << 20
    finally:
        tracemalloc.stop()
    assert report.installed == 120 << 20


def test_a_layer_that_is_none_is_an_integrity_error_that_names_it(workspace: Workspace) -> None:
    push(workspace.layout, "app", [b"no tar at all" * 100])
    image = find_named_image(workspace, f"oci:{workspace.layout.folder}:app:1")
    with pytest.raises(IntegrityError, match=image.manifest.layers[0].digest):
        measure_image(workspace, image)


@pytest.mark.parametrize("text", ["nosuch", "nosuch:tag", "host/without-dot", "oci:/nowhere:x:1", "reg.example.com/team"])
def test_what_is_no_image_is_a_usage_error(workspace: Workspace, text: str) -> None:
    with pytest.raises(UsageError):
        find_named_image(workspace, text)


def test_bars_are_as_long_as_their_share() -> None:
    assert draw_bar(0.5, 4) == "██  "
    assert draw_bar(0.0, 2) == "  "
    assert draw_bar(7, 2) == "██"
    assert draw_bar(1 / 16, 2) == "▏ "
