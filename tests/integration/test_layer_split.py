"""``[layer] split``: programs that nobody here wrote unpack the same tree from several layers as from one, and no layer is sent twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.fleetworlds import base
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry, registry
from tests.support.tools import need_docker
from tests.support.workspaces import RequestLog, path_of, run_tool, unpack
from tests.support.worlds import SmallBase, World

pytestmark = pytest.mark.integration
__all__ = ["base", "registry"]  # fixtures

UPLOADS = {"part0": "2025-01-05", "part1": "2025-03-05", "part2": "2025-05-05", "part3": "2025-06-05", "basekit": "2025-08-05"}
LARGE = 17 << 20  # bytes that do not compress: a wheel of its own layer
Tree = dict[str, tuple[object, ...]]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``part0`` to ``part3``, of which ``part1`` is large; ``basekit`` 2.0, of which the base has 1.5; a later ``part2``."""
    folder, found = tmp_path_factory.mktemp("wheels"), SlowIndex()
    for name, day in UPLOADS.items():
        data = os.urandom(LARGE) if name == "part1" else name.encode() * 3000
        files = {f"{name}/__init__.py": b"x = 1\n", f"{name}/data": data, f"shared/{name}.txt": b"in a folder of all\n"}
        filename = publish(found, folder, name, "2.0" if name == "basekit" else "1.0", files=files)
        found.files[name][filename]["uploaded"] = f"{day}T10:00:00Z"
    filename = publish(found, folder, "part2", "1.1", files={"part2/__init__.py": b"x = 2\n"})
    found.files["part2"][filename]["uploaded"] = "2025-11-05T10:00:00Z"
    with found.serve() as url:
        yield url


def make_world(base: SmallBase, index: str, folder: Path) -> World:
    """Teams with split layers (``blue``, ``green``) and one with a single layer and ``blue``'s packages (``single``)."""
    made = World(folder / "world", base, index)
    layer = 'replace = ["basekit"]\nlayer = { split = true }\n'
    made.add_team("blue", "part0\npart1\npart2==1.0\nbasekit>=2\n", layer)
    made.add_team("green", "part0\npart1\npart3\nbasekit>=2\n", layer)
    made.add_team("single", "part0\npart1\npart2==1.0\nbasekit>=2\n", 'replace = ["basekit"]\n')
    chunked = 'replace = ["basekit"]\nlayer = { split = true, format = "zstd:chunked" }\n'
    made.add_team("chunked", "part0\npart1\npart2==1.0\nbasekit>=2\n", chunked)
    return made


@pytest.fixture
def world(base: SmallBase, index: str, tmp_path: Path) -> World:
    return make_world(base, index, tmp_path)


@pytest.fixture(scope="module")
def pushed(base: SmallBase, index: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same packages in several layers, in several of the form zstd:chunked, and in one: names in the registry."""
    world = make_world(base, index, tmp_path_factory.mktemp("pushed"))
    teams = ("blue", "chunked", "single")
    return [f"{world.base.host}/{world.root.parent.name}/{team}@{push(world, team)['digest']}" for team in teams]


def push(world: World, team: str, *options: str) -> dict[str, object]:
    return world.run("image", team, "--json", "--registry", f"{world.base.host}/{world.root.parent.name}", *options, timeout=120).result


def read_manifest(world: World, team: str, result: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    name = f"{world.base.host}/{world.root.parent.name}/{team}@{result['digest']}"
    manifest: dict[str, list[dict[str, object]]] = json.loads(run_tool("crane", "manifest", "--insecure", name))
    return manifest


def list_tar(archive: tarfile.TarFile) -> Tree:
    """Path -> all that a file system keeps of it, without times."""
    found: Tree = {}
    for item in archive:
        content = archive.extractfile(item) if item.isreg() else None
        digest = hashlib.file_digest(content, "sha256").hexdigest() if content is not None else ""  # type: ignore[arg-type]
        assert item.name.strip("/") not in found
        found[item.name.strip("/")] = (item.type, item.mode, item.uid, item.gid, item.size, item.linkname, digest)
    return found


def list_folder(root: Path) -> Tree:
    found: Tree = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(facts.st_mode) else ""
        link = str(path.readlink()) if path.is_symlink() else ""
        size = facts.st_size if content else 0
        found[str(path.relative_to(root))] = (facts.st_mode, facts.st_uid, facts.st_gid, size, link, content)
    return found


def export_with_crane(name: str, folder: Path) -> Tree:
    run_tool("crane", "export", "--insecure", name, str(folder / "crane.tar"))
    with tarfile.open(folder / "crane.tar") as archive:
        return list_tar(archive)


def export_with_umoci(name: str, folder: Path) -> Tree:
    return list_folder(unpack(f"docker://{name}", folder / "umoci"))


def export_with_docker(name: str, folder: Path) -> Tree:
    docker = need_docker()
    run_tool(docker, "pull", "--quiet", name)
    container = run_tool(docker, "create", name, "none").decode().strip()
    try:
        with (folder / "docker.tar").open("wb") as out:
            subprocess.run([docker, "export", container], stdout=out, check=True)
    finally:
        run_tool(docker, "rm", container)
        run_tool(docker, "rmi", name)
    with tarfile.open(folder / "docker.tar") as archive:
        return list_tar(archive)


@pytest.mark.parametrize("export", [export_with_crane, export_with_umoci, export_with_docker])
def test_several_layers_unpack_to_the_tree_of_one(pushed: list[str], tmp_path: Path, export: Callable[[str, Path], Tree]) -> None:
    trees = []
    for number, name in enumerate(pushed):
        folder = tmp_path / str(number)
        folder.mkdir()
        trees.append(export(name, folder))
    several, chunked, one = trees
    for tree in (several, chunked):
        different = [path for path in tree.keys() | one.keys() if tree.get(path) != one.get(path)]
        assert different == ["etc/imagebuild/constraints.txt"]  # it names the team
    names = {path.rpartition("/")[2] for path in several if "dist-packages/" in path}
    assert {"basekit-2.0.dist-info", "part0.txt", "part1.txt"} <= names
    assert "basekit-1.5.dist-info" not in names


def test_everything_that_reads_an_image_takes_both(world: World) -> None:
    result = push(world, "blue")
    target = ("--registry", f"{world.base.host}/{world.root.parent.name}")
    manifest = read_manifest(world, "blue", result)
    own = manifest["layers"][1:]
    # What is deleted; part0 of the first quarter above the large part1 of it; part2; basekit; the constraints file.
    assert len(own) == 6 == int(manifest["annotations"]["dev.imagebuild.layers"])  # type: ignore[call-overload]
    assert (result["layers"], result["compressed"]) == (6, sum(int(str(item["size"])) for item in own))
    assert LARGE < int(str(own[1]["size"])) < LARGE + 100_000
    unpacked = [int(item["annotations"]["dev.imagebuild.delta.installed"]) for item in own]  # type: ignore[index]
    assert (unpacked[0], sum(unpacked)) == (0, result["installed"])

    done = world.run("verify", "blue", "--rebuild", "--json", *target, timeout=120).succeeded()
    rows = {row["check"]: row for row in json.loads(done.out)["rows"]}
    assert {row["status"] for row in rows.values()} == {"passed"}
    assert rows["one layer over the base"]["text"].startswith("6 layers over ")
    assert "replaced as declared: basekit" in rows["files of the base"]["text"]
    assert rows["rebuild"]["text"].startswith("the same, bit for bit")

    measured = json.loads(world.run("size", f"{target[1]}/blue@{result['digest']}", "--json").succeeded().out)
    assert (measured["layers"], measured["compressed"], measured["installed"]) == (6, result["compressed"], result["installed"])
    assert {"part1 1.0", "basekit 2.0"} <= {f"{item['name']} {item['version']}" for item in measured["packages"]}

    names = [f"{target[1]}/{team}@{digest}" for team, digest in (("single", push(world, "single")["digest"]), ("blue", result["digest"]))]
    assert "\nthe same packages\n" in world.run("diff", *names).out
    entries = json.loads(world.run("catalogue", "--format", "json", *target).succeeded().out)["entries"]
    assert {item["team"]: item["delta_compressed"] for item in entries}["blue"] == result["compressed"]

    world.write("images/pools.toml", '[pool.a100]\ngke = "a100"\ndisk = "100 GiB"\nteams = ["blue"]\n')
    (plan,) = json.loads(world.run("prewarm", "--plan", "--json", *target).succeeded().out)
    assert plan["stored"] == sum(int(str(item["size"])) for item in manifest["layers"])
    (below,) = json.loads((world.root / "lockfiles/bases/tiny.json").read_text())["layers"]
    assert plan["estimated"] == 0  # each of the team's layers says what it unpacks to
    assert plan["on_disk"] - plan["stored"] - below["uncompressed"] == result["installed"]

    world.edit("images/blue/team.toml", "layer = { split = true }\n", "")
    explained = world.run("explain", "blue", *target).succeeded().out
    assert re.search(r"layers +6 > 1\n", explained)
    assert len(explained.splitlines()) == 2


def test_a_layer_that_was_pushed_is_never_sent_again(world: World, registry: Registry) -> None:
    """Between teams by a mount; between quarters by asking for it."""
    blue = {item["digest"] for item in read_manifest(world, "blue", push(world, "blue"))["layers"]}
    log = RequestLog(registry)
    result = push(world, "green")
    green = [str(item["digest"]) for item in read_manifest(world, "green", result)["layers"]]
    shared = [digest for digest in green if digest in blue]
    assert len(shared) == 5  # the base; deletions, part1, part0, basekit
    requests = log.read()
    sent = [path for path in path_of(requests, "PUT") if "/manifests/" not in path]
    mounted = [path for path in path_of(requests, "POST") if "mount=" in path]
    assert len(mounted) == len(shared)
    for digest in shared:
        assert not [path for path in sent if digest[7:] in path]
        assert [path for path in mounted if digest[7:] in path and ("blue" in path or images.REPOSITORY.replace("/", "%2F") in path)]
    assert sum(digest[7:] in path for digest in green for path in sent) == 2  # part3, and green's own constraints
    assert not path_of(requests, "PATCH")

    # Next quarter: a newer part2. Its old layer goes, a new one comes, and what lists versions changes.
    world.edit("images/blue/requirements.in", "part2==1.0", "part2==1.1")
    world.run("lock", "blue").succeeded()
    log = RequestLog(registry)
    later = [str(item["digest"]) for item in read_manifest(world, "blue", push(world, "blue"))["layers"]]
    new = [digest for digest in later if digest not in blue]
    sent = [path for path in path_of(log.read(), "PUT") if "/manifests/" not in path]
    assert (len(new), sum(digest[7:] in path for digest in later for path in sent)) == (2, 2)
    assert later[:4] == [*[str(item) for item in later if item in blue][:4]]
    assert later[-2:] == new

    # A place that has none of them: each layer is asked for there before it is assembled, and before it is sent.
    log = RequestLog(registry)
    world.run("image", "blue", "--registry", f"{world.base.host}/{world.root.parent.name}/other", timeout=120).succeeded()
    asked = Counter(path for path in path_of(log.read(), "HEAD") if "/other/blue/blobs/" in path)
    assert [sum(asked[path] for path in asked if digest[7:] in path) for digest in new] == [2, 2]


def test_the_docker_engine_says_why_it_cannot(world: World) -> None:
    world.run("lock", "blue").succeeded()
    refused = world.run("image", "blue", "--engine", "docker")
    refused.refused(3, "the docker engine makes one layer, and .layer. asks for split = true\n", hint="leave split out")
    world.edit("images/blue/team.toml", "layer =", 'system = { packages = ["graphviz"] }\nlayer =')
    world.run("image", "blue").refused(3, r"needed for the system packages \(graphviz\)", hint=r"or \[system\]")
    world.edit("images/blue/team.toml", 'system = { packages = ["graphviz"] }\n', 'engine = "docker"\n')
    world.run("image", "blue").refused(3, "team.toml: split = true in .layer. needs the direct engine", hint='engine = "auto"')
