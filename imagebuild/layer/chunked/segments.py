"""A tar taken apart: the raw bytes between contents, and each file's content, in order; nothing is left out."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import BinaryIO, cast

import msgspec

from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.tar.reading import ForwardFile, RawTarInfo, iterate_entries

_LARGEST_END = 1 << 20  # bytes after the last entry


class TarSegment(msgspec.Struct, frozen=True):
    """An entry, or the archive's end (``entry`` is None). ``content`` is to be read before the next one is asked for."""

    entry: tarfile.TarInfo | None
    name: str  # as written: a folder's trailing slash stays
    raw: bytes  # since the last content: its padding, headers of this entry
    start: int  # offset of the content in the tar
    size: int  # bytes of content
    content: Iterable[bytes]


class _Recorder(ForwardFile):
    """Keeps what tarfile reads or passes over; contents are read past it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__(chunks, lambda _: None)
        self.raw = bytearray()

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self.raw += data
        return data

    def seek(self, position: int) -> None:
        if position < self.tell():
            raise tarfile.StreamError("seeking backwards")
        while (left := position - self.tell()) and self.read(min(left, CHUNK)):
            pass

    def take_raw(self) -> bytes:
        """What was kept since the last time."""
        taken = bytes(self.raw)
        self.raw.clear()
        return taken

    def read_content(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes."""
        while size:
            piece = super().read(min(size, CHUNK))
            if not piece:
                raise tarfile.ReadError("unexpected end of data")
            size -= len(piece)
            yield piece


def split_tar(chunks: Iterator[bytes]) -> Iterator[TarSegment]:
    """The segments of a tar. IntegrityError or tarfile's own errors for what no layer has."""
    file = _Recorder(chunks)
    with closing(tarfile.open(fileobj=cast(BinaryIO, file), mode="r:", tarinfo=RawTarInfo)) as archive:
        for entry in iterate_entries(archive):
            assert isinstance(entry, RawTarInfo)
            if archive.pax_headers or entry.issparse():
                raise IntegrityError(f"the layer has an entry {entry.name!r} that zstd:chunked cannot say", "leave [layer] format out")
            size = entry.size if entry.isreg() else 0
            yield TarSegment(entry, _name_entry(entry), file.take_raw(), file.tell(), size, file.read_content(size))
        while file.read(CHUNK):
            if len(file.raw) > _LARGEST_END:
                raise IntegrityError("there are bytes after the end of the archive", "do not trust its source")
    yield TarSegment(None, "", file.take_raw(), file.tell(), 0, ())


def _name_entry(entry: RawTarInfo) -> str:
    if "path" in entry.pax_headers:
        return entry.pax_headers["path"]
    return entry.name + "/" if entry.isdir() and entry.raw_name.endswith(b"/") else entry.name
