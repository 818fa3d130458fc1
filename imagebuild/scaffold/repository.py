"""A whole repository of one's own: folders, workflows, Makefile; and a newer version of them, with the edits that were made since.

What was written is kept as ``.scaffold/PATH``. An upgrade merges three texts: that one, the file as it is now, and the newer version's.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from imagebuild import __version__
from imagebuild.errors import UsageError
from imagebuild.files import explain_os_error, write_atomic
from imagebuild.permissions import choose_mode

_TEMPLATE = Path(__file__).parent / "template"
_ORIGINALS = ".scaffold"

# Path in the repository -> file of the template. These follow a newer version.
FOLLOWING = {
    ".github/workflows/images-build.yml": "workflows/images-build.yml",
    ".github/workflows/images-pull-request.yml": "workflows/images-pull-request.yml",
    ".github/workflows/images-quarter.yml": "workflows/images-quarter.yml",
    ".gitignore": "gitignore",
    "Makefile": "Makefile",
    "imagebuild.txt": "imagebuild.txt",
    "scripts/quarterly.sh": "scripts/quarterly.sh",
}
# These are the repository's own from the first day.
OWN = {
    "README.md": "README.md",
    "images/catalogue.toml": "catalogue.toml",
    "images/pools.toml": "pools.toml",
    "lockfiles/.gitkeep": "",
}

Outcome = Literal["made", "kept", "same", "updated", "merged", "conflict", "removed"]


class Written(msgspec.Struct, frozen=True):
    """What became of one file."""

    path: str
    outcome: Outcome


def create_repository(root: Path) -> list[Written]:
    """Write a repository's files into ``root``; what is there already is kept. UsageError where there are images."""
    if (root / "images").exists():
        raise UsageError(
            f"{root} has images/ already",
            "imagebuild init TEAM begins a team there, imagebuild init --upgrade brings this version's workflows and Makefile",
        )
    try:
        done = []
        for path, source in sorted({**FOLLOWING, **OWN}.items()):
            there = (root / path).exists()
            if not there:
                _write(root / path, _read_template(source))
            if path in FOLLOWING:
                _write(root / _ORIGINALS / path, _read_template(source))
            done.append(Written(path, "kept" if there else "made"))
        return done
    except OSError as error:
        raise explain_os_error(error, "making a repository") from None


def upgrade_repository(root: Path) -> list[Written]:
    """Bring this version's workflows, Makefile and script; edits stay. Where both changed the same lines the file stays as it is.

    The newer version is beside it then, as ``PATH.new``, and comes again with the next upgrade. UsageError where no ``init`` was.
    """
    if not (root / _ORIGINALS).is_dir():
        raise UsageError(f"{root} was not made by imagebuild init: there is no {_ORIGINALS}/", "run: imagebuild init, in an empty folder")
    try:
        return [Written(path, _upgrade_file(root, path, _read_template(source))) for path, source in sorted(FOLLOWING.items())]
    except OSError as error:
        raise explain_os_error(error, "upgrading the repository") from None


def _upgrade_file(root: Path, path: str, newer: bytes) -> Outcome:
    file, original = root / path, root / _ORIGINALS / path
    before = original.read_bytes() if original.is_file() else None
    if not file.exists():
        if before is not None:  # somebody took it away
            return "removed"
        _write(file, newer)
        _write(original, newer)
        return "made"
    now = file.read_bytes()
    if newer in (before, now):
        if newer != before:
            _write(original, newer)
        return "same"
    merged = newer if now == before else _merge(now, before or b"", newer)
    aside = file.with_name(f"{file.name}.new")
    if merged is None:
        _write(aside, newer)
        return "conflict"
    _write(file, merged)
    _write(original, newer)
    aside.unlink(missing_ok=True)
    return "updated" if merged == newer else "merged"


def _merge(now: bytes, before: bytes, newer: bytes) -> bytes | None:
    """Both sides' changes of ``before``; None where they touch the same lines, or no git is here to tell."""
    git = shutil.which("git")
    if git is None:
        return None
    with tempfile.TemporaryDirectory(prefix="imagebuild-merge-") as folder:
        paths = []
        for name, data in (("now", now), ("before", before), ("newer", newer)):
            (Path(folder) / name).write_bytes(data)
            paths.append(str(Path(folder) / name))
        done = subprocess.run([git, "merge-file", "-p", "-q", *paths], capture_output=True, check=False, cwd=folder)
    return done.stdout if done.returncode == 0 else None


def _read_template(source: str) -> bytes:
    return (_TEMPLATE / source).read_bytes().replace(b"@VERSION@", __version__.encode()) if source else b""


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, data, mode=choose_mode(path.suffix == ".sh"))
