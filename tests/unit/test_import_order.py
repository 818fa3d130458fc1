"""The rooms of the house in one order: a module imports only from its own room and from rooms that stand before it.

``LAYERS`` is the one list of that order; docs/architecture.md shows the same.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.support.sources import ROOT, list_nodes, read_sources

# Rooms on one line do not import each other.
LAYERS = (
    ("annotations", "decoding", "errors", "http", "payload", "permissions", "servers", "table", "text"),
    ("children", "files", "jobs", "progress"),
    ("sealed", "toml"),
    ("oci", "wheel"),
    ("base", "lock.index", "tagforms", "workspace"),
    ("lock.file",),
    ("addons",),
    ("layer", "lock.inputs"),
    ("lock.resolve", "recipe"),
    ("dockerfile", "lock.wheels", "supply"),
    ("config", "engine", "lock"),
    ("bundle", "catalogue", "diagnosis", "scaffold", "starter"),
    ("emit", "size"),
    ("check",),
    ("pipeline",),
    ("ci", "difference"),
    ("commands",),
    ("cli",),
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def name_room(module: str) -> str:
    """The room of a dotted module name without ``imagebuild.``: the longest listed prefix; empty for the package itself."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (room := ".".join(parts[:length])) in LEVELS:
            return room
    return ""


def list_imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import of ours, late ones and those for types alone included; names without ``imagebuild.``."""
    for node in list_nodes(source):
        if isinstance(node, ast.ImportFrom) and node.module == "imagebuild":
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("imagebuild."):
            yield from ((node.lineno, f"{(node.module or '')[11:]}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name[11:]) for alias in node.names if alias.name.startswith("imagebuild."))


def find_faults(module: str, source: str) -> list[str]:
    """The imports of a module that its room may not have."""
    room = name_room(module)
    found = []
    for line, name in list_imports(source):
        other = name_room(name)
        if other and other != room and LEVELS[other] >= LEVELS[room]:
            found.append(f"imagebuild.{module} (line {line}) imports {name}: {room} stands before {other}, or beside it")
    return found


def list_modules() -> list[tuple[str, str]]:
    """Dotted name without ``imagebuild.``, and source."""
    named = [(path.removesuffix(".py").replace("/", ".").removesuffix(".__init__"), source) for path, source in read_sources().items()]
    return [(name, source) for name, source in named if name != "__init__"]


def test_every_module_has_a_room() -> None:
    assert [name for name, _ in list_modules() if not name_room(name)] == []


def test_a_module_imports_only_what_stands_before_it() -> None:
    assert [fault for name, source in list_modules() for fault in find_faults(name, source)] == []


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("lock.index.client", "from imagebuild.lock.file.model import Lock", True),
        ("oci.copy", "def late():\n    from imagebuild.wheel.sizes import KINDS", True),
        ("oci.copy", "import imagebuild.commands.image", True),
        ("recipe", "from imagebuild import config", True),
        ("lock.compiling", "from imagebuild.lock.resolve.candidates import Candidate", False),
        ("lock.file.model", "from imagebuild.lock.file.lockfile import read_lock", False),
        ("config", "from imagebuild import __version__", False),
    ],
)
def test_the_check_sees_an_import_against_the_order(module: str, source: str, bad: bool) -> None:
    assert bool(find_faults(module, source)) is bad


def test_the_architecture_page_shows_this_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.partition("## The order of the rooms")[2].partition("```")[2].partition("```")[0]
    shown = [tuple(line.split()) for line in block.splitlines() if line.strip()]
    assert shown == [tuple(room.replace(".", "/") for room in rooms) for rooms in LAYERS]


def test_the_architecture_page_tells_of_every_room_in_this_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.partition("## Rooms")[2].splitlines() if line.startswith("| `")]
    told = [name.strip("/").replace("/", ".") for row in rows for name in re.findall(r"`([a-z/]+)`", row)]
    assert told == [room for rooms in LAYERS for room in rooms]
