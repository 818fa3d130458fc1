"""Reading a layer's tar that goes by only once with the standard library's tar reader; what a damaged one raises, whatever packed it."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

# Bytes 100 to 345 of a header (POSIX.1-1988, ustar): numbers, checksum and type; no link, no owner's name, no device.
_SAME = bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2
_SAME_SUM = sum(_SAME) + sum(b" " * 8)  # a checksum counts as spaces in itself
_PLAIN = re.compile(rb"([0-7]{7})\x00([0-7]{7})\x00([0-7]{7})\x00([0-7]{11})\x00([0-7]{11})\x00([0-7]{6})\x00 ([05x])" + re.escape(_SAME))


class RawTarInfo(tarfile.TarInfo):
    """Keeps the header's name field as it is written; tarfile strips a folder's trailing slashes.

    Headers of plain files, folders and extended headers with octal numbers alone, which all of a layer's are, are read here, in a third
    of the time that tarfile takes; any others by tarfile.
    """

    raw_name = b""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> RawTarInfo:
        entry = cls._read_plain(buf, encoding or "utf-8", errors)
        if entry is None:
            entry = super().frombuf(buf, encoding, errors)  # type: ignore[arg-type]
        entry.raw_name = bytes(buf[:100]).rstrip(b"\0")
        return entry

    @classmethod
    def _read_plain(cls, buf: bytes | bytearray, encoding: str, errors: str) -> RawTarInfo | None:
        """What tarfile makes of a header; None for one that is not plain, or wrong."""
        match = _PLAIN.fullmatch(buf, 100, 345)
        if match is None or int(match[6], 8) != sum(buf[:148]) + sum(match[7]) + _SAME_SUM + sum(buf[345:]):
            return None
        name, prefix = (bytes(field).partition(b"\0")[0].decode(encoding, errors) for field in (buf[:100], buf[345:500]))
        entry = cls(name.rstrip("/") if match[7] == tarfile.DIRTYPE else name)
        entry.mode, entry.uid, entry.gid, entry.size, entry.mtime, entry.chksum = (int(number, 8) for number in match.groups()[:6])
        entry.type = match[7]
        if prefix:
            entry.name = f"{prefix}/{entry.name}"
        return entry


def iterate_entries(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The entries one by one; tarfile would keep every header."""
    for entry in archive:
        archive.members = []  # type: ignore[attr-defined]
        yield entry


def is_decompression_error(error: Exception) -> bool:
    """Whether a decompressor raised it: zstandard's and isal's errors have no common base."""
    return type(error).__name__ in ("ZstdError", "IsalError", "BadGzipFile")


class HashingReader(io.RawIOBase):
    """Passes a stream on, hashing and counting what goes by."""

    def __init__(self, stream: BinaryIO | io.RawIOBase) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self.count = 0  # bytes

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        data = self._stream.read(-1 if size is None else size) or b""
        self._digest.update(data)
        self.count += len(data)
        return data

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class WatchedReader(io.RawIOBase):
    """Passes a stream on, and hands what goes by to ``watch``."""

    def __init__(self, stream: BinaryIO, watch: Callable[[bytes], object]) -> None:
        self._stream, self._watch = stream, watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        self._watch(data)
        buffer[: len(data)] = data
        return len(data)


class ForwardFile:
    """What tarfile needs of a file, over chunks: seeking ahead skips, and nothing is lost that was not asked for."""

    def __init__(self, chunks: Iterator[bytes], feed: Callable[[bytes], None]) -> None:
        self._chunks = chunks
        self._feed = feed
        self._chunk = b""
        self._offset = 0
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise tarfile.StreamError("seeking backwards")
        while (left := position - self._position) and (self._offset < len(self._chunk) or self._fill()):
            step = min(left, len(self._chunk) - self._offset)
            self._offset += step
            self._position += step

    def read(self, size: int) -> bytes:
        data = self._chunk[self._offset : self._offset + size]
        self._offset += len(data)
        while len(data) < size and self._fill():
            more = self._chunk[: size - len(data)]
            self._offset = len(more)
            data += more
        self._position += len(data)
        return data

    def has_content_left(self) -> bool:
        """Read to the end; whether anything but zeros was left."""
        found = any(self._chunk[self._offset :])
        while self._fill():
            found = found or self._chunk.count(0) != len(self._chunk)
        return found

    def _fill(self) -> bool:
        self._chunk, self._offset = next(self._chunks, b""), 0
        self._feed(self._chunk)
        return bool(self._chunk)
