"""The layers that an image has above its base, read once as they stream in: which files, and what each takes in the registry.

A file's stored bytes are what the decompressor took in while the file's entry came out: exact to a few KiB, whoever wrote the
layer. Of what a higher layer replaces or deletes only the bytes are counted.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from typing import Any, BinaryIO

import msgspec
import zstandard
from isal import isal_zlib

from imagebuild.base.archive import LayerArchive
from imagebuild.base.tree import decode_path
from imagebuild.errors import ImagebuildError, IntegrityError
from imagebuild.layer.dpkg import STATUS, is_dpkg_list
from imagebuild.layer.tar.flow import open_chunks, read_ahead
from imagebuild.oci.model import Descriptor
from imagebuild.oci.store import Store
from imagebuild.progress import step
from imagebuild.text import format_size
from imagebuild.wheel.installed import NO_SITES, is_metadata, is_record

# Stored bytes decompressed at a time: how finely they are told apart, and a bound on what a hostile layer unpacks to at once
# (gzip gives at most 1032 bytes for one, zstd 128 KiB for a block of four).
_PIECES = {"gzip": 16 << 10, "zstd": 1 << 10, "none": 1 << 20}
_TEXT_LIMIT = 64 << 20
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


class ScannedFile(msgspec.Struct):
    """One regular file. Hard links and symbolic ones take no bytes of their own."""

    path: str
    size: int
    stored: float
    sha256: str = ""


class Scan(msgspec.Struct):
    """The final view over all layers read, and the texts that say which package a file is of."""

    files: dict[str, ScannedFile] = {}
    texts: dict[str, str] = {}
    hidden: int = 0
    fetched: int = 0
    sites: Set[str] = NO_SITES  # where distributions count

    def hide(self, path: str, *, below: bool, itself: bool = True) -> None:
        """What a whiteout, or another entry at ``path``, does to lower layers; ``below``: a folder's contents too."""
        inside = f"{path}/"
        found = [name for name in self.files if name.startswith(inside)] if below else []
        for name in [*found, path] if itself and path in self.files else found:
            gone = self.files.pop(name)
            self.texts.pop(name, None)
            self.hidden += gone.size


def wants_text(path: str, sites: Set[str]) -> bool:
    """Files that say which package others are of, and what packages need."""
    if is_record(path, sites) or is_metadata(path, sites) or path == STATUS or is_dpkg_list(path):
        return True
    return "/conda-meta/" in path and path.endswith(".json")


def scan_layers(
    store: Store,
    repository: str,
    layers: Sequence[Descriptor],
    *,
    sizes: Collection[int] = frozenset(),
    sites: Set[str] = NO_SITES,
    report: Callable[[str], object] = str,
) -> Scan:
    """Read ``layers``, lowest first. ``sizes``: files of these sizes are hashed (empty: none). IntegrityError for damaged ones."""
    scan = Scan({}, {}, sites=sites)
    for number, layer in enumerate(layers, 1):
        line = f"reading layer {number} of {len(layers)} above the base ({format_size(layer.size)})"
        try:
            with step(line, layer.size, report=report), store.open_blob(repository, layer) as stream:
                _scan_layer(scan, stream, layer.compression, sizes)
        except IntegrityError as error:
            raise IntegrityError(error.message.replace("a layer of the base", f"layer {layer.digest}"), "push the image again") from None
        scan.fetched += layer.size
    return scan


class _Gauge:
    """Decompresses in small pieces, and remembers how many stored bytes gave how many plain ones."""

    def __init__(self, compression: str) -> None:
        self._compression = compression
        self._plain, self._stored = [0], [0]

    def decompress(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        decoder, step = _open_decoder(self._compression), _PIECES[self._compression]
        for chunk in chunks:
            for start in range(0, len(chunk), step):
                piece = chunk[start : start + step]
                try:
                    data, decoder = _feed(decoder, piece, self._compression)
                except ImagebuildError:
                    raise
                except Exception as error:  # zstandard's and isal's errors have no common base
                    raise IntegrityError(f"a layer of the base cannot be decompressed: {error}", "push it again") from None
                self._plain.append(self._plain[-1] + len(data))
                self._stored.append(self._stored[-1] + len(piece))
                if data:
                    yield data

    def stored_at(self, plain: int) -> float:
        """Stored bytes that were taken in when ``plain`` had come out; between two pieces on a straight line."""
        index = bisect.bisect_left(self._plain, plain)
        if index >= len(self._plain):
            return self._stored[-1]
        if self._plain[index] == plain or index == 0:
            return self._stored[index]
        low, high = self._plain[index - 1], self._plain[index]
        below, above = self._stored[index - 1], self._stored[index]
        return below + (above - below) * (plain - low) / (high - low)


def _open_decoder(compression: str) -> Any:
    if compression == "gzip":
        return isal_zlib.decompressobj(wbits=31)
    if compression == "zstd":
        return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
    return None


def _feed(decoder: Any, piece: bytes, compression: str) -> tuple[bytes, Any]:
    """What comes out for ``piece``, and the decoder for the next one: gzip members follow one another (RFC 1952, 2.2)."""
    if decoder is None:
        return piece, None
    if compression == "zstd":
        return decoder.decompress(piece), decoder
    out = []
    while piece:
        if decoder.eof:
            decoder = _open_decoder(compression)
        out.append(decoder.decompress(piece))
        piece = decoder.unused_data if decoder.eof else b""
    return b"".join(out), decoder


def _scan_layer(scan: Scan, stream: BinaryIO, compression: str, sizes: Collection[int]) -> None:
    gauge = _Gauge(compression)
    own: dict[str, ScannedFile] = {}
    ends: list[tuple[ScannedFile, int, int]] = []  # with header: where it begins and ends in the tar
    below = {path[:end] for path in scan.files for end in _slashes(path)}
    end = 0
    with read_ahead(stream) as chunks:
        archive = LayerArchive(open_chunks(gauge.decompress(chunks)))
        for header in archive.entries():
            start, end = end, archive.position + header.stored + -header.stored % 512
            path = decode_path(header.path)
            folder, _, name = path.rpartition("/")
            if name == _OPAQUE:
                scan.hide(folder, below=True, itself=False)
                continue
            if name.startswith(_WHITEOUT):
                scan.hide(f"{folder}/{name.removeprefix(_WHITEOUT)}", below=True)
                continue
            if header.kind != "dir" and (path in scan.files or path in below):
                scan.hide(path, below=path in below)
            if header.kind != "file":
                continue
            file = ScannedFile(path, header.size, 0.0)
            keep = wants_text(path, scan.sites) and header.stored <= _TEXT_LIMIT
            digest = hashlib.sha256() if header.size in sizes else None
            pieces: list[bytes] = []
            for piece in archive.content() if keep or digest is not None else ():
                if digest is not None:
                    digest.update(piece)
                if keep:
                    pieces.append(bytes(piece))
            if keep:
                scan.texts[path] = b"".join(pieces).decode("utf-8", "replace")
            if digest is not None:
                file.sha256 = digest.hexdigest()
            own[path] = file
            ends.append((file, start, end))
        archive.drain()
    for file, start, stop in ends:
        file.stored = gauge.stored_at(stop) - gauge.stored_at(start)
    scan.files.update(own)


def _slashes(path: str) -> Iterator[int]:
    position = path.find("/", 1)
    while position > 0:
        yield position
        position = path.find("/", position + 1)
