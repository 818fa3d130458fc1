"""Which of two packages owns a file that both bring: ``[files]`` of team.toml, and wheels without the files that are another's.

pip lets the last one win and says nothing; here different content at one path is refused until the team has said whose it is.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from imagebuild.errors import BuildError
from imagebuild.files import replacing
from imagebuild.wheel.slim import find_slim_kind

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_SHOWN = 20
_SITE_SCHEMES = ("purelib", "platlib")


class Collision(msgspec.Struct, frozen=True):
    """One path, relative to site-packages as RECORD writes it, that two packages bring with different content."""

    row: str
    first: str
    second: str

    def __str__(self) -> str:
        return f"{self.first} and {self.second} both bring {self.row}, with different content"


def find_owner(files: Mapping[str, str], row: str) -> str:
    """The package that owns ``row``: of the path itself, else of the first pattern (``*``, ``?``, ``[...]``) that matches; "" for none."""
    return files.get(row) or next((owner for pattern, owner in files.items() if fnmatchcase(row, pattern)), "")


def explain_collisions(collisions: Sequence[Collision]) -> BuildError:
    """What to say, and to write into team.toml."""
    first = collisions[0]
    lines = tuple(str(item) for item in collisions[1:_SHOWN])
    more = (f"and {len(collisions) - _SHOWN} more",) if len(collisions) > _SHOWN else ()
    return BuildError(
        str(first),
        f'say in team.toml whose it is, [files] "{first.row}" = "{first.first}" (patterns are allowed); or leave one of them out, or pin '
        "versions that agree",
        (*lines, *more),
    )


def find_yielded(wheels: Mapping[str, Path], files: Mapping[str, str], slim: Collection[str] = ()) -> dict[str, frozenset[str]]:
    """Package -> rows that it leaves to another, for an engine that installs whole wheels. BuildError for a collision without an owner.

    ``wheels`` by normalised name; of the kinds in ``slim`` nothing stays, so they cannot collide. What lands outside of site-packages
    (scripts, data) is not looked at.
    """
    owners: dict[str, tuple[str, tuple[int, int, bool]]] = {}
    yielded: dict[str, set[str]] = {}
    collisions: list[Collision] = []
    for package in sorted(wheels):
        for row, facts in _list_site_files(wheels[package]).items():
            owner, known = owners.setdefault(row, (package, facts))
            if owner == package or known == facts or find_slim_kind(row) in slim:
                continue
            wanted = find_owner(files, row)
            if wanted == owner:
                yielded.setdefault(package, set()).add(row)
            elif wanted == package:
                yielded.setdefault(owner, set()).add(row)
                owners[row] = (package, facts)
            else:
                collisions.append(Collision(row, owner, package))
    if collisions:
        raise explain_collisions(collisions)
    return {package: frozenset(rows) for package, rows in yielded.items()}


def _list_site_files(wheel: Path) -> dict[str, tuple[int, int, bool]]:
    """Row -> what tells one content from another: CRC, size, executable or not."""
    found = {}
    with zipfile.ZipFile(wheel) as archive:
        for item in archive.infolist():
            row = _find_row(item.filename)
            if row and not item.is_dir():
                found[row] = (item.CRC, item.file_size, bool(item.external_attr >> 16 & 0o111))
    return found


def _find_row(name: str) -> str:
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return name
    scheme, _, inside = rest.partition("/")
    return inside if scheme in _SITE_SCHEMES else ""


def write_reduced_wheel(wheel: Path, target: Path, rows: frozenset[str]) -> None:
    """The wheel without ``rows``, neither as files nor in its RECORD; the same input gives the same bytes."""
    with (
        zipfile.ZipFile(wheel) as archive,
        replacing(target) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out,
    ):
        for item in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if item.is_dir() or _find_row(item.filename) in rows:
                continue
            data = archive.read(item)
            if item.filename.endswith(".dist-info/RECORD") and item.filename.count("/") == 1:
                kept = [row for row in csv.reader(data.decode("utf-8", "replace").splitlines()) if row and _find_row(row[0]) not in rows]
                text = io.StringIO(newline="")
                csv.writer(text, lineterminator="\n").writerows(kept)
                data = text.getvalue().encode()
            entry = zipfile.ZipInfo(item.filename, _TIMESTAMP)
            entry.external_attr = item.external_attr
            entry.compress_type = zipfile.ZIP_DEFLATED
            out.writestr(entry, data)
