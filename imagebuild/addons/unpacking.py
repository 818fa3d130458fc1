"""An add-on's archive, as an attacker may have written it: the files that become the add-on's folder, or an error that names the entry.

A ``.vsix`` is a zip, an R package a gzip'd tar. Taken are the regular files below one folder of the archive; a file may be executed by all
where its owner may execute it (mode 0755), and is 0644 otherwise. The docker engine's program (payload/addons_run.py) does the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from imagebuild.errors import BuildError, IntegrityError
from imagebuild.files import explain_os_error
from imagebuild.oci.compression import open_decompressed
from imagebuild.permissions import choose_mode
from imagebuild.wheel.zipentries import find_blocked_folder, find_kind_fault, find_name_fault, find_overlap, open_zip

_LARGEST = 4 << 30  # bytes that an archive may unpack to
_MOST = 200_000  # entries
_CHUNK = 256 << 10
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_HINT = "do not install it: it is malformed or hostile; pin another version, or ask who made it"


class ArchiveFile(msgspec.Struct, frozen=True):
    """One file of an add-on."""

    path: str  # relative to the add-on's folder, in plain form
    size: int
    mode: int  # 0o644 or 0o755
    open: Callable[[], Iterator[bytes]]  # the content, checked while it is read; may be called again and again


@contextlib.contextmanager
def open_archive(path: Path, label: str, strip: str) -> Iterator[list[ArchiveFile]]:
    """The files below the folder ``strip`` (``extension/``) of a .vsix or .tar.gz, sorted by path; they can be read within the block.

    BuildError for what no add-on may hold, IntegrityError for bytes that are not what the archive promises; both name ``label``.
    """
    opener = _open_vsix if label.endswith(".vsix") else _open_tar
    try:
        with opener(path, label, strip) as files:
            _check_paths(files, label, strip)
            yield sorted(files, key=lambda file: file.path)
    except OSError as error:
        raise explain_os_error(error, f"unpacking {label}") from error


def read_file(files: list[ArchiveFile], path: str, limit: int) -> bytes | None:
    """The content of one small file; None where there is none. IntegrityError for more than ``limit`` bytes."""
    found = next((file for file in files if file.path == path), None)
    if found is None:
        return None
    if found.size > limit:
        raise IntegrityError(f"{path} has more than {limit >> 10} KiB", _HINT)
    return b"".join(found.open())


def hash_files(files: Iterable[ArchiveFile]) -> str:
    """:func:`hash_tree` of an archive's files, each read to its end."""
    found = {}
    for file in files:
        digest = hashlib.sha256()
        for piece in file.open():
            digest.update(piece)
        found[file.path] = digest.hexdigest()
    return hash_tree(found)


def hash_tree(hashes: Mapping[str, str]) -> str:
    """SHA-256 (hex) over paths, relative to the add-on's folder, and SHA-256 (hex) of their contents."""
    digest = hashlib.sha256()
    for path, sha256 in sorted(hashes.items()):
        digest.update(f"{path}\0{sha256}\n".encode())
    return digest.hexdigest()


def _refuse(label: str, name: str, why: str) -> BuildError:
    return BuildError(f"{label}: {name}: {why}", _HINT)


def _check_paths(files: list[ArchiveFile], label: str, strip: str) -> None:
    if not files:
        raise BuildError(f"{label} has no files in {strip}", "it is not an archive of this add-on; pin another version")
    paths = [file.path for file in files]
    if len(set(paths)) != len(paths):
        twice = next(path for number, path in enumerate(paths) if path in paths[:number])
        raise _refuse(label, twice, "it is in the archive twice")
    if blocked := find_blocked_folder(paths):
        raise _refuse(label, blocked, "it is a file, and other files need a folder there")


def _check_total(label: str, count: int, total: int) -> None:
    if total > _LARGEST or count > _MOST:
        raise BuildError(f"{label} unpacks to more than {_LARGEST >> 30} GiB or {_MOST} files", _HINT)


# --- zip ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_vsix(path: Path, label: str, strip: str) -> Iterator[list[ArchiveFile]]:
    archive, descriptor = open_zip(path, label)
    os.close(descriptor)
    with archive:
        infos = archive.infolist()
        _check_total(label, len(infos), sum(info.file_size for info in infos))
        if overlap := find_overlap(infos):
            raise _refuse(label, overlap, "it shares bytes with another entry")
        files = []
        for info in infos:
            if why := find_name_fault(info) or find_kind_fault(info):
                raise _refuse(label, info.filename, why)
            if info.filename.startswith(strip) and not info.filename.endswith("/"):
                mode = choose_mode(bool(info.external_attr >> 16 & stat.S_IXUSR))
                files.append(ArchiveFile(info.filename.removeprefix(strip), info.file_size, mode, _open_entry(archive, info, label)))
        yield files


def _open_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, label: str) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        seen = 0
        try:
            with archive.open(info) as stream:
                while piece := stream.read(_CHUNK):
                    seen += len(piece)
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise IntegrityError(f"{label}: {info.filename}: {error}", _HINT) from None
        if seen != info.file_size:
            raise IntegrityError(f"{label}: {info.filename}: the zip declares {info.file_size} bytes and holds {seen}", _HINT)

    return read


# --- tar ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open_tar(path: Path, label: str, strip: str) -> Iterator[list[ArchiveFile]]:
    with tempfile.TemporaryFile(dir=path.parent) as plain:
        _decompress(path, plain, label)
        try:
            with tarfile.open(fileobj=plain, mode="r:", encoding="utf-8", errors="strict") as archive:
                yield _list_tar(archive, label, strip)
        except (tarfile.TarError, UnicodeDecodeError, EOFError) as error:
            raise IntegrityError(f"{label} is not a tar archive: {error}", _HINT) from None


def _decompress(path: Path, target: IO[bytes], label: str) -> None:
    total = 0
    with path.open("rb") as stored:
        reader = open_decompressed(stored, "gzip")
        try:
            while piece := reader.read(_CHUNK):
                total += len(piece)
                _check_total(label, 0, total)
                target.write(piece)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise IntegrityError(f"{label} cannot be decompressed: {error}", _HINT) from None
    target.seek(0)


def _list_tar(archive: tarfile.TarFile, label: str, strip: str) -> list[ArchiveFile]:
    files: list[ArchiveFile] = []
    for number, entry in enumerate(archive, 1):
        _check_total(label, number, 0)
        name = entry.name.removeprefix("./")
        if why := _find_tar_fault(entry, name):
            raise _refuse(label, entry.name, why)
        if entry.isreg() and name.startswith(strip):
            mode = choose_mode(bool(entry.mode & stat.S_IXUSR))
            files.append(ArchiveFile(name.removeprefix(strip), entry.size, mode, _open_member(archive, entry, label)))
    return files


def _find_tar_fault(entry: tarfile.TarInfo, name: str) -> str:
    """Why an entry may not become a path in an image; "" when it may."""
    parts = name.removesuffix("/").split("/")
    rules = (
        (entry.issym() or entry.islnk(), "it is a link"),
        (not (entry.isreg() or entry.isdir()) or entry.issparse(), "it is not a plain file"),
        (entry.isreg() and bool(entry.mode & 0o6000), "it has a setuid or setgid bit"),
        (_CONTROL.search(name) is not None or "\\" in name, "its name holds a control character or a backslash"),
        (name.startswith("/"), "its path is absolute"),
        (".." in parts, "its path climbs with '..'"),
        (entry.isreg() and name.endswith("/"), "it is a file, and its path ends as a folder's"),
        ("" in parts or ("." in parts and name != "."), "its path is not in plain form"),
        (any(len(part.encode()) > 255 for part in parts) or len(name.encode()) > 4096, "its path is longer than a system takes"),
        (any(part.startswith(".wh.") for part in parts), "a name beginning with .wh. would delete a file of the image"),
    )
    return next((why for wrong, why in rules if wrong), "")


def _open_member(archive: tarfile.TarFile, entry: tarfile.TarInfo, label: str) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        stream = archive.extractfile(entry)
        assert stream is not None  # a regular file
        seen = 0
        with stream:
            while piece := stream.read(_CHUNK):
                seen += len(piece)
                yield piece
        if seen != entry.size:
            raise IntegrityError(f"{label}: {entry.name}: the archive is cut short", _HINT)

    return read
