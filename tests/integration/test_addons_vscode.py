"""VS Code extensions from a gallery to the layer: a real Python of Debian with the tree of a code-server, a gallery on loopback."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from tests.support import images
from tests.support.extensions import EXTENSIONS, list_code_server, make_vsix, write_vsix
from tests.support.servers.gallery import FakeGallery
from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry, registry
from tests.support.worlds import SmallBase, World, push_small_base

pytestmark = pytest.mark.integration
__all__ = ["registry"]  # a fixture

HELD = ("/tmp/data-jovyan/code-server/extensions", "ms-python.python", "2024.1.0")
TOOL = "acme.tool-1.2.0"


@pytest.fixture(scope="module")
def gallery() -> Iterator[FakeGallery]:
    found = FakeGallery()
    program = {"bin/run": b"#!/bin/sh\n", "lib/native.so.1": b"\x7fELF", "data.json": b"{}"}
    found.add("acme.tool", "1.2.0", make_vsix("acme.tool", "1.2.0", platform="linux-x64", dependencies=["acme.helper", "vscode.git"],
                                              files=program, programs=["bin/run"]), platform="linux-x64")  # fmt: skip
    found.add("acme.tool", "1.1.0", make_vsix("acme.tool", "1.1.0"))
    found.add("acme.helper", "0.5.0", make_vsix("acme.helper", "0.5.0", pack=["acme.extra", "ms-python.vscode-pylance"]))
    found.add("acme.extra", "2.0.0", make_vsix("acme.extra", "2.0.0"))
    found.add("acme.future", "9.0.0", make_vsix("acme.future", "9.0.0", engine="^1.200.0"), engine="^1.200.0")
    found.add("acme.liar", "1.0.0", make_vsix("acme.liar", "1.0.0"))
    found.add("acme.windows", "1.0.0", make_vsix("acme.windows", "1.0.0", platform="win32-x64"), platform="win32-x64")
    found.add("ms-python.python", "2026.2.0", make_vsix("ms-python.python", "2026.2.0"))
    with found.serve():
        yield found


@pytest.fixture(scope="module")
def base(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> SmallBase:
    """A small base with the tree of a code-server over it."""
    folder = tmp_path_factory.mktemp("base")
    more = [images.make_layer(list_code_server(extensions=[HELD]))]
    found = push_small_base(images.debian_rootfs(tmp_path_factory.getbasetemp() / "rootfs"), folder, registry, more)
    World(folder / "reader", found, "http://127.0.0.1:9/", warm=False).run(
        "base", "inspect", "tiny", "--cache-dir", str(found.cache)
    ).succeeded()
    return found


@pytest.fixture(scope="module")
def index_url() -> Iterator[str]:
    index = FakeIndex()
    index.add("alpha", "1.0")
    with index.serve() as url:
        yield url


@pytest.fixture
def world(base: SmallBase, index_url: str, gallery: FakeGallery, tmp_path: Path) -> Callable[..., World]:
    def make(*extensions: str, settings: str = "", index: str = "") -> World:
        found = World(tmp_path / "world", base, index_url)
        listed = ", ".join(f'"{item}"' for item in extensions)
        table = f'[vscode]\nextensions = [{listed}]\n[[index]]\nname = "ext"\nkind = "openvsx"\nurl = "{gallery.address}"\n'
        found.add_team("blue", "alpha\n", settings + table + (index or "default = true\n"))
        return found

    return make


def list_layer(world: World, digest: str) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """The topmost layer's entries, read with the standard library."""
    blobs = world.state / "registry" / "blobs" / "sha256"
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
    stored = (blobs / manifest["layers"][-1]["digest"].removeprefix("sha256:")).read_bytes()
    found = {}
    with zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as plain, tarfile.open(fileobj=plain, mode="r|") as t:
        for entry in t:
            stream = t.extractfile(entry)
            found[entry.name] = entry, stream.read() if stream is not None else b""
    return found


def test_extensions_are_locked_with_what_they_need_and_lie_in_the_layer(world: Callable[..., World]) -> None:
    team = world("acme.tool==1.2.0", "ms-python.python")
    done = team.run("lock", "blue").succeeded()
    assert "vscode:acme.helper==0.5.0  (ext; asked for by acme.tool)" in done.out
    assert "acme.helper brings ms-python.vscode-pylance along, which no index has" in done.err
    text = (team.root / "lockfiles" / "vscode.blue.toml").read_text()
    assert 'satisfied = ["ms-python.python==2024.1.0", "vscode.git==1.0.0"]' in text
    assert '"extension ms-python.python" = "2024.1.0"' in text
    assert f'folder = "{EXTENSIONS}/{TOOL}"' in text
    assert team.run("lock", "blue").succeeded().err.count("up to date") == 2
    assert "vscode.blue.toml is fresh" in team.run("lock", "--check", "blue").succeeded().out

    made = team.run("image", "blue", "--json").succeeded().result
    entries = list_layer(team, made["digest"])
    root = EXTENSIONS.strip("/")
    program, program_data = entries[f"{root}/{TOOL}/bin/run"]
    assert (program.mode, program.uid, program.gid, program.mtime, program_data) == (0o755, 0, 0, 315532800, b"#!/bin/sh\n")
    assert entries[f"{root}/{TOOL}/package.json"][0].mode == 0o644
    assert f"{root}/acme.extra-2.0.0/extension.js" in entries
    assert not [name for name in entries if "vsixmanifest" in name or "ms-python" in name]
    again = team.run("image", "blue", "--json").succeeded().result
    assert (again["tag"], again["built"]) == (made["tag"], False)


def test_what_is_downstream_of_the_lock_knows_the_extensions(world: Callable[..., World], tmp_path: Path) -> None:
    team = world("acme.tool==1.1.0", settings='[budget.packages]\n"vscode:acme.tool" = "1 MiB"\n')
    assert "| vscode:acme.tool | directly | new: 1.1.0 |" in team.run("lock", "blue", "--report", "-").succeeded().out
    first = team.run("image", "blue", "--json").succeeded().result
    team.edit("images/blue/team.toml", "acme.tool==1.1.0", "acme.tool==1.2.0")
    team.run("lock", "blue").succeeded()
    assert "vscode:acme.tool 1.1.0 > 1.2.0 upgraded, asked for" in team.run("explain", "blue").succeeded().out
    size = team.run("size", "blue").succeeded().out
    assert re.search(r"vscode:acme.helper 0.5.0 .* vscode:acme.tool", size), size
    assert "vscode:acme.tool" in size

    bundle = tmp_path / "bundle"
    team.run("bundle", "blue", "-o", str(bundle)).succeeded()
    assert (bundle / "wheels" / "addons" / "acme.tool-1.2.0@linux-x64.vsix").is_file()
    shutil.rmtree(team.cache / "addons")
    second = team.run("image", "--offline", "--bundle", str(bundle), "--json").succeeded().result
    assert second["tag"] != first["tag"]

    checked = team.run("verify", f"blue:{second['tag']}", "--rebuild").succeeded().out
    assert "1 packages, and 3 add-ons of 9 files, as locked" in checked, checked
    assert "the same, bit for bit" in checked
    changed = team.run("diff", f"blue:{first['tag']}", f"blue:{second['tag']}").succeeded().out
    assert re.search(r"upgraded +vscode:acme.tool +1.1.0 > 1.2.0 +asked for", changed), changed
    assert re.search(r"added +vscode:acme.extra +2.0.0", changed), changed
    document = json.loads(team.run("catalogue", "--format", "json").succeeded().out)
    (entry,) = [item for item in document["entries"] if item["tag"] == second["tag"]]
    assert entry["packages"] == {"alpha": "1.0", "vscode:acme.tool": "1.2.0"}
    team.forget_image()
    team.edit("images/blue/team.toml", '"1 MiB"', '"100 B"')
    team.run("image", "blue").failed(5, r"vscode:acme.tool [0-9.]+ (B|KiB) unpacked of 100 B allowed")


def test_a_gallery_that_lies_is_refused(world: Callable[..., World], gallery: FakeGallery) -> None:
    team = world("acme.liar")
    gallery.lies["acme.liar"] = make_vsix("acme.liar", "1.0.0", files={"bad.js": b"x"})
    try:
        team.run("lock", "blue").failed(8, "acme.liar-1.0.0.vsix from index 'ext' is not the expected file")
    finally:
        gallery.lies.clear()
    assert not (team.root / "lockfiles" / "vscode.blue.toml").exists()
    assert team.leftovers() == []


def test_a_file_that_was_replaced_after_locking_is_refused(world: Callable[..., World], gallery: FakeGallery) -> None:
    team = world("acme.extra")
    team.run("lock", "blue").succeeded()
    shutil.rmtree(team.cache / "addons")
    before = gallery.builds["acme.extra", "2.0.0", "universal"]
    gallery.builds["acme.extra", "2.0.0", "universal"] = {**before, "data": make_vsix("acme.extra", "2.0.0", files={"more": b"x"})}
    try:
        team.run("image", "blue").failed(8, "has another file as acme.extra 2.0.0 than the one that was locked")
        team.run("lock", "--check", "blue").failed(8, "has another file as acme.extra 2.0.0")
    finally:
        gallery.builds["acme.extra", "2.0.0", "universal"] = before
    team.run("image", "blue").succeeded()


def test_redirects_stay_within_what_the_index_allows(world: Callable[..., World], gallery: FakeGallery) -> None:
    other = FakeGallery()
    other.builds = gallery.builds
    with other.serve() as elsewhere:
        gallery.moved["/api/acme/extra/linux-x64"] = f"{elsewhere}api/acme/extra/linux-x64"
        gallery.moved["/api/acme/extra/universal"] = f"{elsewhere}api/acme/extra/universal"
        try:
            team = world("acme.extra")
            team.run("lock", "blue").failed(6, "'ext' redirects acme.extra to http://127.0.0.1:[0-9]+, which is not followed", "redirects")
            assert other.requests == []
            host = elsewhere.removeprefix("http://").rstrip("/")
            team.edit("images/blue/team.toml", "default = true\n", f'default = true\nredirects = ["{host}"]\n')
            team.run("lock", "blue").succeeded()
        finally:
            gallery.moved.clear()


@pytest.mark.parametrize(
    ("asked", "code", "error"),
    [
        ("acme.future", 4, r"no version of acme.future runs on VS Code 1.100.3 of the base tiny: 9.0.0 needs \^1.200.0"),
        ("acme.future==9.0.0", 4, r"acme.future 9.0.0 needs VS Code \^1.200.0, and the base tiny has 1.100.3"),
        ("acme.windows", 4, "package index 'ext' has no acme.windows for linux-x64"),
        ("acme.nothing", 4, "package index 'ext' has no acme.nothing"),
        ("ms-python.python==2026.2.0", 4, "asks for ms-python.python 2026.2.0, and the base tiny has 2024.1.0"),
        ("not an extension", 3, "not an extension: 'not an extension'"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(world: Callable[..., World], asked: str, code: int, error: str) -> None:
    team = world(asked)
    team.run("lock", "blue").failed(code, error)
    assert not (team.root / "lockfiles" / "vscode.blue.toml").exists()


def test_the_base_extension_gives_way_where_replace_says_so(world: Callable[..., World]) -> None:
    team = world("ms-python.python==2026.2.0", settings='replace = ["vscode:ms-python.python"]\n')
    assert "vscode:ms-python.python==2026.2.0" in team.run("lock", "blue").succeeded().out
    team.edit("images/blue/team.toml", "ms-python.python==2026.2.0", "acme.extra")
    team.run("lock", "blue").failed(4, "replace names vscode:ms-python.python, and nothing of that name is replaced")


def test_files_of_the_team(world: Callable[..., World], gallery: FakeGallery) -> None:
    team = world()
    folder = team.root / "images" / "blue" / "extensions"
    write_vsix(folder, "corp.own", "3.0.0", filename="own.vsix")
    write_vsix(folder, "corp.native", "1.0.0", filename="native-x64.vsix", platform="linux-x64")
    write_vsix(folder, "corp.native", "1.0.0", filename="native-mac.vsix", platform="darwin-arm64")
    done = team.run("lock", "blue").succeeded()
    assert "vscode:corp.native==1.0.0  (local; asked for by native-x64.vsix)" in done.out
    team.run("image", "blue").succeeded()
    write_vsix(folder, "corp.own", "3.0.1", filename="own.vsix")
    team.run("image", "blue").failed(4, r"vscode.blue.toml is stale: images/blue/extensions/own.vsix changed")
    team.run("lock", "blue").succeeded()
    team.edit("images/blue/team.toml", f'url = "{gallery.address}"\ndefault = true', f'url = "{gallery.address}"\nnames = ["corp.*"]')
    team.run("lock", "blue").failed(4, "own.vsix is in the team's folder, and package index 'ext' claims corp.own|native-x64.vsix")


def test_an_extension_of_another_platform_in_the_folder(world: Callable[..., World]) -> None:
    team = world()
    write_vsix(team.root / "images" / "blue" / "extensions", "corp.mac", "1.0.0", filename="mac.vsix", platform="darwin-arm64")
    team.run("lock", "blue").failed(4, "mac.vsix is for darwin-arm64, and the base runs linux-x64")


def test_inspect_shows_what_the_base_has(world: Callable[..., World]) -> None:
    shown = world("acme.extra").run("base", "inspect", "tiny").succeeded().out
    assert "code-server 4.100.3, VS Code 1.100.3, 1 built-in extensions" in shown
    assert f"extensions to {EXTENSIONS}" in shown
    assert "ms-python.python 2024.1.0 in /tmp/data-jovyan/code-server/extensions" in shown
