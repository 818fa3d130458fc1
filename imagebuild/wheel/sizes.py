"""The shape of a wheel: how many bytes of which kind it holds, from its zip directory alone; kept by the wheel's hash.

With it the size of a layer is predicted before any wheel is downloaded (:mod:`imagebuild.size.prediction`).
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import BinaryIO

import msgspec

from imagebuild.errors import IntegrityError
from imagebuild.sealed import SealedCache
from imagebuild.wheel.slim import find_slim_kind

SHAPE_FORMAT = 1
KINDS = ("code", "bytecode", "library", "data", "tests", "pyi", "headers", "static-libs", "metadata")
_LIBRARY = re.compile(r".*\.so(\.\d+)*")
_SITE = re.compile(r"/(?:site|dist)-packages/(.+)")


def classify_file(row: str) -> str:
    """One of :data:`KINDS`, by the name that RECORD has (or would have) for the file."""
    folder, _, name = row.rpartition("/")
    if folder.endswith((".dist-info", ".egg-info")) or ".dist-info/" in row:
        return "metadata"
    if kind := find_slim_kind(row):
        return kind
    if name.endswith(".py"):
        return "code"
    if name.endswith(".pyc"):
        return "bytecode"
    return "library" if _LIBRARY.fullmatch(name) else "data"


def classify_path(path: str) -> str:
    """One of :data:`KINDS`, by an absolute path in an image."""
    match = _SITE.search(path)
    return classify_file(match[1] if match else f"..{path}")


class ShapeGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """The files of one kind. Bytes; ``packed`` is what the wheel's own compression makes of them."""

    files: int = 0
    size: int = 0
    packed: int = 0
    sources: int = 0  # of the files, those that are Python sources, and get bytecode
    source_size: int = 0
    source_packed: int = 0
    source_names: int = 0  # bytes of their names


class WheelShape(msgspec.Struct, frozen=True):
    """Groups by kind."""

    groups: dict[str, ShapeGroup]
    format: int = SHAPE_FORMAT
    check: str = ""


_SHAPES = SealedCache(WheelShape)


_STORED = {"code": 0.27, "library": 0.42, "tests": 0.25}  # what deflate makes of a file, where a wheel does not compress


def read_shape(stream: BinaryIO, filename: str) -> WheelShape:
    """From a wheel's zip directory; IntegrityError when it has none."""
    groups: dict[str, list[int]] = {}
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = [item for item in archive.infolist() if not item.filename.endswith("/")]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise IntegrityError(f"{filename} is not a readable wheel: {error}", "report it to the index's operators") from None
    for item in entries:
        first, _, rest = item.filename.partition("/")
        if first.endswith(".data"):  # scheme/name: as the installer will place it
            scheme, _, rest = rest.partition("/")
            name = rest if scheme in ("purelib", "platlib") else f"../{rest}"
        else:
            name = item.filename
        kind = classify_file(name)
        if kind == "bytecode":  # shipped bytecode is replaced by our own
            continue
        stored = item.compress_type == zipfile.ZIP_STORED
        packed = int(item.file_size * _STORED.get(kind, 0.3)) if stored else item.compress_size
        group = groups.setdefault(kind, [0] * 7)
        group[0] += 1
        group[1] += item.file_size
        group[2] += packed
        if name.endswith(".py") and not name.startswith("../"):
            group[3] += 1
            group[4] += item.file_size
            group[5] += packed
            group[6] += len(name.encode())
    return WheelShape({kind: ShapeGroup(*values) for kind, values in sorted(groups.items())})


def _locate(cache: Path, sha256: str) -> Path:
    return cache / "shapes" / f"{sha256}.json"


def recall_shape(cache: Path, sha256: str) -> WheelShape | None:
    """The shape kept for a wheel; None without one, or when it is damaged."""
    found = _SHAPES.read(_locate(cache, sha256))
    return found if found is not None and found.format == SHAPE_FORMAT else None


def remember_shape(cache: Path, sha256: str, shape: WheelShape) -> None:
    """Keep a wheel's shape by its hash."""
    _SHAPES.write(_locate(cache, sha256), shape, doing="keeping a wheel's sizes")


def keep_shape(cache: Path, sha256: str, stream: BinaryIO, filename: str) -> WheelShape:
    """Read and remember."""
    shape = read_shape(stream, filename)
    remember_shape(cache, sha256, shape)
    return shape
