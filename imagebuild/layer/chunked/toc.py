"""The table of contents of a zstd:chunked layer, as containers/storage reads it: a JSON document of one entry for each entry of the tar."""

from __future__ import annotations

import base64
import tarfile
from datetime import UTC, datetime

import msgspec

from imagebuild.decoding import make_decoder
from imagebuild.errors import IntegrityError
from imagebuild.oci.model import Digest

LARGEST = 150 << 20  # bytes, stored or not: above them a reader fetches the whole layer
_VERSION = 1
_XATTR = "SCHILY.xattr."
_TYPES = {
    tarfile.REGTYPE: "reg",
    tarfile.AREGTYPE: "reg",
    tarfile.LNKTYPE: "hardlink",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.DIRTYPE: "dir",
    tarfile.FIFOTYPE: "fifo",
}


class TocEntry(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """An entry. Of a file with content: its digest, and where its frame begins and ends in the stored layer."""

    type: str
    name: str
    link: str = msgspec.field(default="", name="linkName")
    mode: int = 0
    size: int = 0
    uid: int = 0
    gid: int = 0
    modified: str = msgspec.field(default="", name="modtime")  # RFC 3339, as are the next two
    accessed: str = msgspec.field(default="", name="accesstime")
    changed: str = msgspec.field(default="", name="changetime")
    major: int = msgspec.field(default=0, name="devMajor")
    minor: int = msgspec.field(default=0, name="devMinor")
    xattrs: dict[str, str] = {}  # base64
    digest: str = ""
    offset: int = 0
    end: int = msgspec.field(default=0, name="endOffset")


class Toc(msgspec.Struct, frozen=True, kw_only=True):
    """The document. ``tarsplit``: digest of the tar-split as stored."""

    version: int = _VERSION
    entries: tuple[TocEntry, ...]
    tarsplit: str = msgspec.field(default="", name="tarSplitDigest")


_TOC = make_decoder(Toc)


def encode_toc(entries: tuple[TocEntry, ...], tarsplit: Digest) -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(Toc(entries=entries, tarsplit=str(tarsplit)))


def decode_toc(data: bytes) -> Toc:
    """IntegrityError for what is not a table of contents that this program knows."""
    try:
        toc = _TOC.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"the table of contents cannot be read: {str(error)[:200]}", "do not trust its source") from None
    if toc.version != _VERSION:
        raise IntegrityError(f"the table of contents is of version {toc.version}", "use a newer imagebuild")
    return toc


def describe_entry(entry: tarfile.TarInfo, name: str) -> TocEntry:
    """What the tar's header says, under the ``name`` that is written there."""
    kind = _TYPES.get(entry.type)
    if kind is None:
        raise IntegrityError(f"{name!r}: zstd:chunked has no entries of type {entry.type!r}", "leave [layer] format out")
    pax = entry.pax_headers
    try:
        f"{name}{entry.linkname}".encode()
    except UnicodeEncodeError:
        raise IntegrityError(f"{name!r}: zstd:chunked has no names that are not UTF-8", "leave [layer] format out") from None
    return TocEntry(
        type=kind,
        name=name,
        link=entry.linkname,
        mode=entry.mode,
        size=entry.size,
        uid=entry.uid,
        gid=entry.gid,
        modified=_format_time(pax.get("mtime", str(int(entry.mtime))), name),
        accessed=_format_time(pax.get("atime", ""), name),
        changed=_format_time(pax.get("ctime", ""), name),
        major=entry.devmajor,
        minor=entry.devminor,
        xattrs={
            key.removeprefix(_XATTR): base64.b64encode(value.encode("utf-8", "surrogateescape")).decode()
            for key, value in pax.items()
            if key.startswith(_XATTR)
        },
    )


def _format_time(text: str, name: str) -> str:
    """Decimal seconds since 1970 in RFC 3339, to the nanosecond; nothing for nothing."""
    if not text:
        return ""
    whole, _, part = text.partition(".")
    try:
        moment = datetime.fromtimestamp(int(whole), UTC)
    except (ValueError, OverflowError, OSError):
        raise IntegrityError(f"{name!r} has an impossible time", "do not trust its source") from None
    fraction = part[:9].rstrip("0")
    return f"{moment:%Y-%m-%dT%H:%M:%S}{'.' + fraction if fraction else ''}Z"
