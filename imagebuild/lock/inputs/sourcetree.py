"""What of a source tree counts: its files, sorted, and one hash over them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import msgspec

from imagebuild.errors import ConfigurationError, LockError
from imagebuild.files import hash_file

_LEFT_OUT = (
    "__pycache__", "*.pyc", "*.pyo", ".git", ".hg", ".svn", "*.egg-info", ".venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache",
    ".ruff_cache", ".ipynb_checkpoints", ".DS_Store", "*~", ".*.swp", ".*.swo", "#*#", ".#*",
)  # fmt: skip
_LEFT_OUT_ON_TOP = ("build", "dist", "venv")  # deeper down they may be modules


class TreeEntry(msgspec.Struct, frozen=True):
    """One file or symlink of a source tree; ``path`` is relative, with slashes."""

    path: str
    executable: bool
    link: str = ""


def list_tree(folder: Path) -> tuple[TreeEntry, ...]:
    """What of a source tree counts, sorted by path. Links that leave the tree, are absolute or dangle are refused."""
    if not folder.is_dir():
        raise ConfigurationError(f"no package folder at {folder}", "correct the path, or create the package")
    entries = sorted(_walk(folder, folder.resolve(), PurePosixPath()), key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))
    return tuple(entries)


def _walk(folder: Path, root: Path, prefix: PurePosixPath) -> Iterator[TreeEntry]:
    with os.scandir(folder) as found:
        items = list(found)
    for item in items:
        path = prefix / item.name
        if _is_left_out(item.name, top=not prefix.parts):
            continue
        if item.is_symlink():
            target = os.readlink(item.path)  # noqa: PTH115  # Path.readlink would normalise it
            real = Path(item.path).resolve()
            if PurePosixPath(target).is_absolute() or not real.is_relative_to(root) or not real.exists():
                raise LockError(
                    f"{folder / item.name} is a link to {target}, which is not in the package", "replace the link by the file itself"
                )
            yield TreeEntry(str(path), False, target)
        elif item.is_dir(follow_symlinks=False):
            yield from _walk(Path(item.path), root, path)
        elif item.is_file(follow_symlinks=False):
            yield TreeEntry(str(path), bool(item.stat(follow_symlinks=False).st_mode & stat.S_IXUSR))
        else:
            raise LockError(f"{folder / item.name} is neither file, folder nor link", "remove it from the package")


def _is_left_out(name: str, *, top: bool) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _LEFT_OUT) or (top and name in _LEFT_OUT_ON_TOP)


def hash_tree(folder: Path) -> str:
    """SHA-256 (hex) over the sorted relative paths, executable bits and contents of what :func:`list_tree` lists."""
    digest = hashlib.sha256()
    for entry in list_tree(folder):
        kind = b"l" if entry.link else b"x" if entry.executable else b"f"
        content = hashlib.sha256(os.fsencode(entry.link)).digest() if entry.link else bytes.fromhex(hash_file(folder / entry.path))
        path = os.fsencode(entry.path)
        digest.update(len(path).to_bytes(8, "big") + path + kind + content)
    return digest.hexdigest()
