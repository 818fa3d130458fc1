"""Trees compared: what pip puts on the base beside what the image's layer puts there, every difference in a class of its own."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# Differences that two right installations have: path -> why. The first that fits counts.
_EXPLAINED = (
    ("bytecode", re.compile(r"\.pyc$|/__pycache__$")),  # ours has unchecked hashes (PEP 552), pip's the time of its run
    ("RECORD", re.compile(r"\.dist-info/RECORD$")),  # rows of the files in this table
    ("INSTALLER", re.compile(r"\.dist-info/INSTALLER$")),
    ("REQUESTED", re.compile(r"\.dist-info/REQUESTED$")),  # pip marks what was named; a lock names everything
    ("direct_url", re.compile(r"\.dist-info/direct_url\.json$")),
    ("script", re.compile(r"^(?:usr/local|opt/[^/]+)/bin/")),  # the same entry point, another wrapper
    ("image's own", re.compile(r"^etc/imagebuild")),  # constraints for a user's own pip
    ("the run's own", re.compile(r"^((root|tmp|home|var|run|proc|dev|sys)(/|$)|etc/(hosts|resolv\.conf)$)")),
)
# Directly in a folder of sys.path: what lies deeper is vendored, as in setuptools.
_RECORD = re.compile(r"((?:usr/|usr/local/|opt/[^/]+/)lib/python3[^/]*/(?:dist|site)-packages/)([^/]+)-([^/-]+)\.dist-info/RECORD")


@dataclass(frozen=True)
class Installed:
    """What one way of installing put on the base."""

    files: Mapping[str, str]  # path -> digest of its bytes, or -> target
    removed: frozenset[str]  # of the base's paths
    versions: Mapping[str, str]  # name -> version, by the dist-info folders that are new
    owners: Mapping[str, str]  # path -> name, by RECORD


def read_installed(upper: Path) -> Installed:
    """The upper folder of an overlay: new and changed files; a device 0:0 is what was removed (overlayfs)."""
    files: dict[str, str] = {}
    removed: set[str] = set()
    versions: dict[str, str] = {}
    owners: dict[str, str] = {}
    for folder, _, names in os.walk(upper):
        for name in names:
            path = Path(folder, name)
            short = str(path.relative_to(upper))
            state = path.lstat()
            if stat.S_ISCHR(state.st_mode):
                removed.add(short)
            elif stat.S_ISLNK(state.st_mode):
                files[short] = f"-> {path.readlink()}"
            elif stat.S_ISREG(state.st_mode):
                with path.open("rb") as stream:
                    files[short] = hashlib.file_digest(stream, "sha256").hexdigest()
    for short in files:
        match = _RECORD.fullmatch(short)
        if match:
            name = re.sub(r"[-_.]+", "-", match[2]).lower()
            versions[name] = match[3]
            for line in (upper / short).read_text("utf-8", "replace").splitlines():
                row = line.rsplit(",", 2)[0].strip('"')
                owners[os.path.normpath(match[1] + row)] = name
    return Installed(files, frozenset(removed), versions, owners)


@dataclass(frozen=True)
class Comparison:
    """What differs: packages by version, files by class, and what no class explains."""

    versions: Mapping[str, tuple[str, str]]  # name -> (pip's, the image's); empty for a side that lacks it
    classes: Mapping[str, int]
    unexplained: tuple[str, ...]
    same: int


def compare(pip: Installed, image: Installed) -> Comparison:
    """Sort every path that differs."""
    names = {**pip.versions, **image.versions}
    versions = {
        name: (pip.versions.get(name, ""), image.versions.get(name, ""))
        for name in sorted(names)
        if pip.versions.get(name) != image.versions.get(name)
    }
    classes: Counter[str] = Counter()
    unexplained = []
    same = 0
    for path in sorted({*pip.files, *image.files}):
        ours, theirs = image.files.get(path), pip.files.get(path)
        if ours == theirs:
            same += 1
            continue
        owners = {side.owners.get(path) for side in (pip, image)} - {None}
        source = re.sub(r"__pycache__/([^/]+?)\.[^/]+\.pyc$", r"\1.py", path)
        owners |= {side.owners.get(source) for side in (pip, image)} - {None}
        if owners & versions.keys():
            classes["another version"] += 1
            continue
        kind = next((kind for kind, pattern in _EXPLAINED if pattern.search(path)), "")
        if kind:
            classes[kind] += 1
        else:
            where = "only by pip" if ours is None else "only in the image" if theirs is None else "other bytes"
            unexplained.append(f"{path}: {where}")
    return Comparison(versions, dict(classes), tuple(unexplained), same)
