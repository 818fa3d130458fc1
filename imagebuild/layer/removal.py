"""What a layer takes away from its base: the files of distributions that are replaced, and how a layer says so.

A layer deletes a path by an empty file ``.wh.NAME`` beside it (image-spec, layer.md, Whiteouts). Each old file gets its own,
unless the layer brings a file of that name; a folder that would be left empty is deleted as a whole, as pip does, for an
empty ``x-1.0.dist-info`` is still a distribution to :mod:`importlib.metadata`. Opaque whiteouts are never written.
"""

from __future__ import annotations

import csv
import io
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator

import msgspec

from imagebuild.base.model import Base, Distribution, Entry, Tree
from imagebuild.errors import BuildError
from imagebuild.layer.placement import FolderResolver, is_within, normalise_path
from imagebuild.lock.file.replacement import explain_fixed

_CACHED = re.compile(r"(.+?)\.[^.]+(?:\.opt-[^.]+)?\.pyc")  # PEP 3147 and 488: module.tag.pyc, module.tag.opt-1.pyc


class Removal(msgspec.Struct, frozen=True):
    """What goes. Paths are absolute, with the base's links followed."""

    owners: dict[str, str] = {}  # file or link -> the replaced distribution it belongs to
    folders: tuple[str, ...] = ()  # those that may be empty afterwards and go then; deepest first


NOTHING = Removal()


def find_removal(base: Base, names: Iterable[str]) -> Removal:
    """The files of the base's distributions ``names``: by RECORD, with bytecode of what goes and all of the metadata folder.

    What another distribution lists as well stays, and so does what lies outside the interpreter's own folders. BuildError for
    one that cannot be replaced.
    """
    wanted = sorted(set(names))
    if not wanted:
        return NOTHING
    folders = FolderResolver(base.tree)
    roots, fixed = _list_roots(base, folders)
    owners: dict[str, str] = {}
    for name in wanted:
        held = base.inventory.distribution(name)
        if held is None:
            raise BuildError(f"the base {base.name} has no {name} to replace", "lock again: imagebuild lock TEAM")
        if reason := explain_fixed(held):
            raise BuildError(f"{name} {held.version} of the base {base.name} cannot be replaced: {reason}", "choose another base")
        for path in _list_files(base.tree, folders, held):
            if any(is_within(path, root) for root in roots):
                owners[path] = name
    for held in base.inventory.distributions:
        if held.name not in wanted and held.has_record:
            for path in _read_record(base.tree, folders, held):
                owners.pop(path, None)
    parents = {folder for path in owners for folder in _list_parents(path)}
    empty = {folder for folder in parents if any(is_within(folder, root) for root in roots) and folder not in fixed}
    return Removal(dict(sorted(owners.items())), tuple(sorted(empty, key=lambda folder: (-folder.count("/"), folder))))


def _list_roots(base: Base, folders: FolderResolver) -> tuple[frozenset[str], frozenset[str]]:
    """(folders whose contents may go, folders that stay however empty they are)."""
    interpreter = base.interpreter
    named = [interpreter.prefix, *interpreter.paths.values(), *(item.location for item in base.inventory.distributions)]
    roots = frozenset(folders.resolve(normalise_path(path)) for path in named)
    return roots - {"/"}, roots | {parent for root in roots for parent in _list_parents(root)}


def _list_parents(path: str) -> Iterator[str]:
    folder = posixpath.dirname(path)
    while folder not in ("/", ""):
        yield folder
        folder = posixpath.dirname(folder)


def _read_record(tree: Tree, folders: FolderResolver, held: Distribution) -> Iterator[str]:
    """The real paths that a distribution's RECORD lists, there or not."""
    data = tree.read_text(posixpath.join(held.location, held.metadata, "RECORD")) or b""
    for row in csv.reader(io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")):
        if row and row[0]:
            path = normalise_path(posixpath.join(held.location, row[0]))
            yield posixpath.join(folders.resolve(posixpath.dirname(path)), posixpath.basename(path))


def _list_files(tree: Tree, folders: FolderResolver, held: Distribution) -> Iterator[str]:
    """Every file and link that is there because of ``held``."""
    caches: dict[str, dict[str, list[str]]] = {}

    def find_bytecode(source: str) -> Iterator[str]:
        folder, name = posixpath.split(source)
        if folder not in caches:
            found = caches[folder] = {}
            for entry in tree.under(f"{folder}/__pycache__") if folders.get(f"{folder}/__pycache__") is not None else ():
                match = _CACHED.fullmatch(posixpath.basename(entry.path))
                if match:
                    found.setdefault(match[1], []).append(entry.path)
        yield from caches[folder].get(name.removesuffix(".py"), ())
        yield f"{source}c"  # a .pyc beside its source is imported without it

    def is_there(path: str) -> bool:
        entry = folders.get(path)
        return entry is not None and entry.type in ("file", "symlink")

    for path in _read_record(tree, folders, held):
        for item in (path, *(find_bytecode(path) if path.endswith(".py") else ())):
            if is_there(item):
                yield item
    metadata = folders.resolve(posixpath.join(held.location, held.metadata))
    yield from (entry.path for entry in tree.under(metadata) if entry.type in ("file", "symlink"))


class ReducedTree:
    """A base's tree without the files in ``removed``: what a layer that replaces them sees below."""

    def __init__(self, tree: Tree, removed: Collection[str]) -> None:
        self._tree = tree
        self._removed = removed

    def get(self, path: str) -> Entry | None:
        """The entry at exactly this path, unless it goes."""
        return None if path in self._removed else self._tree.get(path)

    def resolve(self, path: str) -> str:
        """As the base has it: no folder goes that a path leads through."""
        return self._tree.resolve(path)

    def under(self, folder: str) -> Iterator[Entry]:
        """What stays below ``folder``."""
        return (entry for entry in self._tree.under(folder) if entry.path not in self._removed)

    def read_text(self, path: str) -> bytes | None:
        """Text of a file that stays."""
        return None if path in self._removed else self._tree.read_text(path)


def is_emptied(tree: Tree, folder: str, removed: Collection[str]) -> bool:
    """Whether the base has something below ``folder``, and all of its files go; a folder without any is not ours to delete."""
    entries = list(tree.under(folder))
    filled = {parent for entry in entries if entry.type != "dir" for parent in _list_parents(entry.path)}
    return bool(entries) and all(entry.path in (filled if entry.type == "dir" else removed) for entry in entries)


def find_whiteouts(removal: Removal, brought: Iterable[str], tree: Tree) -> dict[str, str]:
    """Path -> replaced distribution, of what a layer with the files ``brought`` has to delete; sorted by path.

    Nothing that the layer brings, or needs as a folder, is among them; nor is anything below a path that is.
    """
    if not removal.owners:
        return {}
    files = set(brought)
    needed = files | {parent for path in files for parent in _list_parents(path)}
    gone: set[str] = set()
    candidates = set(removal.folders) - needed
    for folder in sorted(candidates):  # parents first: a folder in one that goes needs no look
        if not any(parent in gone for parent in _list_parents(folder)) and is_emptied(tree, folder, removal.owners):
            gone.add(folder)
    found = {folder: next(name for path, name in removal.owners.items() if is_within(path, folder)) for folder in gone}
    for path, name in removal.owners.items():
        if path not in needed and not any(parent in gone or parent in files for parent in _list_parents(path)):
            found[path] = name
    return dict(sorted(found.items()))


def name_whiteout(path: str) -> str:
    """``/a/b`` -> ``/a/.wh.b``."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/.wh.{name}"


def render_removal(removal: Removal) -> str:
    """For the program that does it in a container build: JSON with ``files`` and ``folders``, in that order of work."""
    document = {"files": sorted(removal.owners), "folders": list(removal.folders)}
    return msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n"
