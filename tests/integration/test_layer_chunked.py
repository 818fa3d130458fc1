"""``[layer] format = "zstd:chunked"``: containers/storage fetches what changed alone; verify and rebuild take what was pushed."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.support.fleetworlds import base
from tests.support.partialpull import Node
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry, registry
from tests.support.workspaces import run_tool
from tests.support.worlds import SmallBase, World

pytestmark = pytest.mark.integration
__all__ = ["base", "registry"]  # fixtures

LARGE = 3 << 20  # bytes that do not compress
PREFIX = "io.github.containers.zstd-chunked."


@pytest.fixture(scope="module")
def world(base: SmallBase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Teams ``blue`` and ``green``, whose layers differ in one small package."""
    folder, found = tmp_path_factory.mktemp("wheels"), SlowIndex()
    publish(found, folder, "large", "1.0", files={"large/__init__.py": b"x = 1\n", "large/data": os.urandom(LARGE), "large/empty": b""})
    for version in ("1.0", "1.1"):
        publish(found, folder, "small", version, files={"small/__init__.py": f'v = "{version}"\n'.encode() * 200})
    with found.serve() as url:
        made = World(tmp_path_factory.mktemp("chunked") / "world", base, url)
        for team, version in (("blue", "1.0"), ("green", "1.1")):
            made.add_team(team, f"large\nsmall=={version}\n", 'layer = { format = "zstd:chunked" }\n')
        yield made


def push(world: World, team: str) -> str:
    """The image's name in the registry."""
    target = f"{world.base.host}/{world.root.parent.name}"
    result = world.run("image", team, "--json", "--registry", target, timeout=120).result
    return f"{target}/{team}@{result['digest']}"


def find_layer(name: str) -> dict[str, object]:
    layer: dict[str, object] = json.loads(run_tool("crane", "manifest", "--insecure", name))["layers"][-1]
    return layer


def count_fetched(registry: Registry, digest: str) -> list[int]:
    """Bytes of each answer with a part of this blob."""
    found = re.findall(rf'"GET [^ ]*/blobs/{digest} HTTP/1.1" (?:200|206) (\d+)', registry.log.read_text())
    return [int(size) for size in found]


def test_a_node_fetches_the_files_that_it_lacks(world: World, registry: Registry, tmp_path: Path) -> None:
    blue, green = push(world, "blue"), push(world, "green")
    first, second = find_layer(blue), find_layer(green)
    assert set(second["annotations"]) == {PREFIX + name for name in ("manifest-checksum", "manifest-position", "tarsplit-position")}  # type: ignore[call-overload]
    node = Node(tmp_path / "node")
    assert f"Retrieved partial blob {first['digest']}" in node.pull(blue)  # by then it has compared the tar's digest with the diff_id
    assert sum(count_fetched(registry, str(first["digest"]))) > LARGE
    assert f"Retrieved partial blob {second['digest']}" in node.pull(green)
    fetched = count_fetched(registry, str(second["digest"]))
    assert len(fetched) == 2  # table and tar-split; then all files that are missing
    assert 0 < sum(fetched) < 50_000

    stored = run_tool("crane", "blob", "--insecure", f"{green.partition('@')[0]}@{second['digest']}")
    tar = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored), read_across_frames=True).read()
    folder = next(item for item in node.find_layers() if any("1.1" in path.read_text() for path in item.glob("**/small/__init__.py")))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for entry in archive:
            path, stream = folder / entry.name, archive.extractfile(entry)
            assert (path.stat().st_mode & 0o7777, path.stat().st_uid, path.stat().st_gid) == (entry.mode, entry.uid, entry.gid)
            assert stream is None or path.read_bytes() == stream.read()


def test_what_was_pushed_is_verified_and_rebuilt(world: World) -> None:
    name = push(world, "blue")
    done = world.run("verify", name, "--rebuild", "--json", timeout=120).succeeded()
    rows = {row["check"]: row for row in json.loads(done.out)["rows"]}
    assert {row["status"] for row in rows.values()} == {"passed"}
    assert rows["zstd:chunked"]["text"].endswith("entries and the tar-split are the tar's")
    assert rows["rebuild"]["text"].startswith("the same, bit for bit")
    measured = json.loads(world.run("size", name, "--json").succeeded().out)
    assert {"large 1.0", "small 1.0"} <= {f"{item['name']} {item['version']}" for item in measured["packages"]}
