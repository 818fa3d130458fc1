"""A layer as a reader sees it that stops at the end of the first zstd frame or gzip member, as some do without an error.

Both formats say that what follows belongs to the content (RFC 8878 section 3.1, RFC 1952 section 2.2). Who reads on and who does not is in
docs/formats.md, "One frame or many".
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import zstandard

from imagebuild.check.finding import Finding
from imagebuild.check.verify.evidence import Evidence
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.tar.reading import iterate_entries
from imagebuild.oci.model import Descriptor
from imagebuild.oci.store import Store
from imagebuild.text import format_size

_ZSTD_PIECE = 1 << 10  # bytes; they unpack to 32 MiB at most (a block of 128 KiB takes four bytes)


def judge_first_frame(evidence: Evidence) -> Finding:
    """Whether such a reader gets all bytes of the added layers."""
    image = evidence.image
    size = entries = 0
    for descriptor in image.manifest.layers[evidence.common :]:
        found = read_first_frame(image.store, image.repository, descriptor)
        size, entries = size + found[0], entries + found[1]
    if size == evidence.facts.uncompressed:
        return Finding("passed", f"the first frame holds all {entries} entries")
    return Finding(
        "failed",
        f"a reader that stops at the first frame gets {entries} of {evidence.facts.entries} entries, and no error",
        (
            f"{format_size(size)} of {format_size(evidence.facts.uncompressed)}; such readers: docs/formats.md, One frame or many",
            "for them set single-stream = true in [layer] of team.toml, and build it again",
        ),
    )


def read_first_frame(store: Store, repository: str, descriptor: Descriptor) -> tuple[int, int]:
    """How many bytes the first frame of a layer unpacks to, and how many whole tar entries they are."""
    with store.open_blob(repository, descriptor) as stored:
        counted = _Counted(_open_first(stored, descriptor.compression))
        entries = _count_entries(io.BufferedReader(counted, CHUNK))
        if counted.failure is not None:
            raise IntegrityError(f"the layer {descriptor.digest} cannot be decompressed: {counted.failure}", "push the image again")
        while stored.read(CHUNK):  # the store verifies at the end of the blob
            pass
    return counted.size, entries


def _open_first(stored: BinaryIO, compression: str) -> Callable[[int], bytes]:
    """Gives up to so many next bytes of the first frame, and nothing at its end."""
    if compression == "none":
        return stored.read
    pieces = _decompress(stored) if compression == "zstd" else _inflate(stored)
    return lambda _: next(pieces, b"")


def _decompress(stored: BinaryIO) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor().decompressobj()
    while not decoder.eof and (data := stored.read(_ZSTD_PIECE)):
        if piece := decoder.decompress(data):
            yield piece


def _inflate(stored: BinaryIO) -> Iterator[bytes]:
    decoder, data = zlib.decompressobj(31), b""
    while not decoder.eof and (data := decoder.unconsumed_tail or stored.read(CHUNK)):
        if piece := decoder.decompress(data, CHUNK):
            yield piece


class _Counted(io.RawIOBase):
    """A file to read that knows how much it gave."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read, self._left, self.size = read, memoryview(b""), 0
        self.failure: Exception | None = None  # tarfile makes an end of the archive of some

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer; BufferedReader gives a memoryview
        try:
            data = self._left or memoryview(self._read(len(buffer)))
        except (zlib.error, zstandard.ZstdError) as error:
            self.failure, data = error, memoryview(b"")
        count = min(len(buffer), len(data))
        buffer[:count], self._left = data[:count], data[count:]
        self.size += count
        return count


def _count_entries(stream: io.BufferedReader) -> int:
    """Entries that are whole; then the rest is read too. What is cut off ends the count, as it does for such a reader."""
    count = 0
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in iterate_entries(archive):
            file = archive.extractfile(entry) if entry.isreg() else None
            while file is not None and file.read(CHUNK):
                pass
            count += 1
    while stream.read(CHUNK):
        pass
    return count
