"""Project pages that were read before, so that one that has not changed is neither sent nor parsed again.

A kept page is never used on its own word: the server says "unchanged" to its ETag (RFC 9110, section 13), or sends a body
with the very hash that was parsed. Files are ``cache/pages/<hash of index and name>``, in msgpack.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from imagebuild.decoding import make_msgpack_decoder
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.sealed import SealedCache

_FILE = make_msgpack_decoder(ProjectFile)

_FORMAT = b"3 "  # raise it when parsing a page gives something else


class KeptPage(msgspec.Struct, frozen=True, array_like=True):
    """What a page said, file by file and undecoded, and how to know that it still says so."""

    etag: str  # as the server sent it, or ""
    address: str  # after redirects: what relative links start from
    sha256: str  # of the body
    files: dict[str, msgspec.Raw]  # file name -> ProjectFile in msgpack
    status: str = ""
    status_reason: str = ""
    check: str = ""

    def find_file(self, filename: str) -> ProjectFile | None:
        """One file's entry."""
        raw = self.files.get(filename)
        return None if raw is None else _FILE.decode(raw)

    def read_page(self, name: str) -> ProjectPage:
        """The whole page."""
        return ProjectPage(name, tuple(_FILE.decode(raw) for raw in self.files.values()), self.status, self.status_reason)


_PAGES = SealedCache(KeptPage, "msgpack")


def keep_page(page: ProjectPage, etag: str, address: str, sha256: str) -> KeptPage:
    """A parsed page in the form that is kept."""
    files = {file.filename: msgspec.Raw(msgspec.msgpack.encode(file)) for file in page.files}
    return KeptPage(etag, address, sha256, files, page.status, page.status_reason)


class PageCache:
    """The kept pages of one index."""

    def __init__(self, cache: Path, address: str) -> None:
        self._folder = cache / "pages"
        self._address = address

    def _path(self, name: str) -> Path:
        return self._folder / hashlib.sha256(_FORMAT + f"{self._address} {name}".encode()).hexdigest()

    def recall(self, name: str) -> KeptPage | None:
        """The kept page; None when there is none, or it is damaged."""
        return _PAGES.read(self._path(name))

    def remember(self, name: str, kept: KeptPage) -> None:
        """Keep a page for the next time."""
        _PAGES.write(self._path(name), kept, doing="keeping a page of a package index")
