"""docs/troubleshooting.md and its errors: each has an area, each heading is a message of the program, and --debug names it."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuild import errors
from imagebuild.commands.troubleshooting import AREAS, PAGE, find_anchor, find_area, make_pattern
from imagebuild.errors import BudgetError, ConfigurationError, ImagebuildError, LockError, RemoteError
from imagebuild.lock.index.routing import UnroutedError
from imagebuild.toml import read_toml

ROOT = Path(__file__).parents[2]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
    for path in sorted((ROOT / "imagebuild").rglob("*.py"))
}


def list_errors(module: str, tree: ast.Module) -> Iterator[tuple[int, type[ImagebuildError]]]:
    """Line and class of every error that a module makes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute) and ast.unparse(node.func).endswith("Error"):
            name = ast.unparse(node.func).rpartition(".")[2]
            kind = vars(errors).get(name) or vars(importlib.import_module(module)).get(name)
            if isinstance(kind, type) and issubclass(kind, ImagebuildError):
                yield node.lineno, kind


def list_texts(tree: ast.Module) -> Iterator[str]:
    """Every text of a module, with a blank for what is put in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else " x " for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_error_has_an_area() -> None:
    found = [(module, kind, line) for module, tree in SOURCES.items() for line, kind in list_errors(module, tree)]
    assert len(found) > 500
    lost = []
    for module, kind, line in found:
        try:
            find_area(kind, module)
        except KeyError:
            lost.append(f"{module}:{line}: {kind.__name__}")
    assert lost == []


def test_an_error_of_a_room_without_an_area_is_found() -> None:
    tree = ast.parse("def f():\n    raise errors.LockError('x')\n    raise BudgetError('y')")
    assert list(list_errors("imagebuild.errors", tree)) == [(2, LockError), (3, BudgetError)]
    with pytest.raises(KeyError):
        find_area(LockError, "imagebuild.newroom.module")


def test_the_page_has_the_headings_of_the_table() -> None:
    headings = re.findall(r"^##+ .+$", (ROOT / PAGE).read_text("utf-8"), re.MULTILINE)
    assert headings == [line for area, (_, messages) in AREAS.items() for line in (f"## {area}", *(f"### {item}" for item in messages))]


@pytest.mark.parametrize(("area", "heading"), [(area, item) for area, (_, messages) in AREAS.items() for item in messages])
def test_a_heading_is_a_message_of_its_area(area: str, heading: str) -> None:
    rooms = AREAS[area][0] or ("commands",)  # a defect is told of there
    texts = [
        text
        for module, tree in SOURCES.items()
        if any(f"{module}.".startswith(f"imagebuild.{room}.") for room in rooms) and not module.endswith(".troubleshooting")
        for text in list_texts(tree)
    ]
    assert any(make_pattern(heading).search(text) for text in texts)


def make_toml_error(path: Path) -> ImagebuildError:
    with pytest.raises(ConfigurationError) as caught:
        read_toml(path)
    return caught.value


def test_an_error_is_told_of_under_its_own_heading_or_its_area(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("a = ")
    error = make_toml_error(tmp_path / "x.toml")
    assert (error.origin, find_anchor(error)) == ("imagebuild.toml", "file-is-not-valid-toml")
    error.message = f"cosml: {error.message}"  # of several teams
    assert find_anchor(error) == "file-is-not-valid-toml"
    assert find_anchor(make_toml_error(tmp_path / "none.toml")) == "teams-and-their-files"
    assert find_anchor(BudgetError("larger than anybody said")) == "size-and-budget"
    assert UnroutedError("x").origin == __name__  # its constructors do not count


def test_the_nearest_heading_wins() -> None:
    error = RemoteError("registry.example.com: asking for cosml: HTTP 401: no access")
    error.origin = "imagebuild.oci.failures"
    assert find_anchor(error) == "where-http-status"
    error.message = (
        "registry.example.com: signing in: its token service is on another host and not encrypted (auth): no login is sent there"
    )
    assert find_anchor(error) == "its-token-service-is-on-another-host-and-not-encrypted"
    error.message = "something that nobody wrote a heading for"
    assert find_anchor(error) == "registries"


@pytest.mark.parametrize(
    ("words", "code", "see"),
    [
        (["image", "cosm"], 2, "there-is-no-team-team"),
        (["imag"], 2, "no-such-command-command"),
        (["image", "--no-such-option"], 2, "the-command-line"),
        (["image", "cosml", "--registry", "a b"], 2, "this-machine"),
    ],
)
def test_debug_names_the_place_and_keeps_the_exit_code(words: list[str], code: int, see: str) -> None:
    def run(*more: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "imagebuild.cli", *words, *more], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr.splitlines()

    plain, debug = run(), run("--debug")
    assert plain[0] == debug[0] == code
    *traceback, last = debug[1]
    assert last == f"see: {PAGE}#{see}"
    assert traceback[-len(plain[1]) :] == plain[1]
    assert (traceback[0] == "Traceback (most recent call last):") == (see not in ("no-such-command-command", "the-command-line"))
