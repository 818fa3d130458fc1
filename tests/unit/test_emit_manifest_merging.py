"""Changing somebody else's YAML: the data is what was meant, and every comment that does not belong to what was removed is there."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.emit.manifest.merging import (
    EditedFile,
    append_items,
    arrange_items,
    drop_key,
    get_list,
    get_mapping,
    keep_items,
    merge_items,
    set_value,
    strip_types,
)
from imagebuild.errors import ConfigurationError

yaml: Any = importlib.import_module("yaml")

SCALARS = st.sampled_from(
    ["a", '"b: c"', "'it''s'", "3", "yes", "~", "1e3", "2026-10-01", "[]", "{}", "[x, y]", "{p: q}", "|\n{pad}  one\n{pad}  two"]
)
COMMENTS = st.sampled_from(["", "", "above", "\nabove", "above\n\nbelow"])
SECTIONS = st.recursive(  # comment, end of line, value: a scalar's text, or a list of sections
    st.tuples(COMMENTS, st.sampled_from(["", "  # here"]), SCALARS),
    lambda inner: st.tuples(COMMENTS, st.just(""), st.lists(inner, min_size=1, max_size=3)),
    max_leaves=8,
)


def write_sections(sections: list[Any], indent: int, dashes: int, count: list[int]) -> str:
    """A mapping k0, k1, ...; of two lists one is written with dashes, indented by ``dashes``."""
    lines = ""
    pad = " " * indent
    for number, (comment, end, value) in enumerate(sections):
        for line in comment.split("\n") if comment else []:
            count[0] += 1
            lines += f"{pad}# {line} {count[0]}\n" if line else "\n"
        if isinstance(value, list) and number % 2:
            lines += f"{pad}k{number}:\n"
            for item in value:
                inner = write_sections([item, item], indent + dashes + 2, dashes, count)
                first = next(index for index, line in enumerate(inner.splitlines()) if line.strip().startswith("k0"))
                parts = inner.splitlines(keepends=True)
                parts[first] = " " * (indent + dashes) + "- " + parts[first].lstrip()
                lines += "".join(parts)
        elif isinstance(value, list):
            lines += f"{pad}k{number}:\n" + write_sections(value, indent + 2, dashes, count)
        else:
            text = value.replace("{pad}", pad)
            lines += f"{pad}k{number}: {text}{'' if chr(10) in text else end}\n"
    return lines


def list_comments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith("# ")]


def change(document: Any, what: str, key: str) -> None:
    if what == "set":
        set_value(document, key, {"new": ["x: y", True]})
    elif what == "add":
        set_value(document, "added", "y")
    elif what == "drop":
        drop_key(document, key)
    elif what == "append" and isinstance(document.get(key), list):
        append_items(document, key, [{"id": "z"}, "w"])
    elif what == "keep" and isinstance(document.get(key), list):
        keep_items(document, key, lambda item: item == document[key][0])


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.lists(SECTIONS, min_size=1, max_size=4),
    st.sampled_from([0, 2]),
    st.lists(st.tuples(st.sampled_from(["set", "add", "drop", "append", "keep"]), st.integers(0, 3)), max_size=3),
)
def test_data_and_comments_after_any_changes(sections: list[Any], dashes: int, changes: list[tuple[str, int]]) -> None:
    text = write_sections(sections, 0, dashes, [0]) + "# the end\n"
    before = yaml.safe_load(text)
    edited = EditedFile(text, "f")
    assert yaml.safe_load(edited.render()) == before
    assert list_comments(edited.render()) == list_comments(text)
    edited = EditedFile(text, "f")
    wanted = strip_types(edited.documents[0])
    gone: set[str] = set()
    for what, number in changes:
        key = f"k{number or int(what == 'drop')}"  # what is dropped has a key before it
        if what in ("set", "drop", "keep") and key in wanted:
            gone.add(key)
        change(edited.documents[0], what, key)
        _change_plain(wanted, what, key)
    assert strip_types(edited.documents[0]) == wanted
    out = edited.render()
    assert strip_types(EditedFile(out, "f").documents[0]) == wanted if wanted else True
    if wanted:
        yaml.safe_load(out)
        kept = _comments_of_others(sections, dashes, gone)
        assert [line for line in kept if line not in list_comments(out)] == []


def _change_plain(document: dict[str, Any], what: str, key: str) -> None:
    if what == "set":
        document[key] = {"new": ["x: y", True]}
    elif what == "add":
        document["added"] = "y"
    elif what == "drop":
        document.pop(key, None)
    elif what == "append" and isinstance(document.get(key), list):
        document[key] += [{"id": "z"}, "w"]
    elif what == "keep" and isinstance(document.get(key), list):
        document[key] = [item for item in document[key] if item == document[key][0]]


def _comments_of_others(sections: list[Any], dashes: int, gone: set[str]) -> list[str]:
    """Comments inside and above the sections that were only added to, and at the end."""
    count = [0]
    kept = []
    for number, section in enumerate(sections):
        part = list_comments(write_sections([("", "", "a")] * number + [section], 0, dashes, count))
        if f"k{number}" not in gone:
            kept += part
    return [*kept, "# the end"]


ITEMS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=5)  # a comment above, on the line, nested


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(ITEMS, st.sampled_from([0, 2]), st.data())
def test_comments_go_with_items_that_are_arranged(items: list[tuple[bool, bool, bool]], dashes: int, data: st.DataObject) -> None:
    pad = " " * dashes
    lines = ["a:"]
    for number, (above, beside, nested) in enumerate(items):
        lines += [f"{pad}# above {number}"] if above else []
        lines += [f"{pad}- id: i{number}{f'  # beside {number}' if beside else ''}"]
        lines += [f"{pad}  v: 1"] if nested else []
    text = "\n".join([*lines, "# next", "b: 1", ""])
    kept = [number for number in range(len(items)) if data.draw(st.booleans())]
    edited = EditedFile(text, "f")
    held = edited.documents[0]["a"]
    plan: list[tuple[Any, int | None]] = []
    for number in kept:
        plan.append((held[number], number))
        plan += [({"id": "new"}, None)] if data.draw(st.booleans()) else []
    arrange_items(edited.documents[0], "a", plan)
    out = edited.render()
    wanted = [{"id": "new"} if place is None else {"id": f"i{place}", **({"v": 1} if items[place][2] else {})} for _, place in plan]
    assert yaml.safe_load(out) == {"a": wanted, "b": 1}
    written = out.splitlines()
    assert written[-2:] == ["# next", "b: 1"]
    for number, (above, beside, _) in enumerate(items):
        assert written.count(f"{pad}# above {number}") + written.count(f"  # above {number}") >= above
        if number in kept:
            (place,) = [index for index, line in enumerate(written) if line.strip().startswith(f"- id: i{number}")]
            assert (f"# beside {number}" in written[place]) == beside
            assert not above or written[place - 1] == f"{pad}# above {number}"
    assert EditedFile(out, "f").render() == out


def test_a_comment_inside_a_section_stays_there_when_keys_follow() -> None:
    for value in ("[]", "1"):
        text = f"f:\n  t:\n    a: {value}\n    # b: 2\n\n  # the end\n"
        assert EditedFile(text, "f").render() == text
        file = EditedFile(text, "f")
        set_value(file.documents[0]["f"], "x", 1)
        assert file.render() == f"f:\n  t:\n    a: {value}\n    # b: 2\n  x: 1\n\n  # the end\n"


def test_lists_by_name() -> None:
    file = EditedFile("a:\n# one\n- id: x\n  v: 1  # first\n# two\n- id: w\n# end\nb: 1\n", "f")
    merge_items(file.documents[0], "a", [{"id": "w", "v": 2}, {"id": "z"}, {"id": "x", "v": 1}], "id")
    assert file.render() == "a:\n# one\n- id: x\n  v: 1  # first\n# two\n- id: w\n  v: 2\n- id: z\n# end\nb: 1\n"


def test_several_documents_and_their_marks() -> None:
    for text in ("a: 1\n---\n# b\nb: 2\n", "---\na: 1\n---\nb: 2\n", "# top\n---\na: 1\n"):
        assert EditedFile(text, "f").render() == text


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "a: [\n", "- a\n", "text\n", "a: 1\na: 2\n", "a: 1\n---\n- b\n", "a:\n\t- b\n", "a: *b\n", "\x00"]
)
def test_what_cannot_be_merged_into(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        EditedFile(text, "form.yaml")
    assert "form.yaml" in caught.value.message
    assert caught.value.hint


def test_what_stands_where_something_else_should() -> None:
    document = EditedFile("a: 1\nb: ~\n", "f").documents[0]
    for get in (get_mapping, get_list):
        with pytest.raises(ConfigurationError, match="a is no"):
            get(document, "a", "f")
    assert get_mapping(document, "b", "f") == {}
    assert get_list(document, "c", "f") == []


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("start", ["", "# first\n---\n", "---\n"])
def test_line_ends_and_the_byte_order_mark_stay(mark: str, start: str) -> None:
    text = mark + (start + "a: 1  # one\nb:\n  - x\n  # two\n  - y\nc: |\n  p\n  q\n").replace("\n", "\r\n")
    file = EditedFile(text, "form.yaml")
    assert file.render() == text
    append_items(file.documents[0], "b", ["z"])
    assert file.render() == text.replace("- y\r\n", "- y\r\n  - z\r\n")


def test_of_mixed_line_ends_most_count() -> None:
    assert EditedFile("a: 1\r\nb: 2\r\nc: 3\n", "form.yaml").render() == "a: 1\r\nb: 2\r\nc: 3\r\n"
    assert EditedFile("a: 1\r\nb: 2\nc: 3\n", "form.yaml").render() == "a: 1\nb: 2\nc: 3\n"
