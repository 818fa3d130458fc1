"""Letting images go, in two steps: first the tag, days later the manifest and all that is about it.

Step one: a marker with the time is attached to the image as a referrer, the manifest gets the tag ``retired-TAG``, and ``TAG`` is taken
away. Nothing is lost: pulls by digest go on, and :func:`undo_retirement` brings the tag back. Step two, after the days of grace: its
referrers (lock, SBOM, signatures) and its attestations are deleted, then the manifest, so that a run that was stopped is finished by the
next.

Some registries can only delete a manifest with all its tags (distribution before version 3). There the manifest is deleted and put back
under the one tag it is to have; it lies in a file of this machine in between, and the next run puts back what a killed one left.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from imagebuild.catalogue.entries import CatalogueListing, read_catalogue
from imagebuild.catalogue.retention import RetirementPlan, find_attested, resolve_tag
from imagebuild.catalogue.tags import parse_retired, retired_tag
from imagebuild.catalogue.usage import Usage
from imagebuild.decoding import make_decoder
from imagebuild.errors import IntegrityError, RemoteError, UsageError
from imagebuild.files import write_atomic
from imagebuild.oci.model import Digest, Index, Manifest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers, read_artifact, referrers_tag
from imagebuild.oci.store import Store

MARKER_TYPE = "application/vnd.imagebuild.retired.v1+json"
_DEPTH = 3  # signatures of an SBOM of an image


class _Marker(msgspec.Struct, frozen=True):
    since: str  # RFC 3339, UTC


_MARKER = make_decoder(_Marker)


class _Interrupted(msgspec.Struct, frozen=True):
    """A manifest on its way from one tag to another, while its registry does not have it."""

    store: str
    repository: str
    media_type: str
    data: str  # base64
    tag: str  # the one it is to have


_INTERRUPTED = make_decoder(_Interrupted)


class RetiredImage(msgspec.Struct, frozen=True):
    """An image that waits for its removal. ``since``: None when no marker says it."""

    repository: str
    tag: str  # the one it had
    digest: Digest
    since: datetime | None
    alive: bool  # it has a tag again: built or brought back meanwhile

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
    journal: Path,
    cache: Path | None,
    report: Callable[[str], None],
) -> int:
    """Take the tags of the plan's images away; how many. ``journal``: a folder for manifests on their way.

    Each repository is read once more before anything in it is changed, and ``replan`` has to say the same of an image again: what
    was tagged or kept in between stays.
    """
    count = 0
    for repository in dict.fromkeys(entry.repository for entry in plan.goes):
        again = replan(read_catalogue(store, teams=[repository], cache=cache))
        still = {entry.digest for entry in again.goes}
        for entry in plan.goes:
            if entry.repository != repository:
                continue
            if entry.digest not in still:
                report(f"{entry.team}:{entry.tag} stays: it changed since the plan was made")
                continue
            raw = _read_manifest(store, repository, entry.digest)
            data = msgspec.json.encode(_Marker(now.strftime("%Y-%m-%dT%H:%M:%SZ")))
            attach_artifacts(store, repository, raw.descriptor, [Artifact(MARKER_TYPE, MARKER_TYPE, data)])
            _move_tags(store, repository, raw, entry.tags, retired_tag(entry.tag), journal)
            count += 1
            report(f"retired {entry.team}:{entry.tag}")
    return count


def undo_retirement(store: Store, retired: Sequence[RetiredImage], name: str, *, journal: Path) -> RetiredImage:
    """Bring the image back that had the tag ``name`` (``TAG``, ``TEAM:TAG`` or ``retired-TAG``). UsageError: none, or several teams'."""
    team, colon, tag = name.rpartition(":")
    tag = parse_retired(tag) or tag
    found = [item for item in retired if item.tag == tag and (not colon or item.team == team)]
    if not found:
        waiting = ", ".join(f"{item.team}:{item.tag}" for item in retired[:5]) or "none"
        raise UsageError(f"no retired image is called {name!r}", f"those that wait for their removal: {waiting}")
    if len(found) > 1:
        raise UsageError(f"{name!r} is retired in {' and '.join(item.team for item in found)}", "say whose: --undo TEAM:TAG")
    image = found[0]
    raw = _read_manifest(store, image.repository, image.digest)
    _move_tags(store, image.repository, raw, (retired_tag(image.tag),), image.tag, journal)
    return image


def _read_manifest(store: Store, repository: str, digest: Digest) -> RawManifest:
    raw = store.get_manifest(repository, digest)
    if raw is None:
        raise RemoteError(f"{store.image_name(repository)}@{digest} was listed, and is gone", "run the command again")
    return raw


def _move_tags(store: Store, repository: str, raw: RawManifest, old: Iterable[str], new: str, journal: Path) -> None:
    """Give a manifest the tag ``new`` and take ``old`` away, so that it has one of them at every moment that a store allows."""
    store.put_manifest(repository, raw, new)
    if not all(store.delete_tag(repository, tag) for tag in old if tag != new):
        note = journal / f"{raw.digest.hex}.json"
        journal.mkdir(parents=True, exist_ok=True)
        content = _Interrupted(store.label, repository, raw.media_type, base64.b64encode(raw.data).decode(), new)
        write_atomic(note, msgspec.json.encode(content))
        try:
            store.delete_manifest(repository, raw.digest)
        except RemoteError:
            if resolve_tag(store, repository, new) == raw.digest:  # nothing can be deleted here, and nothing was
                note.unlink()
            raise
        store.put_manifest(repository, raw, new)
        note.unlink()
    if resolve_tag(store, repository, new) != raw.digest:
        raise RemoteError(f"{store.image_name(repository)}:{new} was changed by another writer", "see what it names: imagebuild catalogue")


def restore_interrupted(store: Store, journal: Path, report: Callable[[str], None]) -> None:
    """Put back the manifests that a killed run had deleted on their way to another tag."""
    for note in sorted(journal.glob("*.json")):
        try:
            content = _INTERRUPTED.decode(note.read_bytes())
            raw = RawManifest(base64.b64decode(content.data), content.media_type)
        except (msgspec.MsgspecError, ValueError):
            raise IntegrityError(
                f"{note} is damaged: a manifest was on its way there", "push the image again: imagebuild image TEAM"
            ) from None
        if content.store != store.label:
            continue
        store.put_manifest(content.repository, raw, content.tag)
        note.unlink()
        report(f"put back {content.repository}:{content.tag}, which an earlier run had on its way")


# --- step two ------------------------------------------------------------------------------------------------------------


def find_retired(store: Store, repositories: Iterable[str], listing: CatalogueListing) -> tuple[RetiredImage, ...]:
    """What waits for its removal in these repositories, sorted. RemoteError when the store cannot say."""
    live = {(entry.repository, entry.digest) for entry in listing.entries}
    found = []
    for repository in sorted(set(repositories)):
        for tag in sorted(set(store.list_tags(repository))):
            digest = resolve_tag(store, repository, tag) if parse_retired(tag) else None
            if digest is not None:
                since = _read_since(store, repository, digest)
                found.append(RetiredImage(repository, parse_retired(tag), digest, since, (repository, digest) in live))
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
    user = usage.find_user_of(image.team, image.digest, (image.tag, retired_tag(image.tag)))
    if user:
        return f"in use in a cluster: {user}; bring it back: imagebuild retire --undo {image.team}:{image.tag}"
    if image.since is None:
        return "nothing says since when"
    until = image.since + grace
    return f"until {until:%Y-%m-%d}" if now < until else ""


def remove_retired(
    store: Store, images: Sequence[RetiredImage], usage: Usage, *, now: datetime, grace: timedelta, report: Callable[[str], None]
) -> Removed:
    """Remove those whose grace is over, with all that belongs to them alone. What has a tag again only loses ``retired-TAG``, where a tag
    can be taken away by itself; what nothing says the time of starts its grace now.

    In a layout folder nothing else may write images meanwhile (:meth:`imagebuild.oci.layout.LayoutStore.sweep_blobs`).
    """
    count = manifests = 0
    unnamed: set[Digest] = set()
    for image in images:
        if image.alive:
            store.delete_tag(image.repository, retired_tag(image.tag))
        elif image.since is None:
            raw = _read_manifest(store, image.repository, image.digest)
            data = msgspec.json.encode(_Marker(now.strftime("%Y-%m-%dT%H:%M:%SZ")))
            attach_artifacts(store, image.repository, raw.descriptor, [Artifact(MARKER_TYPE, MARKER_TYPE, data)])
        if explain_wait(image, usage, now=now, grace=grace):
            continue
        for digest in (*_list_companions(store, image), image.digest):
            unnamed.update(_list_parts(store, image.repository, digest))
            manifests += store.delete_manifest(image.repository, digest)
        count += 1
        report(f"removed {image.team}:{image.tag}")
    freed = store.sweep_blobs(sorted(unnamed))
    return Removed(count, manifests, freed)


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
