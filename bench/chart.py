"""Horizontal bars as an SVG without fonts, scripts or network: readable on a light and on a dark page."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH, _LABEL, _VALUE = 860, 340, 90  # pixels: all, the labels' column, room for a bar's value
_ROW, _BAR, _HEAD = 24, 15, 40
_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328 }
.head { font-weight: 600 } .note { fill: #59636e; font-size: 12px }
.ours { fill: #1a7f37 } .peer { fill: #8c959f }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 } .ours { fill: #3fb950 } .peer { fill: #6e7681 }
}
"""


@dataclass(frozen=True)
class Bar:
    """One measurement."""

    label: str
    seconds: float
    ours: bool


@dataclass(frozen=True)
class Group:
    """Measurements of the same work, on a scale of their own."""

    title: str
    bars: tuple[Bar, ...]


def format_seconds(seconds: float) -> str:
    """Seconds with two or three figures."""
    return f"{seconds:.0f} s" if seconds >= 20 else f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"


def render_chart(title: str, note: str, groups: list[Group]) -> str:
    """The SVG's text."""
    parts: list[str] = []
    top = 30
    for group in groups:
        parts.append(f'<text class="head" x="16" y="{top + 22}">{escape(group.title)}</text>')
        top += _HEAD - 8
        longest = max(bar.seconds for bar in group.bars)
        for bar in group.bars:
            width = max(1.5, bar.seconds / longest * (_WIDTH - _LABEL - _VALUE))
            parts.append(
                f'<text x="{_LABEL - 10}" y="{top + 14}" text-anchor="end">{escape(bar.label)}</text>'
                f'<rect class="{"ours" if bar.ours else "peer"}" x="{_LABEL}" y="{top + 2}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
                f'<text x="{_LABEL + width + 8:.1f}" y="{top + 14}">{format_seconds(bar.seconds)}</text>'
            )
            top += _ROW
        top += 10
    height = top + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}" '
        f'role="img" aria-labelledby="title">\n<title id="title">{escape(title)}</title>\n<style>{_STYLE}</style>\n'
        f'<text class="head" x="16" y="24">{escape(title)}</text>\n' + "\n".join(parts) + "\n"
        f'<text class="note" x="16" y="{top + 10}">{escape(note)}</text>\n</svg>\n'
    )
