"""Tar headers, written so that the same facts give the same bytes on every machine.

POSIX.1-2001: a plain ustar header wherever the values fit, preceded by a PAX extended header only for those that do not
(a name that is long or not ASCII, 8 GiB and more, user ids above 2097151). Names carry no leading ``/``, no ``./`` and no
trailing ``/``; owner names are left empty, so that only the numbers count.
"""

from __future__ import annotations

BLOCK = 512
END_OF_ARCHIVE = bytes(2 * BLOCK)
_NAME, _PREFIX = 100, 155  # widths of ustar's two name fields
_SAME = bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2  # no link, no owner's name, no device
_SAME_SUM = sum(_SAME) + sum(b" " * 8)  # a checksum counts as spaces in itself
_LARGEST_SIZE = 8**11 - 1
_LARGEST_ID = 8**7 - 1


def count_padding(size: int) -> int:
    """How many zero bytes follow ``size`` bytes of content."""
    return -size % BLOCK


def count_entry(path: str, size: int) -> int:
    """Bytes of tar that a file of ``size`` bytes at ``path`` takes, header included."""
    plain = size <= _LARGEST_SIZE and _split_name(path.strip("/")) is not None
    return (BLOCK if plain else len(encode_header(path, size=size, mode=0, mtime=0))) + size + count_padding(size)


def encode_header(path: str, *, size: int = 0, mode: int, mtime: int, uid: int = 0, gid: int = 0, folder: bool = False) -> bytes:
    """The header block or blocks of one entry; ``path`` is absolute, the name in the archive is not."""
    name = path.strip("/")
    records: dict[str, str] = {}
    split = _split_name(name)
    if split is None:
        records["path"] = name
        short = name.encode("ascii", "replace").replace(b"?", b"_")
        split = short[-_NAME:].lstrip(b"/"), b""
    if size > _LARGEST_SIZE:
        records["size"] = str(size)
    if uid > _LARGEST_ID:
        records["uid"] = str(uid)
    if gid > _LARGEST_ID:
        records["gid"] = str(gid)
    kind = b"5" if folder else b"0"
    block = _encode_block(
        split,
        size=0 if "size" in records else size,
        mode=mode,
        uid=0 if "uid" in records else uid,
        gid=0 if "gid" in records else gid,
        mtime=mtime,
        kind=kind,
    )
    if not records:
        return block
    body = b"".join(_encode_record(key, value) for key, value in sorted(records.items()))
    # The extended header's own name is never seen by a reader that knows PAX.
    head = _encode_block((b"PaxHeaders/" + split[0][-80:], b""), size=len(body), mode=0o644, uid=0, gid=0, mtime=mtime, kind=b"x")
    return head + body + bytes(count_padding(len(body))) + block


def _split_name(name: str) -> tuple[bytes, bytes] | None:
    """``name`` as ustar's (name, prefix), or None when it does not fit."""
    if not name.isascii():
        return None
    raw = name.encode("ascii")
    if len(raw) <= _NAME:
        return raw, b""
    # The first slash that leaves at most 100 bytes behind it gives the shortest prefix.
    slash = raw.find(b"/", len(raw) - _NAME - 1)
    if slash < 1 or slash > _PREFIX or slash == len(raw) - 1:
        return None
    return raw[slash + 1 :], raw[:slash]


def _encode_record(key: str, value: str) -> bytes:
    """One PAX record: its decimal length counts itself."""
    payload = b" " + key.encode() + b"=" + value.encode() + b"\n"
    length = len(payload)
    while len(str(length)) + len(payload) != length:
        length = len(str(length)) + len(payload)
    return str(length).encode() + payload


def _encode_block(split: tuple[bytes, bytes], *, size: int, mode: int, uid: int, gid: int, mtime: int, kind: bytes) -> bytes:
    name, prefix = split
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    checksum = sum(name) + sum(numbers) + sum(kind) + _SAME_SUM + sum(prefix)
    return b"".join(
        (name.ljust(_NAME, b"\0"), numbers, b"%06o\0 " % checksum, kind, _SAME, prefix.ljust(_PREFIX, b"\0"), bytes(12)),
    )
