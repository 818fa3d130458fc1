"""Whether a member that somebody else made is what it says: frame, RECORD, places in this base, and the wheel where there is one.

What cannot be checked without compiling is the code in a ``.pyc``; that it is of this Python can.
"""

from __future__ import annotations

import csv
import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

from imagebuild.base.model import Interpreter
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.member import collect_wheel
from imagebuild.layer.memberstore import MemberRequest, MemberRules
from imagebuild.layer.model import FileFact
from imagebuild.layer.placement import Placement
from imagebuild.layer.tar.header import BLOCK, count_padding, encode_header
from imagebuild.permissions import FILE_MODE, PROGRAM_MODE
from imagebuild.wheel.archive import WheelArchive
from imagebuild.wheel.record import decode_hash

TEXT_LIMIT = 64 << 20  # bytes of a RECORD or another document
_DOCUMENT = re.compile(r".*/[^/]+\.dist-info/(?:METADATA|RECORD|sboms/[^/]+\.json)")
_HASH = re.compile(r"[0-9a-f]{64}")
_HINT = "it is not used; whoever may push to that cache wrote it: remove it there, and find out who did"


def refuse(what: str) -> IntegrityError:
    """The error of a member that is not what it says."""
    return IntegrityError(what, _HINT)


def check_facts(files: Sequence[FileFact]) -> None:
    """The list of files by itself: plain paths, each once, modes and hashes that members have."""
    seen: set[str] = set()
    for fact in files:
        parts = fact.path.split("/")[1:]
        if not fact.path.startswith("/") or any(part in ("", ".", "..") or part.startswith(".wh.") for part in parts) or "\0" in fact.path:
            raise refuse(f"it lists {fact.path!r}, which is not a path of a layer")
        if fact.path in seen:
            raise refuse(f"it lists {fact.path} twice")
        if fact.mode not in (FILE_MODE, PROGRAM_MODE) or fact.size < 0 or not _HASH.fullmatch(fact.sha256):
            raise refuse(f"it lists {fact.path} with mode {fact.mode:o}, {fact.size} bytes and hash {fact.sha256[:64]!r}")
        if (fact.kind == "bytecode") is not (fact.path.endswith(".pyc") and ".dist-info/" not in fact.path):
            raise refuse(f"it lists {fact.path} as {fact.kind[:20]!r}")
        seen.add(fact.path)


def check_frame(stream: BinaryIO, files: Sequence[FileFact], mtime: int, python: Interpreter) -> dict[str, bytes]:
    """Read a frame's tar to its end: exactly ``files``, with the headers this program writes. Gives RECORD, METADATA and SBOMs by path.

    ``python``: the one that the bytecode is for.
    """
    expected: dict[bytes, dict[bytes, FileFact]] = {}
    for fact in files:
        header = encode_header(fact.path, size=fact.size, mode=fact.mode, mtime=mtime)
        expected.setdefault(header[:BLOCK], {})[header] = fact
    kept: dict[str, bytes] = {}
    left = len(files)
    while block := stream.read(BLOCK):
        group = expected.get(block)
        if not group:
            raise refuse(f"its frame has an entry {describe_name(block)} that its index does not list so, or has it twice")
        length = len(next(iter(group)))  # headers with the same first block are of one length
        fact_found = group.pop(block + _read_exactly(stream, length - BLOCK), None)
        if fact_found is None:
            raise refuse(f"its frame has an entry {describe_name(block)} that its index does not list so, or has it twice")
        _check_content(stream, fact_found, python, kept)
        left -= 1
    if left:
        lacking = next(fact.path for group in expected.values() for fact in group.values())
        raise refuse(f"its frame lacks {lacking}, which its index lists")
    return kept


def describe_name(block: bytes) -> str:
    """The name in a tar header, to be shown."""
    return repr(block[:100].rstrip(b"\0").decode("utf-8", "replace"))


def _read_exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise refuse("its frame ends in the middle of an entry")
    return data


def _check_content(stream: BinaryIO, fact: FileFact, python: Interpreter, kept: dict[str, bytes]) -> None:
    digest = hashlib.sha256()
    text = bytearray() if _DOCUMENT.fullmatch(fact.path) and fact.size <= TEXT_LIMIT else None
    start, left = b"", fact.size
    while left:
        piece = _read_exactly(stream, min(left, CHUNK))
        start = start or piece[:8]
        digest.update(piece)
        if text is not None:
            text += piece
        left -= len(piece)
    if digest.hexdigest() != fact.sha256:
        raise refuse(f"{fact.path} is not the file that its index lists")
    if any(_read_exactly(stream, count_padding(fact.size))):
        raise refuse(f"its frame has other bytes after {fact.path}")
    if fact.path.endswith(f".{python.cache_tag}.pyc") and start[:4].hex() != python.magic:
        raise refuse(f"{fact.path} is bytecode of another Python")
    if text is not None:
        kept[fact.path] = bytes(text)


def check_places(files: Sequence[FileFact], kept: Mapping[str, bytes], request: MemberRequest, rules: MemberRules) -> None:
    """The member's own RECORD names each file, where this base would put it, with its hash and size."""
    facts = {fact.path: fact for fact in files}
    own = find_own_record(kept)
    if not own:
        raise refuse("it has no RECORD")
    placed = {final: (sha256, size) for final, sha256, size in _place_rows(kept[own], own, request, rules)}
    for path, fact in facts.items():
        if path not in placed:
            raise refuse(f"its RECORD does not list {path}, or this base has another place for it")
        sha256, size = placed[path]
        if sha256 and (sha256, size) != (fact.sha256, str(fact.size)):
            raise refuse(f"its RECORD has another hash or size of {path}")
        if not sha256 and path != own and fact.kind != "bytecode":
            raise refuse(f"its RECORD has no hash of {path}")
    absent = sorted(placed.keys() - facts.keys() - request.exclude)
    if absent:
        raise refuse(f"it lacks {absent[0]}, which its RECORD lists")


def find_own_record(paths: Iterable[str]) -> str:
    """The RECORD of the member itself, which lies higher than those of packages vendored in it; empty where there is none."""
    return min((path for path in paths if path.endswith(".dist-info/RECORD")), key=lambda path: (path.count("/"), path), default="")


def _place_rows(record: bytes, own: str, request: MemberRequest, rules: MemberRules) -> Iterator[tuple[str, str, str]]:
    """(final path in this base, SHA-256 in hex or "", size) of each row of a member's RECORD, which lies at ``own``."""
    info = posixpath.basename(posixpath.dirname(own))
    for purelib in (True, False):
        placement = Placement(rules.interpreter, rules.folders, package=request.package, home=rules.home, purelib=purelib)
        if placement.place("purelib" if purelib else "platlib", f"{info}/RECORD", own)[0] == own:
            break
    else:
        raise refuse(f"its RECORD lies at {own}, which is not where this base has packages")
    try:
        rows = list(csv.reader(record.decode("utf-8").splitlines()))
    except (UnicodeDecodeError, csv.Error):
        raise refuse("its RECORD cannot be read") from None
    seen: set[str] = set()
    for row in rows:
        if len(row) != 3 or row[0].startswith("/") or row[0] in seen:
            raise refuse(f"its RECORD has a row {','.join(row)[:100]!r}")
        seen.add(row[0])
        final = placement.accept_row(row[0])
        if final is None:
            raise refuse(f"its RECORD names {row[0]!r}, outside the base's Python or where no file may be")
        yield final, decode_hash(row[1]), row[2]


def check_wheel(files: Sequence[FileFact], request: MemberRequest, rules: MemberRules) -> None:
    """Every file of the wheel, which is at hand, is in the member at its place with the size, the mode and RECORD's hash; and no others."""
    facts = {fact.path: fact for fact in files}
    label = request.filename or request.wheel.name
    with WheelArchive(request.wheel, python=rules.interpreter.version, filename=label) as archive:
        collector = collect_wheel(archive, request, rules, label)
        left_out = request.exclude | request.yields
        sources = {path for path in collector.entries if path.endswith(".py")}
        for path, entry in collector.entries.items():
            fact = facts.get(path)
            if path in left_out or (fact is not None and fact.kind == "bytecode"):
                continue
            if fact is None or (fact.size, fact.mode) != (entry.size, entry.mode):
                raise refuse(f"{path} is in the wheel, and not so in the member")
            promised = entry.promise.sha256 if entry.promise is not None else ""
            if promised and promised != fact.sha256:
                raise refuse(f"{path} is not the wheel's file")
        for path in facts.keys() - collector.entries.keys() - {collector.record_path}:
            stem, _, _ = posixpath.basename(path).partition(".")
            source = posixpath.join(posixpath.dirname(posixpath.dirname(path)), f"{stem}.py")
            if facts[path].kind != "bytecode" or source not in sources:
                raise refuse(f"{path} is in the member, and not in the wheel")
