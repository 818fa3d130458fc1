"""A recording as an SVG that plays: what a terminal emulator showed, as text, with nothing from elsewhere; and the README's own picture."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from bench.firstday import compare, list_commands
from bench.screen import Cast, list_frames, parse_cast, render_svg
from tests.support.workspaces import PROJECT

SVG = "{http://www.w3.org/2000/svg}"
BAR = "\x1b[?25l\r\x1b[2K\x1b[32m/\x1b[0m fetching \x1b[31m━━\x1b[0m 1 MiB"
CAST = Cast(40, 5, ((0.0, "$ make\r\n"), (0.5, "one\r\n"), (1.1, BAR), (2.1, "\r\x1b[2K\x1b[?25h"), (2.2, "<two> & 3\r\n")))


def render() -> str:
    return render_svg(list_frames(CAST, 1.0), CAST.columns, "a title", speed=2.0, rest=3.0)


def test_frames_are_what_was_on_the_screen_at_the_end_of_each_step() -> None:
    frames = list_frames(CAST, 1.0)
    assert [frame.text() for frame in frames] == ["$ make\none", "$ make\none\n/ fetching ━━ 1 MiB", "$ make\none\n<two> & 3"]
    assert frames[1].rows[2] == ((0, "/", "g"), (1, " fetching", ""), (11, "━━", "r"), (13, " 1 MiB", ""))


def test_a_recording_is_kept_as_asciicast() -> None:
    assert parse_cast(CAST.dump()) == CAST
    assert CAST.dump().startswith('{"version": 2, "width": 40, "height": 5}\n[0.0, "o", "$ make\\r\\n"]\n')


def test_each_text_is_there_when_it_was_and_the_last_ones_without_motion() -> None:
    text = render()
    root = ElementTree.fromstring(text)
    rows = [group for group in root.iter(f"{SVG}g") if "row" in group.attrib["class"]]
    assert ["".join(group.itertext()) for group in rows] == ["$ make", "one", "/fetching━━1 MiB", "<two> & 3"]
    assert [group.attrib["class"] for group in rows] == ["row last", "row last", "row", "row last"]
    assert "animation: 4.1s step-end infinite" in text, "2.2 s at twice the speed, and 3 s more"
    times = dict(re.findall(r"@keyframes (k\d+)\{(.*)\}", text))
    third = times[rows[2].attrib["style"].removeprefix("animation-name:")]
    assert third == "0.000%{visibility:hidden}13.415%{visibility:visible}26.829%{visibility:hidden}", "from 1.1 to 2.2 of 8.2 s"


@pytest.mark.parametrize("text", [render(), (PROJECT / "docs" / "first-day.svg").read_text("utf-8")], ids=["made here", "the README's"])
def test_a_picture_loads_nothing_and_runs_nothing(text: str) -> None:
    root = ElementTree.fromstring(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {"svg", "title", "style", "rect", "circle", "g", "text"}
    assert not re.search(r"@import|@font-face|url\(|href|on\w+=", text)
    assert re.findall(r"\w+://[^\s\"<]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme: dark" in text
    assert "prefers-reduced-motion" in text


def test_the_picture_shows_what_the_readme_shows() -> None:
    root = ElementTree.fromstring((PROJECT / "docs" / "first-day.svg").read_text("utf-8"))
    rows = [group for group in root.iter(f"{SVG}g") if group.attrib["class"] == "row last"]
    lines = [restore(group) for group in rows]
    starts = [place for place, line in enumerate(lines) if line.startswith("$ ")]
    shown = list_commands((PROJECT / "README.md").read_text("utf-8"))
    assert [lines[start].removeprefix("$ ") for start in starts] == [item.command for item in shown]
    for item, start, end in zip(shown, starts, [*starts[1:], len(lines)], strict=True):
        assert compare(item, "\n".join(lines[start + 1 : end])) == []


def restore(row: ElementTree.Element) -> str:
    """A row's line: a text begins at the left margin (18) plus 7.8 for each column."""
    line = ""
    for text in row.iter(f"{SVG}text"):
        line = line.ljust(round((float(text.attrib["x"]) - 18) / 7.8)) + "".join(text.itertext())
    return line
