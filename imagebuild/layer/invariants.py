"""The rules that every layer keeps: it is read back from its stored bytes with the standard library's tar reader.

The writer is :mod:`imagebuild.layer.tar.header`; nothing of it is used here, so that a defect there is seen.
:func:`check_layers` reads finished blobs: one pass checks digest, diff_id and every header. :class:`TarEntries` looks at
the headers while layers are assembled, which decompresses and hashes them anyhow. Of several layers the files are disjoint, and a folder
is the same in each: see :class:`AddedLayers`.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, cast

from imagebuild.base.model import Base, Entry, Tree
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.dpkg import SystemFiles, is_cleaned
from imagebuild.layer.model import ExtraFile, TeamLayers
from imagebuild.layer.placement import FolderResolver, forbidden_folders
from imagebuild.layer.removal import ReducedTree, is_emptied
from imagebuild.layer.tar.flow import BackgroundDigest, read_ahead
from imagebuild.layer.tar.reading import ForwardFile, HashingReader, RawTarInfo, is_decompression_error, iterate_entries
from imagebuild.oci.compression import open_decompressed
from imagebuild.permissions import FOLDER_MODE, ROOT
from imagebuild.text import first_lines

_SHOWN = 20
_SPECIAL, _ANYONE = 0o7000, 0o002  # setuid, setgid and sticky; what anyone may write

Visit = Callable[[tarfile.TarFile, tarfile.TarInfo, str], None]


class Fault(str):
    """A broken rule as a line; ``rule`` says which one: form, hidden, parent, type, whiteout, folder, mode, writable, base, end."""

    __slots__ = ("rule",)
    rule: str

    def __new__(cls, rule: str, text: str) -> Fault:
        found = super().__new__(cls, text)
        found.rule = rule
        return found


def check_layers(
    team: TeamLayers,
    *,
    base: Base,
    extra: Sequence[ExtraFile] = (),
    whiteouts: frozenset[str] = frozenset(),
    foreign: bool = False,
    system: SystemFiles | None = None,
) -> None:
    """IntegrityError with all findings unless the blobs on disk are what ``team`` says and keep the layer rules.

    ``extra``: files that may replace one of the base; ``whiteouts``: files of the base of which nothing may be left, each
    replaced or deleted (alone, or with a folder that holds nothing else); ``foreign``: a container engine wrote it (folders'
    names end in a slash there); ``system``: packages that apt installed in it, and so what dpkg may change.
    """
    added = AddedLayers(base.tree, whiteouts)
    findings = [
        fault
        for layer in team.layers
        for fault in find_faults(
            layer.file,
            layer.media_type,
            added=added,
            home=base.inventory.user.home,
            digest=layer.digest,
            diff_id=layer.diff_id,
            replaceable=frozenset(item.path for item in extra),
            foreign=foreign,
            system=system,
        )
    ]
    _refuse([*findings, *added.find_leftovers()])


class TarEntries:
    """The rules on entries, checked on tars that go by; options as in :func:`check_layers`. ``findings`` are lines."""

    def __init__(self, base: Base, extra: Sequence[ExtraFile] = (), whiteouts: frozenset[str] = frozenset()) -> None:
        self._base = base
        self._whiteouts = whiteouts
        self._replaceable = frozenset(item.path for item in extra)
        self._added = AddedLayers(base.tree, whiteouts)
        self.findings = ["no layer was read"]

    def read(self, number: int, chunks: Iterator[bytes]) -> None:
        """Check the tar in ``chunks``, to its end; with ``number`` 0, the lowest layer, what earlier calls found is forgotten."""
        archive = ForwardFile(chunks, lambda _: None)
        home = self._base.inventory.user.home
        self._begin(number)
        try:
            self.findings += _find_tar_faults(archive, self._added, home, self._replaceable, False, None)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            self.findings.append(f"the layer cannot be read as a tar: {error}")
            archive.has_content_left()

    def skip(self, number: int, paths: Mapping[str, bool]) -> None:
        """Add a layer that was checked before, with the same rules: what it brings (path -> whether it is a folder)."""
        self._begin(number)
        self.findings += self._added.add(dict(paths))

    def _begin(self, number: int) -> None:
        if number == 0:
            self._added, self.findings = AddedLayers(self._base.tree, self._whiteouts), []

    def finish(self) -> None:
        """IntegrityError with all findings, if there are any."""
        _refuse([*self.findings, *self._added.find_leftovers()])


def _refuse(findings: Sequence[str]) -> None:
    if findings:
        raise IntegrityError(
            f"the layer breaks {len(findings)} rule{'s' if len(findings) > 1 else ''}: {findings[0]}",
            "nothing was pushed; this is a defect: please report it with these lines",
            first_lines(findings[1:], _SHOWN - 1),
        )


def find_faults(
    blob: Path,
    media_type: str,
    *,
    added: AddedLayers,
    home: str,
    digest: str,
    diff_id: str,
    replaceable: frozenset[str] = frozenset(),
    foreign: bool = False,
    system: SystemFiles | None = None,
) -> Iterator[str]:
    """Every broken rule as a line: names, types, modes, ancestors, the base's own entries, and at the end the digests.

    ``added``: the layers between this one and the base, to which it is added.
    """
    compression = media_type.rpartition("+")[2] if "+" in media_type else "none"
    digest_of_tar = BackgroundDigest()
    with blob.open("rb", buffering=0) as file:
        stored = HashingReader(file)
        try:
            with (
                digest_of_tar as feed,
                read_ahead(open_decompressed(cast(BinaryIO, io.BufferedReader(stored, CHUNK)), compression)) as chunks,
            ):
                yield from _find_tar_faults(ForwardFile(chunks, feed), added, home, replaceable, foreign, system)
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            yield f"the layer cannot be read as a compressed tar: {error}"
            return
        except Exception as error:
            if not is_decompression_error(error):
                raise  # a defect stays a traceback
            yield f"the layer cannot be decompressed: {error}"
            return
        while stored.read(CHUNK):
            pass
    if "sha256:" + stored.sha256 != digest:
        yield f"the blob's digest is sha256:{stored.sha256}, expected {digest}"
    if "sha256:" + digest_of_tar.sha256 != diff_id:
        yield f"the blob's diff_id is sha256:{digest_of_tar.sha256}, expected {diff_id}"


def _find_tar_faults(
    file: ForwardFile,
    added: AddedLayers,
    home: str,
    replaceable: frozenset[str],
    foreign: bool,
    system: SystemFiles | None,
    visit: Visit | None = None,
) -> Iterator[Fault]:
    yield from _find_entry_faults(file, home, replaceable, added, foreign, system, visit)
    if file.has_content_left():
        yield Fault("end", "there are bytes after the end of the archive")


def _find_entry_faults(
    file: ForwardFile,
    home: str,
    replaceable: frozenset[str],
    added: AddedLayers,
    foreign: bool,
    system: SystemFiles | None,
    visit: Visit | None,
) -> Iterator[Fault]:
    folders = FolderResolver(added.reduced)
    forbidden = forbidden_folders(folders, home)
    below_forbidden = tuple(f"{place.rstrip('/')}/" for place in forbidden)
    seen: dict[str, bool] = {}  # path -> whether it is a folder
    brought: set[str] = set()  # folders that the base lacks
    with closing(tarfile.open(fileobj=cast(BinaryIO, file), mode="r:", tarinfo=RawTarInfo)) as archive:
        for entry in iterate_entries(archive):
            name = entry.pax_headers.get("path", entry.name)
            assert isinstance(entry, RawTarInfo)
            raw = entry.raw_name.decode("utf-8", "surrogateescape") if "path" not in entry.pax_headers else name
            parts = name.split("/")
            if name.startswith("/") or ".." in parts:
                yield Fault("form", f"{name!r}: absolute, or with '..'")
                continue
            folder = entry.isdir()
            if foreign and folder:
                raw, name = raw.removesuffix("/"), name.removesuffix("/")
                parts = name.split("/")
            if raw.endswith("/") or "" in parts or "." in parts:
                yield Fault("form", f"{name!r}: not in plain form")
                continue
            path = "/" + name
            if path in seen:
                yield Fault("form", f"{path}: twice in the layer")
            seen[path] = folder
            if path in forbidden or path.startswith(below_forbidden):
                yield Fault("hidden", f"{path}: hidden or emptied when the image runs")
            if (parent := path.rpartition("/")[0]) and not seen.get(parent, False):
                yield _explain_parent(path, parent, seen)
            if visit is not None:
                visit(archive, entry, path)
            if system is not None:
                if folder and folders.get(path) is None:
                    brought.add(path)
                if is_systems(entry, path, system, brought):
                    continue
            if not (entry.type == tarfile.REGTYPE or folder) or "/.wh." in path:
                yield from _find_type_faults(entry, path, added)
            below = folders.get(path)
            if folder or below is not None or entry.mode & (_SPECIAL | _ANYONE):
                yield from _find_base_faults(entry, path, below, replaceable)
    yield from added.add(seen)


def read_tar_entries(
    chunks: Iterator[bytes],
    *,
    added: AddedLayers,
    home: str,
    replaceable: frozenset[str] = frozenset(),
    system: SystemFiles | None = None,
    visit: Visit | None = None,
) -> Iterator[Fault]:
    """The rules on the entries of a tar that goes by, whoever wrote it; ``visit`` sees each entry and may read it.

    It is added to ``added``. The tar is read to its end. tarfile's own errors pass.
    """
    yield from _find_tar_faults(ForwardFile(chunks, lambda _: None), added, home, replaceable, True, system, visit)


def is_systems(entry: tarfile.TarInfo, path: str, system: SystemFiles, brought: set[str]) -> bool:
    """Whether this entry is the system packages' business. Never an entry that anyone may write, a device or a socket."""
    if entry.issym():
        return system.owns(path, brought) or entry.linkname.startswith("/etc/alternatives/")
    if entry.isdir():
        # Folders that maintainer scripts make are listed nowhere; one of the base must keep its metadata.
        return path in brought and not (entry.mode & 0o002 and not entry.mode & 0o1000)
    folder, _, name = path.rpartition("/")
    if name.startswith(".wh."):
        hidden = f"{folder}/{name.removeprefix('.wh.')}"
        return not name.startswith(".wh..wh.") and (is_cleaned(hidden) or system.owns(hidden, brought))
    return (entry.isreg() or entry.islnk()) and not entry.mode & 0o002 and system.owns(path, brought)


class AddedLayers:
    """The layers over a base, read from the lowest up: what they bring, each path once, and what they delete.

    ``wanted`` are files of the base of which nothing may be left.
    """

    def __init__(self, tree: Tree, wanted: frozenset[str] = frozenset()) -> None:
        self._tree = tree
        self._wanted = wanted
        self._found: set[str] = set()
        self._seen: dict[str, bool] = {}  # path -> whether it is a folder
        self.reduced: Tree = ReducedTree(tree, wanted) if wanted else tree  # a file that goes may be replaced by anything

    def allows(self, path: str) -> bool:
        """Take note of the deletion of ``path``; whether it is meant: one of the files, or a folder that has no others."""
        self._found.add(path)
        return path in self._wanted or is_emptied(self._tree, path, self._wanted)

    def fork(self) -> AddedLayers:
        """The same layers, to try another on."""
        copy = AddedLayers(self._tree, self._wanted)
        copy._found, copy._seen = set(self._found), dict(self._seen)
        return copy

    def add(self, seen: dict[str, bool]) -> Iterator[Fault]:
        """One layer more, whose paths are ``seen``: what a layer below has as well, and what is both deleted and there."""
        for path in sorted(path for path in seen.keys() & self._seen.keys() if not (seen[path] and self._seen[path])):
            yield Fault("form", f"{path}: in a layer below as well")
        self._seen.update(seen)
        for path in sorted(self._found & self._seen.keys()):
            yield Fault("whiteout", f"{path}: deleted, and in the layer as well")

    def find_leftovers(self) -> Iterator[Fault]:
        """After the last layer: what should be gone and is still there."""
        for path in sorted(self._wanted - self._found - self._seen.keys()):
            parent = path.rpartition("/")[0]
            while parent and parent not in self._found and self._seen.get(parent, True):
                parent = parent.rpartition("/")[0]
            if not parent:
                yield Fault("whiteout", f"{path}: of a package that is replaced, and still there")


def _find_type_faults(entry: tarfile.TarInfo, path: str, added: AddedLayers) -> Iterator[Fault]:
    name = path.rpartition("/")[2]
    if name.startswith(".wh."):
        hidden = path.rpartition("/")[0] + "/" + name.removeprefix(".wh.")
        if not added.allows(hidden) or name.startswith(".wh..wh."):
            yield Fault("whiteout", f"{path}: a whiteout that nothing declared")
    if entry.islnk():
        yield Fault("type", f"{path}: a hard link")
    elif not (entry.isfile() or entry.isdir()):
        yield Fault("type", f"{path}: not a file and not a folder (tar type {entry.type!r})")


def _explain_parent(path: str, parent: str, seen: dict[str, bool]) -> Fault:
    why = "a file is its parent" if parent in seen else "its parent folder is not in the layer before it"
    seen[parent] = True  # once per folder
    return Fault("parent", f"{path}: {why}")


def _find_base_faults(entry: tarfile.TarInfo, path: str, below: Entry | None, replaceable: frozenset[str]) -> Iterator[Fault]:
    mode = stat.S_IMODE(entry.mode)
    if entry.isdir():
        if below is None:
            if (mode, entry.uid, entry.gid) != (FOLDER_MODE, *ROOT):
                rule = "writable" if mode & 0o1002 == 0o002 else "mode" if mode & 0o6000 else "folder"
                yield Fault(rule, f"{path}: a new folder with mode {mode:o}, owner {entry.uid}:{entry.gid}")
        elif below.type != "dir":
            yield Fault("base", f"{path}: a folder over a {below.type} of the base")
        elif (mode, entry.uid, entry.gid) != (below.mode, below.uid, below.gid):
            was = f"{below.mode:o} {below.uid}:{below.gid}"
            yield Fault("base", f"{path}: mode {mode:o} owner {entry.uid}:{entry.gid}, in the base {was}")
        return
    if mode & _SPECIAL and not entry.issym():
        yield Fault("mode", f"{path}: setuid, setgid or sticky ({mode:o})")
    if mode & _ANYONE and not entry.issym():  # a link's own mode means nothing
        yield Fault("writable", f"{path}: anyone may write it ({mode:o})")
    if below is not None and not (below.type == "file" and path in replaceable):
        yield Fault("base", f"{path}: overwrites a {below.type} of the base")
