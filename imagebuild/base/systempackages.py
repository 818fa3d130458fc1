"""What a base brings besides Python's distributions: packages of dpkg, rpm, conda and R, from the databases they keep in the image.

dpkg's status is deb-control(5) stanzas; rpm's database is SQLite or ndb (SUSE), each row a header in rpm's own format; conda keeps a
JSON file and R a DESCRIPTION per package. A database that exists and cannot be read (Berkeley DB, in old
releases) is named, never passed over.
"""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator

import msgspec

from imagebuild.base.model import OperatingSystem, SystemInventory, SystemPackage, Tree
from imagebuild.base.tree import SqliteTree
from imagebuild.decoding import make_decoder

_STATUS = b"/var/lib/dpkg/status"
_STATUS_FOLDER = b"/var/lib/dpkg/status.d"  # distroless: a file a package, without Status
_RELEASE = (b"/etc/os-release", b"/usr/lib/os-release")
_RPM_FOLDERS = (b"/var/lib/rpm", b"/usr/lib/sysimage/rpm", b"/usr/share/rpm")
_SQLITE, _NDB, _BERKELEY = b"rpmdb.sqlite", b"Packages.db", b"Packages"
_R_LIBRARY = re.compile(r"/R/(?:.*/)?(?:library|site-library)/([A-Za-z][A-Za-z0-9.]*)/DESCRIPTION$")
_STANZA_FIELD = re.compile(r"(?m)^(Package|Architecture|Version|Status|Source):[ \t]*(.*)$")
_SOURCE = re.compile(r"(\S+)(?:\s+\(([^)]*)\))?")


def is_system_database(path: bytes) -> bool:
    """Whether the file is one that :func:`read_system_packages` reads."""
    folder, _, name = path.rpartition(b"/")
    if path == _STATUS or path in _RELEASE or (folder == _STATUS_FOLDER and not name.endswith(b".md5sums")):
        return True
    if folder in _RPM_FOLDERS and name in (_SQLITE, _NDB):
        return True
    return name == b"DESCRIPTION" and _R_LIBRARY.search(path.decode("utf-8", "replace")) is not None


def read_system_packages(tree: SqliteTree) -> SystemInventory:
    """All of them, sorted; each once, however many prefixes have it."""
    found: set[SystemPackage] = set()
    for path in tree.texts():
        if path == _STATUS.decode() or path.startswith(f"{_STATUS_FOLDER.decode()}/"):
            found |= set(parse_status(_read_text(tree, path), single=path != _STATUS.decode()))
        elif path.endswith(".json") and "/conda-meta/" in path:
            found |= set(_parse_conda(tree.read_text(path) or b""))
        elif _R_LIBRARY.search(path):
            found |= set(_parse_description(_read_text(tree, path)))
    rpm, unread = _read_rpm(tree)
    key = msgspec.structs.astuple
    return SystemInventory(_read_release(tree), tuple(sorted({*found, *rpm}, key=key)), tuple(unread))


def _read_text(tree: Tree, path: str) -> str:
    return (tree.read_text(path) or b"").decode("utf-8", "replace")


def _read_release(tree: Tree) -> OperatingSystem:
    """os-release(5): the file in /etc, which may be a link, else the one in /usr/lib."""
    text = next((text for path in _RELEASE if (text := _read_text(tree, path.decode()))), "")
    fields = {name: value.strip().strip("\"'") for name, value in re.findall(r"(?m)^(ID|VERSION_ID)=(.*)$", text)}
    return OperatingSystem(fields.get("ID", ""), fields.get("VERSION_ID", ""))


# --- dpkg ------------------------------------------------------------------------------------------------------------


def parse_status(text: str, *, single: bool = False) -> Iterator[SystemPackage]:
    """The installed packages of a dpkg status file; ``single``: of a file without Status, whose packages are all installed."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = dict(_STANZA_FIELD.findall(stanza))
        if fields.get("Package") and (single or fields.get("Status", "").endswith(" installed")):
            name, version = fields["Package"].strip(), fields.get("Version", "").strip()
            source = _SOURCE.match(fields.get("Source", ""))
            yield SystemPackage(
                "deb",
                name,
                version,
                fields.get("Architecture", "").strip(),
                source[1] if source and source[1] != name else "",
                source[2] if source and source[2] and source[2] != version else "",
            )


# --- rpm -------------------------------------------------------------------------------------------------------------

# Tags of rpm's header (rpmtag.h), and the types of their values.
_NAME, _VERSION, _RELEASE_TAG, _EPOCH, _ARCHITECTURE, _SOURCE_RPM = 1000, 1001, 1002, 1003, 1022, 1044
_INT32, _STRING = 4, 6


def _read_rpm(tree: Tree) -> tuple[list[SystemPackage], list[str]]:
    """(packages, databases that could not be read)."""
    found: list[SystemPackage] = []
    unread: list[str] = []
    for folder in _RPM_FOLDERS:
        for name, read in ((_SQLITE, _read_sqlite), (_NDB, _read_ndb)):
            path = (folder + b"/" + name).decode()
            entry = tree.get(path)
            if entry is None or entry.type != "file":
                continue
            try:
                data = tree.read_text(path)
                headers = None if data is None else [parse_header(item) for item in read(data)]
            except (sqlite3.Error, struct.error, ValueError, LookupError):
                headers = None
            if headers is None:
                unread.append(path)
            else:
                found += [item for item in headers if item.name != "gpg-pubkey"]  # keys that rpm trusts, kept as packages
        if (entry := tree.get((folder + b"/" + _BERKELEY).decode())) is not None and entry.type == "file":
            unread.append(entry.path)
    return found, unread


def _read_sqlite(data: bytes) -> Iterable[bytes]:
    """The headers of an rpmdb.sqlite. Bytes 18 and 19 say WAL, which memory has not: there it is read as it is without one."""
    image = bytearray(data)
    image[18:20] = b"\1\1"
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(bytes(image))
        return [row[0] for row in database.execute("SELECT blob FROM Packages ORDER BY hnum") if isinstance(row[0], bytes)]
    finally:
        database.close()


def _read_ndb(data: bytes) -> Iterable[bytes]:
    """The headers of an ndb Packages.db: pages of 16-byte slots, the first two of them the file's own head; blobs in 16-byte blocks."""
    magic, _, _, pages = struct.unpack_from("<4sIII", data)
    if magic != b"RpmP":
        raise ValueError("no ndb database")
    found = []
    for offset in range(32, min(pages * 4096, len(data) - 15), 16):
        slot, number, block, _ = struct.unpack_from("<4sIII", data, offset)
        if slot != b"Slot":
            raise ValueError("a slot is damaged")
        if number:
            mark, owner, _, length = struct.unpack_from("<4sIII", data, block * 16)
            if mark != b"BlbS" or owner != number:
                raise ValueError("a blob is damaged")
            found.append(data[block * 16 + 16 : block * 16 + 16 + length])
    return found


def parse_header(data: bytes) -> SystemPackage:
    """An rpm header as its database keeps it: counts of entries and of bytes, the entries (tag, type, offset, count), the bytes.

    ValueError, LookupError or struct.error for anything else.
    """
    count, size = struct.unpack_from(">II", data)
    start = 8 + 16 * count
    if start + size > len(data):
        raise ValueError("the header is cut short")
    values: dict[int, str] = {}
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", data, 8 + 16 * number)
        if tag in (_NAME, _VERSION, _RELEASE_TAG, _ARCHITECTURE, _SOURCE_RPM) and kind == _STRING and 0 <= offset < size:
            values[tag] = data[start + offset : data.index(b"\0", start + offset)].decode("utf-8", "replace")
        elif tag == _EPOCH and kind == _INT32:
            values[tag] = str(struct.unpack_from(">I", data, start + offset)[0])
    epoch = f"{values[_EPOCH]}:" if values.get(_EPOCH, "0") != "0" else ""
    version = f"{epoch}{values[_VERSION]}-{values[_RELEASE_TAG]}"
    source = values.get(_SOURCE_RPM, "").removesuffix(".src.rpm").rpartition("-")[0].rpartition("-")[0]  # NAME-VERSION-RELEASE
    return SystemPackage("rpm", values[_NAME], version, values.get(_ARCHITECTURE, ""), source if source != values[_NAME] else "", "")


# --- conda and R -----------------------------------------------------------------------------------------------------


class _CondaRecord(msgspec.Struct):
    name: str
    version: str
    subdir: str = ""


_CONDA = make_decoder(_CondaRecord)


def _parse_conda(data: bytes) -> Iterator[SystemPackage]:
    try:
        record = _CONDA.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return  # conda's own state files lie beside them
    yield SystemPackage("conda", record.name, record.version, record.subdir)


def _parse_description(text: str) -> Iterator[SystemPackage]:
    fields = dict(re.findall(r"(?m)^(Package|Version):[ \t]*(.*)$", text))
    if "Package" in fields and "Version" in fields:
        yield SystemPackage("cran", fields["Package"].strip(), fields["Version"].strip())
