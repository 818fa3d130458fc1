"""The twin proof: the layers that both engines built of one plan, compared path by path.

What counts is the tree that a node unpacks: type, mode, owner, size, content, extended attributes and deletions. Of a
RECORD the rows count and not their order; of bytecode the code objects count, since marshal's bytes follow reference
counts (bpo-34093), and with them the magic number and the hash of the source. A folder counts as it is in the end: an
entry of the layer, else the base's. Modification times do not count.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import msgspec

from imagebuild.base.model import Base, Tree
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.model import Layer, TeamLayers
from imagebuild.layer.tar.reading import iterate_entries
from imagebuild.oci.compression import open_decompressed
from imagebuild.wheel.installed import is_record

SHOWN = 50  # differences listed; all are counted
_WHITEOUT = ".wh."
_TYPES = {
    tarfile.REGTYPE: "file",
    tarfile.AREGTYPE: "file",
    tarfile.DIRTYPE: "folder",
    tarfile.SYMTYPE: "symlink",
    tarfile.LNKTYPE: "hard link",
}
_PYC_HEADER = 16  # magic, flags, and of a hash-based pyc the hash of its source (PEP 552)
_XATTR = "SCHILY.xattr."
_RECORD_LIMIT = 64 << 20


class TwinEntry(msgspec.Struct, frozen=True):
    """One path of a layer. Bytecode and RECORDs are kept aside, at ``offset`` of the side's file."""

    type: str  # file, folder, symlink, hard link, whiteout, other
    mode: int
    uid: int
    gid: int
    size: int = 0
    sha256: str = ""
    link: str = ""
    attributes: tuple[tuple[str, str], ...] = ()  # extended ones
    offset: int = -1


class TwinDifference(msgspec.Struct, frozen=True):
    """One thing in which the layers differ."""

    path: str
    what: str
    direct: str
    docker: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}: direct {self.direct}, docker {self.docker}"


class TwinReport(msgspec.Struct, frozen=True):
    """The outcome. ``differences`` are the first :data:`SHOWN` of ``count``, by path."""

    files: int
    folders: int
    bytes: int  # of all files' contents, once
    bytecode: int
    records: int
    count: int
    differences: tuple[TwinDifference, ...]


def compare_layers(direct: TeamLayers, docker: Layer, *, base: Base, scratch: Path) -> TwinReport:
    """Compare what two engines made for ``base``; ``scratch`` is an empty folder for what must be compared side by side."""
    kept = (scratch / "direct", scratch / "docker")
    sides = [read_layers(layers, place) for layers, place in zip((direct.layers, (docker,)), kept, strict=True)]
    found = list(_compare_entries(sides[0], sides[1], base.tree))
    bytecode: list[str] = []
    with kept[0].open("rb") as one, kept[1].open("rb") as other:
        for path, (left, right) in _pair_files(sides[0], sides[1]).items():
            if left.offset >= 0:
                found += _compare_kept(path, left, right, one, other, bytecode)
            elif left.sha256 != right.sha256:
                found.append(TwinDifference(path, "content", f"sha256 {left.sha256[:12]}", f"sha256 {right.sha256[:12]}"))
    found += compare_bytecode(base, kept, [(path, sides[0][path], sides[1][path]) for path in bytecode])
    found.sort(key=lambda item: (item.path, item.what))
    files = [item for item in sides[0].values() if item.type != "folder"]
    return TwinReport(
        files=len(files),
        folders=len(sides[0]) - len(files),
        bytes=sum(item.size for item in files),
        bytecode=sum(1 for path in sides[0] if path.endswith(".pyc")),
        records=sum(1 for path in sides[0] if is_record(path)),
        count=len(found),
        differences=tuple(found[:SHOWN]),
    )


def require_twins(report: TwinReport, team: str) -> None:
    """IntegrityError that lists the differences, unless there are none."""
    if report.count:
        rest = (f"and {report.count - len(report.differences)} more",) if report.count > len(report.differences) else ()
        raise IntegrityError(
            f"the two engines' layers of {team} differ in {report.count} place{'s' if report.count > 1 else ''}",
            "one of the engines is wrong: please report these lines with the team's lock",
            (*map(str, report.differences), *rest),
        )


def read_layers(layers: Sequence[Layer], kept: Path) -> dict[str, TwinEntry]:
    """Every entry of stored layers by absolute path; the contents of bytecode and RECORDs go to the file ``kept``.

    IntegrityError for a path that comes twice, because unpackers differ in what they make of it; a folder may be in several layers, and
    must be the same in each.
    """
    found: dict[str, TwinEntry] = {}
    with kept.open("wb") as aside:
        for layer in layers:
            for path, entry in _read_layer(layer.file, layer.media_type, aside).items():
                below = found.setdefault(path, entry)
                if below is not entry and (below != entry or entry.type != "folder"):
                    raise IntegrityError(f"{path} is in {layer.file} and in a layer below", "the layers are malformed")
    found.pop("/", None)  # BuildKit names the root in some layers
    return found


def _read_layer(blob: Path, media_type: str, aside: BinaryIO) -> dict[str, TwinEntry]:
    compression = media_type.rpartition("+")[2] if "+" in media_type else "gzip" if media_type.endswith("gzip") else "none"
    found: dict[str, TwinEntry] = {}
    with blob.open("rb") as stored, closing(open_decompressed(stored, compression)) as plain:  # noqa: SIM117
        with tarfile.open(fileobj=plain, mode="r|", bufsize=CHUNK) as archive:
            for item in iterate_entries(archive):
                path = "/" + item.name.removeprefix("./").strip("/")
                if path in found:
                    raise IntegrityError(f"{path} is twice in {blob}", "the layer is malformed")
                found[path] = _read_entry(archive, item, path, aside)
    return found


def _read_entry(archive: tarfile.TarFile, item: tarfile.TarInfo, path: str, aside: BinaryIO) -> TwinEntry:
    if path.rpartition("/")[2].startswith(_WHITEOUT):
        return TwinEntry("whiteout", 0, 0, 0)  # only its name means anything
    attributes = tuple(sorted((key.removeprefix(_XATTR), value) for key, value in item.pax_headers.items() if key.startswith(_XATTR)))
    kind = _TYPES.get(item.type, "other")
    if kind != "file":
        mode = 0o777 if kind == "symlink" else item.mode & 0o7777
        return TwinEntry(kind, mode, item.uid, item.gid, link=item.linkname, attributes=attributes)
    keep = path.endswith(".pyc") or is_record(path)
    offset = aside.tell() if keep else -1
    content = archive.extractfile(item)
    assert content is not None
    digest = hashlib.sha256()
    while data := content.read(CHUNK):
        digest.update(data)
        if keep:
            aside.write(data)
    return TwinEntry(kind, item.mode & 0o7777, item.uid, item.gid, item.size, digest.hexdigest(), "", attributes, offset)


def _compare_entries(direct: dict[str, TwinEntry], docker: dict[str, TwinEntry], tree: Tree) -> Iterator[TwinDifference]:
    """Everything but the contents of files that both have."""
    for path in sorted(direct.keys() | docker.keys()):
        left, right = direct.get(path), docker.get(path)
        if left is None or right is None:
            below = _describe_base(tree, path) if "folder" in ((left or right or _NOTHING).type) else None
            left, right = left or below, right or below
        if left is None or right is None:
            yield TwinDifference(path, "presence", *("-" if item is None else item.type for item in (left, right)))
        elif left.type != right.type:
            yield TwinDifference(path, "type", left.type, right.type)
        else:
            yield from _compare_facts(path, left, right)


def _compare_facts(path: str, left: TwinEntry, right: TwinEntry) -> Iterator[TwinDifference]:
    if left.mode != right.mode:
        yield TwinDifference(path, "mode", f"{left.mode:04o}", f"{right.mode:04o}")
    if (left.uid, left.gid) != (right.uid, right.gid):
        yield TwinDifference(path, "owner", f"{left.uid}:{left.gid}", f"{right.uid}:{right.gid}")
    if left.link != right.link:
        yield TwinDifference(path, "target", repr(left.link), repr(right.link))
    if left.attributes != right.attributes:
        yield TwinDifference(path, "extended attributes", str(dict(left.attributes)), str(dict(right.attributes)))
    if left.size != right.size and left.offset < 0:  # sizes of RECORDs and bytecode follow from what is compared of them
        yield TwinDifference(path, "size", str(left.size), str(right.size))


_NOTHING = TwinEntry("", 0, 0, 0)


def _describe_base(tree: Tree, path: str) -> TwinEntry | None:
    """A folder of the base, as an unpacker leaves it when the layer does not mention it."""
    entry = tree.get(path)
    return TwinEntry("folder", entry.mode, entry.uid, entry.gid) if entry is not None and entry.type == "dir" else None


def _pair_files(direct: dict[str, TwinEntry], docker: dict[str, TwinEntry]) -> dict[str, tuple[TwinEntry, TwinEntry]]:
    """Files of the same kind on both sides."""
    pairs = {path: (left, docker[path]) for path, left in direct.items() if path in docker}
    return {path: pair for path, pair in sorted(pairs.items()) if pair[0].type == pair[1].type == "file"}


def _compare_kept(
    path: str, left: TwinEntry, right: TwinEntry, one: BinaryIO, other: BinaryIO, bytecode: list[str]
) -> Iterator[TwinDifference]:
    """Compare a RECORD, or the header of bytecode; bytecode whose code has other bytes is added to ``bytecode``."""
    if left.sha256 == right.sha256:
        return
    if is_record(path):
        sides = [_read_rows(_read_kept(entry, file)) for entry, file in ((left, one), (right, other))]
        for only in sorted(sides[0] ^ sides[1])[:SHOWN]:
            row = ",".join(only)
            yield TwinDifference(path, "row", *(row if only in side else "-" for side in sides))
        return
    heads = [_read_kept(entry, file, _PYC_HEADER) for entry, file in ((left, one), (right, other))]
    if heads[0][:4] != heads[1][:4]:
        yield TwinDifference(path, "bytecode magic", heads[0][:4].hex(), heads[1][:4].hex())
        return  # another version's marshal data
    # Both must be valid whatever the time of the source is; whether an import looks at the source is left to the engine.
    if not all(head[4] & 1 for head in heads) or heads[0][8:] != heads[1][8:]:
        yield TwinDifference(path, "bytecode header", heads[0][4:].hex(), heads[1][4:].hex())
    bytecode.append(path)


def _read_kept(entry: TwinEntry, file: BinaryIO, limit: int = _RECORD_LIMIT) -> bytes:
    file.seek(entry.offset)
    return file.read(min(entry.size, limit))


def _read_rows(record: bytes) -> set[tuple[str, ...]]:
    return {tuple(row) for row in csv.reader(io.StringIO(record.decode("utf-8", "surrogateescape"), newline="")) if row}


# Runs in the base's interpreter, 3.8 or newer: only its own marshal reads its bytecode. Arguments: the two files; stdin: a
# line of four integers per pair. A line of JSON per difference, at most one per pair: number of the pair, where, values.
_CHILD = r"""
import json, marshal, os, sys, types
SKIPPED = {"co_lnotab"}  # derived from the line table, and deprecated
NAMES = [name for name in dir(types.CodeType) if name.startswith("co_") and name not in SKIPPED]
NAMES = [name for name in NAMES if not callable(getattr(types.CodeType, name))]

def canonical(value):
    if isinstance(value, (tuple, frozenset)):
        parts = [canonical(item) for item in value]
        return type(value).__name__ + repr(sorted(parts) if isinstance(value, frozenset) else parts)
    return type(value).__name__ + " " + repr(value)

def differ(one, other, where):
    if type(one) is not type(other):
        return where, type(one).__name__, type(other).__name__
    if isinstance(one, types.CodeType):
        for name in NAMES:
            values = [getattr(code, name) for code in (one, other)]
            if name == "co_filename":  # pip reaches scripts by way of the library: lib/python3.11/../../bin/x.py
                values = list(map(os.path.normpath, values))
            found = differ(*values, where + "." + name)
            if found:
                return found
        return None
    if isinstance(one, tuple):
        if len(one) != len(other):
            return where, "%d items" % len(one), "%d items" % len(other)
        for number, (left, right) in enumerate(zip(one, other)):
            found = differ(left, right, "%s[%d]" % (where, number))
            if found:
                return found
        return None
    if isinstance(one, frozenset):
        same = canonical(one) == canonical(other)
    elif isinstance(one, (float, complex)):
        same = repr(one) == repr(other)  # -0.0 is not 0.0, and a NaN is like another
    else:
        same = one == other
    return None if same else (where, repr(one)[:200], repr(other)[:200])

def main():
    sys.setrecursionlimit(100000)
    with open(sys.argv[1], "rb") as first, open(sys.argv[2], "rb") as second:
        for number, line in enumerate(sys.stdin):
            values = [int(word) for word in line.split()]
            codes = []
            for file, offset, size in ((first, *values[:2]), (second, *values[2:])):
                file.seek(offset)
                codes.append(file.read(size))
            if codes[0] == codes[1]:
                continue
            try:
                found = differ(marshal.loads(codes[0]), marshal.loads(codes[1]), "module")
            except (EOFError, TypeError, ValueError) as error:
                found = "module", "unreadable", str(error)
            if found:
                print(json.dumps([number, *found]))

main()
print("done")
"""


def compare_bytecode(base: Base, kept: tuple[Path, Path], pairs: list[tuple[str, TwinEntry, TwinEntry]]) -> Iterator[TwinDifference]:
    """The first difference of every pair of code objects, found by the base's own interpreter in one child process."""
    if not pairs:
        return
    if base.runtime is None:
        raise BuildError(
            f"the Python of base {base.name} does not run on this machine, so its bytecode cannot be compared",
            "verify on a machine of the image's own architecture",
        )

    def place(entry: TwinEntry) -> str:
        return f"{entry.offset + _PYC_HEADER} {max(0, entry.size - _PYC_HEADER)}"

    lines = "".join(f"{place(left)} {place(right)}\n" for _, left, right in pairs)
    done = base.runtime.run(_CHILD, *map(str, kept), input=lines.encode(), timeout=1800)
    answers = done.stdout.decode("utf-8", "replace").splitlines()
    if done.returncode or not answers or answers[-1] != "done":
        complaint = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise BuildError(
            "the base's Python could not compare the bytecode" + (f": {complaint[-1][:300]}" if complaint else ""),
            "run `imagebuild doctor`",
        )
    for answer in answers[:-1]:
        number, where, left, right = json.loads(answer)
        yield TwinDifference(pairs[number][0], f"bytecode {where}", left, right)
