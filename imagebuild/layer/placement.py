"""Where a wheel's file or an add-on comes to lie in the image, and the places where none may."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Sequence

from imagebuild.addons.model import PlacedArchive
from imagebuild.base.model import Base, Entry, Interpreter, Tree
from imagebuild.errors import BuildError

# Mounted over or emptied when a container starts, and writable by anyone while it runs.
_VOLATILE = ("/tmp", "/var/tmp", "/proc", "/sys", "/dev", "/run")


def normalise_path(path: str) -> str:
    """``path`` in plain form with one leading slash (POSIX keeps two)."""
    return "/" + posixpath.normpath(path).lstrip("/")


def is_within(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class FolderResolver:
    """A base's tree, asked about folders again and again from several threads."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._resolved: dict[str, str] = {"/": "/"}
        self._entries: dict[str, Entry | None] = {}

    def get(self, path: str) -> Entry | None:
        """The base's entry at exactly this path. Below a folder that the base lacks, nothing is looked up."""
        with self._lock:
            return self._get(path)

    def resolve(self, folder: str) -> str:
        """``folder`` with all links of the base followed."""
        with self._lock:
            return self._resolve(folder)

    def _get(self, path: str) -> Entry | None:
        parent = path.rpartition("/")[0]
        if parent:
            folder = self._get_folder(parent)
            if folder is None or folder.type != "dir":
                return None
        return self._tree.get(path)

    def _get_folder(self, path: str) -> Entry | None:
        if path not in self._entries:
            parent = path.rpartition("/")[0]
            absent = bool(parent) and self._get_folder(parent) is None
            self._entries[path] = None if absent else self._tree.get(path)
        return self._entries[path]

    def _resolve(self, folder: str) -> str:
        known = self._resolved.get(folder)
        if known is None:
            parent = self._resolve(posixpath.dirname(folder))
            known = posixpath.join(parent, posixpath.basename(folder))
            if parent == "/" or self._get_folder(parent) is not None:
                known = self._tree.resolve(known)
            self._resolved[folder] = known
        return known


class Placement:
    """Final paths of one wheel's files under the base's interpreter, as ``pip install`` would choose them."""

    def __init__(self, interpreter: Interpreter, folders: FolderResolver, *, package: str, home: str, purelib: bool) -> None:
        paths = interpreter.paths
        include = paths["include"]
        if interpreter.environment == "venv":  # pip's own choice there; sysconfig names the base prefix's folder
            include = posixpath.join(interpreter.prefix, "include", "site", "python" + ".".join(interpreter.version.split(".")[:2]))
        roots = {
            "purelib": paths["purelib"],
            "platlib": paths["platlib"],
            "headers": posixpath.join(include, package),
            "scripts": paths["scripts"],
            "data": paths["data"],
        }
        self._roots = {scheme: normalise_path(path) for scheme, path in roots.items()}
        self._lib = self._roots["purelib" if purelib else "platlib"]
        self._folders = folders
        self._allowed = {folders.resolve(normalise_path(path)) for path in (interpreter.prefix, include, *self._roots.values())}
        self._forbidden = forbidden_folders(folders, home)
        self._plain: dict[tuple[str, str], tuple[str, str] | None] = {}

    def place(self, scheme: str, path: str, label: str) -> tuple[str, str]:
        """The final path of ``path`` in ``scheme``, links followed, and how RECORD names it; BuildError names ``label``."""
        if (plain := self._place_plainly(scheme, path)) is not None:
            return plain
        wanted = normalise_path(posixpath.join(self._roots[scheme], path))
        final = posixpath.join(self._folders.resolve(posixpath.dirname(wanted)), posixpath.basename(wanted))
        if not is_within(wanted, self._roots[scheme]) or not any(is_within(final, root) for root in self._allowed):
            raise BuildError(f"{label}: it would land in {final}, outside the base's Python", "pin another version of the package")
        for folder in self._forbidden:
            if is_within(final, folder):
                raise BuildError(
                    f"{label}: it would land in {final}, and {folder} is hidden or emptied when the image runs",
                    "choose a base whose Python is elsewhere, or pin another version of the package",
                )
        return final, posixpath.relpath(wanted, self._lib)

    def _place_plainly(self, scheme: str, path: str) -> tuple[str, str] | None:
        """As :meth:`place` (in site-packages where ``scheme`` is empty), for a path in a folder where any file may be; else None."""
        folder, _, name = path.rpartition("/")
        if name in ("", ".", "..") or path.startswith("/"):
            return None
        if (scheme, folder) not in self._plain:
            self._plain[scheme, folder] = self._find_plain_folder(scheme, folder)
        found = self._plain[scheme, folder]
        return (found[0] + name, found[1] + name) if found is not None else None

    def _find_plain_folder(self, scheme: str, folder: str) -> tuple[str, str] | None:
        """The start of the final paths, and of those in RECORD, of all files in a folder; None where not each of them may be."""
        root = self._roots.get(scheme, self._lib)
        wanted = normalise_path(posixpath.join(root, folder))
        final = self._folders.resolve(wanted)
        if (scheme and not is_within(wanted, root)) or (is_within(self._lib, wanted) and wanted != self._lib):
            return None  # above site-packages, where a name in RECORD may be one of its folders
        if final == "/" or not any(is_within(final, allowed) for allowed in self._allowed):
            return None
        if any(is_within(final, place) or posixpath.dirname(place) == final for place in self._forbidden):
            return None
        row = posixpath.relpath(wanted, self._lib)
        return f"{final}/", "" if row == "." else f"{row}/"

    def accept_row(self, row: str) -> str | None:
        """The final path of what a RECORD names ``row``; None where no file of a wheel may be."""
        if (plain := self._place_plainly("", row)) is not None:
            return plain[0]
        wanted = normalise_path(posixpath.join(self._lib, row))
        final = posixpath.join(self._folders.resolve(posixpath.dirname(wanted)), posixpath.basename(wanted))
        inside = any(is_within(final, root) for root in self._allowed)
        return final if inside and not any(is_within(final, folder) for folder in self._forbidden) else None


def forbidden_folders(folders: FolderResolver, home: str) -> tuple[str, ...]:
    """Folders no file of a layer may be under: the home, and what is mounted or emptied at run time; links followed too."""
    named = [*_VOLATILE, *([normalise_path(home)] if home.strip("/") else [])]
    return tuple(sorted({*named, *(folders.resolve(folder) for folder in named)}))


def find_addon_folder(placed: PlacedArchive, folders: FolderResolver, home: str) -> str:
    """Where the add-on comes to lie, the base's links followed; BuildError for a folder that it may not have."""
    parent, name = posixpath.split(normalise_path(placed.folder))
    folder = posixpath.join(folders.resolve(parent), name)
    for place in forbidden_folders(folders, home):
        if is_within(folder, place):
            raise BuildError(
                f"{placed.package}: it would land in {folder}, and {place} is hidden or emptied when the image runs", "choose another base"
            )
    if folders.get(folder) is not None:
        raise BuildError(f"{placed.package}: the base has {folder} already", "lock again: imagebuild lock TEAM")
    return folder


def find_addon_folders(base: Base, addons: Sequence[PlacedArchive]) -> dict[str, str]:
    """Where each add-on comes to lie, by the name that accounts have for it."""
    folders = FolderResolver(base.tree)
    return {item.package: find_addon_folder(item, folders, base.inventory.user.home) for item in addons}
