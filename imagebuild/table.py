"""Columns of text."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), least: Sequence[int] = ()) -> list[str]:
    """A line a row: cells padded to their column's width, two spaces between them, nothing at the end.

    All rows have as many cells. ``right``: the columns set to the right; ``least``: widths that the first columns have at least.
    The last column is as wide as it is.
    """
    if not rows:
        return []
    count = len(rows[0])
    minima = [*least, *(0 for _ in range(count - len(least)))]
    widths = [max(minima[column], *(len(row[column]) for row in rows)) for column in range(count)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
