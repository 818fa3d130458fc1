"""The page in a real browser: what is drawn, in both colour schemes, and that nothing is asked of any network."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tools import need
from tests.support.workspaces import Built

pytestmark = pytest.mark.integration


def test_a_browser_draws_the_map_and_asks_for_nothing_else(built: Built, tmp_path: Path) -> None:
    chromium = need("chromium")
    from playwright.sync_api import sync_playwright

    page_file = tmp_path / "size.html"
    built.checkout.run("size", f"cosml:{built.tag}", "--html", str(page_file)).succeeded()
    requests: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        backgrounds = []
        for scheme in ("light", "dark"):
            context = browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 900})
            page = context.new_page()
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: complaints.append(message.text))
            page.goto(page_file.as_uri())
            backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            boxes = page.evaluate(
                "[...document.querySelectorAll('rect.frame')].map(r => [r.parentNode.firstChild.textContent, r.getBoundingClientRect()])"
                ".map(([name, r]) => [name, r.width * r.height])"
            )
            areas = {name.split(" ")[0]: area for name, area in boxes}
            assert areas["scipy"] > areas["pandas"] > areas["scikit-learn"] > areas["joblib"] > 0
            colours = page.evaluate("[...new Set([...document.querySelectorAll('.map g g rect')].map(r => getComputedStyle(r).fill))]")
            assert len(colours) >= 6
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.set_viewport_size({"width": 420, "height": 800})  # a phone: nothing sticks out
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            context.close()
        browser.close()
    assert requests == [page_file.as_uri()] * 2
    assert complaints == []
    assert backgrounds[0] != backgrounds[1]
