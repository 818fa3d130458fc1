"""What the pages say can be typed: commands and options exist, and links lead somewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from imagebuild.cli import cli
from imagebuild.commands.troubleshooting import make_anchor
from tests.support.sources import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
CALL = re.compile(r"^(?:\$ )?(?:\S*/)?imagebuild (?P<words>.+)$")


def list_blocks(text: str) -> Iterator[str]:
    """The fenced code blocks of a page."""
    for number, part in enumerate(re.split(r"^```.*\n?", text, flags=re.MULTILINE)):
        if number % 2:
            yield part


def list_calls(text: str) -> Iterator[list[str]]:
    """The arguments of each ``imagebuild ...`` line of code blocks, as the shell would split them; pipes and comments are left out."""
    for block in list_blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            found = CALL.match(line.strip())
            if found:
                lexer = shlex.shlex(found["words"], posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                arguments = []
                for word in lexer:
                    if word in (";", "|", ">", ">>", "&&", "||", "<"):
                        break
                    arguments.append(word)
                yield arguments


def find_fault(arguments: list[str]) -> str:
    """Why click would not take these words; "" when it does. Values in capitals stand for themselves."""
    command: click.Command = cli
    context = click.Context(cli)
    rest = list(arguments)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(context, rest[0])
        if inner is None:
            return f"no command {rest[0]!r}"
        command, rest = inner, rest[1:]
    known = {text for item in command.params for text in (*item.opts, *item.secondary_opts) if text.startswith("-")}
    asked = {word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"}
    unknown = sorted(asked - known - {"--help", "-h", "--version"})
    return f"{command.name} has no {', '.join(unknown)}" if unknown else ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_understood(page: Path) -> None:
    calls = list(list_calls(page.read_text("utf-8")))
    assert [f"imagebuild {' '.join(arguments)}: {fault}" for arguments in calls if (fault := find_fault(arguments))] == []


def test_the_check_finds_what_does_not_exist() -> None:
    page = (
        "text\n```\n$ .venv/bin/imagebuild size cosml --htlm x | cat\nimagebuild siz\nimagebuild lock t --check  # --not-an-option\n```\n"
    )
    faults = [find_fault(arguments) for arguments in list_calls(page)]
    assert faults == ["size has no --htlm", "no command 'siz'", ""]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in list_anchors(path.read_text("utf-8"))):
            lost.append(target)
    assert lost == []


def list_anchors(text: str) -> set[str]:
    """The anchors of a page's headings."""
    return set(map(make_anchor, re.findall(r"^#+ (.+)$", text, re.MULTILINE)))
