"""The commands of the README and of the tutorial are run, and show what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import Shown, mask, read_page, run_page
from tests.support.workspaces import PROJECT, Built

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("name", "count"), [("README.md", 1), ("docs/tutorial.md", 9)])
def test_a_page_shows_what_comes(name: str, count: int, built: Built, tmp_path: Path) -> None:
    checkout = built.checkout.fork(tmp_path / "checkout")
    results = list(run_page(PROJECT / name, checkout, tmp_path / "kept"))
    for item, shown, come in results:
        assert come == shown, item.command
    assert len(results) == count


def test_the_reader_of_pages() -> None:
    page = (
        "```\n$ a b\none\n$ c\n```\n<!-- not run -->\n```\n$ d\n```\n"
        "<!-- do: echo x -->\n```\n$ e\n```\n<!-- undo -->\n```toml\nf = 1\n```\n"
    )
    assert list(read_page(page)) == [Shown("a b", ("one",)), Shown("c", ()), Shown("e", (), "echo x"), "undo"]
    line = "oci:/home/you/x/.imagebuild/registry:cosml:2026q4-8fdb5bfccbdc sha256:8b3360ebfcab in 0.1 s  "
    assert mask(line) == "oci:REGISTRY:cosml:TAG DIGEST in N s"
