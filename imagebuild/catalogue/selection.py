"""Which image of the catalogue somebody means."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.errors import UsageError
from imagebuild.tagforms import is_pinned_tag, name_kept
from imagebuild.text import suggest

_SHORTEST = 12  # hex digits that stand for a digest


def find_entry(listing: CatalogueListing, text: str) -> CatalogueEntry:
    """The image that ``text`` names: a name for good (``churn-q3``), a tag, a digest (12 digits or more), a reference as the
    catalogue prints it, ``team@2026q3`` (the newest of that quarter), or a team (its current image).

    UsageError for none, and for a text that two different images answer to.
    """
    for rule in (_by_name, _by_reference, _by_digest, _by_quarter, _by_tag, _by_team):
        found = _unite([entry for entry in listing.entries if rule(text)(entry)], text, newest=rule in (_by_quarter, _by_team))
        if found is not None:
            return found
    known = sorted({name for entry in listing.entries for name in (*entry.kept, entry.team, entry.tag)})
    raise UsageError(f"the catalogue has no image {text!r}", suggest(text, known) if known else "nothing was pushed yet")


def _unite(found: list[CatalogueEntry], text: str, *, newest: bool) -> CatalogueEntry | None:
    if len({entry.digest for entry in found}) > 1 and not newest:
        raise UsageError(f"{text!r} is more than one image", f"name one by digest: {_join(entry.digest for entry in found)}")
    return found[0] if found else None  # the listing has the newest of a team first


def _join(digests: Iterable[str]) -> str:
    return ", ".join(digest[: len("sha256:") + _SHORTEST] for digest in dict.fromkeys(digests))


Test = Callable[[CatalogueEntry], bool]


def _by_name(text: str) -> Test:
    name = name_kept(text) if is_pinned_tag(text) else text
    return lambda entry: name in entry.kept


def _by_reference(text: str) -> Test:
    name, at, digest = text.partition("@")
    if at and digest.startswith("sha256:"):
        repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
        return lambda entry: entry.digest == digest and repository in (entry.image, entry.repository)
    return lambda entry: any(text in (f"{entry.image}:{tag}", f"{entry.repository}:{tag}") for tag in entry.tags)


def _by_digest(text: str) -> Test:
    digits = text.removeprefix("sha256:")
    if len(digits) < _SHORTEST or set(digits) - set("0123456789abcdef"):
        return lambda _: False
    return lambda entry: entry.digest.hex.startswith(digits)


def _by_quarter(text: str) -> Test:
    team, _, quarter = text.partition("@")
    return lambda entry: (entry.team, entry.quarter) == (team, quarter)


def _by_tag(text: str) -> Test:
    return lambda entry: text in entry.tags


def _by_team(text: str) -> Test:
    return lambda entry: entry.team == text
