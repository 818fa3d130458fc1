"""The page in a real browser: search, one image, the difference of two, copies, the keyboard, light and dark; and no request leaves it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.catalogue.overview import FleetOverview, survey_fleet
from imagebuild.config import BudgetRules
from imagebuild.emit.page import render_catalogue_page
from tests.support.fleet import QUARTERS, list_fleet, make_fleet
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


WIDTHS = (1360, 1024, 820, 400, 390, 320)


def show(page: Page, listing: CatalogueListing, overview: FleetOverview | None = None) -> None:
    """The page of another listing, at the same address: the fixture says that nothing else is asked for."""
    file = Path(unquote(urlsplit(page.url).path))
    file.write_text(render_catalogue_page(listing, overview=overview), encoding="utf-8")
    page.goto(file.as_uri())
    page.reload()


def is_in_sight(button: Locator) -> bool:
    """Whether the whole button can be seen and touched: nothing lies over it, and it is not scrolled away."""
    return bool(
        button.evaluate(
            """button => {
              const place = button.getBoundingClientRect();
              const at = (x, y) => document.elementFromPoint(place.left + x * place.width, place.top + y * place.height);
              return [[.1, .5], [.5, .2], [.5, .8], [.9, .5]].every(([x, y]) => button.contains(at(x, y)));
            }"""
        )
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_at_the_newest_quarter_and_the_panel_never_covers_it(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.reload()
    assert is_in_sight(cell(page, "ads", "2026q4"))
    assert is_in_sight(cell(page, "ads", "2026q3"))
    for quarter in ("2026q4", "2025q1", "2025q4"):
        cell(page, "churn", quarter).click()
        expect(page.locator("#detail")).to_be_visible()
        assert is_in_sight(cell(page, "churn", quarter)), quarter
        assert is_in_sight(cell(page, "churn", "2026q4")), quarter
        assert is_in_sight(page.get_by_role("button", name="Close"))
        page.keyboard.press("Escape")
    page.keyboard.press("Home")
    assert is_in_sight(cell(page, "churn", "2025q1"))
    page.keyboard.press("End")
    assert is_in_sight(cell(page, "churn", "2026q4"))
    assert is_in_sight(cell(page, "churn", "2026q3"))


# What is wider than its box and cannot be scrolled to, or sticks out of the window; texts that end in "..." as well.
_CUT = """() => {
  const flows = item => /auto|scroll/.test(getComputedStyle(item).overflowX);
  const scrolls = item => item && ((flows(item) && item.scrollWidth > item.clientWidth) || scrolls(item.parentElement));
  const found = [];
  for (const item of document.querySelectorAll("body *")) {
    if (item.closest("[hidden], .sr, script, svg, select, .skip") || !item.getClientRects().length) continue;
    const place = item.getBoundingClientRect(), what = item.outerHTML.slice(0, 90);
    if ((place.right > innerWidth + .5 || place.left < -.5) && !scrolls(item)) found.push(["outside", what, place.left, place.right]);
    if (!item.clientWidth || flows(item) || getComputedStyle(item).display === "inline") continue;
    if (item.scrollWidth > item.clientWidth + 1) found.push(["cut", what, item.scrollWidth, item.clientWidth]);
  }
  const field = document.querySelector("#query"), pen = document.createElement("canvas").getContext("2d");
  pen.font = getComputedStyle(field).font;
  if (field.clientWidth && pen.measureText(field.placeholder).width > field.clientWidth - 20) found.push(["cut", field.placeholder]);
  return found;
}"""


@pytest.mark.parametrize("width", [400, 390, 320])
def test_on_a_phone_nothing_is_cut(page: Page, listing: CatalogueListing, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    long = "a" * 90
    named = [msgspec.structs.replace(item, title=f"{item.team} {long}", kept=(long[:60],)) for item in listing.entries[:3]]
    show(page, msgspec.structs.replace(listing, entries=(*named, *listing.entries[3:])))
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_CUT) == []
    page.get_by_role("button", name="Filters").click()
    expect(page.get_by_label("Kind of server")).to_be_visible()
    expect(page.get_by_label("Legend")).to_be_visible()
    assert page.evaluate(_CUT) == []
    for card in page.locator("button.card").all():
        card.click()
        assert page.evaluate(_CUT) == []
    cell(page, listing.entries[0].team, listing.entries[0].quarter).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_CUT) == []
    page.get_by_role("button", name="Close").click()
    expect(page.locator("#detail")).to_be_hidden()


def test_what_somebody_is_needed_for_is_on_top(page: Page, listing: CatalogueListing) -> None:
    fewer = tuple(item for item in listing.entries if (item.team, item.quarter) != ("risk", "2026q4"))
    some = msgspec.structs.replace(listing, entries=fewer)
    churn = pick(some, "churn", "2026q4")
    budgets = {"churn": BudgetRules(churn.delta_compressed, 2 * churn.delta_installed)}
    overview = survey_fleet(some, teams=["nobody"], budgets=budgets)
    show(page, some, overview)
    top = page.get_by_role("region", name="At a glance")
    cards = ["2teams without an image of 2026q4", "1budget nearly full", f"{len(overview.may_go)}images to retire", "1name kept for good"]
    assert top.locator(".card").all_text_contents() == cards
    button = top.get_by_role("button", name="teams without an image")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    behind = top.get_by_role("region", name="2 teams without an image of 2026q4")
    assert behind.get_by_role("listitem").all_text_contents() == ["nobody: no image yet", "risk: 2026q3"]
    behind.get_by_role("button", name="risk: 2026q3").click()
    expect(page.locator("#detail")).to_contain_text(pick(some, "risk", "2026q3").tag)
    page.keyboard.press("Escape")
    expect(behind.get_by_role("button", name="risk: 2026q3")).to_be_focused()
    top.get_by_role("button", name="budget nearly full").click()
    expect(behind).to_be_hidden()  # one at a time
    expect(top.get_by_role("listitem")).to_have_text(re.compile(r"^churn: .* of .* stored, 100 %$"))
    top.get_by_role("button", name="images to retire").click()
    assert top.get_by_role("listitem").count() == len(overview.may_go) == 35  # three of each team, but the kept one
    top.get_by_role("button", name="images to retire").click()
    assert top.get_by_role("listitem").count() == 0


HOSTILE = "<img src=x onerror=alert(1)></script><svg onload=alert(2)>\u202e${alert(3)}'\"`&lt;"


def test_a_hostile_text_in_every_field_stays_text(page: Page, listing: CatalogueListing) -> None:
    fields = ("team", "quarter", "tag", "title", "description", "base", "base_name", "base_digest", "python", "successor", "image")
    texts = dict.fromkeys(fields, HOSTILE)
    packages = {HOSTILE: HOSTILE, "__proto__": "1", "constructor": HOSTILE}
    first, second, third = (
        msgspec.structs.replace(entry, **texts, packages=packages, owners=(HOSTILE,), kept=(f"{HOSTILE} {at}", "__proto__"))
        for at, entry in enumerate(listing.entries[:3])
    )
    hostile = msgspec.structs.replace(listing, entries=(first, second, third, *listing.entries[10:20]))
    budgets = {HOSTILE: BudgetRules(1, 1)}
    show(page, hostile, survey_fleet(hostile, teams=[HOSTILE, "other"], budgets=budgets))
    before = page.evaluate("[document.images.length, document.scripts.length, document.querySelectorAll('svg').length]")
    for card in page.locator("button.card").all():
        card.click()
        expect(page.locator(".listed:visible")).not_to_be_empty()
    for query in (HOSTILE, "constructor>=1", "__proto__==1", "tostring!=1", "a>=b"):
        page.get_by_role("searchbox").fill(query)
    page.get_by_role("searchbox").fill("")
    button = page.locator(".cell").first
    assert HOSTILE in str(button.get_attribute("aria-label"))
    button.click()
    panel = page.locator("#detail")
    for text in (HOSTILE, "__proto__"):
        expect(panel).to_contain_text(text)
    for entry in (second, listing.entries[12]):
        page.get_by_label("Compare with").select_option(str(entry.digest))
    after = page.evaluate("[document.images.length, document.scripts.length, document.querySelectorAll('svg:not(.history)').length]")
    assert after == before
    assert page.evaluate("document.querySelectorAll('[onerror], [onload]').length") == 0


def test_it_can_be_printed(page: Page, listing: CatalogueListing, tmp_path: Path) -> None:
    def print_it(name: str) -> list[str]:
        """The texts of the sheets, as another program reads them."""
        path = tmp_path / name
        page.pdf(path=path, prefer_css_page_size=True)
        done = subprocess.run([need("pdftotext"), "-layout", str(path), "-"], capture_output=True, text=True, check=True)
        sizes = subprocess.run([need("pdfinfo"), str(path)], capture_output=True, text=True, check=True).stdout
        assert re.search(r"Page size: +84[12]\.\d+ x 59[45]\.\d+ pts \(A4\)", sizes), sizes
        return done.stdout.split("\f")[:-1]

    page.emulate_media(color_scheme="dark")  # paper is white
    page.set_viewport_size({"width": 390, "height": 800})  # and as wide as paper is
    sheets = print_it("grid.pdf")
    text = "\n".join(sheets)
    rows = [line for line in text.splitlines() if line.count("MiB") == 8]
    assert len(rows) == 12  # every team with all its quarters
    heads = [line for line in text.splitlines() if "Team" in line and all(quarter in line for quarter in QUARTERS)]
    assert len(heads) == len([sheet for sheet in sheets if any(row in sheet for row in rows)])  # on every sheet with rows of the table
    assert "1 name kept for good" in text
    assert "churn-q3: churn 2025q3" in text  # what is folded on the screen
    assert "Filters" not in text
    entry = pick(listing, "churn", "2026q4")
    cell(page, "churn", "2026q4").click()
    opened = print_it("open.pdf")
    assert "\n".join(opened[: len(sheets)]) == text  # the panel is on sheets of its own
    last = re.sub(r"\s+", "", "".join(opened[len(sheets) :]))
    assert f"{entry.image}:{entry.tag}@{entry.digest}" in last
    for name, version in entry.packages.items():
        assert f"{name}{version}" in last
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).color") == "rgb(23, 32, 44)"
