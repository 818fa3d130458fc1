"""Programs that a base's own Python runs use nothing that Python 3.8 lacks; CONTRIBUTING.md and `base inspect` promise that."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from imagebuild.base import interpreter, runtime
from imagebuild.check.verify import twin
from imagebuild.layer import bytecode
from imagebuild.lock.resolve import piptools
from tests.support.sources import read_sources

FILES = ("check/smoke/probe.py", "payload/addons_run.py", "payload/pip_run.py", "wheel/slim.py")
PROGRAMS = {
    **{name: read_sources()[name] for name in FILES},
    "base/interpreter.py": interpreter._PROBE,
    "base/runtime.py": runtime._PREAMBLE.format(wrapper="", path=[]),
    "check/verify/twin.py": twin._CHILD,
    "layer/bytecode.py": bytecode._CHILD,
    "lock/resolve/piptools.py": piptools._CODE,
}
# What came after 3.8 (What's New in Python 3.9 to 3.12), as far as such programs could want it.
METHODS = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "hardlink_to", "bit_count", "walk_up", "file_digest", "batched"}
FUNCTIONS = {
    "ast.unparse", "contextlib.aclosing", "contextlib.chdir", "datetime.UTC", "enum.StrEnum", "functools.cache", "hashlib.file_digest",
    "importlib.resources", "inspect.get_annotations", "itertools.batched", "itertools.pairwise", "math.lcm", "math.nextafter",
    "os.pidfd_open", "random.randbytes", "sys.orig_argv", "sys.stdlib_module_names", "types.NoneType", "types.UnionType",
    "typing.ParamSpec", "typing.Self",
}  # fmt: skip
MODULES = {"graphlib", "tomllib", "zoneinfo"}
GENERIC = {"dict", "frozenset", "list", "set", "tuple", "type"}  # list[str] came with 3.9, and may stand in annotations that stay texts


def is_newer(node: ast.AST, annotation: bool) -> bool:
    """Whether Python 3.8 lacks what this part of a program is; ``annotation``: in one, which is evaluated."""
    if isinstance(node, ast.Attribute):
        return node.attr in METHODS or ast.unparse(node) in FUNCTIONS
    if isinstance(node, ast.Import):
        return any(alias.name in MODULES | FUNCTIONS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return node.module in MODULES or any(f"{node.module}.{alias.name}" in FUNCTIONS for alias in node.names)
    if isinstance(node, ast.Subscript):
        return isinstance(node.value, ast.Name) and node.value.id in GENERIC
    if isinstance(node, ast.BinOp):
        return annotation and isinstance(node.op, ast.BitOr)
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "zip" and bool(node.keywords)


def find_newer(source: str) -> Iterator[str]:
    """What a program uses that Python 3.8 lacks."""
    tree = ast.parse(source, feature_version=(3, 8))
    texts = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    parts = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    annotations = {id(inner) for part in parts if part is not None for inner in ast.walk(part)}
    for node in ast.walk(tree):
        annotation = id(node) in annotations
        if not (annotation and texts) and is_newer(node, annotation):
            yield ast.unparse(node)


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_a_program_of_a_base_uses_nothing_that_python_3_8_lacks(name: str) -> None:
    assert list(find_newer(PROGRAMS[name])) == []


def test_every_program_that_promises_it_is_looked_at() -> None:
    promise = re.compile(r"3\.8 (or|and) newer(?!\sthat)")
    promising = {name for name, source in read_sources().items() if promise.search(source)}
    assert promising <= set(PROGRAMS)
    assert set(FILES) <= promising


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("'a.exe'.removesuffix('.exe')", 1),
        ("import functools\n@functools.cache\ndef f(): pass", 1),
        ("from functools import cache", 1),
        ("import tomllib", 1),
        ("x = list[str]", 1),
        ("def f(a: list[str]) -> 'int | None': pass", 1),
        ("def f(a: int | None): pass", 1),
        ("from __future__ import annotations\ndef f(a: list[str]) -> int | None: pass", 0),
        ("zip([], [], strict=True)", 1),
        ("x = {}\nx['list'] | 1", 0),
    ],
)
def test_the_look_sees_what_is_newer(source: str, found: int) -> None:
    assert len(list(find_newer(source))) == found


def test_syntax_that_is_newer_is_refused() -> None:
    with pytest.raises(SyntaxError):
        list(find_newer("match 1:\n    case 1: pass"))
