"""Project pages that were read before, kept with what a server needs to say "unchanged" (RFC 9110, section 13).

A kept page is never used without the server's word for it. Files are ``cache/pages/<hash of index and name>``: the SHA-256 of
what follows, then msgpack; one that has rotted counts as none.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec

from imagebuild.files import explain_os_error, write_atomic
from imagebuild.lock.pages import ProjectPage

_FORMAT = b"1 "  # of the file; raise it when parsing a page gives something else


class KeptPage(msgspec.Struct, frozen=True, array_like=True):
    """A parsed page and its ETag, as the server sent it."""

    page: ProjectPage
    etag: str


class PageCache:
    """The kept pages of one index. Pages without an ETag are not kept: a date is too coarse to prove that nothing changed."""

    def __init__(self, cache: Path, address: str) -> None:
        self._folder = cache / "pages"
        self._address = address

    def _path(self, name: str) -> Path:
        return self._folder / hashlib.sha256(_FORMAT + f"{self._address} {name}".encode()).hexdigest()

    def recall(self, name: str) -> KeptPage | None:
        """The kept page, None when there is none that is whole."""
        with contextlib.suppress(OSError, msgspec.DecodeError, msgspec.ValidationError):
            data = self._path(name).read_bytes()
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return msgspec.msgpack.decode(data[32:], type=KeptPage)
        return None

    def remember(self, name: str, kept: KeptPage) -> None:
        """Keep a page for the next time."""
        if not kept.etag:
            return
        data = msgspec.msgpack.encode(kept)
        try:
            write_atomic(self._path(name), hashlib.sha256(data).digest() + data)
        except OSError as error:
            raise explain_os_error(error, "keeping a page of a package index") from None
