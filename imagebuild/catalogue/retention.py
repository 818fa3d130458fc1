"""Which images may go. What is not known stays.

An image stays that is current, has a name for good or a foreign tag, is listed by a foreign index, is named in a cluster, or is
not old enough. What is done with those that go is in :mod:`imagebuild.catalogue.retirement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.catalogue.usage import Usage, explain_users
from imagebuild.errors import UsageError
from imagebuild.oci.model import Digest, Manifest
from imagebuild.oci.store import Store
from imagebuild.oci.tags import resolve_tag
from imagebuild.tagforms import ATTESTED, IMAGE_TAG, count_quarters, is_pinned_tag

OLDER_THAN = 4  # quarters: what the command takes when nothing is said


class Stay(msgspec.Struct, frozen=True):
    """An image that is old enough, and why it stays."""

    entry: CatalogueEntry
    reason: str


class RetirementPlan(msgspec.Struct, frozen=True):
    """``goes``: the images to remove. ``stays``: those of the same age that may not."""

    goes: tuple[CatalogueEntry, ...]
    stays: tuple[Stay, ...]


def plan_retirement(store: Store, listing: CatalogueListing, usage: Usage, *, today: str, older_than: int) -> RetirementPlan:
    """Images whose quarter is more than ``older_than`` quarters before ``today`` (``2026q4``).

    RemoteError when the store cannot say what belongs to an image.
    """
    now = count_quarters(today)
    if now is None or older_than < 1:
        raise UsageError(f"cannot count {older_than} quarters from {today!r}", "write --older-than 4q")
    goes, stays = [], []
    for entry, known in _judge_old(listing, usage, now, older_than):
        reason = known
        if not reason:
            users = usage.find_users(list_identities(store, entry.repository, entry.digest, entry.tags), ())
            reason = explain_users(users) if users else ""
        if reason:
            stays.append(Stay(entry, reason))
        else:
            goes.append(entry)
    return RetirementPlan(tuple(goes), tuple(stays))


def list_candidates(listing: CatalogueListing, today: str, older_than: int) -> list[CatalogueEntry]:
    """The images that would go if no cluster used them, without asking the registry; none where ``today`` is not a quarter."""
    now = count_quarters(today)
    return [entry for entry, reason in _judge_old(listing, Usage(), now, older_than) if not reason] if now is not None else []


def _judge_old(listing: CatalogueListing, usage: Usage, now: int, older_than: int) -> Iterator[tuple[CatalogueEntry, str]]:
    """The images that are old enough, or of no quarter, and why each stays as far as the listing and ``usage`` tell; "" if nothing does."""
    newest = {entry.team: (entry.moment, entry.quarter) for entry in listing.entries if entry.current}
    for entry in listing.entries:
        quarter = count_quarters(entry.quarter)
        if quarter is not None and now - quarter <= older_than:
            continue
        reason = "its quarter is not valid" if quarter is None else _explain_stay(entry, usage)
        if not reason and newest.get(entry.team) == (entry.moment, entry.quarter):
            reason = "as new as the current image of its team"
        yield entry, reason


def _explain_stay(entry: CatalogueEntry, usage: Usage) -> str:
    foreign = [tag for tag in entry.tags if not is_pinned_tag(tag) and not IMAGE_TAG.fullmatch(tag)]
    if entry.status == "current":
        return "the current image of its team"
    if entry.kept:
        return f"kept as {', '.join(entry.kept)}"
    if users := usage.find_users([entry.digest], entry.tags):
        return explain_users(users)
    if entry.held_by:
        return f"listed by the index {', '.join(entry.held_by)}"
    return f"also tagged {', '.join(foreign)}" if foreign else ""


def list_identities(store: Store, repository: str, digest: Digest, tags: Iterable[str]) -> list[Digest]:
    """What a node may know an image by besides its digest: its config's (the image id), and that of the index with its attestations."""
    raw = store.get_manifest(repository, digest)
    manifest = raw.parse() if raw is not None else None
    return [*find_attested(store, repository, tags), *([manifest.config.id] if isinstance(manifest, Manifest) else [])]


def find_attested(store: Store, repository: str, tags: Iterable[str]) -> list[Digest]:
    """The indexes that hold the image of these tags with docker's attestations."""
    wanted = [f"{tag}{ATTESTED}" for tag in tags if IMAGE_TAG.fullmatch(tag)]
    return [digest for tag in wanted if (digest := resolve_tag(store, repository, tag)) is not None]


def sum_layers(plan: RetirementPlan) -> int:
    """Bytes of the layers that only the images that go have been annotated with, as stored: about what a sweep frees."""
    return sum(entry.delta_compressed for entry in plan.goes)
