"""tar-split: all of a tar but the files' contents, from which, with them, its very bytes are made again (github.com/vbatts/tar-split).

A line of JSON for each piece: raw bytes in base64, or a file with its size and CRC-64 (Go's hash/crc64, table ISO). A reader of
zstd:chunked makes the tar from the files it has and compares its digest with the image's diff_id.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import msgspec

from imagebuild.decoding import make_decoder
from imagebuild.errors import IntegrityError
from imagebuild.layer.model import Codec
from imagebuild.layer.tar.frame import FrameWriter

_FILE, _RAW = 1, 2


class _Line(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    type: int
    name: str = ""
    size: int = 0
    payload: str | None  # base64: the bytes, or a file's CRC-64, highest byte first
    position: int


_LINE = make_decoder(_Line)


class TarSplitWriter:
    """Takes the pieces in order. Memory holds what is compressed."""

    def __init__(self, codec: Codec) -> None:
        self._pieces: list[bytes] = []
        self._frame = FrameWriter(self._pieces.append, codec, None)
        self._plain = hashlib.sha256()
        self._position = 0
        self.size = 0  # bytes of JSON

    def add_raw(self, data: bytes) -> None:
        """Headers, padding, the archive's end."""
        if data:
            self._write(_Line(type=_RAW, payload=base64.b64encode(data).decode(), position=self._position))

    def add_file(self, name: str, size: int, crc: int) -> None:
        """An entry, with content or none."""
        payload = base64.b64encode(crc.to_bytes(8, "big")).decode() if size else None
        self._write(_Line(type=_FILE, name=name, size=size, payload=payload, position=self._position))

    def finish(self) -> tuple[bytes, str]:
        """What is stored, and the SHA-256 (hex) of the lines."""
        self._frame.finish()
        return b"".join(self._pieces), self._plain.hexdigest()

    def _write(self, line: _Line) -> None:
        data = _encode(line)
        self._frame.write(data)
        self._plain.update(data)
        self.size += len(data)
        self._position += 1


def hash_lines(lines: Iterator[bytes]) -> str:
    """SHA-256 (hex) of lines of whatever program, written as ours are; IntegrityError for what is not a tar-split."""
    digest = hashlib.sha256()
    for line in lines:
        try:
            digest.update(_encode(_LINE.decode(line)))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise IntegrityError(f"the tar-split cannot be read: {str(error)[:200]}", "do not trust its source") from None
    return digest.hexdigest()


def _encode(line: _Line) -> bytes:
    return msgspec.json.encode(line) + b"\n"
