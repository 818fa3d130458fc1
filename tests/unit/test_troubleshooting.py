"""docs/troubleshooting.md and its errors: each has an area, each heading is a message of the program, and --debug names it."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuild import errors
from imagebuild.commands.troubleshooting import (
    AREAS,
    PAGE,
    WARNING_HEADINGS,
    WARNINGS,
    find_anchor,
    find_area,
    find_warning_anchor,
    make_pattern,
)
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


def list_texts(tree: ast.AST) -> Iterator[str]:
    """Every text below a node, with an x for what is put in; also the texts of what is put in."""
    if isinstance(tree, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else " x " for part in tree.values)
    elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(tree, ast.JoinedStr) and isinstance(child, ast.Constant)):
            yield from list_texts(child)


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
    *parts, defect = [(area, messages) for area, (_, messages) in AREAS.items()]
    parts += [(WARNINGS, WARNING_HEADINGS), defect]
    assert headings == [line for part, messages in parts for line in (f"## {part}", *(f"### {item}" for item in messages))]


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


# Where a warning's text is another function's: module of the line -> the functions that write the text.
WRITERS = {
    "addons.rlang.compiling": ["addons.rlang.archive.check_libraries"],
    "commands.formoptions": [
        "emit.prewarm.pullsecrets.warn_of_references",
        "emit.forms.kubeflow.warn_of_names",
        "emit.forms.kubeflowmerge._warn_of_devices",
        "emit.forms.kubespawner.render_profiles",
        "emit.forms.kubespawner._warn_of_pulls",
        "emit.forms.workspacemerge.merge_workspace_kinds",
    ],
    "commands.notebook": ["emit.prewarm.pullsecrets.warn_of_notebook_secret", "emit.prewarm.pullsecrets.warn_of_references"],
    "commands.prewarm": [
        "emit.prewarm.guests.warn_of_guests",
        "emit.prewarm.pullsecrets.warn_of_references",
        "emit.prewarm.pullsecrets.warn_of_secrets",
    ],
    "commands.retire": ["catalogue.clusterdump._read_json"],
    "lock.compiling": [
        "lock.resolve.judging.judge_choice",
        "lock.resolve.judging._judge_prerelease",
        "lock.resolve.judging.describe_held_back",
    ],
    "pipeline.lockuse": [
        "lock.baseconstraints.find_disallowed",
        "lock.programs.find_missing_programs",
        "lock.proving.check_listing",
    ],
    "pipeline.pushing": ["pipeline.pushing.describe_guest_base", "pipeline.pushing.describe_large_layer"],
}


def list_warnings(tree: ast.Module) -> Iterator[str]:
    """Every text of a module that is printed as a warning, from its first word."""
    for text in list_texts(tree):
        head, word, rest = text.partition("warning: ")
        if word and head in ("", " x : "):
            yield rest


def list_written(function: ast.FunctionDef) -> list[str]:
    """The sentences that a function returns, appends to a list of them, or calls warnings."""
    found = []
    inner = {node for nested in function.body if isinstance(nested, ast.FunctionDef) for node in ast.walk(nested)}
    for node in ast.walk(function):
        if node in inner:
            continue
        value: ast.AST | None = None
        if isinstance(node, ast.Return):
            value = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("lines.append", "warnings.append", "yanked.append"):
            value = node.args[0]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and "warnings" in ast.unparse(node).partition("=")[0]:
            value = node.value
        found += list_sentences(value) if value is not None else []
    return found


def list_sentences(value: ast.AST) -> list[str]:
    """The texts below a node that are no part of another one and have two words and more."""
    if isinstance(value, ast.JoinedStr | ast.Constant):
        return [text for text in itertools.islice(list_texts(value), 1) if len(re.findall(r"\w\w+", text)) >= 2]
    return [text for child in ast.iter_child_nodes(value) for text in list_sentences(child)]


def find_function(path: str) -> ast.FunctionDef:
    module, _, name = path.rpartition(".")
    (found,) = (node for node in ast.walk(SOURCES[f"imagebuild.{module}"]) if isinstance(node, ast.FunctionDef) and node.name == name)
    return found


def find_all_warnings() -> list[str]:
    written = [text for paths in WRITERS.values() for path in paths for text in list_written(find_function(path))]
    return written + [text for tree in SOURCES.values() for text in list_warnings(tree) if re.search("[a-z]{2}", text)]


def test_where_a_warning_is_written_elsewhere_the_table_says_so() -> None:
    elsewhere = {
        module.removeprefix("imagebuild.")
        for module, tree in SOURCES.items()
        for text in list_warnings(tree)
        if not re.search("[a-z]{2}", text) and not module.endswith(".troubleshooting")
    }
    assert elsewhere == set(WRITERS)
    for path in {path for paths in WRITERS.values() for path in paths}:
        assert list_written(find_function(path)), path


def test_every_warning_has_a_heading_and_every_heading_a_warning() -> None:
    warnings = find_all_warnings()
    assert len(warnings) >= len(WARNING_HEADINGS)
    assert [text for text in warnings if find_warning_anchor(text) == "warnings"] == []
    assert [heading for heading in WARNING_HEADINGS if not any(make_pattern(heading).search(text) for text in warnings)] == []


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


def test_debug_names_the_place_of_a_warning_too(tmp_path: Path) -> None:
    def run(name: str, *more: str) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / ".gitignore").write_text("mine\n")
        command = [sys.executable, "-m", "imagebuild.cli", "init", "--root", str(folder), *more]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr.splitlines()

    warning, *rest = run("plain")
    assert run("debugged", "--debug") == [warning, f"see: {PAGE}#gitignore-should-have-the-lines", *rest]
    assert find_warning_anchor("warning: cosml: nobody wrote a heading for this") == "warnings"
