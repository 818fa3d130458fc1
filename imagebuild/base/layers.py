"""One pass over a base's layers, from the lowest up: every path into the tree, and aside what later steps read."""

from __future__ import annotations

import hashlib
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from imagebuild.base.archive import Header, LayerArchive
from imagebuild.base.cutout import OMITTED_FOLDERS
from imagebuild.base.model import BaseLayer
from imagebuild.base.rfacts import is_r_text
from imagebuild.base.systempackages import is_system_database
from imagebuild.base.tree import TreeWriter
from imagebuild.base.vscodefacts import TEXT_LIMIT, is_vscode_text
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.model import Descriptor
from imagebuild.oci.store import Store

HASHED_LIMIT = 1 << 20  # bytes: larger files in site-packages get no sha256
_TEXT_LIMIT = 32 << 20
_LIBRARY_LIMIT = 64 << 20
_PYTHON_LIMIT = 512 << 20

_PYTHON = re.compile(rb"(?:platform-)?python[0-9.]*[a-z]?")
_STANDARD_LIBRARY = re.compile(rb"/lib(?:64)?/python3(?:\.[0-9]+)?t?/(.+)")
_LIBRARY = re.compile(rb"(?:lib[^/]*|ld[^/]*)\.so[^/]*|ld-musl-[^/]*")
_LIBRARY_FOLDER = re.compile(rb"(?:.*/)?lib(?:64)?(?:/[^/]*-linux-[^/]*)?")
_METADATA_FILES = frozenset({b"METADATA", b"RECORD", b"INSTALLER", b"direct_url.json", b"PKG-INFO", b"requires.txt"})
_CONSTRAINTS = frozenset({b"constraint.txt", b"constraints.txt", b"pip-constraint.txt", b"pip-constraints.txt"})  # for pip, by a base
_SINGLE_FILES = frozenset({b"/etc/passwd", b"/etc/group", b"/etc/ld.so.conf"})
_OMITTED = re.compile(rb"(?:^|/)(?:%s)(?:/|$)" % "|".join(sorted(OMITTED_FOLDERS)).encode())


def choose_keeping(path: bytes, size: int) -> str:
    """What becomes of a regular file's bytes: ``spool`` (put aside), ``text`` (kept), ``owned`` (dpkg's list), or ``""``."""
    folder, _, name = path.rpartition(b"/")
    if size <= _TEXT_LIMIT:
        if name in _METADATA_FILES and folder.endswith((b".dist-info", b".egg-info")):
            return "text"
        if name.endswith((b".egg-info", b".pth")) and folder.endswith(b"-packages"):
            return "text"
        if name == b"pyvenv.cfg" or path in _SINGLE_FILES or folder == b"/etc/ld.so.conf.d":
            return "text"
        if name.endswith(b".json") and folder.endswith(b"/conda-meta"):
            return "text"
        if is_system_database(path) or is_r_text(path, size) or (folder.endswith(b".dist-info/sboms") and name.endswith(b".json")):
            return "text"
        if size <= TEXT_LIMIT and is_vscode_text(path):
            return "text"
        if name in _CONSTRAINTS and size <= TEXT_LIMIT:
            return "text"
        if name.endswith(b".list") and folder == b"/var/lib/dpkg/info":
            return "owned"
    if b"/site-packages/" in path or b"/dist-packages/" in path:
        return ""
    if size <= _PYTHON_LIMIT and _PYTHON.fullmatch(name):
        return "spool"
    if size <= _LIBRARY_LIMIT:
        match = _STANDARD_LIBRARY.search(path)
        if match and not _OMITTED.search(match[1]) and not name.endswith((b".a", b".o")):
            return "spool"
        if _LIBRARY.fullmatch(name) and _LIBRARY_FOLDER.fullmatch(folder) and b"/pkgs/" not in path:
            return "spool"
    return ""


def _is_hashed(path: bytes, size: int) -> bool:
    return size <= HASHED_LIMIT and (b"/site-packages/" in path or b"/dist-packages/" in path)


def _read_to_end(stream: BinaryIO) -> None:
    while stream.read(CHUNK):
        pass


class LayerReader:
    """Applies layers to a tree and puts aside what may be part of an interpreter."""

    def __init__(self, tree: TreeWriter, spool: Path) -> None:
        self._tree, self._spool = tree, spool
        self._spooled = 0
        spool.mkdir()

    def spool_file(self, number: int) -> Path:
        """Where the file that was put aside under ``number`` lies."""
        return self._spool / str(number)

    def read(self, store: Store, repository: str, descriptor: Descriptor, diff_id: str) -> BaseLayer:
        """One layer: to the very end, its stored bytes verified by the store and its tar against ``diff_id``."""
        self._tree.start_layer()
        with store.open_blob(repository, descriptor) as stored:
            archive = LayerArchive(open_decompressed(stored, descriptor.compression))
            try:
                self._read_entries(archive)
            except IntegrityError:
                _read_to_end(stored)  # if these are not the bytes that were asked for, the store says so: the better reason
                raise
            _read_to_end(stored)  # bytes after the compressed stream: the store verifies at the end of them
        found = "sha256:" + archive.hash.hexdigest()
        if found != diff_id:
            raise IntegrityError(
                f"layer {descriptor.digest} unpacks to {found}, but the image config promises {diff_id}",
                "the base image is damaged; push it again, or pin another digest",
            )
        return BaseLayer(descriptor.digest, descriptor.size, diff_id, archive.count)

    def _read_entries(self, archive: LayerArchive) -> None:
        for header in archive.entries():
            folder, _, name = header.path.rpartition(b"/")
            if name.startswith(b".wh."):
                self._apply_whiteout(folder, name)
            elif header.kind == "hardlink":
                self._tree.add_hard_link(header)
            elif header.kind == "file":
                self._add_file(archive, header)
            else:
                self._tree.add(header)
        archive.drain()

    def _apply_whiteout(self, folder: bytes, name: bytes) -> None:
        if name == b".wh..wh..opq":
            self._tree.remove_below(folder)
        elif name.startswith(b".wh..wh."):
            return  # aufs' own books (.wh..wh.plnk, .wh..wh.aufs), never files of the image
        elif name[4:] in (b"", b".", b".."):
            raise IntegrityError(f"a layer of the base holds a whiteout without a name: {name!r}", "pin another digest")
        else:
            self._tree.remove(folder + b"/" + name[4:])

    def _add_file(self, archive: LayerArchive, header: Header) -> None:
        keeping = "" if header.sparse else choose_keeping(header.path, header.size)
        sha256, spool, text = "", 0, 0
        hashing = hashlib.sha256() if not header.sparse and _is_hashed(header.path, header.size) else None
        if keeping == "spool":
            self._spooled += 1
            spool = self._spooled
            with self.spool_file(spool).open("wb") as stream:
                for piece in archive.content():
                    stream.write(piece)
        elif keeping or hashing is not None:
            pieces = bytearray()
            for piece in archive.content():
                if hashing is not None:
                    hashing.update(piece)
                if keeping:
                    pieces += piece
            if hashing is not None:
                sha256 = hashing.hexdigest()
            data = bytes(pieces)
            if keeping == "owned":
                data = b"".join(line for line in data.splitlines(keepends=True) if b"-info" in line)
            if keeping == "text" or data:
                text = self._tree.add_text(zlib.compress(data, 3))
        self._tree.add(header, sha256, spool, text)
