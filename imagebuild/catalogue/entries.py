"""Team images as they were pushed, one entry per image, from the manifests' annotations and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar, cast, get_args

import msgspec

from imagebuild import annotations as names
from imagebuild.catalogue.manifests import ManifestReader
from imagebuild.decoding import make_decoder
from imagebuild.errors import ConfigurationError, IntegrityError
from imagebuild.oci.model import Digest, Index, Manifest, RawManifest, Reference
from imagebuild.oci.store import Store
from imagebuild.oci.tags import PLACEHOLDER
from imagebuild.servers import Kind
from imagebuild.tagforms import is_companion, is_pinned_tag, name_kept, parse_retired

_NUMBER = make_decoder(int)
_PACKAGES = make_decoder(dict[str, str])
_OWNERS = make_decoder(tuple[str, ...])

Status = Literal["current", "kept", "previous", "retired"]
T = TypeVar("T")

_FORMAT = "1"
_WORKERS = 8  # a manifest is a few KiB: the wait is the round trip, not the bytes


class CatalogueEntry(msgspec.Struct, frozen=True):
    """One image in one team's repository. Sizes are bytes; texts that were not annotated are empty.

    ``status``: ``current`` is the newest image of its team, ``kept`` one with a name for good, ``previous`` the one before the
    current, ``retired`` every other: still there, and no form offers it.
    """

    team: str
    quarter: str  # 2026q4
    tag: str  # the one it was pushed under, where it still has it
    digest: Digest  # of the manifest
    created: str  # RFC 3339, as annotated: the lock's cutoff
    kind: Kind
    image: str  # the name to pull by, without tag and digest: host/repository, or oci:folder:repository
    repository: str
    current: bool  # the newest image of its team
    title: str = ""
    description: str = ""
    base: str = ""  # the catalogue's name for the base
    base_name: str = ""  # registry/repository[:tag]
    base_digest: str = ""
    port: int = 0  # 0: not annotated
    python: str = ""
    packages: dict[str, str] = {}  # what the team asked for -> the version it got
    owners: tuple[str, ...] = ()
    delta_compressed: int = 0  # the added layer as stored
    delta_installed: int = 0  # the files of that layer
    size: int = 0  # config and all layers as stored: what an empty node pulls
    status: Status = "retired"
    successor: str = ""  # the tag of the image of its team that came after it
    kept: tuple[str, ...] = ()  # the names it has for good (imagebuild keep)
    tags: tuple[str, ...] = ()  # all that name it, sorted
    held_by: tuple[str, ...] = ()  # tags of foreign indexes that list it

    @property
    def moment(self) -> datetime:
        """``created`` as a point in time."""
        return datetime.fromisoformat(self.created)


class CatalogueListing(msgspec.Struct, frozen=True):
    """What was found, sorted by team, newest first. ``foreign`` counts the tags that name no team image (not those that list
    what refers to one).

    ``undecided`` names the teams with two different images of the same cutoff and quarter, where only the order of the
    tags made one of them current. ``indexed``: (repository, digest) of what foreign indexes list -> their tags.
    """

    entries: tuple[CatalogueEntry, ...]
    foreign: int
    undecided: tuple[str, ...] = ()
    indexed: dict[tuple[str, str], tuple[str, ...]] = {}


class _Document(msgspec.Struct, frozen=True):
    """The JSON rendering."""

    format: int
    entries: tuple[CatalogueEntry, ...]
    foreign: int
    undecided: tuple[str, ...]


def read_catalogue(
    store: Store, prefix: str = "", teams: Sequence[str] | None = None, *, cache: Path | None = None, as_of: datetime | None = None
) -> CatalogueListing:
    """Read every tag of every repository under the namespace ``prefix`` (``""``: all of the store).

    ``teams`` names the teams' repositories, in full, instead: for registries that have no catalogue to list. One that
    was never pushed has no entries. A tag that cannot be read, and an image of ours that makes no sense, is an error:
    a listing is complete or it is not given. ``cache`` keeps manifests by digest between runs (ManifestReader); ``as_of``
    leaves out what came later, so that current and previous are those of that moment.
    """
    namespace = prefix.strip("/") + "/" if prefix.strip("/") else ""
    repositories = sorted(set(store.list_repositories(namespace) if teams is None else teams))
    with ManifestReader(store, cache) as reader, ThreadPoolExecutor(_WORKERS, thread_name_prefix="catalogue") as pool:
        try:
            tags = list(pool.map(lambda repository: sorted(set(store.list_tags(repository))), repositories))
            # Tags for what refers to an image (SBOM, lock, signatures) are its companions, and no images.
            # What is retired is no image any more: it waits for its removal under another tag.
            places = [
                (repo, tag)
                for repo, found in zip(repositories, tags, strict=True)
                for tag in found
                if not is_companion(tag, found) and not parse_retired(tag)
            ]
            manifests = list(pool.map(lambda place: reader.read(*place), places))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # the first failure decides; don't ask for the rest
            raise
    entries, foreign, indexed = _collect_entries(store, places, manifests)
    listing = _assemble_listing((entry for entry in entries if as_of is None or entry.moment <= as_of), foreign)
    return msgspec.structs.replace(listing, indexed=indexed)


def _collect_entries(
    store: Store, places: Sequence[tuple[str, str]], manifests: Sequence[RawManifest]
) -> tuple[list[CatalogueEntry], int, dict[tuple[str, str], tuple[str, ...]]]:
    """One entry per image with all its tags, how many tags are foreign, and what foreign indexes list."""
    tags: dict[tuple[str, Digest], list[str]] = defaultdict(list)
    raws: dict[tuple[str, Digest], RawManifest] = {}
    for (repository, tag), raw in zip(places, manifests, strict=True):
        if raw.digest == PLACEHOLDER.digest:
            continue
        tags[repository, raw.digest].append(tag)
        raws[repository, raw.digest] = raw
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    entries, foreign = [], 0
    for (repository, digest), raw in raws.items():
        named = tags[repository, digest]
        manifest = raw.parse()
        notes = manifest.annotations
        where = f"{store.image_name(repository)}:{named[0]}"
        if names.FORMAT not in notes or names.TEAM not in notes:  # a base we built carries no team
            foreign += len(named)
            for child in manifest.manifests if isinstance(manifest, Index) else ():
                holders[repository, child.digest] += named
            continue
        if notes[names.FORMAT] != _FORMAT:
            raise IntegrityError(
                f"{where} has format {notes[names.FORMAT]!r}", f"this version reads format {_FORMAT}; use a newer imagebuild"
            )
        if isinstance(manifest, Index):
            raise IntegrityError(f"{where} is an image index with a team's annotations", "team images are single manifests: push it again")
        pushed = notes.get(names.VERSION, "")
        first = pushed if pushed in named else next((tag for tag in named if not is_pinned_tag(tag)), named[0])
        entry = _describe_image(manifest, notes, where, store.image_name(repository), repository, first, digest)
        kept = tuple(sorted(name_kept(tag) for tag in named if is_pinned_tag(tag)))
        entries.append(msgspec.structs.replace(entry, kept=kept, tags=tuple(named)))
    indexed = {place: tuple(sorted(found)) for place, found in holders.items()}
    held = [msgspec.structs.replace(entry, held_by=indexed.get((entry.repository, entry.digest), ())) for entry in entries]
    return held, foreign, indexed


def encode_entries(listing: CatalogueListing) -> bytes:
    """The listing as JSON: ``{"format": 1, "foreign": N, "undecided": [...], "entries": [...]}`` and a line feed.

    An entry's keys are the fields of :class:`CatalogueEntry`, all of them, always. Keys are sorted and the entries are
    in the listing's order, so the same registry gives the same bytes.
    """
    document = _Document(1, listing.entries, listing.foreign, listing.undecided)
    return msgspec.json.format(msgspec.json.encode(document, order="sorted", enc_hook=str), indent=2) + b"\n"


def _assemble_listing(entries: Iterable[CatalogueEntry], foreign: int) -> CatalogueListing:
    """Order the entries, and say of each team's which is current and what came after the others."""
    by_team: dict[str, list[CatalogueEntry]] = defaultdict(list)
    for entry in entries:
        by_team[entry.team].append(entry)
    ordered: list[CatalogueEntry] = []
    undecided: list[str] = []
    for team in sorted(by_team):
        newest_first = sorted(by_team[team], key=lambda entry: (entry.moment, entry.quarter, entry.tag, entry.repository), reverse=True)
        first = newest_first[0]
        if any((other.moment, other.quarter) == (first.moment, first.quarter) and other.digest != first.digest for other in newest_first):
            undecided.append(team)
        order = list(dict.fromkeys(entry.digest for entry in newest_first))  # the same image may be in two repositories
        tags = {entry.digest: entry.tag for entry in reversed(newest_first)}
        for place, entry in enumerate(newest_first):
            age = order.index(entry.digest)
            status: Status = "current" if age == 0 else "kept" if entry.kept else "previous" if age == 1 else "retired"
            successor = tags[order[age - 1]] if age else ""
            ordered.append(msgspec.structs.replace(entry, current=place == 0, status=status, successor=successor))
    return CatalogueListing(tuple(ordered), foreign, tuple(undecided))


def _describe_image(
    manifest: Manifest, notes: dict[str, str], where: str, image: str, repository: str, tag: str, digest: Digest
) -> CatalogueEntry:
    """The entry that the annotations describe; what cannot be understood is an IntegrityError that names it."""

    def note(name: str, decode: Callable[[str], T], default: T | None = None) -> T:
        if name not in notes and default is not None:
            return default
        if name not in notes:
            raise IntegrityError(f"{where} has no annotation {name}", "push the image again")
        try:
            return decode(notes[name])
        except msgspec.MsgspecError:
            raise IntegrityError(f"{where}: annotation {name} is {notes[name][:60]!r}", "push the image again") from None

    kind = note(names.KIND, str)
    if kind not in get_args(Kind):
        raise IntegrityError(f"{where}: annotation {names.KIND} is {kind[:60]!r}", f"expected one of {', '.join(get_args(Kind))}")
    entry = CatalogueEntry(
        team=note(names.TEAM, str),
        quarter=note(names.QUARTER, str),
        tag=tag,
        digest=digest,
        created=note(names.CREATED, str),
        kind=cast(Kind, kind),
        image=image,
        repository=repository,
        current=False,
        title=note(names.TITLE, str, ""),
        description=note(names.DESCRIPTION, str, ""),
        base=note(names.BASE, str, ""),
        base_name=note(names.BASE_NAME, str, ""),
        base_digest=note(names.BASE_DIGEST, str, ""),
        port=note(names.PORT, _NUMBER.decode, 0),
        python=note(names.PYTHON, str, ""),
        packages={
            key: version
            for name in (names.PACKAGES, names.ADDONS)
            for key, version in sorted(note(name, _PACKAGES.decode, dict[str, str]()).items())
        },
        owners=note(names.OWNERS, _OWNERS.decode, ()),
        delta_compressed=note(names.DELTA_COMPRESSED, _NUMBER.decode, 0),
        delta_installed=note(names.DELTA_INSTALLED, _NUMBER.decode, 0),
        size=manifest.config.size + sum(layer.size for layer in manifest.layers),
    )
    try:
        zoned = entry.moment.tzinfo is not None
    except ValueError:
        zoned = False
    if not zoned:  # without an offset it is not a point in time, and cannot be compared
        raise IntegrityError(f"{where}: annotation {names.CREATED} is {entry.created[:60]!r}", "expected as in 2026-10-01T00:00:00Z")
    return entry


def find_reference(entry: CatalogueEntry, registry_prefix: str = "") -> Reference:
    """The name, tag and digest that a cluster can pull an entry by.

    An image in a layout folder has none of its own: ``registry_prefix`` (``HOST/NAMESPACE``) says where it will be. Of an image in a
    registry it stands in place of the host, before the repository's whole path, as for a mirror or a pull-through cache. Without either:
    ConfigurationError.
    """
    name = f"{registry_prefix.rstrip('/')}/{entry.repository}" if registry_prefix else entry.image
    try:
        reference = Reference.parse(name)
    except ConfigurationError:
        reference = None
    if reference is None or reference.tag or reference.digest or reference.name != name:
        raise ConfigurationError(
            f"{name} is not a name that a cluster can pull from",
            "give --registry HOST/NAMESPACE to read what is there, or --pull-from HOST/NAMESPACE for where it will be",
        )
    return msgspec.structs.replace(reference, tag=entry.tag, digest=entry.digest)
