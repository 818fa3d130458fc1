"""A bundle's list of files, and what comes of a folder that differs from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.bundle.model import Bundle, BundledBase, BundledFile, BundleManifest, describe_file
from imagebuild.errors import ConfigurationError, ImagebuildError, IntegrityError

BASE = BundledBase("starter", "sha256:" + "1" * 64, "sha256:" + "1" * 64, "m", "bases/starter", "linux/amd64", True)


def write_bundle(folder: Path, files: dict[str, BundledFile], **changes: object) -> Bundle:
    manifest = msgspec.structs.replace(BundleManifest(1, "cosml", "2026q4-0", "direct", BASE, files), **changes)
    (folder / "bundle.json").write_bytes(manifest.encode())
    return Bundle(folder)


def add(folder: Path, name: str, data: bytes) -> BundledFile:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return describe_file(path)


def test_a_tree_comes_out_as_it_went_in(tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    source.mkdir()
    files = {"project/a/run.sh": add(source, "project/a/run.sh", b"#!/bin/sh\n"), "project/b": add(source, "project/b", b"")}
    files["project/a/run.sh"] = msgspec.structs.replace(files["project/a/run.sh"], executable=True)
    files["project/a/link"] = BundledFile(link="run.sh")
    add(source, "project/unknown", b"never read")
    write_bundle(source, files).copy_tree("project", tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")) == [
        "a",
        "a/link",
        "a/run.sh",
        "b",
    ]
    assert (tmp_path / "out/a/run.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "out/b").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out/a/link").read_bytes() == b"#!/bin/sh\n"


@pytest.mark.parametrize("data", [b"otherwise", b"short", b"longer than it should be", None])
def test_a_file_that_differs_is_not_kept(tmp_path: Path, data: bytes | None) -> None:
    files = {"wheels/x": add(tmp_path, "wheels/x", b"promised!")}
    bundle = write_bundle(tmp_path, files)
    if data is None:
        (tmp_path / "wheels/x").unlink()
    else:
        (tmp_path / "wheels/x").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"wheels/x does not match the bundle's manifest|the bundle lacks wheels/x"):
        bundle.copy_file("wheels/x", tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    source = tmp_path / "bundle"
    source.mkdir()
    files = {"project/a": BundledFile(link=str(tmp_path / "outside")), "project/a/b": add(source, "project/a/b", b"x")}
    (tmp_path / "outside").mkdir()
    with pytest.raises(OSError, match="exists"):
        write_bundle(source, files).copy_tree("project", tmp_path / "out")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b", "", "a/", "a\0b"])
def test_paths_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="names a file outside the bundle"):
        write_bundle(tmp_path, {name: BundledFile("0" * 64, 1)})


def test_another_bundle_than_the_one_asked_for(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path, {})
    assert Bundle(tmp_path, bundle.digest).manifest.team == "cosml"
    assert bundle.digest == "sha256:" + hashlib.sha256((tmp_path / "bundle.json").read_bytes()).hexdigest()
    with pytest.raises(IntegrityError, match="is not the expected one") as caught:
        Bundle(tmp_path, "sha256:" + "0" * 64)
    assert caught.value.exit_code == 8


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a bundle"):
        Bundle(tmp_path)
    with pytest.raises(ConfigurationError, match="has format 2, this program reads 1"):
        write_bundle(tmp_path, {}, format=2)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "bundle.json").write_bytes(data)
    with pytest.raises(ImagebuildError):
        Bundle(folder)
