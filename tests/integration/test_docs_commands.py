"""The commands of pages are run, and show what the pages show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.pages import Shown, is_as_shown, mask, read_page, run_page
from tests.support.servers.registry import run_registry
from tests.support.tools import need
from tests.support.workspaces import PROJECT, Built

pytestmark = pytest.mark.integration


REGISTRY = "registry.example.com"
ROUTE = "default-route-openshift-image-registry.apps.example.com"
# How many commands a page shows, and the registry that it speaks of, for which a real one stands in.
PAGES = {"README.md": 1, "docs/kubernetes.md": 1, "docs/locking.md": 1, "docs/size.md": 1, "docs/tutorial.md": 9}
PAGES_WITH_A_REGISTRY = {"docs/gpu.md": (3, ""), "docs/openshift.md": (3, ROUTE), "docs/registries.md": (4, REGISTRY)}


def test_every_page_that_shows_what_comes_is_run() -> None:
    counts = {}
    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        counts[page.relative_to(PROJECT).as_posix()] = sum(isinstance(item, Shown) for item in read_page(page.read_text("utf-8")))
    expected = PAGES | {name: count for name, (count, _) in PAGES_WITH_A_REGISTRY.items()}
    assert {name: count for name, count in counts.items() if count} == expected


@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_what_comes(name: str, built: Built, tmp_path: Path) -> None:
    checkout = built.checkout.fork(tmp_path / "checkout")
    results = list(run_page(PROJECT / name, checkout, tmp_path / "kept"))
    for item, shown, come in results:
        assert is_as_shown(shown, come), (item.command, come)
    assert len(results) == PAGES[name]


@pytest.mark.parametrize("name", PAGES_WITH_A_REGISTRY)
def test_a_page_about_a_registry_shows_what_comes(name: str, built: Built, tmp_path: Path) -> None:
    count, host = PAGES_WITH_A_REGISTRY[name]
    if "smoke" in (PROJECT / name).read_text("utf-8"):
        need("docker")
    checkout = built.checkout.fork(tmp_path / "checkout")
    with run_registry(tmp_path / "registry", tls=host == REGISTRY) as found:
        stand_ins = {host: found.host, "corporate-ca.pem": str(found.ca_file)} if host else {}
        results = list(run_page(PROJECT / name, checkout, tmp_path / "kept", stand_ins))
    for item, shown, come in results:
        assert is_as_shown(shown, come), (item.command, come)
    assert len(results) == count


@pytest.mark.parametrize(
    ("shown", "come", "fits"),
    [
        ("a b", "a b", True),
        ("a b", "a b c", False),
        ("a ... c", "a b b c", True),
        ("a ...", "a", True),
        ("... c", "a b", False),
        ("a ... b ... d", "a b c d", True),
        ("a ... b ... d", "a c d", False),
        ("", "a", False),
    ],
)
def test_dots_stand_for_any_lines(shown: str, come: str, fits: bool) -> None:
    assert is_as_shown(shown.split(), come.split()) is fits


def test_the_reader_of_pages() -> None:
    page = (
        "```\n$ a b\none\n$ c\n```\n<!-- not run -->\n```\n$ d\n```\n"
        "<!-- do: echo x -->\n```\n$ e\n```\n<!-- undo -->\n```toml\nf = 1\n```\n"
    )
    assert list(read_page(page)) == [Shown("a b", ("one",)), Shown("c", ()), Shown("e", (), "echo x"), "undo"]
    line = "oci:/home/you/x/.imagebuild/registry:cosml:2026q4-8fdb5bfccbdc sha256:8b3360ebfcab in 0.1 s  "
    assert mask(line) == "oci:REGISTRY:cosml:TAG DIGEST in N s"
