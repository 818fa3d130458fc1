"""Which layers team images have: from their manifests, and unpacked sizes from what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from imagebuild import annotations as names
from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.decoding import make_decoder
from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.model import Descriptor, Manifest
from imagebuild.oci.store import Store

_WORKERS = 8


class _LayerFact(msgspec.Struct, frozen=True):
    digest: str
    uncompressed: int


class _InventoryFile(msgspec.Struct, frozen=True):
    """What matters here of ``lockfiles/bases/NAME.json``."""

    layers: tuple[_LayerFact, ...] = ()


_INVENTORY = make_decoder(_InventoryFile)


def read_layers(store: Store, entries: Sequence[CatalogueEntry]) -> dict[str, tuple[Descriptor, ...]]:
    """Digest of an entry -> its layers, lowest first; an image that is gone is a RemoteError that names it."""

    def read(entry: CatalogueEntry) -> tuple[Descriptor, ...]:
        where = f"{store.image_name(entry.repository)}@{entry.digest}"
        raw = store.get_manifest(entry.repository, entry.digest)
        if raw is None:
            raise RemoteError(f"{where} is gone", "push it again, then run this again")
        manifest = raw.parse()
        if not isinstance(manifest, Manifest):
            raise IntegrityError(f"{where} is not a single image", "push it again")
        return manifest.layers

    wanted = list({str(entry.digest): entry for entry in entries}.values())
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="layers") as pool:
        return {str(entry.digest): layers for entry, layers in zip(wanted, pool.map(read, wanted), strict=True)}


def read_unpacked_sizes(folder: Path) -> dict[str, int]:
    """Layer digest -> bytes of its tar, of every base whose inventory is committed in ``folder`` (lockfiles/bases)."""
    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            found = _INVENTORY.decode(path.read_bytes())
        except (OSError, msgspec.MsgspecError):
            continue  # an inventory that cannot be read only makes a size an estimate, and that is said
        sizes.update({layer.digest: layer.uncompressed for layer in found.layers})
    return sizes


def list_unpacked_sizes(entry: CatalogueEntry, layers: Sequence[Descriptor]) -> dict[str, int]:
    """Layer digest -> bytes of its files, of the team's own layers: as noted at each, else at the image where it has one."""
    noted = {item.digest: item.annotations.get(names.DELTA_INSTALLED, "") for item in layers}
    found = {digest: int(text) for digest, text in noted.items() if text.isascii() and text.isdecimal() and len(text) < 20}
    if layers and entry.delta_installed:
        found.setdefault(layers[-1].digest, entry.delta_installed)
    return found


def find_predecessors(entries: Iterable[CatalogueEntry], current: Mapping[str, CatalogueEntry]) -> dict[str, CatalogueEntry]:
    """Team -> its newest image of a quarter before that of its current one."""
    found: dict[str, CatalogueEntry] = {}
    for entry in entries:
        now = current.get(entry.team)
        if now is None or entry.quarter >= now.quarter:
            continue
        best = found.get(entry.team)
        if best is None or (entry.quarter, entry.moment, entry.tag) > (best.quarter, best.moment, best.tag):
            found[entry.team] = entry
    return found
