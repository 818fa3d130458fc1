"""The table of contents and the tar-split that a layer's own bytes give: to end a layer with, or to hold one's ending against."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
from fastcrc import crc64

from imagebuild.errors import ConfigurationError, IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.chunked.frames import Ending, encode_ending
from imagebuild.layer.chunked.framescan import FrameScanner
from imagebuild.layer.chunked.segments import TarSegment, split_tar
from imagebuild.layer.chunked.tarsplit import TarSplitWriter
from imagebuild.layer.chunked.toc import LARGEST, TocEntry, describe_entry, encode_toc
from imagebuild.layer.model import Codec
from imagebuild.layer.tar.reading import is_decompression_error
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.model import Digest


class Contents:
    """What :meth:`read` finds in a tar. Offsets are known when the stored frames are (:meth:`place`)."""

    def __init__(self, codec: Codec) -> None:
        self.tarsplit = b""  # as stored
        self.tarsplit_plain = ""  # SHA-256 of its lines, in hex
        self.tarsplit_size = 0  # bytes of its lines
        self._writer = TarSplitWriter(codec)
        self._entries: list[TocEntry] = []
        self._starts: list[int] = []  # of each entry's content, in the tar

    def read(self, chunks: Iterator[bytes]) -> None:
        """Take in the tar, to its end."""
        for segment in split_tar(chunks):
            self._writer.add_raw(segment.raw)
            if segment.entry is not None:
                self._add(segment)
        self.tarsplit_size = self._writer.size
        self.tarsplit, self.tarsplit_plain = self._writer.finish()

    def place(self, frames: FrameScanner) -> tuple[TocEntry, ...]:
        """The entries with their offsets; IntegrityError where a content is not in frames of its own."""
        placed = []
        for entry, start in zip(self._entries, self._starts, strict=True):
            if entry.digest:
                first, end = frames.starts.get(start), frames.starts.get(start + entry.size)
                if first is None or end is None:
                    raise IntegrityError(f"{entry.name} is not in a zstd frame of its own", "build it again")
                entry = msgspec.structs.replace(entry, offset=first, end=end)
            placed.append(entry)
        return tuple(placed)

    def _add(self, segment: TarSegment) -> None:
        assert segment.entry is not None
        entry = describe_entry(segment.entry, segment.name)
        if segment.size:
            digest, crc = hashlib.sha256(), 0
            for piece in segment.content:
                digest.update(piece)
                crc = crc64.go_iso(piece, crc)
            entry = msgspec.structs.replace(entry, digest=f"sha256:{digest.hexdigest()}")
            self._writer.add_file(segment.name, segment.size, crc)
        else:
            self._writer.add_file(segment.name, 0, 0)
        self._entries.append(entry)
        self._starts.append(segment.start)


def make_ending(contents: Contents, frames: FrameScanner, codec: Codec) -> Ending:
    """What ends a layer whose frames were scanned and whose tar was read."""
    toc = encode_toc(contents.place(frames), Digest.of(contents.tarsplit))
    if len(toc) > LARGEST:
        raise ConfigurationError("the layer has more files than a table of contents of zstd:chunked may name", "leave [layer] format out")
    return encode_ending(frames.stored, toc, contents.tarsplit, contents.tarsplit_size, codec)


def read_blob(blob: BinaryIO, codec: Codec) -> tuple[Contents, FrameScanner]:
    """Both of a file, read twice; at its end afterwards. IntegrityError for what is not a layer of frames or a part of one."""
    frames, contents = FrameScanner(), Contents(codec)
    blob.seek(0)
    while data := blob.read(CHUNK):
        frames.feed(data)
    frames.finish()
    blob.seek(0)
    reader = open_decompressed(blob, codec.compression)
    try:
        contents.read(iter(lambda: reader.read(CHUNK), b""))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise IntegrityError(f"it cannot be read as a tar: {error}", "build it again") from None
    except Exception as error:
        if not is_decompression_error(error):
            raise
        raise IntegrityError(f"it cannot be decompressed: {error}", "build it again") from None
    return contents, frames
