"""Where a base's loader looks for shared libraries (ld.so(8)), and whether they are there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence

from imagebuild.base.model import Entry, Tree
from imagebuild.errors import BuildError

DEFAULT_FOLDERS = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_CONFIGURATION = "/etc/ld.so.conf"
_LINK_LIMIT = 40  # as Linux: path_resolution(7)


def follow_links(tree: Tree, path: str) -> Entry | None:
    """What opening ``path`` would open: every link followed. None where nothing is there, or a loop of links."""
    try:
        for _ in range(_LINK_LIMIT):
            place = tree.resolve(path)
            entry = tree.get(place)
            if entry is None or entry.type != "symlink":
                return entry
            path = posixpath.join(posixpath.dirname(place), entry.link)
    except BuildError:
        pass
    return None


def list_library_folders(tree: Tree) -> tuple[str, ...]:
    """Where the loader looks for what a file names without a folder: what is configured, then its own folders."""
    return tuple(dict.fromkeys((*read_configured_folders(tree), *DEFAULT_FOLDERS)))


def read_configured_folders(tree: Tree) -> Iterator[str]:
    """The folders of ``/etc/ld.so.conf`` and of the files in ``/etc/ld.so.conf.d``, in file order."""
    for name in (_CONFIGURATION, *(entry.path for entry in tree.under(f"{_CONFIGURATION}.d"))):
        entry = follow_links(tree, name)
        text = tree.read_text(entry.path) if entry is not None else None
        for line in (text or b"").decode("utf-8", "replace").splitlines():
            folder = line.partition("#")[0].strip()
            if folder.startswith("/"):
                yield folder


def has_library(tree: Tree, name: str, folders: Sequence[str]) -> bool:
    """Whether one of ``folders`` has a file of that name; ``name`` with a slash is a path of its own."""
    places = [name] if "/" in name else [f"{folder.rstrip('/')}/{name}" for folder in folders]
    return any((entry := follow_links(tree, place)) is not None and entry.type == "file" for place in places)
