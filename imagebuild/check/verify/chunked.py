"""Whether a zstd:chunked layer's table of contents says what its tar says: a reader that fetches by it must get the tree that others get.

Table and tar-split are made anew of the layer's own bytes while these go by, and compared: entries, digests, and where each file's frames
begin and end in the stored layer.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, cast

import msgspec
import zstandard

from imagebuild.check.finding import Finding, judge_culprits
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.chunked.contents import Contents
from imagebuild.layer.chunked.frames import CHECKSUM, ESTARGZ, FOOTER, POSITION, TARSPLIT_POSITION, encode_footer
from imagebuild.layer.chunked.framescan import FrameScanner
from imagebuild.layer.chunked.tarsplit import hash_lines
from imagebuild.layer.chunked.toc import LARGEST, Toc, TocEntry, decode_toc
from imagebuild.layer.model import CHUNKED, Codec
from imagebuild.layer.tar.reading import WatchedReader
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.model import Descriptor, Digest

_NUMBERS = re.compile(r"[0-9]{1,15}(?::[0-9]{1,15})*")
_LONGEST_LINE = 4 << 20  # bytes, of a tar-split
_PART = "chunk"


class ChunkedFacts(msgspec.Struct):
    """What was found of all layers with a table of contents."""

    entries: int = 0
    parts: int = 0  # of files that are in several: their digests are not compared
    faults: list[str] = []

    def add(self, other: ChunkedFacts) -> None:
        """Those of another layer."""
        self.entries += other.entries
        self.parts += other.parts
        self.faults += other.faults


def is_chunked(descriptor: Descriptor) -> bool:
    """Whether a reader may take the layer for one with a table of contents."""
    return bool({CHECKSUM, POSITION, TARSPLIT_POSITION} & descriptor.annotations.keys())


def judge_contents(facts: ChunkedFacts) -> Finding:
    """The row of the report."""
    if not facts.faults and facts.parts:
        return Finding("skipped", f"{facts.entries} entries are the tar's; {facts.parts} parts of files in several were not compared")
    return judge_culprits(facts.faults, f"{facts.entries} entries and the tar-split are the tar's", "{count} differ from the layer")


class ChunkedAudit:
    """Watches a layer go by. Nothing is raised for what is wrong with it."""

    def __init__(self) -> None:
        self._frames = FrameScanner(ended=True)
        self._contents = Contents(Codec(CHUNKED, 1))
        self._faults: list[str] = []

    def watch(self, stored: BinaryIO) -> BinaryIO:
        """The stored bytes, to be read instead of ``stored`` to their end."""
        return cast(BinaryIO, io.BufferedReader(WatchedReader(stored, self._feed), CHUNK))

    def read(self, chunks: Iterator[bytes]) -> None:
        """The tar."""
        try:
            self._contents.read(chunks)
        except (IntegrityError, tarfile.TarError, ValueError) as error:
            self._faults.append(f"the tar cannot be described: {error}")

    def finish(self, descriptor: Descriptor) -> ChunkedFacts:
        """When both have gone by."""
        facts = ChunkedFacts()
        try:
            if not self._faults:
                self._frames.finish()
                self._compare(descriptor, facts)
        except IntegrityError as error:
            self._faults.append(error.message)
        facts.faults = [f"layer {descriptor.digest[:19]}: {fault}" for fault in self._faults]
        return facts

    def _feed(self, data: bytes) -> None:
        if not self._faults:
            try:
                self._frames.feed(data)
            except IntegrityError as error:
                self._faults.append(error.message)

    def _compare(self, descriptor: Descriptor, facts: ChunkedFacts) -> None:
        if ESTARGZ in descriptor.annotations:
            self._faults.append("it has the annotations of zstd:chunked and of eStargz, and readers refuse both together")
        (offset, packed), (second, tarsplit), (_, footer) = _take_ending(self._frames)
        where = _read_numbers(descriptor.annotations, POSITION, 4)
        tarsplit_where = _read_numbers(descriptor.annotations, TARSPLIT_POSITION, 3)
        if (where[:2], tarsplit_where[:2]) != ((offset, len(packed)), (second, len(tarsplit))):
            raise _refuse("its annotations name other bytes than the layer ends with")
        if footer != encode_footer(where, tarsplit_where):
            self._faults.append("its footer is not what its annotations say")
        if descriptor.annotations.get(CHECKSUM) != Digest.of(packed):
            raise _refuse("the table of contents is not the one that its annotation names")
        toc = _unpack_toc(packed, where[2])
        if toc.tarsplit != Digest.of(tarsplit):
            raise _refuse("the tar-split is not the one that the table of contents names")
        if hash_lines(_read_lines(tarsplit, tarsplit_where[2])) != self._contents.tarsplit_plain:
            self._faults.append("the tar-split makes another tar than the layer's")
        whole = [entry for entry in toc.entries if entry.type != _PART]
        facts.entries, facts.parts = len(whole), len(toc.entries) - len(whole)
        self._faults += _compare_entries(whole, self._contents.place(self._frames))


def _refuse(what: str) -> IntegrityError:
    return IntegrityError(what, "do not trust its source")


def _take_ending(frames: FrameScanner) -> list[tuple[int, bytes]]:
    if len(frames.skippable) != 3 or len(frames.skippable[2][1]) != FOOTER.size:
        raise _refuse("it does not end with a table of contents, a tar-split and a footer")
    return frames.skippable


def _read_numbers(annotations: Mapping[str, str], name: str, count: int) -> tuple[int, ...]:
    text = annotations.get(name, "")
    numbers = tuple(map(int, text.split(":"))) if _NUMBERS.fullmatch(text) else ()
    if len(numbers) != count:
        raise _refuse(f"its annotation {name} is {text[:60]!r}, not {count} numbers")
    return numbers


def _unpack_toc(packed: bytes, size: int) -> Toc:
    if size > LARGEST:
        raise _refuse(f"the table of contents is said to have {size} bytes: readers take {LARGEST} at most")
    try:
        data = open_decompressed(io.BytesIO(packed), "zstd").read(size + 1)
    except zstandard.ZstdError as error:
        raise _refuse(f"the table of contents cannot be decompressed: {error}") from None
    if len(data) != size:
        raise _refuse("the table of contents has not the size that its annotation says")
    return decode_toc(data)


def _read_lines(packed: bytes, size: int) -> Iterator[bytes]:
    reader = open_decompressed(io.BytesIO(packed), "zstd")
    try:
        while size >= 0 and (line := reader.readline(_LONGEST_LINE)):
            size -= len(line)
            yield line
    except zstandard.ZstdError as error:
        raise _refuse(f"the tar-split cannot be decompressed: {error}") from None
    if size:
        raise _refuse("the tar-split has not the size that its annotation says")


def _compare_entries(found: Sequence[TocEntry], wanted: Sequence[TocEntry]) -> Iterator[str]:
    """A line for each entry that differs, in the tar's order."""
    listed = {entry.name: entry for entry in found}
    if len(listed) != len(found):
        yield "the table of contents lists a path twice"
    for entry in wanted:
        other = listed.pop(entry.name, None)
        if other is None:
            yield f"{entry.name} is not in the table of contents"
            continue
        fields = [name for name in TocEntry.__struct_fields__ if getattr(entry, name) != getattr(other, name)]
        if fields:
            yield f"{entry.name}: the table of contents has another {', '.join(fields)}"
    yield from (f"{name} is in the table of contents alone" for name in listed)
