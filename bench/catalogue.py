"""Times the catalogue of 50 teams and 8 quarters on a real registry, and its page in a real browser: ``python -m bench.catalogue``.

Whole processes, each the median of five (the cold one of three, with an empty cache each time). With ``--picture FILE`` only the
picture of the page is made. Needs docker-registry and chromium; takes two minutes.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
from playwright.sync_api import Page, sync_playwright

from imagebuild.catalogue.overview import survey_fleet
from imagebuild.config import Budget
from imagebuild.emit.page import render_catalogue_page
from imagebuild.oci.registry import RegistryStore
from tests.support.fleet import list_fleet, make_fleet, push_fleet
from tests.support.servers.registry import run_registry
from tests.support.workspaces import Checkout, RequestLog

_KEPT = {("churn", "2025q3"), ("claims", "2025q4"), ("audit", "2026q1")}


def main() -> None:
    """Print a Markdown table, or make the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        page = write_page(folder)
        if options.picture:
            take_picture(page, options.picture)
            return
        print("| | seconds | requests |\n|---|---|---|")
        measure_listing(folder)
        measure_page(page)


def measure_listing(folder: Path) -> None:
    fleet = make_fleet()
    with run_registry(folder / "registry") as registry:
        push_fleet(RegistryStore(registry.host), fleet)
        checkout = Checkout(folder / "checkout", folder / "cache")
        for team in {made.team for made in fleet}:
            checkout.write(f"images/{team}/team.toml", 'base = "starter"\n')
        for title, cold, arguments in (
            ("listing, nothing kept", True, ["catalogue"]),
            ("listing, kept manifests", False, ["catalogue"]),
            ("page, kept manifests", False, ["catalogue", "--format", "html"]),
            ("verify: every blob", False, ["catalogue", "verify"]),
        ):
            times = []
            for _ in range(3 if cold else 5):
                if cold:
                    shutil.rmtree(checkout.cache, ignore_errors=True)
                log, started = RequestLog(registry), time.monotonic()
                checkout.run(*arguments, "--registry", f"{registry.host}/ml").succeeded()
                times.append(time.monotonic() - started)
                asked = Counter(method for method, _ in log.read())
            told = ", ".join(f"{count} {method}" for method, count in sorted(asked.items()))
            print(f"| {title} | {statistics.median(times):.1f} | {told} |")


def write_page(folder: Path) -> Path:
    """The page of 400 images with the sizes they would have."""
    listing = list_fleet(make_fleet(), folder / "layout")
    entries = [
        msgspec.structs.replace(entry, status="kept", kept=(f"{entry.team}-{entry.quarter[2:]}",))
        if (entry.team, entry.quarter) in _KEPT
        else entry
        for entry in listing.entries
    ]
    path = folder / "page.html"
    shown = msgspec.structs.replace(listing, entries=tuple(entries))
    overview = survey_fleet(shown, budgets={entry.team: Budget().rules for entry in entries})
    path.write_text(render_catalogue_page(shown, overview=overview), encoding="utf-8")
    return path


def measure_page(path: Path) -> None:
    import gzip

    data = path.read_bytes()
    paints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1360, "height": 850})
            page.goto(path.as_uri())
            page.wait_for_timeout(500)
            paints.append(read_paint(page))
            page.close()
        browser.close()
    print(f"\npage of 400 images: {len(data):,} bytes, {len(gzip.compress(data)):,} compressed; ", end="")
    print(f"first contentful paint {statistics.median(paints):.0f} ms (Chromium, median of 5)")


def read_paint(page: Page) -> float:
    """Milliseconds from the start of the navigation."""
    return float(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))


def take_picture(path: Path, picture: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 700})
        page.goto(path.as_uri())
        page.get_by_role("button", name="churn 2026q4").click()
        page.screenshot(path=str(picture))
        browser.close()


if __name__ == "__main__":
    main()
