"""The page as bytes: nothing in the registry can leave its data block, and nothing but the template's own script may run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.emit.page import render_catalogue_page
from imagebuild.errors import UsageError
from imagebuild.oci.model import Digest
from tests.support.fleet import list_fleet, make_fleet


class Scripts(HTMLParser):
    """Reads as a browser does: a script ends at its end tag, whatever it holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self.tags: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "meta" and dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = str(dict(attrs)["content"])
        self._inside = tag == "script"
        if self._inside:
            self.found.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] = (self.found[-1][0], self.found[-1][1] + data)


def make_entry(**changes: object) -> CatalogueEntry:
    entry = CatalogueEntry(
        team="cosml", quarter="2026q4", tag="2026q4-0123456789ab", digest=Digest.of(b"x"), created="2026-10-01T00:00:00Z", kind="jupyter",
        image="registry.example.com/ml/cosml", repository="ml/cosml", current=True, status="current",
    )  # fmt: skip
    return msgspec.structs.replace(entry, **changes)


@pytest.mark.slow
@given(st.text())
def test_no_text_leaves_the_data_block(text: str) -> None:
    for title in (text, f"</script><script>alert(1)</script>{text}", f"<!--<script>{text}", f"{text}\u2028\u2029&lt;"):
        page = Scripts(render_catalogue_page(CatalogueListing((make_entry(title=title),), 0)))
        assert [attributes.get("type") for attributes, _ in page.found] == ["application/json", None]
        (entry,) = json.loads(page.found[0][1])["entries"]
        assert entry.get("title", "") == title


def test_the_policy_lets_run_what_is_there_and_nothing_else() -> None:
    text = render_catalogue_page(CatalogueListing((make_entry(),), 0))
    page = Scripts(text)
    script = base64.b64encode(hashlib.sha256(page.found[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{script}'" in page.policy
    assert page.policy.startswith("default-src 'none'; ")
    assert "unsafe" not in page.policy
    assert "%" not in page.policy
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(page.tags)
    addresses = set(re.findall(r"https?://[^\"' ]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, and no address


def test_four_hundred_images_are_a_small_file(tmp_path: Path) -> None:
    listing = list_fleet(make_fleet(5), tmp_path)
    text = render_catalogue_page(listing)
    assert text == render_catalogue_page(listing)
    assert len(text.encode()) < 40_000 + 1100 * len(listing.entries)
    assert 'id="data"' in text


def test_an_image_of_a_folder_has_a_path_and_no_reference() -> None:
    text = render_catalogue_page(CatalogueListing((make_entry(image="oci:/data/registry:cosml"),), 0))
    (entry,) = json.loads(Scripts(text).found[0][1])["entries"]
    assert "pull" not in entry
    text = render_catalogue_page(CatalogueListing((make_entry(),), 0), registry_prefix="mirror.example.com")
    (entry,) = json.loads(Scripts(text).found[0][1])["entries"]
    assert entry["pull"] == "mirror.example.com/ml/cosml:2026q4-0123456789ab"


def test_nothing_to_show() -> None:
    with pytest.raises(UsageError, match="no team image"):
        render_catalogue_page(CatalogueListing((), 3))
