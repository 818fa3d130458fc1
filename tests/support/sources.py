"""The program's own source for the tests that look at it: read, parsed and walked once in each process."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "imagebuild"


@functools.cache
def read_sources() -> dict[str, str]:
    """Path below ``imagebuild/`` -> text, of every module, sorted."""
    return {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def parse_source(source: str) -> ast.Module:
    """The tree of a module's text; shared, so not to be changed."""
    return ast.parse(source)


@functools.cache
def list_nodes(source: str) -> tuple[ast.AST, ...]:
    """Every node of a module's tree, as ``ast.walk`` gives them."""
    return tuple(ast.walk(parse_source(source)))
