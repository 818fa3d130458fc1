"""Squarified treemaps (Bruls, Huizing, van Wijk: Squarified Treemaps, 2000): rectangles whose areas are the sizes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Rectangle(msgspec.Struct, frozen=True):
    """In the units of the area that was asked for."""

    x: float
    y: float
    width: float
    height: float

    def shrink(self, sides: float, top: float) -> Rectangle:
        """Without a margin of ``sides`` all round and ``top`` more above; never of negative size."""
        return Rectangle(self.x + sides, self.y + sides + top, max(0.0, self.width - 2 * sides), max(0.0, self.height - 2 * sides - top))


def lay_out(sizes: Sequence[float], area: Rectangle) -> list[Rectangle]:
    """A rectangle for each of ``sizes`` (largest first, none negative), together filling ``area``, as square as it goes."""
    total = sum(sizes)
    if total <= 0 or area.width <= 0 or area.height <= 0:
        return [Rectangle(area.x, area.y, 0.0, 0.0) for _ in sizes]
    scale = area.width * area.height / total
    areas = [size * scale for size in sizes]
    done: list[Rectangle] = []
    while len(done) < len(areas):
        side = min(area.width, area.height)
        row = [areas[len(done)]]
        while len(done) + len(row) < len(areas):
            longer = [*row, areas[len(done) + len(row)]]
            if _worst(longer, side) > _worst(row, side):
                break
            row = longer
        placed, area = _place(row, area)
        done += placed
    return done


def _worst(row: Sequence[float], side: float) -> float:
    """The highest ratio of sides in a row laid along ``side``."""
    total, low, high = sum(row), min(row), max(row)
    if low <= 0 or side <= 0:
        return float("inf") if total <= 0 else 0.0
    return max(side * side * high / (total * total), total * total / (side * side * low))


def _place(row: Sequence[float], area: Rectangle) -> tuple[list[Rectangle], Rectangle]:
    """The row's rectangles along the shorter side, and what is left of the area."""
    total = sum(row)
    placed = []
    if area.width >= area.height:
        width = total / area.height if area.height else 0.0
        y = area.y
        for item in row:
            height = item / width if width else 0.0
            placed.append(Rectangle(area.x, y, width, height))
            y += height
        return placed, Rectangle(area.x + width, area.y, max(0.0, area.width - width), area.height)
    height = total / area.width if area.width else 0.0
    x = area.x
    for item in row:
        width = item / height if height else 0.0
        placed.append(Rectangle(x, area.y, width, height))
        x += width
    return placed, Rectangle(area.x, area.y + height, area.width, max(0.0, area.height - height))
