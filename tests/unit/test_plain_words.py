"""Messages, help texts, docstrings and docs are plain sentences in the field's words: idioms that were taken out do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.sources import ROOT, list_nodes, parse_source, read_sources

IDIOMS = {
    r"\b(?:address|URL|override|one|version) that is none\b": "an invalid ...",
    r"\bfor (?:what|one that) is none\b": "for an invalid one",
    r"\bare? none of (?:its|our|your)s? kind\b": "of another kind",
    r"\b(?:is|are) told\b(?! apart)": "is listed, is reported, gets",
    r"\b(?:index|page|lock|registry|indexes|locks|annotations) tells?\b": "gives, lists, says",
    r"\bby its own books\b": "as the dpkg status says",
    r"\bconstrains? nothing, but\b": "does not constrain",
    r"\bif it stays\b": "if it fails again",
    r"\bwithout a word\b": "without any output",
    r"\bnobody listens\b": "no server answers",
    r"\b(?:what|that|it|which) is no (?!longer\b|such\b|more\b)[a-z]": "is not a ...",
    r"\bfor want of\b": "without",
    r"\b(?:tell|ask) (?:its|the index's) owners\b": "report it to the index's operators",
    r"\bwhole in time\b": "complete in time",
    r"\bwhose it is\b": "its owner",
    r"\bsaid elsewhere\b": "configured elsewhere",
    r"\byet to come\b": "in the future",
    r"\blook(?:s)? found\b": "check found",
    r"\b(?:mend|mends|mended)\b": "fix, repair",
    r"\bhave none to have\b": "need no ...",
    r"\bcannot be had again\b": "can no longer be fetched",
    r"\basks? (?:it|them) of\b": "requests it from",
    r"\brightly\b": "as intended",
    r"\bby address\b": "by URL",
}
# Programs that run inside a container: their bytes are golden values (tests/golden), so that their words wait for a change of those.
SHIPPED = {"payload/pip_run.py", "wheel/slim.py"}


def list_texts(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string of a module, docstrings and the parts of f-strings included; values in them are an x."""
    for node in list_nodes(source):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def find_idioms(text: str) -> list[str]:
    """Each idiom in a text, with what to write instead."""
    plain = " ".join(text.split())
    return [f"{match[0]!r} (write: {instead})" for idiom, instead in IDIOMS.items() if (match := re.search(idiom, plain))]


def test_no_text_of_the_program_has_an_idiom() -> None:
    found = [
        f"{name}:{line}: {fault}"
        for name, source in read_sources().items()
        if name not in SHIPPED
        for line, text in list_texts(source)
        for fault in find_idioms(text)
    ]
    assert found == []


def test_every_public_function_and_class_of_a_module_has_a_docstring() -> None:
    kinds = (ast.FunctionDef, ast.ClassDef)
    public = [
        (f"{name}: {node.name}", node)
        for name, source in read_sources().items()
        for node in parse_source(source).body
        if isinstance(node, kinds) and not node.name.startswith("_")
    ]
    assert len(public) > 1000
    assert [name for name, node in public if not ast.get_docstring(node)] == []


PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_an_idiom(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [fault for paragraph in text.split("\n\n") for fault in find_idioms(paragraph)] == []


@pytest.mark.parametrize(
    "source",
    [
        'raise LockError("the address that is none")',
        'raise E(f"{x}: an address " f"that is none")',
        'def f():\n    """What is wrong\n    is told."""',
        'option(help="run it again; if it stays, report it")',
    ],
)
def test_the_check_finds_an_idiom(source: str) -> None:
    assert [fault for _, text in list_texts(source) for fault in find_idioms(text)]


def test_plain_sentences_pass() -> None:
    for text in ("it is no longer there", "there is no such wheel", "how their nodes are told apart", "the index gives no sha256"):
        assert not find_idioms(text)
