"""Files that are either whole or not there, and locks between processes.

Everything this program keeps goes through :func:`replacing` or :func:`write_atomic`: written aside in the same folder,
flushed to the disk, then renamed. A process killed at any moment leaves at most a file named ``.tmp-*``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from imagebuild.errors import ConfigurationError

CHUNK = 1 << 20  # bytes read at a time
TEMPORARY_PREFIX = ".tmp-"
_SCRATCH_PREFIX = ".tmp-run-"
_MADE_HERE = re.compile(re.escape(TEMPORARY_PREFIX) + r"[a-z0-9_]{8}")  # as tempfile names them
_STALE_SECONDS = 24 * 3600
_NEW_SECONDS = 5
_FLUSHERS = 16


def explain_os_error(error: OSError, doing: str) -> ConfigurationError:
    """Turn an operating system's refusal to write into one line and what to do about it."""
    # A rename fails under the name that was meant, not under the temporary one.
    name = error.filename2 or error.filename
    where = f": {name}" if name else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ConfigurationError(
            f"no space left while {doing}{where}",
            "free some disk, or point --cache-dir at a larger one; nothing half-written was kept",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ConfigurationError(
            f"not allowed to write while {doing}{where}: {error.strerror}",
            "give this user write access there, or point --cache-dir (or --root) at a folder it owns",
        )
    return ConfigurationError(
        f"cannot go on while {doing}{where}: {error.strerror or error}",
        f"check what is at {name} and move it away, or name another place" if name else "check the disk, then run it again",
    )


def read_regular(path: Path, limit: int, shown: str = "") -> bytes:
    """The whole file, named ``shown`` in errors.

    FileNotFoundError when it is missing; ConfigurationError for a pipe, a device or a folder (none is waited for), for more than
    ``limit`` bytes, and for what cannot be read.
    """
    name = shown or str(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            data = _read_up_to(descriptor, limit + 1) if stat.S_ISREG(mode) else b""
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror or error}", "it must be a text file") from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise ConfigurationError(f"{name} cannot be read: it is {what}", "it must be a text file")
    if len(data) > limit:
        raise ConfigurationError(f"{name} has more than {limit >> 10} KiB", "it must be a text file that people write")
    return data


def _read_up_to(descriptor: int, count: int) -> bytes:
    parts = []
    while count and (data := os.read(descriptor, min(count, CHUNK))):
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def fsync_directory(path: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    _flush(path, os.O_DIRECTORY)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below ``folder``; side by side, which costs a journal little more than one of them."""
    from concurrent.futures import ThreadPoolExecutor

    entries = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink() and (path.is_file() or path.is_dir())]
    with ThreadPoolExecutor(_FLUSHERS, "flush") as pool:
        for _ in pool.map(_flush, entries):
            pass


def _flush(path: Path, flags: int = os.O_NOFOLLOW) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_temporary(folder: Path) -> tuple[int, str]:
    """An open file and its name. Its lock says that somebody is writing it, until the process ends: see :func:`sweep_temporaries`."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=folder)
    with contextlib.suppress(OSError):  # a file system without locks: what is left there goes after a day
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor, name


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path``; on a clean exit it is fsynced and renamed to ``path``, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = _make_temporary(path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as stream:
            yield stream
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` in one step."""
    with replacing(path, mode=mode) as stream:
        stream.write(data)


def write_unflushed(path: Path, data: bytes) -> None:
    """Replace ``path`` in one step, but without waiting for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = _make_temporary(path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), 0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an advisory lock (``flock``) on ``path``; the kernel frees it when the process ends, however it ends.

    Gives whether it is held: without ``wait`` another may have it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A folder in ``parent`` that goes away with the block; after a kill, with the next :func:`sweep_temporaries`."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # says that somebody is in here, until the process ends
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> None:
    """Remove what killed runs left directly in ``folder``: files and scratch folders that nobody holds, other ``.tmp-*`` after a day."""
    if not folder.is_dir():
        return
    limit = time.time() - _STALE_SECONDS
    for entry in folder.glob(TEMPORARY_PREFIX + "*"):
        with contextlib.suppress(OSError):
            old = entry.lstat().st_mtime < limit
            if entry.is_dir() and not entry.is_symlink():
                if old or (entry.name.startswith(_SCRATCH_PREFIX) and _is_abandoned(entry)):
                    shutil.rmtree(entry, ignore_errors=True)
            elif old or _is_left_over(entry):
                entry.unlink()


def sweep_writes(folder: Path) -> None:
    """Remove from a folder of the user's what killed runs left of files they wrote there, and nothing else."""
    with contextlib.suppress(OSError):
        for entry in folder.glob(TEMPORARY_PREFIX + "*"):
            if _is_left_over(entry):
                entry.unlink()


def _is_left_over(entry: Path) -> bool:
    """Whether it is a file that a run of ours was writing when it ended."""
    return bool(_MADE_HERE.fullmatch(entry.name)) and entry.is_file() and not entry.is_symlink() and _is_abandoned(entry)


def _is_abandoned(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if abs(time.time() - os.fstat(descriptor).st_mtime) < _NEW_SECONDS:
            return False  # its owner may not have locked it yet
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
