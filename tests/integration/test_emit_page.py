"""The page in a real browser: search, one image, the difference of two, copies, the keyboard, light and dark; and no request leaves it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.emit.page import render_catalogue_page
from tests.support.fleet import list_fleet, make_fleet
from tests.support.tools import need

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> CatalogueListing:
    found = list_fleet(make_fleet(12), tmp_path_factory.mktemp("fleet"))
    hostile = "<img src=x onerror=alert(1)></script><b>churn</b>"
    entries = tuple(
        msgspec.structs.replace(entry, status="kept", kept=("churn-q3",), description=hostile)
        if (entry.team, entry.quarter) == ("churn", "2025q3")
        else entry
        for entry in found.entries
    )
    return msgspec.structs.replace(found, entries=entries)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, listing: CatalogueListing, tmp_path: Path) -> Iterator[Page]:
    file = tmp_path / "page.html"
    file.write_text(render_catalogue_page(listing), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1360, "height": 850}, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(file.as_uri())
    yield page
    assert set(asked) == {file.as_uri()}
    assert complaints == []
    context.close()


def pick(listing: CatalogueListing, team: str, quarter: str) -> CatalogueEntry:
    return next(entry for entry in listing.entries if (entry.team, entry.quarter) == (team, quarter))


def cell(page: Page, team: str, quarter: str) -> Locator:
    return page.get_by_role("button", name=re.compile(f"^{team} {quarter},"))


def read_clipboard(page: Page) -> str:
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_search_by_package_and_version(page: Page, listing: CatalogueListing) -> None:
    expect(page.get_by_role("status").first).to_have_text("96 images of 12 teams")
    name, version = next(iter(pick(listing, "churn", "2026q4").packages.items()))
    wanted = [entry for entry in listing.entries if entry.packages.get(name) == version]
    page.get_by_role("searchbox", name="Search").fill(f"{name}=={version}\n".strip())
    exact = [entry for entry in listing.entries if (entry.packages.get(name) or "").startswith(version)]
    teams = {entry.team for entry in exact}
    assert wanted
    expect(page.get_by_role("status").first).to_have_text(f"{len(exact)} of 96 images, in {len(teams)} of 12 teams")
    assert page.locator("#rows tr:not([hidden])").count() == len(teams)
    page.get_by_role("searchbox").fill("nothing is like this")
    page.get_by_role("button", name="Show all").click()
    expect(page.get_by_role("status").first).to_have_text("96 images of 12 teams")
    page.get_by_label("Status", exact=True).select_option("kept")
    expect(page.get_by_role("status").first).to_have_text("1 of 96 images, in 1 of 12 teams")


VERSIONS = ("1.0", "1.0.post1", "1.0rc1", "1.0.dev1", "1!0.5", "2.0+cu121", "1.10", "1.9", "1.10.1", "0.9", "2.0a1", "3.0")


@pytest.mark.parametrize(
    "query",
    [
        "Demo_Pkg>=1.0",
        "demo.pkg>1.9",
        "demo-pkg<1.0",
        "demo-pkg <= 1.10 , >1.0rc1",
        "demo-pkg!=1.9",
        "demo-pkg!=1.*",
        "demo-pkg~=1.9",
        "demo-pkg>=1!0",
    ],
)
def test_versions_are_compared_as_packaging_does(page: Page, listing: CatalogueListing, tmp_path: Path, query: str) -> None:
    """PEP 440; the peer decides. Local versions stay out of the comparison with <, > and !=, where its rules are of their own."""
    newest = [entry for entry in listing.entries if entry.quarter == "2026q4"]
    packages = [{"demo-pkg": version} for version in VERSIONS]
    entries = tuple(msgspec.structs.replace(entry, packages=some) for entry, some in zip(newest, packages, strict=True))
    file = tmp_path / "page.html"  # the same address: the fixture says that nothing else is asked for
    file.write_text(render_catalogue_page(msgspec.structs.replace(listing, entries=entries)), encoding="utf-8")
    page.reload()
    name, specifier = re.fullmatch(r"([A-Za-z._-]+)\s*(.*)", query).groups()  # type: ignore[union-attr]
    assert canonicalize_name(name) == "demo-pkg"
    expected = {
        entry.team for entry, version in zip(newest, VERSIONS, strict=True) if SpecifierSet(specifier).contains(version, prereleases=True)
    }
    page.get_by_role("searchbox").fill(query)
    shown = page.locator("#rows tr:not([hidden]) .team").all_text_contents()
    assert set(shown) == expected


def test_a_package_is_found_however_its_name_is_written(page: Page) -> None:
    box = page.get_by_role("searchbox")
    counts = []
    for text in ("scikit-learn", "scikit_learn", "Scikit.Learn", "scikit-lea"):
        box.fill(text)
        counts.append(page.get_by_role("status").first.text_content())
    assert len(set(counts)) == 1
    assert not str(counts[0]).startswith("0 of")
    box.fill("scikit_learn>=99")
    expect(page.get_by_role("button", name="Show all")).to_be_visible()


def test_an_image_is_described_and_copied(page: Page, listing: CatalogueListing) -> None:
    entry = pick(listing, "churn", "2025q3")
    cell(page, "churn", "2025q3").click()
    panel = page.get_by_role("complementary", name=entry.title)
    expect(panel).to_contain_text("★ churn-q3")
    expect(panel).to_contain_text("<img src=x onerror=alert(1)>")  # as text
    reference = f"{entry.image}:{entry.tag}@{entry.digest}"
    panel.get_by_role("button", name="Copy reference").click()
    expect(page.get_by_text("reference copied")).to_be_attached()
    assert read_clipboard(page) == reference
    panel.get_by_role("tab", name="Notebook").click()
    panel.get_by_role("button", name="Copy Notebook lines").click()
    expect(page.get_by_text("Notebook lines copied")).to_be_attached()
    assert read_clipboard(page) == f"image: {reference}"
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(cell(page, "churn", "2025q3")).to_be_focused()


def test_the_difference_of_any_two(page: Page, listing: CatalogueListing) -> None:
    old, new = pick(listing, "churn", "2025q1"), pick(listing, "churn", "2026q4")
    cell(page, "churn", "2026q4").click()
    page.get_by_label("Compare with").select_option(old.digest)
    found = page.get_by_role("region", name="Difference")
    changed = [name for name in old.packages if name in new.packages and old.packages[name] != new.packages[name]]
    added, removed = new.packages.keys() - old.packages.keys(), old.packages.keys() - new.packages.keys()
    expect(found).to_contain_text(f"{len(changed)} changed, {len(added)} added, {len(removed)} removed")
    for name in changed:
        row = found.get_by_role("row", name=name)
        expect(row).to_contain_text(old.packages[name])
        expect(row).to_contain_text(new.packages[name])
    other = pick(listing, "risk", "2026q1")
    page.get_by_label("Compare with").select_option(other.digest)
    expect(found).to_contain_text("risk 2026q1")
    # The address names both: it can be sent to somebody.
    page.reload()
    expect(page.get_by_role("region", name="Difference")).to_contain_text("risk 2026q1")


def test_all_of_it_by_keyboard(page: Page) -> None:
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("churn")
    for _ in range(6):
        page.keyboard.press("Tab")
    expect(cell(page, "churn", "2026q4")).to_be_focused()  # one stop for the grid, at the current image
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(cell(page, "churn", "2026q2")).to_be_focused()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page.locator("#detail-title")).to_be_focused()
    page.keyboard.press("Escape")
    expect(cell(page, "churn", "2025q1")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.get_by_role("searchbox")).to_have_value("")
    cell(page, "churn", "2026q4").focus()
    page.keyboard.press("ArrowDown")
    expect(cell(page, "churn", "2026q4")).not_to_be_focused()
    assert "2026q4" in str(page.evaluate("document.activeElement.getAttribute('aria-label')"))


_CONTRAST = """element => {
  const channel = value => { value /= 255; return value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4; };
  const shine = color => { const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(channel); return .2126 * r + .7152 * g + .0722 * b; };
  let behind = element, back = "rgba(0, 0, 0, 0)";
  while (behind && /, 0\\)$/.test(back)) { back = getComputedStyle(behind).backgroundColor; behind = behind.parentElement; }
  const [light, dark] = [shine(getComputedStyle(element).color), shine(back)].sort((a, b) => b - a);
  return (light + .05) / (dark + .05);
}"""


_TEXTS = (
    "h1",
    ".facts",
    "#count",
    ".about",
    ".cell.current",
    ".cell.retired",
    ".cell.kept",
    "aside h3",
    ".chips .kept",
    "dt",
    "pre",
    ".team",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_read(page: Page, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    expect(page.locator("html")).to_have_attribute("data-theme", scheme)
    cell(page, "churn", "2025q3").click()
    page.evaluate("Promise.all(document.getAnimations().map(item => item.finished))")
    for selector in _TEXTS:
        ratio = float(page.locator(selector).first.evaluate(_CONTRAST))
        assert ratio >= 4.5, f"{selector}: {ratio:.2f}"  # WCAG 2.2, 1.4.3
    page.get_by_role("button", name="Dark").click()
    other = "dark" if scheme == "light" else "light"
    expect(page.locator("html")).to_have_attribute("data-theme", other)
    page.reload()
    expect(page.locator("html")).to_have_attribute("data-theme", other)  # remembered


def test_roles_and_names_for_who_does_not_see_it(page: Page) -> None:
    cell(page, "churn", "2025q3").click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a[href], [role=img], [role=region], aside, section, table[role]")]
        .filter(item => !item.closest("[hidden]"))
        .filter(item => !item.getAttribute("aria-label") && !item.getAttribute("aria-labelledby"))
        .filter(item => !item.labels?.length && !item.textContent.trim())
        .map(item => item.outerHTML.slice(0, 100))"""
    )
    assert nameless == []
    twice = page.evaluate("[...document.querySelectorAll('[id]')].map(item => item.id).filter((id, at, all) => all.indexOf(id) !== at)")
    assert twice == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("grid", name="Images by team and quarter").get_by_role("columnheader").count() == 10
    assert page.get_by_role("grid").get_by_role("rowheader").count() == 12
    stops = page.locator(".cell[tabindex='0']")
    assert stops.count() == 1
    expect(page.get_by_role("tab", name="Docker")).to_have_attribute("aria-selected", "true")
    assert page.get_by_role("img", name="Layer of churn over time").count() == 1


def test_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cell(page, "churn", "2026q4").click()
    box = page.locator("#detail").bounding_box()
    assert box is not None
    assert box["width"] == 390
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#detail")).to_be_hidden()
