"""Pages whose commands are run: what they show is compared with what comes, but for what is another's in each run.

``<!-- do: SHELL -->`` before a block is run first, ``<!-- undo -->`` gives images/ and lockfiles/ back, ``<!-- not run -->`` leaves a
block out. A line ``...`` of what is shown stands for any number of lines.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.workspaces import Checkout

_PART = re.compile(r"^<!-- (?P<note>do: [^\n]+|undo|not run) -->$|^```[a-z]*\n(?P<block>.*?)^```$", re.MULTILINE | re.DOTALL)
_MASKS = (
    (r"oci:\S*/\.imagebuild/registry", "oci:REGISTRY"),
    (r"sha256:[0-9a-f]{12,64}", "DIGEST"),
    (r"\b20\d\dq[1-4]-[0-9a-f]{12}\b", "TAG"),
    (r"\b\d+\.\d s\b", "N s"),
    (r"/notebook/team-\w+/nb-\w+", "/notebook/NAME"),
)


@dataclass(frozen=True)
class Shown:
    """One command of a page and the lines it shows below."""

    command: str
    lines: tuple[str, ...]
    before: str = ""  # shell


def read_page(text: str) -> Iterator[Shown | str]:
    """In the page's order: commands with what they show, and ``undo``."""
    before, skip = "", False
    for part in _PART.finditer(text):
        note, block = part["note"], part["block"]
        if note == "undo":
            yield "undo"
        elif note == "not run":
            skip = True
        elif note is not None:
            before = note.removeprefix("do: ")
        else:
            if block.startswith("$ ") and not skip:
                for piece in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                    command, *lines = piece.rstrip("\n").split("\n")
                    yield Shown(command, tuple(lines), before)
                    before = ""
            skip = False


def mask(line: str) -> str:
    """A line without what differs between two runs, machines or days."""
    for pattern, name in _MASKS:
        line = re.sub(pattern, name, line)
    return line.rstrip()


def is_as_shown(shown: Sequence[str], come: Sequence[str]) -> bool:
    """Whether the lines that came are those that are shown, with any lines in the place of ``...``."""
    if "..." not in shown:
        return list(shown) == list(come)
    cut = list(shown).index("...")
    rest = shown[cut + 1 :]
    return list(come[:cut]) == list(shown[:cut]) and any(is_as_shown(rest, come[start:]) for start in range(cut, len(come) + 1))


def run_page(
    page: Path, checkout: Checkout, kept: Path, stand_ins: Mapping[str, str] | None = None
) -> Iterator[tuple[Shown, list[str], list[str]]]:
    """Run the page's ``imagebuild`` commands in ``checkout``: each with its masked lines as shown, and as they come.

    ``kept``: a folder for images/ and lockfiles/ as they were. ``stand_ins``: what a name of the page is in this run, such as a
    registry's. stdout comes first, then errors; progress is left out on both sides.
    """
    stand_ins = stand_ins or {}
    for name in ("images", "lockfiles"):
        shutil.copytree(checkout.root / name, kept / name)
    for item in read_page(page.read_text("utf-8")):
        if isinstance(item, str):
            for name in ("images", "lockfiles"):
                shutil.rmtree(checkout.root / name)
                shutil.copytree(kept / name, checkout.root / name)
            continue
        if item.before:
            subprocess.run(["bash", "-c", item.before], cwd=checkout.root, check=True)
        words = [_replace(word, stand_ins) for word in shlex.split(item.command)]
        if words[:2] == ["make", "image"]:
            words = ["imagebuild", "image", words[2].removeprefix("TEAM=")]
        assert Path(words[0]).name == "imagebuild", item.command
        done = checkout.run(*words[1:])
        lines = done.err.splitlines()
        errors = lines[next((number for number, line in enumerate(lines) if line.startswith("error: ")), len(lines)) :]
        shown = [line for line in item.lines if not re.match(r"\S+: resolving against ", line)]
        if words[1] == "keep":  # its last line is progress
            shown = shown[:1]
        back = {there: name for name, there in stand_ins.items()}
        yield item, list(map(mask, shown)), [mask(_replace(line, back)) for line in (*done.out.splitlines(), *errors)]


def _replace(text: str, names: Mapping[str, str]) -> str:
    for name, other in names.items():
        text = text.replace(name, other)
    return text
