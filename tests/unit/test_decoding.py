"""No thread is ever the first to decode a type: decoders are made in one place, at module level, and a threaded first use is tried."""

from __future__ import annotations

import ast
import faulthandler
import hashlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.lock.index.pagecache import PageCache, keep_page
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.upstream import recall_metadata
from imagebuild.oci.content import check_manifest
from imagebuild.oci.model import DESCRIPTOR, OCI_LAYER_ZSTD, OCI_MANIFEST, Digest, ImageConfig
from imagebuild.wheel.sizes import ShapeGroup, WheelShape, recall_shape, remember_shape

PACKAGE = Path(__file__).parents[2] / "imagebuild"
MAKERS = {"make_decoder", "make_msgpack_decoder", "Converter"}
ROUNDS = 200
THREADS = 8


def list_names(node: ast.expr) -> str:
    """``msgspec.json.decode`` of an attribute chain; "" for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def find_offenders(source: str) -> list[str]:
    """Typed decoding that does not go through a decoder made at module level."""
    tree = ast.parse(source)
    inner = {id(item) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.Lambda) for item in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "msgspec":
            found += [f"line {node.lineno}: from msgspec import {alias.name}" for alias in node.names if alias.name != "Struct"]
        if not isinstance(node, ast.Call):
            continue
        name = list_names(node.func)
        typed = any(keyword.arg == "type" for keyword in node.keywords) or len(node.args) > 1
        if name.startswith("msgspec.") and (name.endswith((".Decoder", ".convert")) or (name.endswith(".decode") and typed)):
            found.append(f"line {node.lineno}: {name}")
        elif name in MAKERS and id(node) in inner:
            found.append(f"line {node.lineno}: {name} inside a function")
    return found


def list_sources() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), path.read_text(encoding="utf-8")


def test_every_typed_decoder_is_made_at_module_level() -> None:
    # toml.py makes one for the type it is given, under the lock: team files have many types and are read before any thread starts.
    allowed = {"toml.py": ["Converter inside a function"]}
    found = {
        name: [line for line in find_offenders(source) if line.partition(": ")[2] not in allowed.get(name, [])]
        for name, source in list_sources()
        if name != "decoding.py"
    }
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import msgspec\nx = msgspec.json.decode(b'1', type=int)",
        "import msgspec\nx = msgspec.msgpack.decode(b'1', type=int)",
        "import msgspec\nx = msgspec.convert({}, dict)",
        "import msgspec\nX = msgspec.json.Decoder(int)",
        "from msgspec.json import decode",
        "def late():\n    return make_decoder(int)",
        "later = lambda: Converter(int)",
    ],
)
def test_the_check_finds_an_offender(source: str) -> None:
    assert find_offenders(source)


def test_the_check_lets_plain_decoding_pass() -> None:
    assert (
        find_offenders("import msgspec\nX = make_decoder(int)\n\ndef f(data):\n    return X.decode(data), msgspec.json.decode(data)") == []
    )


def list_paths(folder: Path) -> list[Callable[[], Any]]:
    """What threads of a listing, a lock and a push decode, each as a call on prepared data. Preparing only encodes."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Labels": {"c": "d"}},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    layer = {"mediaType": OCI_LAYER_ZSTD, "digest": Digest.of(b"x"), "size": 1, "annotations": {"a": "b"}, "platform": {"os": "linux"}}
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": layer, "layers": [layer, layer], "subject": layer}
    ).encode()
    sha256 = hashlib.sha256(b"wheel").hexdigest()
    remember_shape(folder, sha256, WheelShape({"code": ShapeGroup(1, 2, 3)}))
    seal = hashlib.sha256(b"7\nName: a\n").hexdigest()
    (folder / "metadata").mkdir()
    (folder / "metadata" / f"{sha256}.json").write_text(json.dumps({"metadata": "Name: a\n", "installed_size": 7, "check": seal}))
    pages = PageCache(folder, "https://index.example/simple/")
    pages.remember(
        "a",
        keep_page(ProjectPage("a", (ProjectFile("a-1.tar.gz", "https://index.example/a"),)), "tag", "https://index.example/a/", "0" * 64),
    )

    def read_page() -> object:
        kept = pages.recall("a")
        assert kept is not None
        return kept.read_page("a")

    def read_shape() -> object:
        assert recall_shape(folder, sha256) is not None
        return None

    def read_metadata() -> object:
        assert recall_metadata(folder, sha256)
        return None

    return [
        lambda: check_manifest(manifest).parse(),
        lambda: ImageConfig.parse(json.dumps(config).encode()),
        lambda: DESCRIPTOR.convert(layer),
        read_page,
        read_shape,
        read_metadata,
    ]


def use_from_threads(calls: list[Callable[[], Any]], threads: int) -> None:
    """All calls from each of some threads, which start together."""
    barrier = threading.Barrier(threads)

    def work() -> None:
        barrier.wait()
        for call in calls:
            for _ in range(3):
                call()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def count_deaths(work: Callable[[], None], rounds: int) -> int:
    """How many of some fresh processes (forks of this one) end by a signal, or not well."""
    deaths = 0
    for _ in range(rounds):
        child = os.fork()
        if child == 0:
            try:
                faulthandler.disable()  # one of the tests means them to die
                signal.alarm(60)
                sys.setswitchinterval(1e-6)
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        deaths += status != 0
    return deaths


class Leaf(msgspec.Struct, frozen=True):
    a: int | None = None
    b: str | None = None
    c: tuple[str, ...] = ()
    d: dict[str, str] | None = None
    e: list[int] | None = None


class Middle(msgspec.Struct, frozen=True):
    x: Leaf | None = None
    y: tuple[Leaf, ...] = ()
    z: dict[str, Leaf] | None = None


class Top(msgspec.Struct, frozen=True):
    p: Middle | None = None
    q: tuple[Middle, ...] = ()


FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@FORKS
def test_what_the_module_is_for_still_happens() -> None:
    """Without a decoder made beforehand the process dies. When this fails, msgspec is mended, and imagebuild.decoding may go."""
    data = b'{"p":{"x":{"a":1,"b":"k","c":["u"],"d":{"m":"n"},"e":[1]},"y":[{"a":2}],"z":{"k":{"e":[1]}}},"q":[{"x":{"e":[1]}}]}'
    assert count_deaths(lambda: use_from_threads([lambda: msgspec.json.decode(data, type=Top)], THREADS), 40) > 0


@pytest.mark.slow
@FORKS
def test_threads_that_are_the_first_to_decode_never_kill_the_process(tmp_path: Path) -> None:
    calls = list_paths(tmp_path)  # this process decodes nothing: in each child the threads are the first
    assert count_deaths(lambda: use_from_threads(calls, THREADS), ROUNDS) == 0
