"""No object's repr in a text for people: every interpolated name is a text, a number, or has words of its own.

What the tests raise is checked as it is raised (``tests/conftest.py``); this looks at what they may not reach.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from imagebuild.commands.options import say
from imagebuild.errors import (
    LONGEST,
    BudgetError,
    BuildError,
    ConfigurationError,
    ImagebuildError,
    IntegrityError,
    LockError,
    RemoteError,
    UsageError,
)
from imagebuild.workspace import Workspace
from tests.conftest import find_repr, watch_values
from tests.support.builders import make_base
from tests.support.sources import ROOT, list_nodes, read_sources


def list_mute_classes(sources: dict[str, str]) -> set[str]:
    """Structs and dataclasses without a ``__str__``: formatted, they are a repr of all they hold."""
    found: set[str] = set()
    speaking: set[str] = set()
    for source in sources.values():
        for node in list_nodes(source):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {ast.unparse(base) for base in node.bases}
            decorated = any("dataclass" in ast.unparse(item) for item in node.decorator_list)
            methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            if "__str__" in methods:
                speaking.add(node.name)
            elif "msgspec.Struct" in bases or bases & found or decorated:
                found.add(node.name)
    return found - speaking


def find_offenders(source: str, mute: set[str]) -> list[str]:
    """f-strings that format a parameter, or a variable made by a constructor, of one of these classes."""
    offenders = []
    for function in list_nodes(source):
        if not isinstance(function, ast.FunctionDef):
            continue
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        typed = {item.arg for item in arguments if item.annotation is not None and ast.unparse(item.annotation).split(" | ")[0] in mute}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in mute:
                typed |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        for node in ast.walk(function):
            if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Name) and node.value.id in typed:
                offenders.append(f"line {node.lineno}: {{{node.value.id}}}")
    return offenders


def test_no_text_formats_a_whole_object() -> None:
    mute = list_mute_classes(read_sources())
    assert {"Base", "Lock", "LockedPackage", "Recipe", "CatalogueEntry"} <= mute
    assert {name: found for name, source in read_sources().items() if (found := find_offenders(source, mute))} == {}


@pytest.mark.parametrize(
    "text", ['def f(base: Base) -> str:\n    return f"than {base}"', 'def f():\n    x = Base(1)\n    raise E(f"{x!r}")']
)
def test_the_check_finds_an_object(text: str) -> None:
    assert find_offenders(text, {"Base"})
    assert not find_offenders(text.replace("{base}", "{base.name}").replace("{x!r}", "{x.name}"), {"Base"})


@pytest.mark.parametrize(
    "text",
    [
        "than Base(name='starter', kind='jupyter')",
        "Digest(x=1)",
        "tags=('cp311',)",
        "<imagebuild.base.tree.SqliteTree object at 0x7f>",
        "x" * 501,
    ],
)
def test_a_repr_is_seen_when_it_is_raised(text: str) -> None:
    assert find_repr(text)


@pytest.mark.parametrize(
    "text",
    [
        'replace = ["six"] in team.toml',
        "line 1 asks for pandas[excel]==2.2.* (extra)",
        'write names = ["a"]',
        "cp311 (glibc 2.36)",
        "f(x) is text",
    ],
)
def test_plain_sentences_pass(text: str) -> None:
    assert find_repr(text) == ""
    LockError(text, text, (text,))


def test_every_error_ends_with_the_exit_code_of_the_documentation() -> None:
    kinds = (UsageError, ConfigurationError, LockError, BudgetError, RemoteError, BuildError, IntegrityError)
    assert [kind.exit_code for kind in kinds] == [2, 3, 4, 5, 6, 7, 8]
    page = " ".join((ROOT / "docs" / "formats.md").read_text(encoding="utf-8").split())
    assert (
        "2 usage · 3 configuration · 4 lock (unsatisfiable, stale, policy) · 5 over budget · 6 registry or index · 7 build · 8 integrity"
        in page
    )


def test_whatever_others_wrote_an_error_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the check looks at what is given, before it is shortened
    error = LockError("a" * 2000 + "the end", "b" * 80_000, ("c" * LONGEST, "d" * (LONGEST + 1)))
    assert [len(text) for text in (error.message, str(error), error.hint, *error.details)] == [LONGEST] * 5
    assert error.message.startswith("aaa")
    assert error.message.endswith("the end")
    assert error.details[0] == "c" * LONGEST


def test_a_whole_value_in_a_text_is_seen_when_it_is_formatted() -> None:
    faults: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        watch_values(patch, faults)
        base = make_base()
        assert f"{base.name} {base.config.platform}" == "scipy linux/amd64"
        assert not faults
        assert f"{base}".startswith("Base(name=")
    assert faults == ["a whole Base in a text: name one of its fields"]


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\u202eb", "a\r\nb", "a\x9bb", "a\u2028b", "a\ud800b"])
def test_what_does_not_print_is_shown_as_an_escape(text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = ImagebuildError(text, text, (text,))
    Workspace(tmp_path).report(text)
    say(text)
    lines = [error.message, error.hint, *error.details, *capsys.readouterr().err.splitlines()]
    assert len(lines) >= 5
    assert all((line.isprintable() and line.startswith("a")) or line == "b" for line in lines), lines
