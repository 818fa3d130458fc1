"""Add-ons as members of a layer: exact bytes, where they may lie, and a cache that rots."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.addons.model import PlacedArchive
from imagebuild.base.model import Base, Entry
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.layer.archivemember import ArchiveRequest
from imagebuild.layer.assembly import build_layers
from imagebuild.layer.invariants import check_layers
from imagebuild.layer.model import Codec, Layer
from imagebuild.layer.placement import find_addon_folders
from tests.support.builders import make_host_base
from tests.support.trees import USUAL, MemoryTree, file, folder, link
from tests.unit.test_layer_assembly import read

PLACE = "/usr/lib/code-server/lib/vscode/extensions"


def write_fixed(path: Path) -> Path:
    """A .vsix whose every byte is known: stored, with fixed times and modes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, mode in (("extension.vsixmanifest", 0o644), ("extension/package.json", 0o600), ("extension/bin/run", 0o744)):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (0o100000 | mode) << 16
            archive.writestr(info, f"{name}\n".encode())
    return path


def make_request(path: Path, name: str = "acme.tool", where: str = f"{PLACE}/acme.tool-1.0.0") -> ArchiveRequest:
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ArchiveRequest(path, PlacedArchive("vscode", name, "1.0.0", path.name, sha256, where))


def make_vscode_base(*entries: Entry) -> Base:
    root = "/usr/lib/code-server"
    parents = [folder("/usr/lib"), folder(root), folder(f"{root}/lib"), folder(f"{root}/lib/vscode"), folder(PLACE, 0o2775)]
    return make_host_base(tree=MemoryTree([*USUAL, *parents, *entries]))


def build(tmp_path: Path, *requests: ArchiveRequest, base: Base | None = None, **changes: Any) -> Layer:
    base = base or make_vscode_base()
    options: dict[str, Any] = {"codec": Codec(), "cache": tmp_path / "cache", "mtime": 9, "out": tmp_path / "layer", **changes}
    made = build_layers([], base=base, addons=requests, **options)
    check_layers(made, base=base)
    [layer] = made.layers
    return layer


def test_a_layer_of_an_extension_is_byte_for_byte_what_it_was(tmp_path: Path) -> None:
    request = make_request(write_fixed(tmp_path / "tool.vsix"))
    layer = build(tmp_path, request)
    assert layer.diff_id == DIFF_ID, "another tag for every team with add-ons: raise ARCHIVE_FORMAT, and say it in CHANGELOG.md"
    assert build(tmp_path, request, codec=Codec("gzip", 2), out=tmp_path / "other").diff_id == DIFF_ID
    entries = read(layer)
    assert [path for path, entry in entries.items() if entry.isfile()] == [
        f"{PLACE}/acme.tool-1.0.0/bin/run",
        f"{PLACE}/acme.tool-1.0.0/package.json",
    ]
    assert entries[PLACE].mode == 0o2775  # as in the base
    assert entries[f"{PLACE}/acme.tool-1.0.0"].mode == 0o755
    assert {(entry.uid, entry.gid, entry.mtime) for path, entry in entries.items() if entry.isfile()} == {(0, 0, 9)}
    assert [(item.package, item.version) for item in layer.packages] == [("vscode:acme.tool", "1.0.0")]


DIFF_ID = "sha256:46ca57a2b12f47cc16a28c6797a4b2d4afd4f9d1d4bddfb667aa440c5cea8e56"


def test_the_order_of_add_ons_does_not_matter(tmp_path: Path) -> None:
    one = make_request(write_fixed(tmp_path / "tool.vsix"))
    other = make_request(write_fixed(tmp_path / "zed.vsix"), "acme.zed", f"{PLACE}/acme.zed-1.0.0")
    layers = [build(tmp_path / str(number), *order) for number, order in enumerate(([one, other], [other, one]))]
    assert layers[0].digest == layers[1].digest


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("/home/jovyan/extensions/acme.tool-1.0.0", "hidden or emptied"),
        ("/tmp/data-jovyan/extensions/acme.tool-1.0.0", "hidden or emptied"),
        ("/usr/lib/linked/acme.tool-1.0.0", "hidden or emptied"),
        (f"{PLACE}/there-1.0.0", "the base has .*there-1.0.0 already"),
    ],
)
def test_where_an_add_on_may_not_lie(tmp_path: Path, where: str, why: str) -> None:
    base = make_vscode_base(folder(f"{PLACE}/there-1.0.0"), link("/usr/lib/linked", "/tmp"))
    with pytest.raises(BuildError, match=why):
        build(tmp_path, make_request(write_fixed(tmp_path / "tool.vsix"), where=where), base=base)


def test_links_of_the_base_are_followed(tmp_path: Path) -> None:
    request = make_request(write_fixed(tmp_path / "tool.vsix"), where="/opt/extensions/acme.tool-1.0.0")
    base = make_vscode_base(folder("/opt"), link("/opt/extensions", PLACE))
    assert find_addon_folders(base, [request.placed]) == {"vscode:acme.tool": f"{PLACE}/acme.tool-1.0.0"}
    assert f"{PLACE}/acme.tool-1.0.0/package.json" in read(build(tmp_path, request, base=base))


def test_two_add_ons_in_one_folder_are_refused(tmp_path: Path) -> None:
    archive = write_fixed(tmp_path / "tool.vsix")
    with pytest.raises(BuildError, match="both bring"):
        build(tmp_path, make_request(archive), make_request(archive, "acme.zed"))


def test_other_bytes_than_those_locked_are_refused(tmp_path: Path) -> None:
    request = make_request(write_fixed(tmp_path / "tool.vsix"))
    wrong = msgspec.structs.replace(request, placed=msgspec.structs.replace(request.placed, sha256="0" * 64))
    with pytest.raises(IntegrityError, match=r"tool\.vsix is not the file that was locked"):
        build(tmp_path, wrong)
    assert not list((tmp_path / "cache").rglob("member.tar.*"))


def test_a_member_that_rotted_is_made_anew(tmp_path: Path) -> None:
    request = make_request(write_fixed(tmp_path / "tool.vsix"))
    first = build(tmp_path, request)
    [member] = (tmp_path / "cache" / "members").glob("*/member.tar.zst")
    member.write_bytes(b"x" * member.stat().st_size)
    lines: list[str] = []
    assert build(tmp_path, request, report=lines.append).digest == first.digest
    assert any("damaged in the cache and prepared anew: vscode:acme.tool" in line for line in lines)


def test_a_file_of_the_base_in_the_way_of_a_folder_is_refused(tmp_path: Path) -> None:
    base = make_vscode_base(file("/usr/lib/blocked"))
    with pytest.raises(BuildError):
        build(tmp_path, make_request(write_fixed(tmp_path / "tool.vsix"), where="/usr/lib/blocked/x/acme.tool"), base=base)
