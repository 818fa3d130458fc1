"""Reading a layer's tar stream once, forward only, in bounded memory.

Handles what layers are made of: ustar, GNU long names, PAX extended headers (POSIX.1-2001), base-256 numbers, hard
links. Names come out as bytes, because a file name need not be text. Everything malformed or hostile is an
:class:`IntegrityError`: a layer that two tools could read in two ways is not built upon.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from imagebuild.errors import ImagebuildError, IntegrityError
from imagebuild.files import CHUNK

_BLOCK = 512
_LONG_LIMIT = 1 << 20  # bytes of one extended header or long name
_HINT = "the base image is damaged; push it again, or pin another digest"
# name mode uid gid size mtime chksum typeflag linkname magic+version uname gname devmajor devminor prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12x")
_REGULAR = frozenset(b"0\x007S")


class Header(msgspec.Struct):
    """One entry. ``kind`` is ``file``, ``dir``, ``symlink``, ``hardlink`` or ``other`` (devices, fifos)."""

    path: bytes  # absolute and normal: b"/" or b"/usr/bin"
    kind: str
    mode: int  # permission bits only, 0o7777
    uid: int
    gid: int
    size: int  # bytes of the file; 0 for anything but files
    link: bytes = b""  # symlinks: the target as written; hard links: an absolute, normal path
    stored: int = 0  # bytes in the archive
    sparse: bool = False  # the stored bytes are not the file's


def normalise_name(name: bytes) -> bytes:
    """``./usr//bin/`` -> ``/usr/bin``. A name with ``..`` or NUL is an :class:`IntegrityError`."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts or b"\0" in name:
        raise IntegrityError(f"a layer of the base holds a file named {name[:200]!r}", _HINT)
    return b"/" + b"/".join(parts)


def _check_number(value: int) -> int:
    if not 0 <= value < 1 << 63:
        raise IntegrityError("a layer of the base has a number out of range in a tar header", _HINT)
    return value


def _parse_decimal(text: bytes) -> int:
    """A PAX number; longer than any file could be is refused before it is converted."""
    return _check_number(int(text) if text.isdigit() and len(text) <= 20 else -1)


def _parse_number(field: bytes) -> int:
    """An octal or base-256 header field."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ~(0x80 << (8 * (len(field) - 1)))
        if field[0] & 0x40:
            raise IntegrityError("a layer of the base has a negative number in a tar header", _HINT)
        return _check_number(value)
    text = field.strip(b" \0")
    if not text:
        return 0
    try:
        value = int(text.partition(b"\0")[0], 8)
    except ValueError:
        value = -1
    if value < 0:
        raise IntegrityError(f"a layer of the base has a malformed number in a tar header: {field!r}", _HINT)
    return value


def _parse_pax(data: bytes) -> dict[bytes, bytes]:
    """The records ``length key=value\\n`` of an extended header."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        digits, space, _ = data[position : position + 21].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0  # at most 20 digits
        record = data[position + len(digits) + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if length < 5 or position + length > len(data) or not record.endswith(b"\n") or not equals:
            raise IntegrityError("a layer of the base has a malformed PAX header", _HINT)
        records[key] = value
        position += length
    return records


class _Raw(NamedTuple):
    """The fields of a header block."""

    name: bytes
    mode: bytes
    uid: bytes
    gid: bytes
    size: bytes
    mtime: bytes
    checksum: bytes
    flag: bytes
    link: bytes
    magic: bytes
    user: bytes
    group: bytes
    major: bytes
    minor: bytes
    prefix: bytes


class _Before:
    """What extended headers said of the entry that follows them."""

    def __init__(self) -> None:
        self.pax: dict[bytes, bytes] = {}
        self.name = b""
        self.link = b""


def _check_sum(block: bytes, checksum: bytes) -> None:
    # The sum counts the checksum field itself as spaces; historic tars summed signed bytes.
    total = sum(block) - sum(checksum) + 256
    stated = _parse_number(checksum)
    if stated != total and stated != total - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        raise IntegrityError("a layer of the base has a tar header with a wrong checksum", _HINT)


class LayerArchive:
    """The entries of one uncompressed layer, in order; ``hash`` and ``count`` cover every byte read so far."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._offset = 0
        self._left = 0  # stored bytes of the current entry not read yet
        self._padding = 0
        self._defaults: dict[bytes, bytes] = {}
        self.hash = hashlib.sha256()
        self.count = 0

    @property
    def position(self) -> int:
        """Bytes of the stream taken so far: after an entry was given, where its content begins."""
        return self.count - (len(self._buffer) - self._offset)

    # --- bytes -----------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        try:
            data = self._stream.read(CHUNK)
        except ImagebuildError:
            raise
        except Exception as error:  # zlib, isal and zstandard each have errors of their own
            raise IntegrityError(f"a layer of the base cannot be decompressed: {error}", _HINT) from error
        if not data:
            return False
        self.hash.update(data)
        self.count += len(data)
        self._buffer, self._offset = data, 0
        return True

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` bytes, or fewer at the end."""
        end = self._offset + size
        if end <= len(self._buffer):
            data = self._buffer[self._offset : end]
            self._offset = end
            return data
        pieces = [self._buffer[self._offset :]]
        size -= len(pieces[0])
        self._offset = len(self._buffer)
        while size and self._fill():
            pieces.append(self._buffer[:size])
            self._offset = len(pieces[-1])
            size -= self._offset
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size:
            if self._offset == len(self._buffer) and not self._fill():
                raise IntegrityError("a layer of the base ends in the middle of a file", _HINT)
            step = min(size, len(self._buffer) - self._offset)
            self._offset += step
            size -= step

    def drain(self) -> None:
        """Read what follows the last entry, to the very end of the stream, so that all of it is hashed."""
        self._left = self._padding = 0
        while self._fill():
            pass
        self._offset = len(self._buffer)

    # --- entries ---------------------------------------------------------------------------------------------------

    def content(self) -> Iterator[memoryview]:
        """The stored bytes of the entry that :meth:`entries` gave last, in pieces of at most 1 MiB. At most once."""
        while self._left:
            if self._offset == len(self._buffer) and not self._fill():
                raise IntegrityError("a layer of the base ends in the middle of a file", _HINT)
            step = min(self._left, len(self._buffer) - self._offset)
            piece = memoryview(self._buffer)[self._offset : self._offset + step]
            self._offset += step
            self._left -= step
            yield piece

    def _read_extension(self, size: int) -> bytes:
        if size > _LONG_LIMIT:
            raise IntegrityError(f"a layer of the base has an extended tar header of {size} bytes", _HINT)
        data = self._take(size + -size % _BLOCK)
        if len(data) < size:
            raise IntegrityError("a layer of the base ends in the middle of a header", _HINT)
        return data[:size]

    def entries(self) -> Iterator[Header]:
        """Every entry up to the end-of-archive mark (or the end of the stream). Content not taken is skipped."""
        before = _Before()
        while True:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
            block = self._take_block()
            if block is None:
                return
            raw = _Raw(*_HEADER.unpack(block))
            _check_sum(block, raw.checksum)
            if raw.flag in (b"x", b"g", b"L", b"K"):
                self._note_extension(raw, before)
                continue
            header = self._read_header(raw, block, before)
            before = _Before()
            self._left = header.stored
            self._padding = -header.stored % _BLOCK
            yield header

    def _take_block(self) -> bytes | None:
        """A header; None at the end of the archive."""
        block = self._take(_BLOCK)
        if not block or (len(block) == _BLOCK and block.count(0) == _BLOCK):
            return None
        if len(block) < _BLOCK:
            raise IntegrityError("a layer of the base ends in the middle of a header", _HINT)
        return block

    def _note_extension(self, raw: _Raw, before: _Before) -> None:
        """Keep what an extended header says of the entry that follows, or of all that follow."""
        data = self._read_extension(_parse_number(raw.size))
        if raw.flag == b"x":
            before.pax = _parse_pax(data)
        elif raw.flag == b"g":
            self._defaults = {**self._defaults, **_parse_pax(data)}
        elif raw.flag == b"L":
            before.name = data.rstrip(b"\0")
        else:
            before.link = data.rstrip(b"\0")

    def _read_header(self, raw: _Raw, block: bytes, before: _Before) -> Header:
        size = _parse_number(raw.size)
        name, link = raw.name.partition(b"\0")[0], raw.link.partition(b"\0")[0]
        if raw.magic[:6] == b"ustar\0" and raw.prefix[0]:  # POSIX only: GNU keeps other things in that field
            name = raw.prefix.partition(b"\0")[0] + b"/" + name
        pax = {**self._defaults, **before.pax} if self._defaults else before.pax
        if pax.get(b"size"):
            size = _parse_decimal(pax[b"size"])
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or before.name or name
        link = pax.get(b"linkpath") or before.link or link
        header = Header(
            path=normalise_name(name),
            kind="other",
            mode=_parse_number(raw.mode) & 0o7777,
            uid=_parse_decimal(pax[b"uid"]) if pax.get(b"uid") else _parse_number(raw.uid),
            gid=_parse_decimal(pax[b"gid"]) if pax.get(b"gid") else _parse_number(raw.gid),
            size=0,
            link=b"",
        )
        if raw.flag[0] in _REGULAR:
            header.kind = "dir" if raw.flag == b"\0" and name.endswith(b"/") else "file"
            header.stored = header.size = size if header.kind == "file" else 0
            header.sparse = raw.flag == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax)
            if header.sparse:
                header.size = self._read_sparse_size(raw.flag, block, pax)
        elif raw.flag == b"5":
            header.kind = "dir"
        elif raw.flag == b"2":
            header.kind, header.link = "symlink", link
            if not link or b"\0" in link:
                raise IntegrityError(f"a layer of the base holds a symbolic link to nowhere: {name[:200]!r}", _HINT)
        elif raw.flag == b"1":
            header.kind, header.link = "hardlink", normalise_name(link)
            header.stored = size  # POSIX lets a hard link carry the data again
        elif raw.flag not in (b"3", b"4", b"6"):
            raise IntegrityError(f"a layer of the base holds a tar entry of unknown type {raw.flag!r}: {name[:200]!r}", _HINT)
        return header

    def _read_sparse_size(self, flag: bytes, block: bytes, pax: dict[bytes, bytes]) -> int:
        """The size of a file with holes; what GNU's old format adds to the header is skipped."""
        if flag != b"S":
            return _parse_decimal(pax.get(b"GNU.sparse.realsize") or pax.get(b"GNU.sparse.size") or b"0")
        more = block[482]
        while more:
            extension = self._take(_BLOCK)
            if len(extension) < _BLOCK:
                raise IntegrityError("a layer of the base ends in the middle of a header", _HINT)
            more = extension[504]
        return _parse_number(block[483:495])
