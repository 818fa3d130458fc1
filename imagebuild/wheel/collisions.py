"""Which of several packages owns a file that they bring: ``[files]`` of team.toml, and wheels without the files that are another's.

pip lets the last one win and says nothing; here different content at one path is refused until the team names its owner.
"""

from __future__ import annotations

import hashlib
import posixpath
import zipfile
from collections.abc import Collection, Hashable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from imagebuild.errors import BuildError
from imagebuild.files import replacing
from imagebuild.text import first_lines
from imagebuild.wheel.archive import WheelArchive
from imagebuild.wheel.record import render_record
from imagebuild.wheel.scripts import drop_entry_points
from imagebuild.wheel.slim import choose_dropped

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_SHOWN = 20


class Collision(msgspec.Struct, frozen=True):
    """One path, relative to site-packages as RECORD writes it, that two packages bring with different content."""

    row: str
    first: str
    second: str
    stranger: str = ""  # the owner that ``[files]`` names, when it does not bring the path

    def __str__(self) -> str:
        text = f"{self.first} and {self.second} both bring {self.row}, with different content"
        return f"{text}, and {self.stranger}, which [files] names as the owner, does not bring it" if self.stranger else text


class Settlement(msgspec.Struct, frozen=True):
    """Whose one path is. ``yielding``: the packages that bring something else there; who brings the same yields nothing."""

    owner: str
    yielding: frozenset[str]


class SiteLayout(msgspec.Struct, frozen=True):
    """Where an interpreter has its packages installed: sysconfig's ``paths`` by scheme, and its full version."""

    paths: Mapping[str, str]
    python: str

    def name_row(self, archive: WheelArchive, entry: str) -> str:
        """How RECORD names a file of the wheel; "" for what is installed in a folder of the package's own name, or not at all."""
        top, _, rest = entry.partition("/")
        if archive.is_left_out(entry):
            return ""
        if top != archive.data_dir:
            return entry
        scheme, _, inside = rest.partition("/")
        if scheme in ("purelib", "platlib"):
            return inside
        return self._relate(scheme, inside) if scheme in ("scripts", "data") else ""

    def name_script(self, name: str) -> str:
        """How RECORD names the script of an entry point."""
        return self._relate("scripts", name)

    def _relate(self, scheme: str, inside: str) -> str:
        return posixpath.relpath(posixpath.join(self.paths[scheme], inside), self.paths["purelib"])


class Ownership(msgspec.Struct, frozen=True):
    """``yielded``: package -> rows that it leaves to others. ``idle``: lines of ``[files]`` that decide nothing."""

    yielded: dict[str, frozenset[str]]
    idle: tuple[str, ...]


def find_owner(files: Mapping[str, str], row: str) -> str:
    """The package that owns ``row``: of the path itself, else of the first pattern (``*``, ``?``, ``[...]``) that matches; "" for none."""
    return files.get(row) or next((owner for pattern, owner in files.items() if fnmatchcase(row, pattern)), "")


def settle_path(row: str, claims: Mapping[str, Hashable], files: Mapping[str, str]) -> Settlement | Collision:
    """Whose ``row`` is. ``claims``: package -> what tells its content from others'. All the same: the first's, by name."""
    packages = sorted(claims)
    first = packages[0]
    other = next((package for package in packages if claims[package] != claims[first]), "")
    if not other:
        return Settlement(first, frozenset())
    owner = find_owner(files, row)
    if owner not in claims:
        return Collision(row, first, other, owner)
    return Settlement(owner, frozenset(package for package in packages if claims[package] != claims[owner]))


def explain_collisions(collisions: Sequence[Collision]) -> BuildError:
    """What to say, and to write into team.toml."""
    first = collisions[0]
    return BuildError(
        str(first),
        f'name the owner in team.toml, [files] "{_propose_pattern(collisions)}" = "{first.first}" (patterns are allowed); '
        "or leave one of them out, or pin versions that agree",
        first_lines([str(item) for item in collisions[1:]], _SHOWN - 1),
    )


def _propose_pattern(collisions: Sequence[Collision]) -> str:
    """What settles all of them, where they are between the same two packages in one folder; else the first one's path.

    Bytecode is its source's owner's.
    """
    first = collisions[0]
    collisions = [item for item in collisions if not item.row.endswith(".pyc")]
    folder, slash, _ = first.row.partition("/")
    alike = all((item.first, item.second) == (first.first, first.second) and item.row.startswith(f"{folder}/") for item in collisions)
    return f"{folder}/*" if len(collisions) > 1 and slash and folder != ".." and alike else first.row


def divide_wheels(wheels: Mapping[str, Path], files: Mapping[str, str], layout: SiteLayout, slim: Collection[str] = ()) -> Ownership:
    """Whose the paths are that several of ``wheels`` bring, for an engine that installs whole wheels.

    ``wheels`` by normalised name; what ``slim`` leaves out cannot collide. BuildError for different content without an owner.
    """
    bringers: dict[str, list[str]] = {}
    for package in sorted(wheels):
        with WheelArchive(wheels[package], python=layout.python) as archive:
            for row in _list_rows(archive, layout, slim):
                bringers.setdefault(row, []).append(package)
    contested = {row: packages for row, packages in bringers.items() if len(packages) > 1}
    claims: dict[str, dict[str, Hashable]] = {row: {} for row in contested}
    for package in sorted({package for packages in contested.values() for package in packages}):
        with WheelArchive(wheels[package], python=layout.python) as archive:
            for row, (entry, target) in _list_rows(archive, layout, slim).items():
                if row in contested:
                    claims[row][package] = target or _describe_content(archive, entry)
    settled = [settle_path(row, claims[row], files) for row in contested]
    if collisions := [item for item in settled if isinstance(item, Collision)]:
        raise explain_collisions(collisions)
    yielded: dict[str, set[str]] = {}
    decided = set()
    for row, item in zip(contested, settled, strict=True):
        if isinstance(item, Settlement) and item.yielding:
            decided.add(row)
            for package in item.yielding:
                yielded.setdefault(package, set()).add(row)
    idle = tuple(pattern for pattern in files if not any(row == pattern or fnmatchcase(row, pattern) for row in decided))
    return Ownership({package: frozenset(rows) for package, rows in yielded.items()}, idle)


def _list_rows(archive: WheelArchive, layout: SiteLayout, slim: Collection[str]) -> dict[str, tuple[str, str]]:
    """Row -> (entry of the zip, ""), or ("", target) for an entry point's script. Bytecode that is shipped follows its source."""
    rows = {row: (entry, "") for entry in archive.files if (row := layout.name_row(archive, entry)) and not row.endswith(".pyc")}
    if slim:
        for row in choose_dropped(rows, slim, lambda row: archive.open_content(rows[row][0])[0].read()):
            del rows[row]
    rows.update({layout.name_script(name): ("", target) for name, target in archive.scripts.items()})
    return rows


def _describe_content(archive: WheelArchive, entry: str) -> tuple[str, bool]:
    content, executable = archive.open_content(entry)
    digest = hashlib.sha256()
    for piece in content.chunks():
        digest.update(piece)
    return digest.hexdigest(), executable


def write_adapted_wheel(wheel: Path, target: Path, layout: SiteLayout, yielded: frozenset[str] = frozenset()) -> tuple[str, str]:
    """The wheel without the rows ``yielded``, their bytecode and their entry points' scripts, with a RECORD of the true bytes.

    pip takes rows of the wheel's RECORD over as they are. Returns the wheel's ``.dist-info`` folder and the text of entry_points.txt as it
    was, where that had to change, else ""; the same input gives the same bytes.
    """
    rows: list[tuple[str, str, int | None]] = []
    changed = ""
    with WheelArchive(wheel, python=layout.python) as archive, replacing(target) as stream, zipfile.ZipFile(stream, "w") as out:
        record = f"{archive.dist_info_dir}/RECORD"
        scripts = {name for name in archive.scripts if layout.name_script(name) in yielded}
        for entry in sorted(archive.files):
            row = layout.name_row(archive, entry)
            if entry == record or row in yielded or _find_source(row) in yielded:
                continue
            content, executable = archive.open_content(entry)
            data = content.chunks()
            if scripts and entry == f"{archive.dist_info_dir}/entry_points.txt":
                changed = content.read().decode()
                data = iter([drop_entry_points(changed, scripts).encode()])
            digest, size = hashlib.sha256(), 0
            with out.open(_make_info(entry, executable), "w", force_zip64=True) as copy:
                for piece in data:
                    copy.write(piece)
                    digest.update(piece)
                    size += len(piece)
            rows.append((entry, digest.hexdigest(), size))
        out.writestr(_make_info(record, executable=False), render_record([*rows, (record, "", None)]))
    return archive.dist_info_dir, changed


def _make_info(name: str, executable: bool) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _TIMESTAMP)
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    return info


def _find_source(row: str) -> str:
    """The source of bytecode that a wheel ships; "" for other files."""
    folder, name = posixpath.split(row)
    if posixpath.basename(folder) != "__pycache__" or not name.endswith(".pyc"):
        return ""
    return posixpath.join(posixpath.dirname(folder), name.partition(".")[0] + ".py")
