"""Words, numbers and columns for people."""

from __future__ import annotations

import pytest

from imagebuild.table import format_table
from imagebuild.text import count_things, first_lines, name_some, shorten_digest, suggest


@pytest.mark.parametrize(
    ("names", "shown"),
    [([], ""), (["a"], "a"), (["a", "b"], "a, b"), (["a", "b", "c"], "a, b and 1 more"), (list("abcde"), "a, b and 3 more")],
)
def test_the_first_of_a_list_and_how_many_more(names: list[str], shown: str) -> None:
    assert name_some(names, 2) == shown


def test_the_first_lines_and_how_many_more() -> None:
    assert first_lines(["a", "b"], 2) == ("a", "b")
    assert first_lines(["a", "b", "c"], 2) == ("a", "b", "and 1 more")
    assert first_lines([], 2) == ()


def test_numbers_agree_with_their_nouns() -> None:
    assert [count_things(number, "blob") for number in (0, 1, 2)] == ["0 blobs", "1 blob", "2 blobs"]
    assert count_things(2, "library", "libraries") == "2 libraries"
    assert count_things(1, "library", "libraries") == "1 library"


def test_a_digest_is_told_by_twelve_digits_and_other_text_whole() -> None:
    assert shorten_digest("sha256:" + "0123456789abcdef" * 4) == "sha256:0123456789ab"
    assert shorten_digest("a title that is longer than nineteen letters") == "a title that is longer than nineteen letters"


def test_the_nearest_known_word_or_all_of_them() -> None:
    assert suggest("jupiter", ["jupyter", "vscode"]) == "did you mean 'jupyter'?"
    assert suggest("xx", ["b", "a"]) == "known: a, b"
    assert suggest("xx", []) == "known: none"


def test_columns() -> None:
    rows = [("name", "size", "note"), ("a", "10", ""), ("longer", "5", "x y")]
    assert format_table(rows) == ["name    size  note", "a       10", "longer  5     x y"]
    assert format_table(rows, right=(1,)) == ["name    size  note", "a         10", "longer     5  x y"]
    assert format_table([("a", "b", "c")], least=(3, 2)) == ["a    b   c"]
    assert format_table([]) == []
