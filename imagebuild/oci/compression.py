"""Reading compressed layers of any origin: one stream or many gzip members / zstd frames after one another."""

from __future__ import annotations

import io
from typing import BinaryIO, cast

import zstandard
from isal import igzip

from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK


def open_decompressed(stream: BinaryIO, compression: str) -> BinaryIO:
    """A forward-only reader of the uncompressed bytes; ``compression`` is ``zstd``, ``gzip`` or ``none``.

    Concatenated members and frames are all read (RFC 1952 section 2.2, RFC 8878 section 3.1).
    """
    if compression == "gzip":
        return cast(BinaryIO, igzip.open(stream, "rb"))  # type: ignore[no-untyped-call]
    if compression == "zstd":
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True, closefd=False, read_size=CHUNK)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader), CHUNK))
    if compression == "none":
        return stream
    raise IntegrityError(f"unknown layer compression: {compression}", "layers are tar, tar+gzip or tar+zstd")
