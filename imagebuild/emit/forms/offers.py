"""What every spawner form is made of: which images are offered, under which names, and what to warn of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, find_reference
from imagebuild.emit.forms.wording import clip
from imagebuild.errors import UsageError
from imagebuild.oci.model import Reference
from imagebuild.tagforms import kept_tag
from imagebuild.text import suggest

Standing = Literal["current", "kept", "previous", "retired"]


class SpawnerForm(msgspec.Struct, frozen=True):
    """The YAML text, and what the reader of the command's output should know; the text says it too, in comments."""

    text: str
    warnings: tuple[str, ...]


class Offer(msgspec.Struct, frozen=True):
    """One image, as a form names it."""

    entry: CatalogueEntry
    reference: Reference  # readable tag and digest; of an image kept under a name, that tag
    standing: Standing

    @property
    def title(self) -> str:
        """What a person chooses by: the team's title, the quarter, and the name it is kept under."""
        what = f"{self.entry.quarter}, {', '.join(self.entry.kept)}" if self.entry.kept else self.entry.quarter
        return f"{clip(self.entry.title, 80) or self.entry.team} ({clip(what, 40)})"

    @property
    def is_offered(self) -> bool:
        """Whether somebody who starts afresh is to see it."""
        return self.standing in ("current", "kept")


def list_offers(entries: Sequence[CatalogueEntry], registry_prefix: str = "", teams: Sequence[str] = ()) -> list[Offer]:
    """Each image once: by team, the newest first. ``teams``: of those alone.

    No current image at all, and a team without one, are a UsageError; an image without a name to pull by a
    ConfigurationError (see ``registry_prefix`` in :func:`find_reference`).
    """
    known = sorted({entry.team for entry in entries if entry.current})
    if not known:
        raise UsageError("there is no team image to offer in a form", "run imagebuild image TEAM first")
    for team in teams:
        if team not in known:
            raise UsageError(f"team {team!r} has no pushed image", suggest(team, known))
    ordered = sorted(entries, key=lambda entry: (entry.moment, entry.quarter, entry.tag), reverse=True)
    ordered.sort(key=lambda entry: (entry.team, not entry.current))
    offers: dict[tuple[str, str], Offer] = {}
    for entry in ordered:
        if not teams or entry.team in teams:
            offers.setdefault((entry.team, str(entry.digest)), _make_offer(entry, registry_prefix))
    return list(offers.values())


def _make_offer(entry: CatalogueEntry, registry_prefix: str) -> Offer:
    reference = find_reference(entry, registry_prefix)
    standing: Standing = "current" if entry.current else "kept" if entry.kept else entry.status
    if standing == "kept":
        reference = msgspec.structs.replace(reference, tag=kept_tag(entry.kept[0]))
    return Offer(entry, reference, standing)


def find_successor(offer: Offer, offers: Sequence[Offer]) -> Offer | None:
    """The next newer image of the team that is no longer offered or is current: where a redirect goes. None for the current."""
    own = [other for other in offers if other.entry.team == offer.entry.team]
    newer = own[: own.index(offer)]
    return next((other for other in reversed(newer) if other.standing != "kept"), None)
