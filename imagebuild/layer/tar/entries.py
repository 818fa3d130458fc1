"""Files as tar entries, compressed: all in one frame, or, for zstd:chunked, each content in a frame of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from imagebuild.layer.chunked.frames import ChunkedFrames
from imagebuild.layer.model import Codec
from imagebuild.layer.tar.frame import FrameWriter
from imagebuild.layer.tar.header import count_padding, encode_header


class EntryWriter:
    """Writes ``total`` bytes of tar. The same for every member and for a layer's own files."""

    def __init__(self, sink: Callable[[bytes], object], codec: Codec, total: int) -> None:
        self._frames = ChunkedFrames(sink, codec) if codec.chunked else FrameWriter(sink, codec, total)

    @property
    def sha256(self) -> str:
        """Of the compressed bytes so far, in hex."""
        return self._frames.sha256

    @property
    def compressed(self) -> int:
        """Bytes that went to the sink."""
        return self._frames.compressed

    def add_file(self, path: str, *, size: int, mode: int, mtime: int, pieces: Iterable[bytes]) -> str:
        """One file; the SHA-256 of its content in hex."""
        digest = hashlib.sha256()

        def watch() -> Iterator[bytes]:
            for piece in pieces:
                digest.update(piece)
                yield piece

        self._frames.write(encode_header(path, size=size, mode=mode, mtime=mtime))
        self._frames.write_content(size, watch())
        self._frames.write(bytes(count_padding(size)))
        return digest.hexdigest()

    def add_raw(self, data: bytes) -> None:
        """Headers of folders, or the end of an archive."""
        self._frames.write(data)

    def finish(self) -> None:
        """After the last entry."""
        self._frames.finish()
