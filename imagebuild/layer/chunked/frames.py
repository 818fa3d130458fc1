"""The frames of a zstd:chunked layer: each file's content alone in one, headers and padding between them in others, and what ends it.

Skippable frames (RFC 8878, section 3.1.2) hold table of contents, tar-split and a footer: other readers pass over them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Sequence

import msgspec

from imagebuild.layer.model import Codec
from imagebuild.layer.tar.frame import FrameWriter, compress_frame
from imagebuild.oci.model import Digest

CHECKSUM = "io.github.containers.zstd-chunked.manifest-checksum"
POSITION = "io.github.containers.zstd-chunked.manifest-position"
TARSPLIT_POSITION = "io.github.containers.zstd-chunked.tarsplit-position"
ESTARGZ = "containerd.io/snapshot/stargz/toc.digest"  # the other format's; a reader refuses a layer with both
_SKIPPABLE = b"\x50\x2a\x4d\x18"
_HEADER = 8  # bytes of a skippable frame's
_TYPE = 1  # of the table of contents: the only one there is
FOOTER = struct.Struct("<7Q8s")
_FOOTER_MAGIC = b"GNUlInUx"


class ChunkedFrames:
    """Compresses a tar: what is given to :meth:`write` is collected until a content comes, which gets a frame of its own."""

    def __init__(self, sink: Callable[[bytes], object], codec: Codec) -> None:
        self._sink = sink
        self._codec = codec
        self._between = bytearray()
        self._digest = hashlib.sha256()
        self.compressed = 0

    @property
    def sha256(self) -> str:
        """Of the compressed bytes so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Add what lies between contents: headers and padding."""
        self._between += data

    def write_content(self, size: int, pieces: Iterable[bytes]) -> None:
        """Add a file's content of ``size`` bytes; none needs no frame."""
        if not size:
            self._between += b"".join(pieces)
            return
        self._flush()
        frame = FrameWriter(self._emit, self._codec, size)
        frame.write_content(size, pieces)
        frame.finish()

    def finish(self) -> None:
        """End the last frame."""
        self._flush()

    def _flush(self) -> None:
        if self._between:
            self._emit(compress_frame(bytes(self._between), self._codec))
            self._between.clear()

    def _emit(self, data: bytes) -> None:
        self._digest.update(data)
        self.compressed += len(data)
        self._sink(data)


class Ending(msgspec.Struct, frozen=True):
    """What comes after a layer's last frame, and what the layer's descriptor says of it."""

    data: bytes
    annotations: dict[str, str]


def encode_footer(where: Sequence[int], tarsplit_where: Sequence[int]) -> bytes:
    """The last frame's content: the numbers of both annotations of positions."""
    return FOOTER.pack(*where, *tarsplit_where, _FOOTER_MAGIC)


def encode_ending(offset: int, toc: bytes, tarsplit: bytes, tarsplit_size: int, codec: Codec) -> Ending:
    """The three skippable frames, of which the first begins at ``offset``.

    ``toc``: as JSON; ``tarsplit``: as stored, of ``tarsplit_size`` bytes of JSON.
    """
    packed = compress_frame(toc, codec)
    first = offset + _HEADER
    second = first + len(packed) + _HEADER
    where, tarsplit_where = (first, len(packed), len(toc), _TYPE), (second, len(tarsplit), tarsplit_size)
    footer = encode_footer(where, tarsplit_where)
    return Ending(
        b"".join(_SKIPPABLE + struct.pack("<I", len(data)) + data for data in (packed, tarsplit, footer)),
        {
            CHECKSUM: str(Digest.of(packed)),
            POSITION: ":".join(map(str, where)),
            TARSPLIT_POSITION: ":".join(map(str, tarsplit_where)),
        },
    )
