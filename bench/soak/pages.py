"""Hostile text in every page: a script in a title, a tag or a package's name must not run in a browser."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
from playwright.sync_api import Browser, sync_playwright

from bench.soak.arena import require
from bench.soak.inputs import check_refusal
from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.emit.page import render_catalogue_page
from imagebuild.errors import ImagebuildError
from imagebuild.size.model import Comparison, Copy, Limit, PackageRemoval, PackageSize, SizeReport
from imagebuild.size.page import render_size_page
from tests.support.forms import HISTORY
from tests.support.tools import need

_RUN = "window.__ran=1"
TEXTS = (
    f"<script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"<img src=x onerror={_RUN}>",
    f'"onmouseover="{_RUN}" x="',
    f"'><svg onload={_RUN}>",
    f"<!--<script>{_RUN}</script>",
    f"]]><script>{_RUN}</script>",
    f"javascript:{_RUN}",
    f"</style><script>{_RUN}</script>",
    f"</title><script>{_RUN}</script>",
    "</textarea><iframe srcdoc='<script>parent.__ran=1</script>'>",
    f"${{{_RUN}}}`;{_RUN};`",
    f"\\u003cscript\\u003e{_RUN}\\u003c/script\\u003e",
    f"\u2028{_RUN}\u2029",
    f"&lt;script&gt;{_RUN}&lt;/script&gt;",
    f"<math><mi xlink:href=javascript:{_RUN}>",
    f"\0<script>{_RUN}</script>",
    f"<a href=javascript:{_RUN} autofocus onfocus={_RUN}>",
    f"<base href=//x.example><script>{_RUN}</script>",
    "</script",
    "<!--",
)


def _draw(chance: random.Random) -> str:
    return "".join(chance.choice(TEXTS) for _ in range(chance.choice([1, 1, 2]))) + str(chance.random())


def _poison(entry: CatalogueEntry, chance: random.Random) -> CatalogueEntry:
    return msgspec.structs.replace(
        entry, title=_draw(chance), description=_draw(chance), base=_draw(chance), base_name=_draw(chance), python=_draw(chance),
        packages={_draw(chance): _draw(chance), "pandas": _draw(chance)}, owners=(_draw(chance),),
        team=_draw(chance) if chance.random() < 0.3 else entry.team,
        kept=(_draw(chance),) if chance.random() < 0.3 else entry.kept, image=_draw(chance) if chance.random() < 0.3 else entry.image,
    )  # fmt: skip


def _render(chance: random.Random) -> bytes:
    if chance.random() >= 0.6:
        return render_size_page(_draw_report(chance))
    listing = CatalogueListing(tuple(_poison(entry, chance) for entry in HISTORY), 0)
    return render_catalogue_page(listing, registry_prefix=chance.choice(["", _draw(chance)])).encode("utf-8", "surrogatepass")


def attack_page(browser: Browser, folder: Path, chance: random.Random) -> str:
    """One page with hostile text in every field that an image, a team or a package brings; "refused" where no page is written of it."""
    try:
        data = _render(chance)
    except ImagebuildError as error:
        check_refusal(error)
        return "refused"
    path = folder / "page.html"
    path.write_bytes(data)
    asked: list[str] = []
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        for box in page.locator("input[type=search], input[type=text]").all()[:2]:
            box.fill("script")
        for link in page.locator("button, summary, [role=tab]").all()[:6]:
            with contextlib.suppress(Exception):
                link.click(timeout=300)
        page.mouse.move(200, 300)
        require(page.evaluate("window.__ran") is None, "a script of somebody else ran in a page")
        require(
            all(url == path.as_uri() or url.startswith(("data:", "blob:", f"{path.as_uri()}#")) for url in asked),
            f"a page asked for {asked[:3]}",
        )
    path.unlink()
    return "shown"


def _draw_report(chance: random.Random) -> SizeReport:
    size = chance.randrange(1 << 20, 1 << 28)
    packages = tuple(
        PackageSize(
            _draw(chance),
            _draw(chance),
            chance.randrange(1, size),
            chance.randrange(1, size),
            {"python": 5},
            3,
            (_draw(chance), _draw(chance)),
        )
        for _ in range(chance.randint(1, 8))
    )
    return SizeReport(
        _draw(chance), "predicted", _draw(chance), _draw(chance), size, size, packages, {"python": 5},
        copies=(Copy(_draw(chance), 5, _draw(chance), _draw(chance)),), copies_count=1,
        removals=(PackageRemoval(_draw(chance), 5, 5, (_draw(chance),)),), limits=(Limit("x unpacked", 5, 3, _draw(chance)),),
        built=Comparison(_draw(chance), 5, 5), notes=(_draw(chance),), digest=_draw(chance),
    )  # fmt: skip


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
