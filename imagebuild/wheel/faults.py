"""How many rows of a wheel's RECORD are wrong, every file's hash compared; known once for each wheel, by its hash."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import msgspec

from imagebuild.sealed import SealedCache
from imagebuild.wheel.archive import Content, WheelArchive

_FORMAT = 1  # raise it when the same wheel would give another count


class _FaultCount(msgspec.Struct, frozen=True):
    count: int
    format: int = _FORMAT
    check: str = ""


_COUNTS = SealedCache(_FaultCount)


def count_record_faults(path: Path, *, python: str) -> int:
    """Rows that are wrong, for a wheel that another program installs. ``python``: the full version of the interpreter it is for."""
    with WheelArchive(path, python=python) as archive:
        faults = set(archive.record.faults)
        for (name, _, _), stream, _ in (*archive.get_contents(), *archive.get_bytecode()):
            content = cast(Content, stream)
            digest = hashlib.sha256()
            for piece in content.chunks():
                digest.update(piece)
            if not content.promise.fits(digest.hexdigest(), content.size):
                faults.add(name)
        return len(faults)


def find_record_faults(path: Path, sha256: str, cache: Path, *, python: str) -> int:
    """The count of :func:`count_record_faults`, kept by the wheel's hash, so that its files are read once."""
    kept = cache / "record-faults" / f"{sha256}-{python}.json"
    found = _COUNTS.read(kept)
    if found is not None and found.format == _FORMAT:
        return found.count
    count = count_record_faults(path, python=python)
    _COUNTS.write(kept, _FaultCount(count), doing="keeping what is known of a wheel")
    return count
