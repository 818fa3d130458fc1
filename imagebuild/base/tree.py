"""The base's final tree as a SQLite file: written while the layers stream by, read path by path afterwards.

Layers are applied bottom first, the way a runtime unpacks them (image-spec, layer.md), on rows instead of files:
parents are looked up through the symlinks that are there at that moment, missing parents appear as root's ``0755``
folders, a non-folder takes the place of whatever was there, and whiteouts touch only what lower layers brought.
Paths are stored as bytes, for a file name need not be text; SQLite orders them as Python does.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from imagebuild.base.model import Entry, EntryType
from imagebuild.errors import BuildError, IntegrityError

if TYPE_CHECKING:
    from imagebuild.base.archive import Header

_LINK_LIMIT = 40  # as Linux: path_resolution(7)
_CACHED_FOLDERS = 50_000
_HINT = "the base image is damaged; push it again, or pin another digest"
_SCHEMA = """
CREATE TABLE entries (
    path BLOB PRIMARY KEY, type TEXT NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    size INTEGER NOT NULL, link BLOB NOT NULL, sha256 TEXT NOT NULL, layer INTEGER NOT NULL,
    spool INTEGER NOT NULL, text INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE texts (id INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""
_COLUMNS = "path, type, mode, uid, gid, size, link, sha256"
_INSERT = "INSERT OR REPLACE INTO entries VALUES (?,?,?,?,?,?,?,?,?,?,?)"


def encode_path(path: str) -> bytes:
    """A path as the tree keeps it."""
    return path.encode("utf-8", "surrogateescape")


def decode_path(path: bytes) -> str:
    """A path for people and for other modules; bytes that are not UTF-8 come out as surrogates (PEP 383)."""
    return path.decode("utf-8", "surrogateescape")


def _below(folder: bytes) -> tuple[bytes, bytes]:
    """Bounds (both exclusive) of the paths below ``folder``; ``0`` is the character after ``/``."""
    folder = folder.rstrip(b"/")
    return folder + b"/", folder + b"0"


class TreeWriter:
    """Applies layers, bottom first. ``start_layer`` before each; ``finish`` once."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            # The file is thrown away unless all of it was written, so it needs no journal.
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-32768;" + _SCHEMA
        )
        self._database.execute("BEGIN")
        self._execute = self._database.execute
        self._layer = -1
        self._folders: dict[bytes, bytes] = {}
        self._put(b"/", "dir", 0o755)

    def start_layer(self) -> None:
        """The entries that follow are of the next layer up."""
        self._layer += 1

    def _put(
        self, path: bytes, kind: str, mode: int, uid: int = 0, gid: int = 0, size: int = 0, link: bytes = b"",
        sha256: str = "", spool: int = 0, text: int = 0,
    ) -> None:  # fmt: skip
        self._execute(_INSERT, (path, kind, mode, uid, gid, size, link, sha256, self._layer, spool, text))

    def _find(self, path: bytes) -> tuple[str, bytes] | None:
        return cast("tuple[str, bytes] | None", self._execute("SELECT type, link FROM entries WHERE path=?", (path,)).fetchone())

    def _locate_folder(self, folder: bytes) -> bytes:
        """Where ``folder`` really is (``b""`` for the root), through symlinks; missing parts are made."""
        known = self._folders.get(folder)
        if known is not None:
            return known
        waiting = deque(folder.split(b"/"))
        current, links = b"", 0
        while waiting:
            part = waiting.popleft()
            if part in (b"", b"."):
                continue
            if part == b"..":
                current = current.rpartition(b"/")[0]
                continue
            candidate = current + b"/" + part
            found = self._find(candidate)
            if found is None:
                self._put(candidate, "dir", 0o755)
                current = candidate
            elif found[0] == "dir":
                current = candidate
            elif found[0] == "symlink":
                links += 1
                if links > _LINK_LIMIT:
                    raise IntegrityError(f"a layer of the base puts a file below a loop of links: {decode_path(folder)}", _HINT)
                if found[1].startswith(b"/"):
                    current = b""
                waiting.extendleft(reversed(found[1].split(b"/")))
            else:
                raise IntegrityError(f"a layer of the base puts a file below {decode_path(candidate)}, which is not a folder", _HINT)
        if len(self._folders) >= _CACHED_FOLDERS:
            self._folders.clear()
        self._folders[folder] = current
        return current

    def _locate(self, path: bytes) -> bytes:
        folder, _, name = path.rpartition(b"/")
        return self._locate_folder(folder) + b"/" + name

    def _clear_place(self, path: bytes, kind: str) -> None:
        """Make room at ``path`` for a new entry of ``kind``; folders over folders keep what is in them."""
        old = self._find(path)
        if old is None or (old[0] == "dir" and kind == "dir"):
            return
        if old[0] == "dir":
            self._execute("DELETE FROM entries WHERE path>? AND path<?", _below(path))
        if old[0] in ("dir", "symlink"):
            self._folders.clear()

    def add(self, header: Header, sha256: str = "", spool: int = 0, text: int = 0) -> None:
        """One entry that is neither a hard link nor a whiteout."""
        if header.path == b"/":
            if header.kind != "dir":
                raise IntegrityError("a layer of the base replaces the root folder", _HINT)
            self._put(b"/", "dir", header.mode, header.uid, header.gid)
            return
        path = self._locate(header.path)
        self._clear_place(path, header.kind)
        self._put(path, header.kind, header.mode, header.uid, header.gid, header.size, header.link, sha256, spool, text)

    def add_hard_link(self, header: Header) -> None:
        """Another name for a file that an earlier entry or a lower layer brought."""
        target = self._locate(header.link)
        row = self._execute("SELECT type, mode, uid, gid, size, link, sha256, spool, text FROM entries WHERE path=?", (target,)).fetchone()
        if row is None or row[0] == "dir":
            raise IntegrityError(
                f"a layer of the base links {decode_path(header.path)[:200]} to {decode_path(header.link)[:200]}, which is not a file",
                _HINT,
            )
        path = self._locate(header.path)
        if path == target:
            return
        self._clear_place(path, row[0])
        self._put(path, *row)

    def remove(self, path: bytes) -> None:
        """A whiteout of ``path``: what lower layers have there, and below, is gone."""
        path = self._locate(path)
        self._remove_below(path)
        self._execute("DELETE FROM entries WHERE path=? AND layer<?", (path, self._layer))
        self._restore_parents(path)

    def remove_below(self, folder: bytes) -> None:
        """An opaque whiteout: what lower layers have below ``folder`` is gone, the folder itself stays."""
        folder = self._locate_folder(folder)
        self._remove_below(folder)
        self._restore_parents(folder)

    def _remove_below(self, folder: bytes) -> None:
        self._folders.clear()
        self._execute("DELETE FROM entries WHERE path>? AND path<? AND layer<?", (*_below(folder), self._layer))

    def _restore_parents(self, folder: bytes) -> None:
        """This layer's own files stay although their folder, of a lower layer, is gone: they get a new one."""
        survivors = self._execute("SELECT path FROM entries WHERE path>? AND path<?", _below(folder)).fetchall()
        for (path,) in survivors:
            self._locate_folder(path.rpartition(b"/")[0])

    def add_text(self, data: bytes) -> int:
        """Keep a small file's (compressed) bytes; the number goes into :meth:`add`."""
        return cast(int, self._execute("INSERT INTO texts (data) VALUES (?)", (data,)).lastrowid)

    def finish(self) -> None:
        """Drop what no path names any more and close the file."""
        self._execute("DELETE FROM texts WHERE id NOT IN (SELECT text FROM entries)")
        self._execute("COMMIT")
        self._database.close()


class SqliteTree:
    """:class:`imagebuild.base.model.Tree` over a finished file; opened at the first question, never written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None

    def __reduce__(self) -> tuple[type[SqliteTree], tuple[Path]]:
        return SqliteTree, (self.path,)

    def _query(self, statement: str, *values: object) -> sqlite3.Cursor:
        if self._database is None:
            self._database = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False)
        return self._database.execute(statement, values)

    def close(self) -> None:
        """Close the file; the next question opens it again."""
        if self._database is not None:
            self._database.close()
            self._database = None

    @staticmethod
    def _entry(row: tuple[bytes, EntryType, int, int, int, int, bytes, str]) -> Entry:
        return Entry(decode_path(row[0]), row[1], row[2], row[3], row[4], row[5], decode_path(row[6]), row[7])

    def get(self, path: str) -> Entry | None:
        """The entry at exactly this path (no symlink is followed), or None."""
        row = self._query(f"SELECT {_COLUMNS} FROM entries WHERE path=?", encode_path(path)).fetchone()
        return None if row is None else self._entry(row)

    def _walk(self, path: str, follow_last: bool) -> str:
        waiting = deque(path.split("/"))
        current, links = "", 0
        while waiting:
            part = waiting.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                current = current.rpartition("/")[0]
                continue
            candidate = f"{current}/{part}"
            row = self._query("SELECT type, link FROM entries WHERE path=?", encode_path(candidate)).fetchone()
            if row is None or row[0] != "symlink":
                current = candidate
                continue
            links += 1
            if links > _LINK_LIMIT:
                raise BuildError(f"{path} in the base runs into a loop of links", "look at that path in the base image")
            target = decode_path(row[1])
            if not any(rest not in ("", ".") for rest in waiting) and not follow_last:
                # The last part: followed only where a folder is at the end of it.
                end = self._walk(target if target.startswith("/") else f"{current}/{target}", True)
                entry = self.get(end)
                return end if entry is not None and entry.type == "dir" else candidate
            if target.startswith("/"):
                current = ""
            waiting.extendleft(reversed(target.split("/")))
        return current or "/"

    def resolve(self, path: str) -> str:
        """``path`` with symlinked parents, and a last part that links to a folder, followed inside the base."""
        return self._walk(path, False)

    def follow(self, path: str) -> Entry | None:
        """What opening ``path`` would open: every link followed, the last one too. None where nothing is there."""
        return self.get(self._walk(path, True))

    def under(self, folder: str) -> Iterator[Entry]:
        """All entries below ``folder``, sorted by path."""
        for row in self._query(f"SELECT {_COLUMNS} FROM entries WHERE path>? AND path<? ORDER BY path", *_below(encode_path(folder))):
            yield self._entry(row)

    def find_contents(self, hashes: Collection[str]) -> dict[str, str]:
        """The first path of every content in ``hashes`` (SHA-256, hex) that the base has, among the files whose hash is kept."""
        wanted = set(hashes)
        rows = self._query("SELECT path, sha256 FROM entries WHERE sha256 <> '' ORDER BY path DESC")
        return {sha256: decode_path(path) for path, sha256 in rows if sha256 in wanted}

    def list_hashed_sizes(self) -> frozenset[int]:
        """The sizes of the files whose hash is kept, but for empty ones."""
        return frozenset(size for (size,) in self._query("SELECT DISTINCT size FROM entries WHERE sha256 <> '' AND size > 0"))

    def read_text(self, path: str) -> bytes | None:
        """The bytes of a small file that was kept (metadata of distributions, passwd, pyvenv.cfg); None if it wasn't."""
        import zlib

        row = self._query("SELECT data FROM entries JOIN texts ON texts.id = entries.text WHERE path=?", encode_path(path)).fetchone()
        return None if row is None else zlib.decompress(row[0])

    def spooled(self) -> Iterator[tuple[str, int]]:
        """Paths whose bytes were put aside while reading, with the number they were put aside under."""
        for path, number in self._query("SELECT path, spool FROM entries WHERE spool > 0 ORDER BY path"):
            yield decode_path(path), number

    def texts(self) -> Iterator[str]:
        """Paths that :meth:`read_text` knows, sorted."""
        for (path,) in self._query("SELECT path FROM entries WHERE text > 0 ORDER BY path"):
            yield decode_path(path)
