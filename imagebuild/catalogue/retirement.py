"""Letting images go, in two steps: first the tag, days later the manifest and all that is about it.

Step one: a marker with the time is attached to the image as a referrer, the manifest gets the tag ``retired-TAG``, and ``TAG`` is taken
away. At every moment the manifest is there and has a tag: pulls by digest go on, and :func:`undo_retirement` brings the tag back. Step two,
after the days of grace: its referrers (lock, SBOM, signatures) and its attestations are deleted, then the manifest, so that a run that was
stopped is finished by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from imagebuild.catalogue.entries import CatalogueListing, read_catalogue
from imagebuild.catalogue.retention import RetirementPlan, find_attested, list_identities
from imagebuild.catalogue.usage import ImageUser, Usage, explain_users
from imagebuild.decoding import make_decoder
from imagebuild.errors import RemoteError, UsageError
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.model import Digest, Index, Manifest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers, read_artifact, referrers_tag
from imagebuild.oci.store import Store
from imagebuild.oci.tags import PLACEHOLDER, drop_tag, resolve_tag
from imagebuild.tagforms import parse_retired, retired_tag

MARKER_TYPE = "application/vnd.imagebuild.retired.v1+json"
_DEPTH = 3  # signatures of an SBOM of an image


class _Marker(msgspec.Struct, frozen=True):
    since: str  # RFC 3339, UTC


_MARKER = make_decoder(_Marker)


class RetiredImage(msgspec.Struct, frozen=True):
    """An image that waits for its removal. ``since``: None when no marker says it."""

    repository: str
    tag: str  # the one it had
    digest: Digest
    since: datetime | None
    alive: bool  # it has a tag again: built or brought back meanwhile
    identities: tuple[Digest, ...] = ()  # other digests that a node may know it by
    held_by: tuple[str, ...] = ()  # tags of foreign indexes that list it

    @property
    def team(self) -> str:
        """The repository's last part."""
        return self.repository.rpartition("/")[2]


class Removed(msgspec.Struct, frozen=True):
    """What was removed. ``freed``: bytes, in a layout folder; a registry's go with its garbage collection."""

    images: int
    manifests: int
    freed: int


# --- step one ------------------------------------------------------------------------------------------------------------


def retire_images(
    store: Store,
    plan: RetirementPlan,
    replan: Callable[[CatalogueListing], RetirementPlan],
    *,
    now: datetime,
    cache: Path | None,
    report: Callable[[str], None],
) -> int:
    """Take the tags of the plan's images away; how many. RemoteError, and nothing is changed, where nothing can be deleted.

    Each repository is read once more before anything in it is changed, and ``replan`` has to say the same of an image again: what
    was tagged or kept in between stays.
    """
    count = 0
    for repository in dict.fromkeys(entry.repository for entry in plan.goes):
        again = replan(read_catalogue(store, teams=[repository], cache=cache))
        still = {entry.digest for entry in again.goes}
        _require_deletion(store, repository)
        for entry in plan.goes:
            if entry.repository != repository:
                continue
            if entry.digest not in still:
                report(f"{entry.team}:{entry.tag} stays: it changed since the plan was made")
                continue
            raw = _read_manifest(store, repository, entry.digest)
            _mark(store, repository, raw, now)
            _move_tags(store, repository, raw, entry.tags, retired_tag(entry.tag))
            count += 1
            report(f"retired {entry.team}:{entry.tag}")
    return count


def undo_retirement(store: Store, retired: Sequence[RetiredImage], name: str) -> RetiredImage:
    """Bring the image back that had the tag ``name`` (``TAG``, ``TEAM:TAG`` or ``retired-TAG``).

    UsageError when no image had it, or images of several teams.
    """
    team, colon, tag = name.rpartition(":")
    tag = parse_retired(tag) or tag
    found = [item for item in retired if item.tag == tag and (not colon or item.team == team)]
    if not found:
        waiting = ", ".join(f"{item.team}:{item.tag}" for item in retired[:5]) or "none"
        raise UsageError(f"no retired image is called {name!r}", f"those that wait for their removal: {waiting}")
    if len(found) > 1:
        raise UsageError(f"{name!r} is retired in {' and '.join(item.team for item in found)}", "say whose: --undo TEAM:TAG")
    _restore(store, found[0])
    return found[0]


def _restore(store: Store, image: RetiredImage) -> None:
    raw = _read_manifest(store, image.repository, image.digest)
    _move_tags(store, image.repository, raw, (retired_tag(image.tag),), image.tag)


def _require_deletion(store: Store, repository: str) -> None:
    """Delete a placeholder that a stopped run left behind. Where there is none this asks whether anything can be deleted, before anything
    is changed."""
    store.delete_manifest(repository, PLACEHOLDER.digest)


def _mark(store: Store, repository: str, raw: RawManifest, now: datetime) -> None:
    data = msgspec.json.encode(_Marker(now.strftime("%Y-%m-%dT%H:%M:%SZ")))
    attach_artifacts(store, repository, raw.descriptor, [Artifact(MARKER_TYPE, MARKER_TYPE, data)])


def _read_manifest(store: Store, repository: str, digest: Digest) -> RawManifest:
    raw = store.get_manifest(repository, digest)
    if raw is None:
        raise RemoteError(f"{store.image_name(repository)}@{digest} was listed and no longer exists", "run the command again")
    return raw


def _move_tags(store: Store, repository: str, raw: RawManifest, old: Iterable[str], new: str) -> None:
    """Give a manifest the tag ``new``, then take ``old`` away. A registry that takes more away than it was asked to gets the manifest
    back: its blobs are there until the next garbage collection."""
    store.put_manifest(repository, raw, new)
    for tag in old:
        if tag != new:
            drop_tag(store, repository, tag)
            if resolve_tag(store, repository, new) is None:
                store.put_manifest(repository, raw, new)
    if resolve_tag(store, repository, new) != raw.digest:
        raise RemoteError(f"{store.image_name(repository)}:{new} was changed by another writer", "see what it names: imagebuild catalogue")


# --- step two ------------------------------------------------------------------------------------------------------------


def find_retired(store: Store, repositories: Iterable[str], listing: CatalogueListing) -> tuple[RetiredImage, ...]:
    """What waits for its removal in these repositories, sorted; ``listing`` is of them. RemoteError when the store cannot say."""
    live = {(entry.repository, entry.digest) for entry in listing.entries}
    found = []
    for repository in sorted(set(repositories)):
        for was in sorted({parse_retired(tag) for tag in store.list_tags(repository)} - {""}):
            digest = resolve_tag(store, repository, retired_tag(was))
            if digest is not None:
                image = RetiredImage(
                    repository,
                    was,
                    digest,
                    _read_since(store, repository, digest),
                    (repository, digest) in live,
                    tuple(list_identities(store, repository, digest, (was,))),
                    listing.indexed.get((repository, digest), ()),
                )
                found.append(image)
    return tuple(found)


def _read_since(store: Store, repository: str, digest: Digest) -> datetime | None:
    """The latest marker's time: an image may have been retired, brought back, and retired again."""
    times = []
    for referrer in list_referrers(store, repository, digest, MARKER_TYPE):
        artifact = read_artifact(store, repository, referrer, digest)
        try:
            times += [datetime.fromisoformat(_MARKER.decode(artifact[1]).since)] if artifact is not None else []
        except (msgspec.MsgspecError, ValueError):
            continue
    return max((item for item in times if item.tzinfo is not None), default=None)


def explain_wait(image: RetiredImage, usage: Usage, *, now: datetime, grace: timedelta) -> str:
    """Why a retired image is not removed yet; "" when it may be."""
    if image.alive:
        return "it has a tag again"
    if users := _find_users(image, usage):
        return f"{explain_users(users)}; it gets its tag back"
    if image.held_by:
        return f"listed by the index {', '.join(image.held_by)}"
    if image.since is None:
        return "the date when it was retired is not known"
    until = image.since + grace
    return f"until {until:%Y-%m-%d}" if now < until else ""


def _find_users(image: RetiredImage, usage: Usage) -> tuple[ImageUser, ...]:
    return usage.find_users((image.digest, *image.identities), (image.tag,))


def remove_retired(
    store: Store,
    images: Sequence[RetiredImage],
    usage: Usage,
    *,
    now: datetime,
    grace: timedelta,
    cache: Path | None,
    report: Callable[[str], None],
) -> Removed:
    """Remove those whose grace is over, with all that belongs to them alone. What is in use gets its tag back; what has a tag again only
    loses ``retired-TAG``; what nothing says the time of starts its grace now.

    Each repository is read once more before anything in it is changed. In a layout folder nothing else may write images meanwhile
    (:meth:`imagebuild.oci.layout.LayoutStore.sweep_blobs`).
    """
    count = manifests = 0
    unnamed: set[Digest] = set()
    for repository in dict.fromkeys(image.repository for image in images):
        again = find_retired(store, [repository], read_catalogue(store, teams=[repository], cache=cache))
        _require_deletion(store, repository)
        for image in (image for image in again if image in images):
            if image.alive:
                drop_tag(store, repository, retired_tag(image.tag))
            elif users := _find_users(image, usage):
                _restore(store, image)
                report(f"brought back {image.team}:{image.tag}: {explain_users(users)}")
            elif image.since is None:
                _mark(store, repository, _read_manifest(store, repository, image.digest), now)
            elif not explain_wait(image, usage, now=now, grace=grace):
                if resolve_tag(store, repository, image.tag) is not None:
                    continue  # built again a moment ago
                for digest in (*_list_companions(store, image), image.digest):
                    unnamed.update(_list_parts(store, repository, digest))
                    manifests += _delete(store, image, digest)
                count += 1
                report(f"removed {image.team}:{image.tag}")
    freed = store.sweep_blobs(sorted(unnamed))
    return Removed(count, manifests, freed)


def _delete(store: Store, image: RetiredImage, digest: Digest) -> bool:
    """Delete a manifest; where only those without a tag can be deleted (Google's, Docker Hub), the image's tag goes first."""
    try:
        return store.delete_manifest(image.repository, digest)
    except RegistryError as error:
        untagged_only = digest == image.digest and error.status in (400, 403, 409)
        if not untagged_only or not store.delete_tag(image.repository, retired_tag(image.tag)):
            raise
        return store.delete_manifest(image.repository, digest)


def _list_parts(store: Store, repository: str, digest: Digest) -> list[Digest]:
    """A manifest and the blobs it names, in a layout folder: what may have no name when it is gone."""
    raw = store.get_manifest(repository, digest) if not store.registry_host else None
    parsed = raw.parse() if raw is not None else None
    parts = [parsed.config.id, *(layer.id for layer in parsed.layers)] if isinstance(parsed, Manifest) else []
    return [digest, *parts] if raw is not None else []


def _list_companions(store: Store, image: RetiredImage) -> list[Digest]:
    """Manifests that are about this image alone, each once, in an order in which they can be removed."""
    markers = [item.descriptor.id for item in list_referrers(store, image.repository, image.digest, MARKER_TYPE)]
    found = [digest for digest in _list_about(store, image.repository, image.digest, _DEPTH) if digest not in markers]
    prefix = referrers_tag(image.digest)
    tags = [tag for tag in store.list_tags(image.repository) if tag == prefix or tag.startswith(f"{prefix}.")]
    found += [digest for tag in tags if (digest := resolve_tag(store, image.repository, tag)) is not None]
    for digest in find_attested(store, image.repository, (image.tag,)):
        raw = store.get_manifest(image.repository, digest)
        parsed = raw.parse() if raw is not None else None
        if isinstance(parsed, Index):  # docker's statements are manifests of no platform
            found += [item.id for item in parsed.manifests if (item.platform or {}).get("os") == "unknown" and item.id != image.digest]
        found.append(digest)
    # The time goes last: a run that is stopped leaves an image whose grace is over.
    return [digest for digest in dict.fromkeys([*found, *markers]) if digest != image.digest]


def _list_about(store: Store, repository: str, digest: Digest, depth: int) -> Iterator[Digest]:
    """The manifests that name ``digest`` as their subject, those about them first. The list is not believed: each is read."""
    for referrer in list_referrers(store, repository, digest) if depth else ():
        raw = store.get_manifest(repository, referrer.descriptor.id)
        manifest = raw.parse() if raw is not None else None
        if isinstance(manifest, Manifest) and manifest.subject is not None and manifest.subject.digest == digest:
            yield from _list_about(store, repository, referrer.descriptor.id, depth - 1)
            yield referrer.descriptor.id
