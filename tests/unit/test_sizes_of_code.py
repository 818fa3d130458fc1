"""No function over 60 lines, and no module over 400 lines unless its docstring says why ("... lines because ...")."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.support.sources import parse_source, read_sources

FUNCTION_LINES = 60
MODULE_LINES = 400


def list_functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Qualified name and lines of every function, nested ones included; decorators do not count."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.expr):
            continue  # no function stands in an expression
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, (node.end_lineno or node.lineno) - node.lineno + 1
            yield from list_functions(node, f"{name}.")
        else:
            yield from list_functions(node, prefix)


def find_long_functions(module: str, source: str) -> set[str]:
    return {f"{module}:{name}" for name, lines in list_functions(parse_source(source)) if lines > FUNCTION_LINES}


def is_long_module(source: str) -> bool:
    if len(source.splitlines()) <= MODULE_LINES:
        return False
    docstring = ast.get_docstring(parse_source(source)) or ""
    return "lines because" not in " ".join(docstring.split())


def test_no_function_is_longer_than_a_page() -> None:
    found = set().union(*(find_long_functions(module, source) for module, source in read_sources().items()))
    assert sorted(found) == [], f"split them: a function has {FUNCTION_LINES} lines at most"


def test_no_module_is_long_without_a_reason() -> None:
    found = [module for module, source in read_sources().items() if is_long_module(source)]
    assert found == [], f"split them, or say in the docstring why: a module has {MODULE_LINES} lines at most"


def test_the_measure() -> None:
    body = "    x = 1\n"
    assert find_long_functions("m", "def f() -> None:\n" + body * 59) == set()
    assert find_long_functions("m", "def f() -> None:\n" + body * 60) == {"m:f"}
    assert find_long_functions("m", "class C:\n  if True:\n    async def f() -> None:\n" + "        x = 1\n" * 60) == {"m:C.f"}
    assert not is_long_module("x = 1\n" * 400)
    assert is_long_module("x = 1\n" * 401)
    assert not is_long_module('"""One table: 401 lines\nbecause it is one."""\n' + "x = 1\n" * 400)
