"""Bytecode: valid, with the final path in it, and the same whatever was compiled before."""

from __future__ import annotations

import marshal
import random
import struct
import types
from collections.abc import Iterator

import pytest

from imagebuild.errors import BuildError
from imagebuild.layer.bytecode import BytecodeCompiler, locate_bytecode, locate_source
from tests.support.builders import make_host_interpreter
from tests.support.runtimes import FakeChild, HostRuntime

# Names and constants shared between files, constants that are sets, interned and not: what reference flags depend on.
SOURCES = [
    (
        f"/usr/lib/p{number}.py",
        (
            f'"""Doc {number % 3}."""\nimport os, sys\nSHARED = {{"alpha", "beta", None, {number}, "x y"}}\n'
            f"class C{number}(dict):\n    alpha: int = {number * 1000}\n"
            f"    def run(self, alpha, beta={number}, *rest, **more):\n        return [alpha in {{'a b', 'c d', None}} for alpha in rest]\n"
            f"def f_{number % 4}(x):\n    return lambda: (x, 'a b', 1_000_{number:03d}, SHARED)\n"
        ).encode(),
    )
    for number in range(40)
]


def compile_all(sources: list[tuple[str, bytes]], runtime: HostRuntime | None = None) -> dict[str, bytes | None]:
    with BytecodeCompiler(runtime or HostRuntime(), make_host_interpreter()) as compiler:
        return dict(compiler.compile_wheel(sources))


def test_pycs_are_unchecked_hash_pycs_that_name_their_final_path() -> None:
    result = compile_all(SOURCES)
    for path, data in result.items():
        assert data is not None
        magic, flags = data[:4], struct.unpack("<I", data[4:8])[0]
        assert magic.hex() == make_host_interpreter().magic
        assert flags == 0b01  # hash-based, source not checked
        code = marshal.loads(data[16:])
        assert isinstance(code, types.CodeType)
        assert code.co_filename == path


@pytest.mark.slow
def test_a_wheels_bytes_do_not_depend_on_what_the_child_compiled_before() -> None:
    wheels = [SOURCES[start : start + 5] for start in range(0, 40, 5)]
    alone = [compile_all(wheel) for wheel in wheels]
    for seed in range(4):
        order = list(range(len(wheels)))
        random.Random(seed).shuffle(order)
        with BytecodeCompiler(HostRuntime(), make_host_interpreter()) as compiler:
            for index in order:
                assert dict(compiler.compile_wheel(wheels[index])) == alone[index]


def test_what_does_not_compile_is_skipped_and_the_rest_goes_on() -> None:
    bad = {
        "/a/syntax.py": b"def f(:\n",
        "/a/nul.py": b"x = 1\0",
        "/a/coding.py": b"# coding: no-such-coding\n",
        "/a/latin.py": b"x = '\xe9'\n",
        "/a/deep.py": b"(" * 3000,
        "/a/warns.py": b"x = '\\d' is 1\n",
        "/a/empty.py": b"",
    }
    result = compile_all([*bad.items(), ("/a/good.py", b"x = 1\n")])
    assert [path for path, data in result.items() if data] == ["/a/warns.py", "/a/empty.py", "/a/good.py"]


def test_large_sources_and_results_pass_the_pipes() -> None:
    source = b"".join(b"x%d = 'value %d'\n" % (number, number) for number in range(30_000))
    (data,) = compile_all([("/big.py", source)]).values()
    assert data is not None
    assert len(data) > 1 << 19
    assert len(source) > 1 << 19


GREETING = """
import os, sys, importlib.util
tag = sys.implementation.cache_tag.encode()
os.write(1, importlib.util.MAGIC_NUMBER + bytes([len(tag)]) + tag)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit('no libc here')", "ended.*: no libc here"),
        (GREETING + "os.read(0, 100); os.write(2, b'first\\nlast words\\n'); os._exit(3)", "ended.*: last words"),
        (GREETING + "os.read(0, 100); os.kill(os.getpid(), 11)", "ended"),
        (GREETING + "import time; time.sleep(60)", "gave no answer for 0.5 s"),
        ("import os; os.write(1, bytes(4) + bytes([11]) + b'cpython-399')", r"writes cpython-399 bytecode \(00000000\)"),
    ],
)
def test_a_child_that_dies_hangs_or_is_another_python(code: str, why: str) -> None:
    compiler = BytecodeCompiler(FakeChild(code), make_host_interpreter(), timeout=0.5)
    with pytest.raises(BuildError, match=why):
        list(compiler.compile_wheel([("/x.py", b"x = 1\n" * 200_000)]))
    compiler.close()


def test_a_compiler_serves_again_after_a_source_failed_to_arrive() -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield SOURCES[0]
        raise RuntimeError("reading failed")

    with BytecodeCompiler(HostRuntime(), make_host_interpreter()) as compiler:
        with pytest.raises(RuntimeError, match="reading failed"):
            list(compiler.compile_wheel(broken()))
        assert dict(compiler.compile_wheel(SOURCES[:2])) == compile_all(SOURCES[:2])


@pytest.mark.parametrize("source", ["/a/b.py", "/a/b.c.py", "b.py", "../bin/jp.py", "/a/.py"])
def test_places_are_the_import_systems(source: str) -> None:
    import importlib.util
    import sys

    tag = sys.implementation.cache_tag
    assert tag
    assert locate_bytecode(source, tag) == importlib.util.cache_from_source(source)
    if source != "/a/.py":
        assert locate_source(locate_bytecode(source, tag)) == source
