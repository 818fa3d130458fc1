"""Compressed frames whose bytes depend only on content, codec and compressor version: one zstd frame or gzip member each.

The content is cut into pieces of one fixed size before it reaches the compressor, so that how a caller happened to
slice its writes never shows. Concatenated frames are one valid stream (RFC 8878 section 3.1, RFC 1952 section 2.2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import isal
import zstandard
from isal import isal_zlib

from imagebuild.layer.model import CHUNKED, Codec, check_codec
from imagebuild.oci.model import OCI_LAYER_GZIP, OCI_LAYER_ZSTD

_PIECE = 256 << 10
MEDIA_TYPES = {"zstd": OCI_LAYER_ZSTD, CHUNKED: OCI_LAYER_ZSTD, "gzip": OCI_LAYER_GZIP}


def describe_compressor(codec: Codec) -> str:
    """The library whose version decides the compressed bytes."""
    if codec.name == "gzip":
        return f"isal {isal.__version__}"
    return "zstd " + ".".join(str(part) for part in zstandard.ZSTD_VERSION)


class FrameWriter:
    """Compresses ``total`` bytes (None: as many as come) into one frame and hands the result to ``sink``. Not thread-safe."""

    def __init__(self, sink: Callable[[bytes], object], codec: Codec, total: int | None) -> None:
        check_codec(codec)
        self._sink = sink
        self._buffer = bytearray()
        self._digest = hashlib.sha256()
        self._left = total or 0
        self._bounded = total is not None
        self.compressed = 0
        self._compressor: Any
        if codec.name == "gzip":
            self._compressor = isal_zlib.compressobj(codec.level, isal_zlib.DEFLATED, 31)
        else:
            # The size up front goes into the frame's header and tunes the tables for small frames.
            self._compressor = zstandard.ZstdCompressor(level=codec.level).compressobj(size=-1 if total is None else total)

    @property
    def sha256(self) -> str:
        """Of the compressed bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add content."""
        self._left -= len(data)
        self._buffer += data
        if len(self._buffer) >= _PIECE:
            view = memoryview(self._buffer)
            whole = len(view) - len(view) % _PIECE
            for start in range(0, whole, _PIECE):
                self._emit(self._compressor.compress(bytes(view[start : start + _PIECE])))
            view.release()
            del self._buffer[:whole]

    def write_content(self, size: int, pieces: Iterable[bytes]) -> None:  # noqa: ARG002
        """Add a file's content: here no other than what lies between contents."""
        for piece in pieces:
            self.write(piece)

    def finish(self) -> None:
        """End the frame; all ``total`` bytes must have been written."""
        if self._bounded and self._left:
            raise RuntimeError(f"frame announced with {self._left} bytes more than were written")
        self._emit(self._compressor.compress(bytes(self._buffer)))
        self._buffer.clear()
        self._emit(self._compressor.flush())

    def _emit(self, data: bytes) -> None:
        if data:
            self._digest.update(data)
            self.compressed += len(data)
            self._sink(data)


def compress_frame(data: bytes, codec: Codec) -> bytes:
    """``data`` as one frame."""
    pieces: list[bytes] = []
    writer = FrameWriter(pieces.append, codec, len(data))
    writer.write(data)
    writer.finish()
    return b"".join(pieces)
