"""A wheel's METADATA and installed size without its body: the zip directory, read through HTTP ranges (RFC 9110 section 14)."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec
from packaging.utils import canonicalize_name

from imagebuild.errors import IntegrityError

METADATA_LIMIT = 16 << 20
BLOCK = 64 << 10
_METADATA_MEMBER = re.compile(r"([^/]+)\.dist-info/METADATA")


class WheelMetadata(msgspec.Struct, frozen=True):
    """What a wheel says of itself: its METADATA bytes, and the bytes of its files once unpacked."""

    metadata: bytes
    installed_size: int


class RangeFile(io.RawIOBase):
    """A read-only, seekable view of a remote file. ``fetch(start, end)`` brings bytes; blocks of 64 KiB are kept."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, start: int = 0, data: bytes = b"") -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._segments: list[tuple[int, bytes]] = [(start, data)] if data else []
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError("negative seek")
        self._position = origin + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._position + size)
        if self._position >= end:
            return b""
        data = self._get(self._position, end)
        self._position = end
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _get(self, start: int, end: int) -> bytes:
        for offset, data in self._segments:
            if offset <= start and end <= offset + len(data):
                return data[start - offset : end - offset]
        low = start // BLOCK * BLOCK
        high = min(self._size, -(-end // BLOCK) * BLOCK)
        data = self._fetch(low, high)
        self._segments.append((low, data))
        return data[start - low : end - low]


def read_wheel_file(stream: BinaryIO, filename: str) -> WheelMetadata:
    """METADATA and installed size out of a wheel's zip directory; IntegrityError when it is not a wheel."""
    wanted = canonicalize_name(filename.partition("-")[0])
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            found = [
                item
                for item in entries
                if (match := _METADATA_MEMBER.fullmatch(item.filename)) and canonicalize_name(match[1].rpartition("-")[0]) == wanted
            ]
            if len(found) != 1 or found[0].file_size > METADATA_LIMIT:
                raise IntegrityError(
                    f"{filename} has no usable METADATA of its own name", "it is not a wheel: report it to the index's operators"
                )
            return WheelMetadata(archive.read(found[0]), sum(item.file_size for item in entries))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise IntegrityError(f"{filename} is not a readable wheel: {error}", "report it to the index's operators") from None


def read_content_range(text: str) -> tuple[int, int, int] | None:
    """First byte, last byte and length of the whole, of a Content-Range header (RFC 9110 section 14.4); None for any other form."""
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", text.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
