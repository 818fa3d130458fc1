"""``catalogue --format html --pages``: from the page to an image's size and to what it changed, and back, in a real browser."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.support import images
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry
from tests.support.tools import need
from tests.support.worlds import World, push_small_base

pytestmark = pytest.mark.integration


def test_sizes_and_differences_are_reached_from_the_page(hub: Registry, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    base = push_small_base(images.debian_rootfs(tmp_path_factory.getbasetemp() / "rootfs"), tmp_path, hub)
    index = SlowIndex()
    publish(index, tmp_path, "alpha", "1.0")
    with index.serve() as url:
        world = World(tmp_path / "world", base, url, warm=False)
        world.write("images/green/team.toml", "budget = 7\n")  # of another's making: it stops no page
        world.write("images/green/requirements.in", "")
        world.run("lock", "blue", "--as-of", "2026-07-01").succeeded()
        world.run("image", "blue", "--locked").succeeded()
        publish(index, tmp_path, "alpha", "1.1")
        world.run("lock", "blue", "--upgrade", "--as-of", "2026-10-01").succeeded()
        world.run("image", "blue", "--locked").succeeded()
    folder = tmp_path / "site"
    world.run("catalogue", "--pages", str(folder)).refused(2, "--pages", hint="--format html")
    done = world.run("catalogue", "--format", "html", "--pages", str(folder)).succeeded()
    assert done.out == f"{folder / 'index.html'}\n"
    assert done.lines("warning: the budget of green is left out")
    (size,), (difference,) = folder.glob("size/*.html"), folder.glob("diff/*.html")
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (size, difference, folder / "index.html")}
    world.run("catalogue", "--format", "html", "--pages", str(folder)).succeeded()
    assert (size.stat().st_ino, size.read_bytes()) == before[size]  # what a digest names does not change
    assert (difference.stat().st_ino, difference.read_bytes()) == before[difference]
    assert (folder / "index.html").read_bytes() == before[folder / "index.html"][1]

    today = datetime.datetime.now(datetime.UTC)
    quarter = f"{today.year}q{(today.month + 2) // 3}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "index.html").as_uri())
        text = page.locator("#overview").text_content() or ""
        assert f"without an image of {quarter}" in text
        page.locator(".cell.current").click()
        page.get_by_role("link", name="Size of blue").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("blue:")
        expect(page.get_by_role("img", name="Treemap")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.get_by_role("link", name="Notebook images").click()
        page.get_by_role("link", name="Difference of").click()  # the image is open again
        expect(page.locator("tbody").last).to_contain_text("1.0 > 1.1")
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        page.get_by_role("link", name="Notebook images").click()
        expect(page.get_by_role("region", name="Difference")).to_contain_text("alpha")
        page.keyboard.press("Escape")
        page.locator(".cell.previous").click()  # of the others there are the commands
        expect(page.locator("#detail")).to_contain_text("imagebuild size blue:")
        assert {url.partition("#")[0] for url in asked} == {path.as_uri() for path in before}
        browser.close()
