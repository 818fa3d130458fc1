"""Exact values of one tiny image in every kind: a byte that changes is a new tag for every team, and so never a surprise.

Compressed bytes depend on the versions of zstandard and isal that requirements.lock pins, and on the kind of machine. They are compared
where both are those that the values were made with; everything else, the tar's own digest (diff_id) first of all, always is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from imagebuild.wheel.slim import RULES
from tests.golden.world import (
    BYTECODE,
    COMPRESSED,
    COMPRESSORS,
    FOLDER,
    PYTHON,
    TEAMS,
    decide_slim,
    list_compressors,
    make_values,
    read_values,
)

ROOT = Path(__file__).parents[2]
GOLDEN = read_values()
MEANT = "(where that is meant: python -m tests.golden writes the values anew)"
TAGS = f"this changes every team's tag: raise LAYER_FORMAT or RECIPE_FORMAT, and say it in CHANGELOG.md {MEANT}"
PROGRAM = (
    "the docker engine installs by another program, under the tags that teams have: "
    f"see that verify --twin agrees, and say it in CHANGELOG.md {MEANT}"
)


def list_changes(found: dict[str, Any], expected: dict[str, Any], names: Iterable[str]) -> str:
    """A line for every value of ``names`` that is another one."""
    changed = sorted(name for name in names if found.get(name) != expected.get(name))
    return "".join(f"\n  {name}: {expected.get(name)!r} became {found.get(name)!r}" for name in changed)


def compare(name: str, root: Path) -> None:
    found, texts = make_values(name, root)
    expected = GOLDEN["image"][name]
    left_out = set() if list_compressors() == GOLDEN["made-with"] else set(COMPRESSED)
    programs = {key for key in {*found, *expected} if key.endswith(".py")}
    changes = list_changes(found, expected, {*found, *expected} - left_out - programs)
    assert not changes, f"{name}: {TAGS}{changes}"
    changes = list_changes(found, expected, programs)
    assert not changes, f"{name}: {PROGRAM}{changes}"
    kept = {path.name: path.read_text() for path in FOLDER.glob(f"{name}.*")}
    changed = [file for file in sorted({*texts, *kept}) if texts.get(file) != kept.get(file)]
    assert not changed, f"{name}: {TAGS}\n  other text: {', '.join(changed)}\n{texts.get(changed[0])}"


@pytest.mark.parametrize("name", TEAMS)
def test_an_image_is_byte_for_byte_what_it_was(name: str, tmp_path: Path) -> None:
    compare(name, tmp_path)


def test_bytecode_is_byte_for_byte_what_it_was(tmp_path: Path) -> None:
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"missing part: Python {'.'.join(map(str, PYTHON))}, whose bytecode is known")
    compare(BYTECODE, tmp_path)


def test_the_images_differ_where_they_should() -> None:
    images = GOLDEN["image"]
    assert len({images[name]["tag"] for name in TEAMS}) == len(TEAMS)
    same = {images[name]["diff-id"] for name in ("zstd", "gzip", "zstd-single", "gzip-single", "chunked")}
    assert len(same) == 1  # one tar, whatever it is compressed with
    assert len({image["diff-id"] for name, image in images.items() if "diff-id" in image}) == len(
        ("zstd", "replace", "slim", "split", "env", BYTECODE)
    )


def test_the_compressors_are_those_that_the_lock_pins() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = {name: match[1] for name in COMPRESSORS if (match := re.search(rf"^{name}==(\S+)", lock, re.MULTILINE))}
    assert pinned == {name: GOLDEN["made-with"][name] for name in COMPRESSORS}, (
        f"another compressor may give other bytes under the tags that teams have: look at what changes, and say it in CHANGELOG.md {MEANT}"
    )


def test_slim_decides_as_its_rules_number_says() -> None:
    expected = GOLDEN["slim"]
    if expected["rules"] == RULES:
        changes = list_changes(decide_slim(), expected["kinds"], expected["kinds"])
        assert not changes, f"slim leaves out other files: raise RULES, which is in the key, and say it in CHANGELOG.md {MEANT}{changes}"
    assert expected["rules"] == RULES, f"slim has new rules, which changes the tag of every team with slim: say it in CHANGELOG.md {MEANT}"
