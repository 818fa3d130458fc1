"""Archives of add-ons as an attacker may write them, and the docker engine's program, which must leave the same files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagebuild.addons import unpacking
from imagebuild.addons.unpacking import hash_files, open_archive, read_file
from imagebuild.dockerfile import render_unpacker
from imagebuild.errors import BuildError, ImagebuildError, IntegrityError
from tests.support.extensions import make_vsix
from tests.support.images import entry

SAFE = {"extension/package.json": b"{}", "extension/lib/tool": b"#!/bin/sh\n"}


def write_zip(path: Path, names: dict[str, bytes], modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0o100644) << 16
            archive.writestr(info, data)
    return path


def write_tar(path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    path.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return path


def read_all(path: Path, strip: str) -> dict[str, tuple[int, bytes]]:
    with open_archive(path, path.name, strip) as files:
        return {file.path: (file.mode, b"".join(file.open())) for file in files}


def test_the_files_below_the_folder_are_taken_with_one_of_two_modes(tmp_path: Path) -> None:
    modes = {"extension/lib/tool": 0o100744, "extension/package.json": 0o100666}
    path = write_zip(tmp_path / "a.vsix", {**SAFE, "extension.vsixmanifest": b"<x/>"}, modes)
    assert read_all(path, "extension/") == {"lib/tool": (0o755, b"#!/bin/sh\n"), "package.json": (0o644, b"{}")}


def test_an_r_package_is_a_tar(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x_1.0.tar.gz", entry("x"), entry("x/DESCRIPTION", b"Package: x\n"), entry("x/libs/x.so", b"E", mode=0o775))
    assert read_all(path, "x/") == {"DESCRIPTION": (0o644, b"Package: x\n"), "libs/x.so": (0o755, b"E")}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("extension/../../etc/passwd", "climbs with '..'"),
        ("/extension/x", "absolute"),
        ("extension//x", "plain form"),
        ("extension/a\\b", "backslash"),
        ("extension/.wh.x", "would delete"),
        ("extension/a\nb", "control character"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(BuildError, match=why):
        read_all(write_zip(tmp_path / "a.vsix", {**SAFE, name: b"x"}), "extension/")
    with pytest.raises(BuildError, match=why):
        read_all(write_tar(tmp_path / "a.tar.gz", entry("extension/x", b""), entry(name, b"x")), "extension/")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_path_that_comes_twice_or_blocks_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.vsix"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("extension/x", b"1")
        archive.writestr("extension/x", b"2")
    with pytest.raises(BuildError, match="twice"):
        read_all(path, "extension/")
    with pytest.raises(BuildError, match="other files need a folder there"):
        read_all(write_zip(tmp_path / "blocked.vsix", {"extension/x": b"", "extension/x/y": b""}), "extension/")


@pytest.mark.parametrize(
    "odd",
    [
        entry("x/link", link="/etc/passwd"),
        entry("x/hard", hard="x/DESCRIPTION"),
        entry("x/device", kind=tarfile.CHRTYPE),
        entry("x/fifo", kind=tarfile.FIFOTYPE),
        entry("x/root", b"", mode=0o4755),
    ],
    ids=lambda item: item[0].name,
)
def test_what_is_no_plain_file_is_refused(tmp_path: Path, odd: tuple[tarfile.TarInfo, bytes]) -> None:
    with pytest.raises(BuildError, match=odd[0].name):
        read_all(write_tar(tmp_path / "x.tar.gz", entry("x/DESCRIPTION", b"Package: x\n"), odd), "x/")


def test_links_and_setuid_in_a_zip_are_refused(tmp_path: Path) -> None:
    for mode, why in ((stat.S_IFLNK | 0o777, "symbolic link"), (stat.S_IFREG | 0o4755, "setuid"), (stat.S_IFIFO | 0o644, "regular file")):
        path = write_zip(tmp_path / "a.vsix", {**SAFE, "extension/odd": b"/etc/passwd"}, {"extension/odd": mode})
        with pytest.raises(BuildError, match=why):
            read_all(path, "extension/")


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_LARGEST", 1 << 20)
    monkeypatch.setattr(unpacking, "_MOST", 50)
    large = bytes(2 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.vsix", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("extension/zeros", large)
    many = write_zip(tmp_path / "many.vsix", {f"extension/{number}": b"" for number in range(60)})
    for path in (tmp_path / "bomb.vsix", many, write_tar(tmp_path / "bomb.tar.gz", entry("extension/zeros", large))):
        with pytest.raises(BuildError, match="unpacks to more than"):
            read_all(path, "extension/")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bomb.tar.gz", "bomb.vsix", "many.vsix"]


def test_damage_is_found_while_reading(tmp_path: Path) -> None:
    data = bytearray(make_vsix("acme.tool", "1.0.0", files={"big": b"text " * 1000}))
    for number in range(200, len(data) - 600, 97):
        data[number] ^= 0xFF
    (tmp_path / "a.vsix").write_bytes(data)
    with pytest.raises(ImagebuildError):
        read_all(tmp_path / "a.vsix", "extension/")
    whole = write_tar(tmp_path / "x.tar.gz", entry("x/data", os.urandom(50_000))).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError):
        read_all(tmp_path / "x.tar.gz", "x/")


def test_an_archive_without_the_folder_is_of_another_add_on(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="has no files in y/"):
        read_all(write_tar(tmp_path / "x.tar.gz", entry("x/DESCRIPTION", b"")), "y/")


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    with open_archive(write_zip(tmp_path / "a.vsix", SAFE), "a.vsix", "extension/") as files:
        assert read_file(files, "package.json", 10) == b"{}"
        assert read_file(files, "absent", 10) is None
        with pytest.raises(IntegrityError, match="lib/tool has more than"):
            read_file(files, "lib/tool", 3)


def test_the_tree_hash_is_of_paths_and_contents(tmp_path: Path) -> None:
    def compute(names: dict[str, bytes]) -> str:
        with open_archive(write_zip(tmp_path / "a.vsix", names), "a.vsix", "extension/") as files:
            return hash_files(files)

    assert compute(SAFE) == compute(dict(reversed(SAFE.items())))
    assert compute(SAFE) != compute({**SAFE, "extension/more": b""})
    assert compute(SAFE) != compute({**SAFE, "extension/package.json": b"[]"})


_PART = st.text(st.sampled_from("ab.é/\\\n \0"), min_size=1, max_size=6)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.dictionaries(_PART, st.binary(max_size=20), min_size=1, max_size=5), zipped=st.booleans())
def test_whatever_the_names_are_nothing_leads_out_of_the_folder(tmp_path: Path, names: dict[str, bytes], zipped: bool) -> None:
    path = tmp_path / ("a.vsix" if zipped else "a.tar.gz")
    try:
        if zipped:
            write_zip(path, {f"extension/{name}": data for name, data in names.items()})
        else:
            write_tar(path, *(entry(f"extension/{name}", data) for name, data in names.items()))
    except (ValueError, UnicodeError):
        return
    try:
        found = read_all(path, "extension/")
    except ImagebuildError:
        return
    for name in found:
        assert os.path.normpath(f"/folder/{name}") == f"/folder/{name}"
        assert name.isprintable()


# --- the program that does it in a container build --------------------------------------------------------------------


def run_program(folder: Path, archive: Path, target: Path, strip: str, sha256: str = "") -> subprocess.CompletedProcess[str]:
    program, listing = folder / "addons.py", folder / "addons.json"
    program.write_text(render_unpacker())
    digest = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
    item = {"file": archive.relative_to(folder).as_posix(), "sha256": digest, "strip": strip, "folder": str(target)}
    listing.write_text(json.dumps([item]))
    return subprocess.run([sys.executable, str(program), str(listing)], capture_output=True, text=True, check=False, umask=0o027)


def read_tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) for path in files}


@pytest.fixture
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("missing part: root, which the program runs as")


def make_extension(folder: Path) -> Path:
    files = {"bin/run": b"#!/bin/sh\n", "data/é.json": b"{}", "empty": b""}
    (folder / "a.vsix").write_bytes(make_vsix("acme.tool", "1.0.0", files=files, programs=["bin/run"]))
    return folder / "a.vsix"


def make_package(folder: Path) -> Path:
    library = entry("extension/libs/x.so", b"E", mode=0o700)
    return write_tar(folder / "a.tar.gz", entry("./extension/DESCRIPTION", b"Package: x\n"), entry("extension/libs"), library)


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("make", [make_extension, make_package])
def test_both_engines_leave_the_same_files(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    archive, target = make(tmp_path), tmp_path / "base" / "library" / "addon"
    (tmp_path / "base").mkdir(mode=0o2775)  # a folder that hands its group and the setgid bit on
    (tmp_path / "base").chmod(0o2775)
    done = run_program(tmp_path, archive, target, "extension/")
    assert done.returncode == 0, done.stderr
    assert read_tree(target) == read_all(archive, "extension/")
    folders = [target.parent, target, *(path for path in target.rglob("*") if path.is_dir())]
    assert {(stat.S_IMODE(path.stat().st_mode), path.stat().st_uid, path.stat().st_gid) for path in folders} == {(0o755, 0, 0)}


@pytest.mark.usefixtures("as_root")
def test_the_program_refuses_other_bytes_and_what_is_there(tmp_path: Path) -> None:
    archive = make_extension(tmp_path)
    done = run_program(tmp_path, archive, tmp_path / "addon", "extension/", "0" * 64)
    assert done.returncode == 1
    assert "is not the file that was locked" in done.stderr
    assert not (tmp_path / "addon").exists()
    (tmp_path / "addon").mkdir()
    assert "is in the base already" in run_program(tmp_path, archive, tmp_path / "addon", "extension/").stderr


@pytest.mark.usefixtures("as_root")
def test_the_program_takes_no_link(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", entry("extension/x", b""), entry("extension/link", link="/etc/passwd"))
    assert "is not a plain file" in run_program(tmp_path, archive, tmp_path / "addon", "extension/").stderr
