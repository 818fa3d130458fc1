"""No thread is ever the first to decode a type: decoders are made in one place, at module level, and a threaded first use is tried."""

from __future__ import annotations

import ast
import faulthandler
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from imagebuild.layer.member import build_member
from imagebuild.layer.model import Codec, Member
from imagebuild.lock.index.metadatacache import recall_metadata
from imagebuild.lock.index.pagecache import PageCache, keep_page
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.oci.content import check_manifest
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_LAYER_ZSTD, OCI_MANIFEST, Digest, ImageConfig, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers
from imagebuild.wheel.sizes import ShapeGroup, WheelShape, recall_shape, remember_shape
from tests.support.builders import make_host_interpreter, make_wheel
from tests.support.sources import ROOT, list_nodes, read_sources
from tests.support.trees import USUAL, MemoryTree

MAKERS = {"make_decoder", "make_msgpack_decoder", "Converter", "SealedCache"}
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
    """Typed decoding that does not go through a decoder made at module level, and other names for what this looks for."""
    functions = (node for node in list_nodes(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))
    inner = {id(item) for node in functions for item in ast.walk(node)}
    found = []
    for node in list_nodes(source):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "msgspec":
            found += [
                f"line {node.lineno}: from msgspec import {alias.name}" for alias in node.names if alias.name not in {"Struct", "UnsetType"}
            ]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            hidden = [alias.name for alias in node.names if alias.asname and (alias.name in MAKERS or alias.name.startswith("msgspec"))]
            found += [f"line {node.lineno}: {name} by another name" for name in hidden]
        elif isinstance(node, ast.Attribute) and list_names(node).startswith("msgspec.") and node.attr in {"Decoder", "convert"}:
            found.append(f"line {node.lineno}: {list_names(node)}")
        elif isinstance(node, ast.Call):
            name = list_names(node.func)
            typed = any(keyword.arg in {"type", None} for keyword in node.keywords) or len(node.args) > 1
            if name.startswith("msgspec.") and name.endswith(".decode") and typed:
                found.append(f"line {node.lineno}: {name}")
            elif (maker := name.rpartition(".")[2]) in MAKERS and id(node) in inner:
                found.append(f"line {node.lineno}: {maker} inside a function")
    return found


def test_every_typed_decoder_is_made_at_module_level() -> None:
    # toml.py makes one for the type it is given, under the lock: team files have many types and are read before any thread starts.
    # sealed.py makes those of a SealedCache, which is made at module level itself.
    allowed = {
        "toml.py": ["Converter inside a function"],
        "sealed.py": ["make_decoder inside a function", "make_msgpack_decoder inside a function"],
    }
    found = {
        name: [line for line in find_offenders(source) if line.partition(": ")[2] not in allowed.get(name, [])]
        for name, source in read_sources().items()
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
        "def late():\n    return SealedCache(int)",
        "async def late():\n    return make_decoder(int)",
        "from imagebuild import decoding\ndef late():\n    return decoding.make_decoder(int)",
        "from imagebuild.decoding import make_decoder as make",
        "import msgspec as m\nx = m.json.decode(b'1', type=int)",
        "import msgspec.json as j\nx = j.decode(b'1', type=int)",
        "import msgspec\nx = msgspec.json.decode(b'1', **{'type': int})",
        "import msgspec\nx = list(map(msgspec.json.Decoder, [int]))",
    ],
)
def test_the_check_finds_an_offender(source: str) -> None:
    assert find_offenders(source)


def test_the_check_lets_plain_decoding_pass() -> None:
    assert (
        find_offenders("import msgspec\nX = make_decoder(int)\n\ndef f(data):\n    return X.decode(data), msgspec.json.decode(data)") == []
    )


CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "config": {"Env": ["A=b"], "Labels": {"c": "d"}}, "rootfs": {"type": "layers", "diff_ids": []}}
).encode()
LAYER = {"mediaType": OCI_LAYER_ZSTD, "digest": Digest.of(b"x"), "size": 1, "annotations": {"a": "b"}, "platform": {"os": "linux"}}
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": LAYER, "layers": [LAYER, LAYER], "subject": LAYER}).encode()
SUBJECT = RawManifest(b'{"schemaVersion":2,"mediaType":"%s","config":{},"layers":[]}' % OCI_MANIFEST.encode(), OCI_MANIFEST)
WHEEL = hashlib.sha256(b"wheel").hexdigest()
INDEX = "https://index.example/simple/"
INTERPRETER = make_host_interpreter()


def read_member(folder: Path) -> Member:
    """The member of the one wheel in ``folder``: built, or from the cache there."""
    return build_member(
        folder / "demo-1.0-py3-none-any.whl",
        package="demo",
        version="1.0",
        interpreter=INTERPRETER,
        tree=MemoryTree(USUAL),
        codec=Codec(),
        compiler=None,
        cache=folder,
        home="/home/jovyan",
    )


def prepare_files(folder: Path) -> None:
    """What :func:`list_paths` reads."""
    remember_shape(folder, WHEEL, WheelShape({"code": ShapeGroup(1, 2, 3)}))
    content = '"metadata":"Name: a\\n","installed_size":7'
    seal = hashlib.sha256(f"{{{content}}}".encode()).hexdigest()
    (folder / "metadata").mkdir()
    (folder / "metadata" / f"{WHEEL}.json").write_text(f'{{{content},"check":"{seal}"}}')
    page = ProjectPage("a", (ProjectFile("a-1.tar.gz", "https://index.example/a"),))
    PageCache(folder, INDEX).remember("a", keep_page(page, "tag", "https://index.example/a/", "0" * 64))
    make_wheel(folder)
    read_member(folder)
    layout = LayoutStore(folder / "layout")
    layout.put_manifest("cosml", SUBJECT, "1")
    attach_artifacts(layout, "cosml", SUBJECT.descriptor, [Artifact("application/vnd.example.note", "text/plain", b"hello")])


def list_paths(folder: Path) -> list[Callable[[], object]]:
    """What threads of a listing, a lock, a build and a push decode; each call gives something true. Nothing is decoded here."""

    def read_page() -> object:
        kept = PageCache(folder, INDEX).recall("a")
        return kept is not None and kept.read_page("a")

    return [
        lambda: check_manifest(MANIFEST).parse(),
        lambda: ImageConfig.parse(CONFIG),
        read_page,
        lambda: recall_shape(folder, WHEEL) is not None,
        lambda: recall_metadata(folder, WHEEL),
        lambda: read_member(folder),
        lambda: list_referrers(LayoutStore(folder / "layout"), "cosml", SUBJECT.digest),
    ]


def use_from_threads(calls: list[Callable[[], object]], threads: int) -> None:
    """All calls from each of some threads, which start each call together. AssertionError if one raised or gave nothing."""
    barrier = threading.Barrier(threads)

    def work() -> None:
        try:
            for call in calls:
                barrier.wait()
                assert call()
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(threads)]:
            future.result()


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
                traceback.print_exc()
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
def test_threads_that_are_the_first_to_decode_never_kill_the_process(tmp_path: Path) -> None:
    """200 forks of a fresh interpreter that has imported the modules and decoded nothing, so that in each fork the threads are the first.

    A fork copies the classes as they are, hence also what msgspec knows of them: pytest's own process will not do, where the tests
    before this one have decoded most types (with decoders made late, the deaths that this test saw sank from 184 of 200 to 65 behind five
    other files).
    """
    prepare_files(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.test_decoding", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


if __name__ == "__main__":
    PATHS = list_paths(Path(sys.argv[1]))
    print(count_deaths(lambda: use_from_threads(PATHS, THREADS), ROUNDS))
