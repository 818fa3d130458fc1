"""Members as they lie in the cache: what decides their key, notes that save opening a wheel again, and whether one is whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from imagebuild import __version__
from imagebuild.base.model import Interpreter
from imagebuild.errors import BuildError
from imagebuild.files import hash_file, write_atomic
from imagebuild.layer.model import LAYER_FORMAT, Codec, FileFact, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.layer.tar.frame import describe_compressor
from imagebuild.sealed import SealedCache
from imagebuild.wheel.record import refuse_faults
from imagebuild.wheel.scripts import script_form
from imagebuild.wheel.slim import RULES

_KEY = re.compile(r"[0-9a-f]{64}")


class MemberRequest(msgspec.Struct, frozen=True):
    """One wheel to be made a member of. ``sha256`` and ``filename`` are the lock's; empty: taken from the file."""

    wheel: Path
    package: str
    version: str
    sha256: str = ""
    filename: str = ""
    exclude: frozenset[str] = frozenset()  # final paths that RECORD lists and somebody else provides
    slim: tuple[str, ...] = ()  # kinds of files that are left out, of RECORD too (imagebuild.wheel.slim)
    yields: frozenset[str] = frozenset()  # final paths that are another's file: neither in the image nor in RECORD
    strict: bool = False  # a wheel whose RECORD is wrong is refused


class MemberRules(msgspec.Struct, frozen=True):
    """What all members of one layer are made by. ``base``: a digest that stands for all that ``folders`` says, or "" for none."""

    interpreter: Interpreter
    folders: FolderResolver
    codec: Codec
    cache: Path
    home: str
    mtime: int
    bytecode: bool
    base: str = ""


class MemberIndex(msgspec.Struct, frozen=True, omit_defaults=True):
    """``index.json`` of a cached member. ``check`` is the SHA-256 of the index without it: files rot too."""

    sha256: str
    compressed: int
    uncompressed: int
    files: tuple[FileFact, ...]
    check: str
    repaired: int = 0  # rows of the wheel's RECORD that were wrong


_INDEXES = SealedCache(MemberIndex)


def compute_key(request: MemberRequest, sha256: str, rules: MemberRules, rows: Iterable[tuple[str, str]]) -> str:
    """Of everything that decides the member's bytes; ``rows`` (RECORD's name, final path) stand for the base's folders and links."""
    places = hashlib.sha256()
    for row, path in rows:
        places.update(f"{row}\0{path}\n".encode())
    interpreter, codec = rules.interpreter, rules.codec
    content = {
        "format": LAYER_FORMAT,
        "wheel": sha256,
        "package": request.package,
        "python": [interpreter.implementation, interpreter.version, interpreter.cache_tag, interpreter.magic],
        "path": interpreter.path,
        "paths": interpreter.paths,
        "places": places.hexdigest(),
        "codec": [codec.name, codec.level, describe_compressor(codec)],
        "bytecode": rules.bytecode,
        "exclude": sorted(request.exclude),
        "mtime": rules.mtime,
        **({"scripts": form} if (form := script_form(interpreter.version)) else {}),
        **({"slim": [RULES, *request.slim]} if request.slim else {}),
        **({"yields": sorted(request.yields)} if request.yields else {}),
    }
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def locate_note(request: MemberRequest, rules: MemberRules) -> Path | None:
    """Where the member's key is noted, by all that decides it and what is checked of the wheel; the wheel need not be opened."""
    if not rules.base or not request.sha256:
        return None
    codec = rules.codec
    facts = [
        __version__, LAYER_FORMAT, request.sha256, request.filename, request.package, request.version, sorted(request.exclude),
        rules.base, rules.home, rules.interpreter, rules.bytecode, rules.mtime, codec.name, codec.level, describe_compressor(codec),
        *(["scripts", form] if (form := script_form(rules.interpreter.version)) else []),
        *([RULES, *request.slim] if request.slim else []), *(["yields", *sorted(request.yields)] if request.yields else []),
    ]  # fmt: skip
    return rules.cache / "member-keys" / hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def read_note(note: Path | None) -> str:
    """The key, or nothing where there is no whole one."""
    try:
        text = note.read_text(encoding="ascii") if note is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _KEY.fullmatch(text) else ""


def write_note(note: Path | None, key: str) -> None:
    """Keep the key."""
    if note is not None:
        write_atomic(note, key.encode())


def name_blob(codec: Codec) -> str:
    """The file of a member's bytes."""
    return "member.tar.zst" if codec.compression == "zstd" else "member.tar.gz"


def load_member(store: Path, request: MemberRequest, codec: Codec) -> Member | None:
    """The cached member if it is whole by its sizes; its bytes are checked when they are put into a layer."""
    blob = store / name_blob(codec)
    index = _INDEXES.read(store / "index.json")
    if index is None or not blob.is_file() or blob.stat().st_size != index.compressed:
        return None
    if request.strict and index.repaired:
        raise refuse_faults(request.filename or request.wheel.name, index.repaired)
    return Member(request.package, request.version, blob, index.compressed, index.uncompressed, index.files, index.sha256, index.repaired)


def find_member(request: MemberRequest, rules: MemberRules) -> Member | None:
    """The cached member by what was noted of its wheel, which need not be there."""
    known = read_note(locate_note(request, rules))
    return load_member(rules.cache / "members" / known, request, rules.codec) if known else None


def save_index(store: Path, index: MemberIndex) -> None:
    """Write ``index`` with its checksum: the member counts as whole from here on."""
    write_atomic(store / "index.json", _INDEXES.encode(index))


def is_intact(member: Member) -> bool:
    """Whether the cached bytes are those of the index."""
    return member.blob.is_file() and hash_wheel(member.blob) == member.sha256


def drop_member(member: Member) -> None:
    """Forget a cached member whose bytes turned out to be damaged."""
    member.blob.with_name("index.json").unlink(missing_ok=True)


def hash_wheel(path: Path) -> str:
    """SHA-256 of a file in hex; BuildError when there is none."""
    try:
        return hash_file(path)
    except FileNotFoundError:
        raise BuildError(f"there is no such wheel: {path}", "fetch the lock's wheels first") from None
