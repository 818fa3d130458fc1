"""The tree of a base in memory, and the usual one."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping

from imagebuild.base.model import Entry

SITE = "/usr/local/lib/python3.11/dist-packages"


class MemoryTree:
    """A :class:`imagebuild.base.model.Tree` over entries; links are followed. ``texts``: what was kept of files, by path."""

    def __init__(self, entries: Iterable[Entry] = (), texts: Mapping[str, bytes] | None = None) -> None:
        self.entries = {entry.path: entry for entry in entries}
        self.texts = dict(texts or {})

    def get(self, path: str) -> Entry | None:
        return self.entries.get(path)

    def resolve(self, path: str) -> str:
        done = "/"
        parts = [part for part in path.split("/") if part]
        hops = 0
        while parts:
            here = posixpath.join(done, parts.pop(0))
            entry = self.entries.get(here)
            if entry is not None and entry.type == "symlink":
                hops += 1
                assert hops < 40
                target = posixpath.normpath(posixpath.join(done, entry.link))
                parts = [part for part in target.split("/") if part] + parts
                done = "/"
            else:
                done = here
        return done

    def read_text(self, path: str) -> bytes | None:
        return self.texts.get(path)

    def under(self, folder: str) -> Iterator[Entry]:
        return iter(sorted((e for p, e in self.entries.items() if p.startswith(folder + "/")), key=lambda entry: entry.path))


def folder(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """A folder of the base."""
    return Entry(path, "dir", mode, uid, gid)


def file(path: str, content: bytes = b"", mode: int = 0o644) -> Entry:
    """A file of the base, with its hash."""
    return Entry(path, "file", mode, 0, 0, len(content), sha256=hashlib.sha256(content).hexdigest())


def link(path: str, target: str) -> Entry:
    """A symbolic link of the base."""
    return Entry(path, "symlink", 0o777, 0, 0, link=target)


USUAL = (
    folder("/usr"),
    folder("/usr/local"),
    folder("/usr/local/bin"),
    folder("/usr/local/lib"),
    folder("/usr/local/lib/python3.11", 0o2775, 0, 50),
    folder(SITE, 0o2775, 0, 50),
    folder("/etc"),
    folder("/home"),
    folder("/home/jovyan", 0o755, 1000, 100),
    folder("/tmp", 0o1777),
)
