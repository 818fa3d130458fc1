"""Whether all that the images of the catalogue are made of is still in the registry."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from imagebuild import annotations as names
from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.oci.model import Digest, Manifest
from imagebuild.oci.store import Store

_WORKERS = 8


class MissingPart(msgspec.Struct, frozen=True):
    """A part of an image that is not there."""

    repository: str
    tag: str
    part: str  # "manifest", "config", "layer 2 of 3"
    digest: str


class PresenceReport(msgspec.Struct, frozen=True):
    """What was asked for, and what is lacking. ``elsewhere`` counts base layers that a sparse layout folder left in the
    base's own registry: nobody asked for them here."""

    images: int
    parts: int
    missing: tuple[MissingPart, ...]
    elsewhere: int


class _Part(msgspec.Struct, frozen=True):
    entry: CatalogueEntry
    name: str
    digest: str
    of_base: bool = False


def check_presence(store: Store, entries: Sequence[CatalogueEntry]) -> PresenceReport:
    """Read every image's manifest by digest, and ask for its config and each layer, once per repository.

    An answer that is neither yes nor no is a RemoteError: unknown is never taken for absent, nor for present.
    """
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="presence") as pool:
        try:
            manifests = list(pool.map(lambda entry: store.get_manifest(entry.repository, entry.digest), entries))
            parts: list[_Part] = []
            missing: list[MissingPart] = []
            for entry, raw in zip(entries, manifests, strict=True):
                if raw is None:
                    missing.append(MissingPart(entry.repository, entry.tag, "manifest", entry.digest))
                    continue
                manifest = raw.parse()
                assert isinstance(manifest, Manifest)  # an entry is never an index
                count = len(manifest.layers)
                base = count - names.count_team_layers(manifest.annotations, count)
                parts.append(_Part(entry, "config", manifest.config.digest))
                parts += [
                    _Part(entry, f"layer {number} of {count}", layer.digest, number <= base)
                    for number, layer in enumerate(manifest.layers, 1)
                ]
            places = list(dict.fromkeys((part.entry.repository, part.digest) for part in parts))
            answers = dict(zip(places, pool.map(lambda place: _ask(store, *place), places), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    elsewhere = 0
    for part in parts:
        entry = part.entry
        if answers[entry.repository, part.digest]:
            continue
        if part.of_base and not store.registry_host:
            elsewhere += 1
        else:
            missing.append(MissingPart(entry.repository, entry.tag, part.name, part.digest))
    return PresenceReport(len(entries), len(entries) + len(places), tuple(missing), elsewhere)


def _ask(store: Store, repository: str, digest: str) -> bool:
    return store.has_blob(repository, Digest(digest))
