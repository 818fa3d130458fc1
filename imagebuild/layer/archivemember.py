"""A member made of an add-on's archive: the files of one folder of the image, compressed on their own and kept by key.

Nothing but the archive, the folder, the codec and the formats below decides a member's bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from imagebuild.addons.model import PlacedArchive
from imagebuild.addons.unpacking import ArchiveFile, open_archive
from imagebuild.errors import IntegrityError
from imagebuild.files import exclusive, explain_os_error, hash_file, replacing, sweep_temporaries
from imagebuild.jobs.slots import Slot
from imagebuild.layer.memberstore import MemberIndex, MemberRequest, load_member, name_blob, save_index
from imagebuild.layer.model import LAYER_FORMAT, Codec, FileFact, Member
from imagebuild.layer.placement import FolderResolver, find_addon_folder
from imagebuild.layer.tar.entries import EntryWriter
from imagebuild.layer.tar.frame import describe_compressor
from imagebuild.layer.tar.header import count_entry
from imagebuild.wheel.sizes import classify_path

ARCHIVE_FORMAT = 1  # part of an add-on's member's key: raise it whenever its bytes would change


class ArchiveRequest(msgspec.Struct, frozen=True):
    """An add-on to be made a member of."""

    archive: Path
    placed: PlacedArchive


class ArchiveRules(msgspec.Struct, frozen=True):
    """What all add-ons of one layer are made by; ``folders``: the base's, without what is replaced."""

    folders: FolderResolver
    codec: Codec
    cache: Path
    home: str
    mtime: int


def make_archive_members(requests: Sequence[ArchiveRequest], rules: ArchiveRules, slot: Slot) -> list[Member]:
    """The members, from the cache or built, each while it holds a ``slot``."""
    return [_make_member(request, rules, slot) for request in requests]


def _make_member(request: ArchiveRequest, rules: ArchiveRules, slot: Slot) -> Member:
    placed = request.placed
    folder = find_addon_folder(placed, rules.folders, rules.home)
    store = rules.cache / "members" / _compute_key(placed, folder, rules)
    stored = MemberRequest(request.archive, placed.package, placed.version, placed.sha256, placed.filename)
    try:
        with exclusive(store / "lock"):
            member = load_member(store, stored, rules.codec)
            if member is not None:
                return member
            sweep_temporaries(store)
            if hash_file(request.archive) != placed.sha256:
                raise IntegrityError(
                    f"{placed.filename} is not the file that was locked: its sha256 differs",
                    f"remove {request.archive}; it is fetched again",
                )
            with slot(), open_archive(request.archive, placed.filename, placed.strip) as files:
                _write(store, folder, files, rules)
            member = load_member(store, stored, rules.codec)
    except OSError as error:
        raise explain_os_error(error, f"preparing {placed.filename}") from error
    if member is None:
        raise IntegrityError(f"the member of {placed.filename} was changed while it was written", "run again")
    return member


def _compute_key(placed: PlacedArchive, folder: str, rules: ArchiveRules) -> str:
    codec = rules.codec
    content = {
        "format": LAYER_FORMAT,
        "archive-format": ARCHIVE_FORMAT,
        "archive": placed.sha256,
        "strip": placed.strip,
        "folder": folder,
        "codec": [codec.name, codec.level, describe_compressor(codec)],
        "mtime": rules.mtime,
    }
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def _write(store: Path, folder: str, files: Sequence[ArchiveFile], rules: ArchiveRules) -> None:
    """The member's frame and index: folders inside the add-on's are the layer's prelude's, as those of wheels are."""
    total = sum(count_entry(f"{folder}/{file.path}", file.size) for file in files)
    facts = []
    with replacing(store / name_blob(rules.codec)) as output:
        entries = EntryWriter(output.write, rules.codec, total)
        for file in files:
            path = f"{folder}/{file.path}"
            sha256 = entries.add_file(path, size=file.size, mode=file.mode, mtime=rules.mtime, pieces=file.open())
            facts.append(FileFact(path, file.size, file.mode, sha256, _classify(path)))
        entries.finish()
    save_index(store, MemberIndex(entries.sha256, entries.compressed, total, tuple(facts), ""))


def _classify(path: str) -> str:
    """The kind of a file; none is code or bytecode to us, for nothing of an add-on is compiled here."""
    return "library" if classify_path(path) == "library" else "data"
