"""Where the frames of a zstd stream begin, in the stored bytes and in the content (RFC 8878, section 3.1): nothing is decompressed."""

from __future__ import annotations

from collections.abc import Generator

from imagebuild.errors import IntegrityError

_FRAME = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # after a byte from 50 to 5f
_DICTIONARY = (0, 1, 2, 4)  # bytes of its id, by flag
_CONTENT_SIZE = (0, 2, 4, 8)  # bytes, by flag; of a single segment 1 instead of none
_KEPT = 64 << 20  # bytes of skippable frames


class FrameScanner:
    """Takes the stored bytes in pieces. IntegrityError for what is not a zstd stream, or is one whose frames do not say their size.

    ``ended``: skippable frames may follow the others; without it there are none.

    A decompressor that reads the same stream fails where a frame's content is not of the size that its header says.
    """

    def __init__(self, *, ended: bool = False) -> None:
        self._ended = ended
        self.starts: dict[int, int] = {}  # offset in the content -> of the first frame that begins there, in the stored bytes
        self.skippable: list[tuple[int, bytes]] = []  # offset of its content, and that
        self.stored = 0
        self.content = 0
        self._end = 0  # of the last frame, in the stored bytes
        self._kept = 0
        self._buffer = bytearray()
        self._parser = self._parse()
        self._wanted = next(self._parser)

    def feed(self, data: bytes) -> None:
        """The next stored bytes."""
        view = memoryview(data)
        while len(view):
            passing = self._wanted < 0
            step = min(abs(self._wanted) - len(self._buffer), len(view))
            if passing:
                self._wanted += step
            else:
                self._buffer += view[:step]
            self.stored += step
            view = view[step:]
            if not self._wanted or len(self._buffer) == self._wanted:
                taken = bytes(self._buffer)
                self._buffer.clear()
                self._wanted = self._parser.send(taken)

    def finish(self) -> None:
        """After the last piece; where the last frame ends counts as a start. IntegrityError when the stream ends inside a frame."""
        if self._wanted != 4 or self._buffer:
            raise IntegrityError("the zstd stream ends inside a frame", "push the image again")
        self.starts.setdefault(self.content, self._end)

    def _parse(self) -> Generator[int, bytes, None]:
        """Asks for so many bytes, or, below zero, for so many to be passed over."""
        while True:
            start = self.stored
            magic = yield 4
            if magic == _FRAME and not self.skippable:
                self.starts.setdefault(self.content, start)
                yield from self._parse_frame()
                self._end = self.stored
            elif self._ended and magic[1:] == _SKIPPABLE and magic[0] & 0xF0 == 0x50:
                length = int.from_bytes((yield 4), "little")
                self._kept += length
                if self._kept > _KEPT:
                    raise IntegrityError("the zstd stream has larger skippable frames than are read", "do not trust its source")
                self.skippable.append((start + 8, (yield length) if length else b""))
            else:
                raise IntegrityError(f"there is no zstd frame at byte {start}, where one should be", "push the image again")

    def _parse_frame(self) -> Generator[int, bytes, None]:
        descriptor = (yield 1)[0]
        single = descriptor >> 5 & 1
        size = _CONTENT_SIZE[descriptor >> 6] or single
        if not size:
            raise IntegrityError("a zstd frame does not say how large its content is", "build it again with [layer] format")
        header = yield (1 - single) + _DICTIONARY[descriptor & 3] + size
        self.content += int.from_bytes(header[-size:], "little") + (256 if size == 2 else 0)
        last = False
        while not last:
            block = int.from_bytes((yield 3), "little")
            last, kind, length = bool(block & 1), block >> 1 & 3, block >> 3
            length = 1 if kind == 1 else length  # one byte, repeated
            if length:
                yield -length
        if descriptor & 4:
            yield -4  # checksum
