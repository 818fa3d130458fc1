"""Which VS Code an extension runs on, and what a .vsix says of itself."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.addons.lockfile import format_addon_lock, parse_addon_lock, read_addon_lock, write_addon_lock
from imagebuild.addons.model import Addon, AddonLock, SourceOf, find_changes
from imagebuild.addons.vscode.gallery import Gallery, GalleryBuild
from imagebuild.addons.vscode.manifest import read_platform, read_vsix
from imagebuild.addons.vscode.versions import fits_engine, parse_version
from imagebuild.difference.addons import join_addons
from imagebuild.errors import BuildError, IntegrityError, LockError, RemoteError
from imagebuild.lock.file.changes import compare_locks, render_markdown
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.supply.addons import make_addon_purl
from imagebuild.supply.licences import read_licence_text
from tests.support.builders import make_base, make_lock, make_package
from tests.support.extensions import make_vsix
from tests.support.servers.gallery import FakeGallery


@pytest.mark.parametrize(
    ("engine", "version", "fits"),
    [
        ("*", "1.100.3", True),
        ("^1.75.0", "1.100.3", True),
        ("^1.101.0", "1.100.3", False),
        ("^1.100.3", "1.100.3", True),
        ("^1.100.4", "1.100.3", False),
        ("^2.0.0", "1.100.3", False),
        ("^1.75.0", "2.0.0", False),
        (">=1.75.0", "2.0.0", True),
        (">=1.100.4", "1.100.3", False),
        ("1.100.3", "1.100.3", True),
        ("1.100.2", "1.100.3", False),
        ("1.75.x", "1.75.9", True),
        ("1.75.x", "1.76.0", False),
        ("1.x.x", "1.100.3", True),
        ("^0.10.0", "1.100.3", True),
        ("0.10.1", "1.100.3", False),
        ("^1.75.0-insider", "1.100.3", True),
        ("~1.75.0", "1.75.0", False),  # VS Code reads no such range
        ("1.75", "1.75.0", False),
        ("", "1.75.0", False),
    ],
)
def test_engine_ranges_are_read_as_vscode_reads_them(engine: str, version: str, fits: bool) -> None:
    assert fits_engine(engine, version) is fits


_NUMBERS = st.tuples(st.integers(1, 5), st.integers(0, 200), st.integers(0, 20))


@given(wanted=_NUMBERS, own=_NUMBERS)
def test_a_caret_means_at_least_this_within_the_major_version(wanted: tuple[int, int, int], own: tuple[int, int, int]) -> None:
    text = ".".join(map(str, own))
    assert fits_engine("^" + ".".join(map(str, wanted)), text) is (own >= wanted and own[0] == wanted[0])
    assert fits_engine(">=" + ".".join(map(str, wanted)), text) is (own >= wanted)


@given(st.text(max_size=20))
def test_any_text_may_be_a_range(text: str) -> None:
    assert fits_engine(text, "1.100.3") in (True, False)
    parse_version(text)


def test_a_release_is_newer_than_its_pre_releases() -> None:
    versions = ["1.0.0-rc.1", "1.0.0", "1.0.1", "1.10.0", "1.9.0"]
    assert sorted(versions, key=lambda text: parse_version(text) or ()) == ["1.0.0-rc.1", "1.0.0", "1.0.1", "1.9.0", "1.10.0"]


def test_a_vsix_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tool.vsix"
    path.write_bytes(make_vsix("Acme.Tool", "1.2.3", platform="linux-x64", dependencies=["a.b"], pack=["c.d"], files={"x": b"12345"}))
    found = read_vsix(path, path.name)
    assert (found.name, found.version, found.engine, found.platform) == ("acme.tool", "1.2.3", "^1.75.0", "linux-x64")
    assert (found.dependencies, found.pack, found.licence) == (("a.b",), ("c.d",), "MIT")
    assert len(found.tree) == 64
    assert found.installed > 5


@pytest.mark.parametrize(
    ("name", "version", "engine", "why"),
    [
        ("acme.../../x", "1.0.0", "*", "not an extension's name and version"),
        ("acme.tool", "../1", "*", "not an extension's name and version"),
        ("acme.tool", "", "*", "not an extension's name and version"),
    ],
)
def test_a_vsix_with_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str, version: str, engine: str, why: str) -> None:
    path = tmp_path / "tool.vsix"
    path.write_bytes(make_vsix(name, version, engine=engine))
    with pytest.raises(BuildError, match=why):
        read_vsix(path, path.name)


def test_a_manifest_expands_nothing() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><PackageManifest><Identity TargetPlatform="&b;"/></PackageManifest>'
    with pytest.raises(IntegrityError, match="declares entities"):
        read_platform(bomb, "tool.vsix")
    with pytest.raises(BuildError, match="not XML"):
        read_platform(b"<PackageManifest>", "tool.vsix")
    assert read_platform(b"<PackageManifest><Metadata><Identity Id='x'/></Metadata></PackageManifest>", "tool.vsix") == "universal"


# --- the lock ---------------------------------------------------------------------------------------------------------


def make_addon(name: str = "acme.tool", **changes: object) -> Addon:
    addon = Addon(
        name=name, version="1.2.3", filename=f"{name}-1.2.3.vsix", sha256="a" * 64, size=10, installed=20,
        folder=f"/usr/lib/code-server/lib/vscode/extensions/{name}-1.2.3", form="extension", index="ext", via=("team.toml",),
        platform="linux-x64", licence="MIT", tree="b" * 64,
    )  # fmt: skip
    return msgspec.structs.replace(addon, **changes)


def make_addon_lock(*addons: Addon) -> AddonLock:
    return AddonLock(
        kind="vscode", team="blue", base="tiny", cutoff="2026-10-01T00:00:00Z",
        against={"vscode": "1.100.3", "extension vscode.git": "1.0.0"},
        inputs={"images/blue/team.toml [vscode]": "c" * 64}, addons=addons, satisfied=("vscode.git==1.0.0",),
    )  # fmt: skip


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    source = SourceOf("tool_1.2.3.tar.gz", "d" * 64, 5)
    lock = make_addon_lock(make_addon("acme.helper", needs=("acme.tool",)), make_addon(form="source", source=source))
    write_addon_lock(tmp_path / "vscode.blue.toml", lock)
    assert read_addon_lock(tmp_path / "vscode.blue.toml") == lock
    empty = make_addon_lock()
    assert parse_addon_lock(format_addon_lock(empty).encode()) == empty


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("format = 1", "format = 2", "its format is 2, and this imagebuild reads 1"),
        ('kind = "vscode"', 'kind = "emacs"', "emacs"),
        ("size = 10", "size = -1", "whole number"),
        ("a" * 64, "x" * 64, "sha256 must be 64 hex digits"),
        ('"/usr/lib', '"/usr/../lib', "folder must be an absolute path"),
        ('filename = "', 'filename = "../', "filename must be a file name"),
        ("[against]", "unknown = 1\n[against]", "unknown key unknown"),
        ("2026-10-01T00:00:00Z", "yesterday", "cutoff must be a time"),
        ('form = "extension"', 'form = "source"', "source goes with form source"),
        ("format", "format format", "Expected"),
    ],
)
def test_a_lock_that_another_hand_changed_is_refused(tmp_path: Path, old: str, new: str, why: str) -> None:
    text = format_addon_lock(make_addon_lock(make_addon()))
    assert old in text
    (tmp_path / "vscode.blue.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(LockError, match=why) as caught:
        read_addon_lock(tmp_path / "vscode.blue.toml")
    assert caught.value.hint.endswith("imagebuild lock blue")


def test_the_same_add_on_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="sorted by name, each once"):
        parse_addon_lock(format_addon_lock(make_addon_lock(make_addon(), make_addon())).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_lock_or_one_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_addon_lock(data)


def test_a_lock_is_stale_when_what_it_relies_on_is_another() -> None:
    lock = make_addon_lock(make_addon())
    facts = {**lock.against, "extension other.one": "9"}
    assert find_changes(lock, facts, lock.inputs) == []
    assert find_changes(lock, {**facts, "vscode": "1.101.0"}, lock.inputs) == ["vscode of the base was 1.100.3 and is 1.101.0"]
    assert find_changes(lock, {"vscode": "1.100.3"}, {}) == [
        "extension vscode.git of the base was 1.0.0 and is gone",
        "images/blue/team.toml [vscode] is gone",
    ]


def test_add_ons_are_compared_beside_packages() -> None:
    before = make_lock(make_base(), make_package("alpha"))
    old, new = (
        make_addon_lock(make_addon()),
        make_addon_lock(make_addon(version="1.3.0", sha256="e" * 64), make_addon("acme.zed", via=("acme.tool",))),
    )
    changes = compare_locks(join_addons(before, [old]), join_addons(before, [new]), {"a" * 64: "MIT", "e" * 64: "GPL-3.0-only"})
    assert [(item.name, item.kind, item.direct) for item in changes.packages] == [
        ("vscode:acme.tool", "upgraded", True),
        ("vscode:acme.zed", "added", False),
    ]
    assert "the licence changes from MIT to GPL-3.0-only" in render_markdown(changes)
    assert join_addons(before, []) is before


def test_package_urls() -> None:
    assert str(make_addon_purl("vscode", make_addon())) == "pkg:vscode-extension/acme/tool@1.2.3?platform=linux-x64"
    assert str(make_addon_purl("r", make_addon("data.table", platform=""))) == "pkg:cran/data.table@1.2.3"
    assert str(make_addon_purl("vscode", make_addon(index="local"))) == "pkg:generic/acme.tool@1.2.3"


def test_licences_of_other_package_managers() -> None:
    assert read_licence_text("MIT").expression == "MIT"
    assert read_licence_text("SEE LICENSE IN LICENSE.txt").text == "SEE LICENSE IN LICENSE.txt"


# --- a gallery that gives no hash -----------------------------------------------------------------------------------


@contextlib.contextmanager
def find_unhashed(source: FakeGallery, cache: Path) -> Iterator[tuple[Gallery, GalleryBuild]]:
    source.hashes = False
    source.add("acme.tool", "1.2.3", make_vsix("acme.tool", "1.2.3"))
    with source.serve() as address, contextlib.closing(Gallery(PackageIndex("ext", address, default=True), cache)) as gallery:
        build = gallery.find_build("acme.tool", ("universal",))
        assert build is not None
        assert build.sha256 == ""
        yield gallery, build


def test_a_file_without_a_hash_is_kept_by_the_one_it_has(tmp_path: Path) -> None:
    source = FakeGallery()
    with find_unhashed(source, tmp_path) as (gallery, build):
        kept = gallery.download(build)
    data = source.builds["acme.tool", "1.2.3", "universal"]["data"]
    assert (kept.path.read_bytes(), kept.sha256) == (data, hashlib.sha256(data).hexdigest())
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [kept.path]


def test_a_file_without_a_hash_comes_from_the_gallery_itself(tmp_path: Path) -> None:
    source = FakeGallery()
    with find_unhashed(source, tmp_path) as (gallery, build):
        source.moved["/files/acme.tool/1.2.3/universal/acme.tool-1.2.3.vsix"] = "http://127.0.0.2:9/tool.vsix"
        with pytest.raises(RemoteError, match=r"redirects acme\.tool-1\.2\.3\.vsix to http://127\.0\.0\.2:9, which is not followed"):
            gallery.download(build)
        with pytest.raises(RemoteError, match="gives no hash, and the file is on another host"):
            gallery.download(msgspec.structs.replace(build, url="http://127.0.0.2:9/tool.vsix"))
        source.moved.clear()
        source.remove("acme.tool")
        with pytest.raises(RemoteError, match="lists a file that is gone"):
            gallery.download(build)
    assert not list(tmp_path.rglob("*.vsix"))
