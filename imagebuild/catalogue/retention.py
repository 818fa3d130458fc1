"""Which images may go, and letting them go. What is not known stays.

An image stays that is current, has a name for good or a foreign tag, is listed by a foreign index, is named in a cluster, or is
not old enough. With one that goes go its referrers (lock, SBOM, signatures) and its attestations: first those, then the image, so that
a run that was stopped is finished by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, read_catalogue
from imagebuild.catalogue.tags import ATTESTED, IMAGE_TAG, count_quarters, is_pinned_tag
from imagebuild.catalogue.usage import Usage
from imagebuild.errors import UsageError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, Index, Manifest
from imagebuild.oci.referrers import list_referrers, referrers_tag
from imagebuild.oci.store import Presence, Store, explain_unknown

_DEPTH = 3  # signatures of an SBOM of an image


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
    newest = {entry.team: (entry.moment, entry.quarter) for entry in listing.entries if entry.current}
    goes, stays = [], []
    for entry in listing.entries:
        quarter = count_quarters(entry.quarter)
        if quarter is not None and now - quarter <= older_than:
            continue
        reason = "its quarter is none" if quarter is None else _explain_stay(entry, usage)
        if not reason and newest.get(entry.team) == (entry.moment, entry.quarter):
            reason = "as new as the current image of its team"
        if not reason and any(digest in usage.digests for digest in _find_attested(store, entry)):
            reason = "in use with its attestations"
        if reason:
            stays.append(Stay(entry, reason))
        else:
            goes.append(entry)
    return RetirementPlan(tuple(goes), tuple(stays))


def _explain_stay(entry: CatalogueEntry, usage: Usage) -> str:
    foreign = [tag for tag in entry.tags if not is_pinned_tag(tag) and not IMAGE_TAG.fullmatch(tag)]
    if entry.status == "current":
        return "the current image of its team"
    if entry.kept:
        return f"kept as {', '.join(entry.kept)}"
    if usage.covers(entry):
        return "in use in a cluster"
    if entry.held_by:
        return f"listed by the index {', '.join(entry.held_by)}"
    return f"also tagged {', '.join(foreign)}" if foreign else ""


class Retired(msgspec.Struct, frozen=True):
    """What was removed. ``freed``: bytes, in a layout folder; a registry's go with its garbage collection."""

    images: int
    manifests: int
    freed: int


def retire_images(
    store: Store,
    plan: RetirementPlan,
    replan: Callable[[CatalogueListing], RetirementPlan],
    *,
    cache: Path | None,
    report: Callable[[str], None],
) -> Retired:
    """Carry the plan out. In a layout folder nothing else may write images meanwhile (:meth:`LayoutStore.sweep_blobs`).

    Each repository is read once more before anything in it is removed, and ``replan`` has to say the same of an image again: what
    was tagged or kept in between stays.
    """
    images = manifests = 0
    unnamed: set[Digest] = set()
    for repository in dict.fromkeys(entry.repository for entry in plan.goes):
        again = replan(read_catalogue(store, teams=[repository], cache=cache))
        still = {entry.digest for entry in again.goes}
        for entry in plan.goes:
            if entry.repository != repository:
                continue
            if entry.digest not in still:
                report(f"{entry.team}:{entry.tag} stays: it changed since the plan was made")
                continue
            for digest in (*_list_companions(store, entry), entry.digest):
                unnamed.update(_list_parts(store, repository, digest))
                manifests += store.delete_manifest(repository, digest)
            images += 1
            report(f"removed {entry.team}:{entry.tag}")
    freed = store.sweep_blobs(sorted(unnamed)) if isinstance(store, LayoutStore) else 0
    return Retired(images, manifests, freed)


def _list_parts(store: Store, repository: str, digest: Digest) -> list[Digest]:
    """A manifest and the blobs it names, in a layout folder: what may have no name when it is gone."""
    raw = store.get_manifest(repository, digest) if isinstance(store, LayoutStore) else None
    parsed = raw.parse() if raw is not None else None
    parts = [parsed.config.id, *(layer.id for layer in parsed.layers)] if isinstance(parsed, Manifest) else []
    return [digest, *parts] if raw is not None else []


def _list_companions(store: Store, entry: CatalogueEntry) -> list[Digest]:
    """Manifests that are about this image alone, each once, in an order in which they can be removed."""
    found: list[Digest] = list(_list_about(store, entry.repository, entry.digest, _DEPTH))
    prefix = referrers_tag(entry.digest)
    tags = [tag for tag in store.list_tags(entry.repository) if tag == prefix or tag.startswith(f"{prefix}.")]
    found += [digest for tag in tags if (digest := _resolve(store, entry.repository, tag)) is not None]
    for digest in _find_attested(store, entry):
        raw = store.get_manifest(entry.repository, digest)
        parsed = raw.parse() if raw is not None else None
        if isinstance(parsed, Index):  # docker's statements are manifests of no platform
            found += [item.id for item in parsed.manifests if (item.platform or {}).get("os") == "unknown" and item.id != entry.digest]
        found.append(digest)
    return [digest for digest in dict.fromkeys(found) if digest != entry.digest]


def _list_about(store: Store, repository: str, digest: Digest, depth: int) -> Iterator[Digest]:
    """The manifests that name ``digest`` as their subject, those about them first. The list is not believed: each is read."""
    for referrer in list_referrers(store, repository, digest) if depth else ():
        raw = store.get_manifest(repository, referrer.descriptor.id)
        manifest = raw.parse() if raw is not None else None
        if isinstance(manifest, Manifest) and manifest.subject is not None and manifest.subject.digest == digest:
            yield from _list_about(store, repository, referrer.descriptor.id, depth - 1)
            yield referrer.descriptor.id


def _find_attested(store: Store, entry: CatalogueEntry) -> list[Digest]:
    """The indexes that hold the image with docker's attestations."""
    tags = [f"{tag}{ATTESTED}" for tag in entry.tags if IMAGE_TAG.fullmatch(tag)]
    return [digest for tag in tags if (digest := _resolve(store, entry.repository, tag)) is not None]


def _resolve(store: Store, repository: str, tag: str) -> Digest | None:
    presence, descriptor = store.head_manifest(repository, tag)
    if presence is Presence.UNKNOWN:
        raise explain_unknown(store, f"{repository}:{tag}")
    return descriptor.id if descriptor is not None else None


def sum_layers(plan: RetirementPlan) -> int:
    """Bytes of the layers that only the images that go have been annotated with, as stored: about what a sweep frees."""
    return sum(entry.delta_compressed for entry in plan.goes)
