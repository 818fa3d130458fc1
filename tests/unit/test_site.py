"""docs/ as a site: every page is in the menu, all builds without a warning, and anchors are those that --debug prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from imagebuild.commands.troubleshooting import AREAS, WARNING_HEADINGS, WARNINGS, make_anchor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_menu_once() -> None:
    menu = YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    found = [page for part in menu for page in ([part] if isinstance(part, str) else next(iter(part.values())))]
    assert sorted(found) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_home_page_links_to_every_page() -> None:
    links = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "index.md").read_text("utf-8")))
    assert links == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.slow
def test_anchors_are_those_that_debug_prints(site: Path) -> None:
    identities = set(re.findall(r'\bid="([^"]+)"', (site / "troubleshooting.html").read_text("utf-8")))
    headings = {heading for area, (_, messages) in AREAS.items() for heading in (area, *messages)} | {WARNINGS, *WARNING_HEADINGS}
    assert {make_anchor(heading) for heading in headings} - identities == set()


@pytest.mark.slow
def test_a_page_loads_nothing_from_other_hosts(site: Path) -> None:
    for page in site.glob("*.html"):
        loaded = re.findall(r'<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)="([^"]+)"', page.read_text("utf-8"))
        assert [address for address in loaded if "://" in address] == [], page.name
