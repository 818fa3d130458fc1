"""The treemap's areas are the sizes, and the page holds nothing but what it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.config import BudgetRules
from imagebuild.size.budget import LastImage, compute_limits
from imagebuild.size.model import Comparison, PackageRemoval, PackageSize, SizeReport
from imagebuild.size.page import render_size_page
from imagebuild.size.treemap import Rectangle, lay_out


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=60), st.floats(10, 2000), st.floats(10, 2000))
def test_rectangles_fill_the_area_by_size_and_never_overlap(sizes: list[float], width: float, height: float) -> None:
    sizes.sort(reverse=True)
    area = Rectangle(5, 7, width, height)
    found = lay_out(sizes, area)
    scale = width * height / sum(sizes)
    for size, item in zip(sizes, found, strict=True):
        assert item.width * item.height == pytest.approx(size * scale, rel=1e-3, abs=1e-3)
        assert item.x >= area.x - 1e-6
        assert item.y >= area.y - 1e-6
        assert item.x + item.width <= area.x + width + 1e-3
        assert item.y + item.height <= area.y + height + 1e-3
    for number, one in enumerate(found):
        for other in found[number + 1 :]:
            wide = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
            high = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
            assert min(wide, high) < 1e-3


def test_it_is_squarish_as_in_the_paper() -> None:
    found = lay_out([6, 6, 4, 3, 2, 2, 1], Rectangle(0, 0, 6, 4))
    assert [(round(item.x, 2), round(item.y, 2), round(item.width, 2), round(item.height, 2)) for item in found[:4]] == [
        (0, 0, 3, 2),
        (0, 2, 3, 2),
        (3, 0, 1.71, 2.33),
        (4.71, 0, 1.29, 2.33),
    ]


def test_nothing_to_lay_out_is_nothing() -> None:
    assert lay_out([], Rectangle(0, 0, 5, 5)) == []
    assert lay_out([0, 0], Rectangle(0, 0, 5, 5)) == [Rectangle(0, 0, 0, 0)] * 2
    assert lay_out([1], Rectangle(0, 0, 0, 5)) == [Rectangle(0, 0, 0, 0)]


HOSTILE = '<script>alert("1")</script>&'


def make_report() -> SizeReport:
    packages = (
        PackageSize("pandas", "2.2.3", 10_000, 50_000_000, {"code": 20_000_000, "tests": 30_000_000}, 9, ("requirements.in", "pandas")),
        PackageSize(HOSTILE, HOSTILE, 10, 1000, {"library": 1000}, 1, (HOSTILE,)),
        PackageSize("empty", "1", 0, 0),
    )
    limits = compute_limits(
        BudgetRules(1 << 20, 10 << 20, 0.1, {"pandas": 0}),
        compressed=10_010,
        installed=50_001_000,
        packages={"pandas": 50_000_000},
        last=LastImage("old", None, None),
    )
    return SizeReport(
        HOSTILE, "predicted", HOSTILE, "lock", 10_010, 50_001_000, packages, {"code": 20_000_000, "tests": 30_000_000, "library": 1000},
        removals=(PackageRemoval(HOSTILE, 1, 2, (HOSTILE,)),), limits=limits, built=Comparison(HOSTILE, 10_000, 50_000_000),
        notes=(HOSTILE,),
    )  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "action", "data")]


def test_the_page_loads_nothing_and_takes_names_as_text() -> None:
    text = render_size_page(make_report()).decode()
    reader = _Reader()
    reader.feed(text)
    assert "script" not in reader.tags
    assert reader.links == []
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    assert HOSTILE not in text
    assert len(re.findall(r'class="frame"', text)) == 2  # what has no bytes is not drawn
    assert "over budget" in text
    assert "unknown of" in text
    assert "the prediction is off by +0.1 % and +0.0 %" in text
    assert render_size_page(make_report()) == text.encode()
