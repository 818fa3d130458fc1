"""What a terminal showed over time, as an SVG that plays it: text as text, no script, no font from anywhere, readable in light and dark.

A recording is asciicast v2 (https://docs.asciinema.org/manual/asciicast/v2/): a header, then ``[seconds, "o", data]`` a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from xml.sax.saxutils import escape

import pyte

_CELL, _LINE, _SIZE = 7.8, 19, 13  # pixels: a column, a row, a letter
_MARGIN, _HEAD = 18, 38
_CORNER = 10
_COLOURS = {"red": "r", "green": "g", "brown": "y", "blue": "b", "magenta": "m", "cyan": "c"}
_STYLE = """
text { font: %dpx ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; fill: #1f2328; white-space: pre }
.window { fill: #f6f8fa; stroke: #d1d9e0 } .dot { fill: #d1d9e0 }
.bold { font-weight: 600 } .r { fill: #cf222e } .g { fill: #1a7f37 } .y { fill: #9a6700 } .b { fill: #0969da } .m { fill: #8250df }
.c { fill: #1b7c83 } .black { fill: #818b98 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .window { fill: #0d1117; stroke: #3d444d } .dot { fill: #3d444d }
  .r { fill: #ff7b72 } .g { fill: #3fb950 } .y { fill: #d29922 } .b { fill: #58a6ff } .m { fill: #bc8cff }
  .c { fill: #39c5cf } .black { fill: #656c76 }
}
.row { visibility: hidden } .last { visibility: visible }
@media not (prefers-reduced-motion: reduce) { .row { animation: %gs step-end infinite } }
"""


@dataclass(frozen=True)
class Cast:
    """A recording: columns and rows, and what was written when (seconds)."""

    columns: int
    rows: int
    events: tuple[tuple[float, str], ...]

    def dump(self) -> str:
        """As asciicast v2."""
        header = {"version": 2, "width": self.columns, "height": self.rows}
        return "".join(f"{json.dumps(line)}\n" for line in (header, *([round(when, 3), "o", data] for when, data in self.events)))


def parse_cast(text: str) -> Cast:
    """The inverse of :meth:`Cast.dump`."""
    header, *lines = map(json.loads, text.splitlines())
    return Cast(header["width"], header["height"], tuple((line[0], line[2]) for line in lines if line[1] == "o"))


Run = tuple[int, str, str]  # column, text, classes
Row = tuple[Run, ...]


@dataclass(frozen=True)
class Frame:
    """What the terminal showed from ``begin`` (seconds) on."""

    begin: float
    rows: tuple[Row, ...]

    def text(self) -> str:
        """Its lines, without colours."""
        lines = []
        for row in self.rows:
            line = ""
            for column, text, _ in row:
                line = line.ljust(column) + text
            lines.append(line)
        return "\n".join(lines).rstrip("\n")


def list_frames(cast: Cast, every: float) -> list[Frame]:
    """The terminal's pictures, no more than one in ``every`` seconds: the last one of each."""
    screen = pyte.Screen(cast.columns, cast.rows)
    stream = pyte.Stream(screen)
    frames: list[Frame] = []
    for _, group in groupby(cast.events, lambda event: int(event[0] / every)):
        for when, data in group:  # noqa: B007 - of the last
            stream.feed(data)
        rows = tuple(_read_row(screen, number) for number in range(cast.rows))
        if not frames or frames[-1].rows != rows:
            frames.append(Frame(when, rows))
    return frames


def _read_row(screen: pyte.Screen, number: int) -> Row:
    cells = [(column, screen.buffer[number][column]) for column in range(screen.columns)]
    runs = []
    for look, group in groupby(cells, lambda cell: _find_classes(cell[1])):
        run = list(group)
        text = "".join(cell.data for _, cell in run)
        if text.strip():
            runs.append((run[0][0], text.rstrip(), look))
    return tuple(runs)


def _find_classes(cell: pyte.screens.Char) -> str:
    colour = cell.fg.removeprefix("bright")
    return " ".join(filter(None, ("bold" if cell.bold else "", _COLOURS.get(colour, "black" if colour == "black" else ""))))


def _list_spans(frames: Sequence[Frame], end: float) -> Iterator[tuple[int, Row, float, float]]:
    """Row number, what it showed, from when, until when."""
    for number in range(len(frames[0].rows)):
        begins = [(frame.begin, frame.rows[number]) for frame in frames]
        shown = [(row, next(iter(group))[0]) for row, group in groupby(begins, lambda item: item[1])]
        for (row, begin), until in zip(shown, [*(begin for _, begin in shown[1:]), end], strict=True):
            if row:
                yield number, row, begin, until


def render_svg(frames: Sequence[Frame], columns: int, title: str, *, speed: float, rest: float) -> str:
    """Play ``frames`` ``speed`` times as fast as they came, show the last one ``rest`` seconds, and begin again.

    Where nothing moves (print, reduced motion, a viewer without CSS) it shows the last frame.
    """
    end = frames[-1].begin + rest * speed
    used = max(number for frame in frames for number, row in enumerate(frame.rows) if row) + 1
    width, height = columns * _CELL + 2 * _MARGIN, _HEAD + used * _LINE + _MARGIN
    spans = list(_list_spans(frames, end))
    moments = sorted({(begin, until) for _, _, begin, until in spans})
    rules = [_render_keyframes(f"k{place}", begin / end, until / end) for place, (begin, until) in enumerate(moments)]
    lines = []
    for number, row, begin, until in spans:
        last = " last" if until == end else ""
        name = f"k{moments.index((begin, until))}"
        lines.append(f'<g class="row{last}" style="animation-name:{name}">{_render_row(number, row)}</g>')
    dots = "".join(f'<circle class="dot" cx="{_MARGIN + 4 + 18 * place}" cy="20" r="5.5"/>' for place in range(3))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" height="{height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE % (_SIZE, end / speed)}{''.join(rules)}</style>",
            f'<rect class="window" x="0.5" y="0.5" width="{width - 1:.0f}" height="{height - 1}" rx="{_CORNER}"/>{dots}',
            *lines,
            "</svg>\n",
        ]
    )


def _render_keyframes(name: str, begin: float, until: float) -> str:
    steps = [(0.0, "hidden"), (begin, "visible"), (until, "hidden")]
    if begin == 0:
        steps = steps[1:]
    return f"@keyframes {name}{{{''.join(f'{100 * share:.3f}%{{visibility:{look}}}' for share, look in steps)}}}\n"


def _render_row(number: int, row: Iterable[Run]) -> str:
    """Texts of a fixed length: columns stay in line whatever font there is."""
    top = _HEAD + number * _LINE + _SIZE
    parts = []
    for column, text, classes in row:
        lead = len(text) - len(text.lstrip())
        place = f'x="{_MARGIN + (column + lead) * _CELL:.1f}" y="{top}" textLength="{(len(text) - lead) * _CELL:.1f}"'
        look = f' class="{classes}"' if classes else ""
        parts.append(f"<text {place}{look}>{escape(text.lstrip())}</text>")
    return "".join(parts)
