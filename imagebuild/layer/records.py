"""What layers came to that were made and checked before: a layer whose bytes the target has is not made again.

A record says size and digests of a layer, and is kept under the key of all that decides its bytes and the outcome of its check. It is
as much to be trusted as the members beside it in the cache. ``verify --rebuild`` and the twin's comparison read none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild.base.model import Base
from imagebuild.layer.model import LAYER_FORMAT, Codec, ExtraFile, Layer, Member
from imagebuild.layer.tar.frame import MEDIA_TYPES, describe_compressor
from imagebuild.oci.model import Descriptor, Digest
from imagebuild.sealed import SealedCache

RECORD_FORMAT = 1  # raise it whenever the checks of a layer, or what is kept, change

FindPresent = Callable[[Sequence[Descriptor]], frozenset[str]]  # the digests of those that the target has


class LayerRecord(msgspec.Struct, frozen=True):
    """A finished layer. ``size``: bytes as stored; ``uncompressed``: bytes of its tar."""

    digest: str
    size: int
    diff_id: str
    uncompressed: int
    check: str = ""
    annotations: dict[str, str] = {}  # of its descriptor


_RECORDS = SealedCache(LayerRecord)


class LayerRecords:
    """Those in one cache, of layers on one base without its files ``removed``. ``find_present`` looks where images are pushed to."""

    def __init__(self, cache: Path, base: Base, codec: Codec, mtime: int, find_present: FindPresent, removed: Iterable[str] = ()) -> None:
        self._folder = cache / "layers"
        self.codec = codec
        self._rules = {
            "record": RECORD_FORMAT,
            "layer": LAYER_FORMAT,
            "base": str(base.inventory.digest),
            "home": base.inventory.user.home,
            "codec": [msgspec.to_builtins(codec), describe_compressor(codec)],
            "mtime": mtime,
            "removed": sorted(removed),
        }
        self._find_present = find_present
        self._made: dict[str, Layer] = {}

    def compute_key(self, members: Iterable[Member], extra: Iterable[ExtraFile], replaceable: Iterable[str]) -> str:
        """In hex, of a layer that deletes nothing; ``replaceable``: files that the image may have in place of the base's."""
        content = {
            **self._rules,
            "members": sorted((member.package, member.sha256) for member in members),
            "extra": sorted((item.path, item.mode, hashlib.sha256(item.data).hexdigest()) for item in extra),
            "replaceable": sorted(replaceable),
        }
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()

    def find(self, keys: Iterable[str]) -> Mapping[str, LayerRecord]:
        """Of ``keys`` those of layers that the target has; all are asked for at once. An empty one is none."""
        known = {key: record for key in keys if key and (record := _RECORDS.read(self._folder / key)) is not None}
        if not known:
            return {}
        wanted = [Descriptor(MEDIA_TYPES[self.codec.name], Digest(item.digest), item.size) for item in known.values()]
        there = self._find_present(wanted)
        return {key: record for key, record in known.items() if record.digest in there}

    def note(self, key: str, layer: Layer) -> None:
        """A layer that was made just now, and is to be checked."""
        if key:
            self._made[key] = layer

    def keep(self) -> None:
        """Write down what was noted: all of it was checked."""
        for key, layer in self._made.items():
            record = LayerRecord(layer.digest, layer.size, layer.diff_id, layer.uncompressed, annotations=layer.annotations)
            _RECORDS.write(self._folder / key, record, doing="keeping what is known of a layer")
        self._made.clear()
