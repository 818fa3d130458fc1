"""Bodies of an index's files: verified by size and hash while they stream, from the network or from a ``file:`` index."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

import requests

from imagebuild.errors import ImagebuildError, IntegrityError, LockError, RemoteError
from imagebuild.files import CHUNK, explain_os_error, replacing
from imagebuild.lock.index.client import ATTEMPTS, CutShortError, IndexClient, compute_pause
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.progress import advance

_LARGEST = 2 << 30  # bytes of a file whose hash nobody has said
_Request = Callable[[str, Mapping[str, str], str], requests.Response]  # (URL, headers, what it is for); the body is not read


def wheel_cache_path(cache: Path, sha256: str, filename: str) -> Path:
    """Where a verified wheel is kept."""
    return cache / "wheels" / sha256 / filename


def path_of(url: str) -> Path:
    """The path of a ``file:`` URL."""
    return Path(unquote(urlsplit(url).path))


class Bodies:
    """The bodies of one index's files. Safe to share between threads."""

    def __init__(self, client: IndexClient) -> None:
        self.client = client
        self.index = client.index

    def download(self, file: ProjectFile, target: Path, *, package: str = "") -> str:
        """The file's bytes, verified by size and hash while they stream, at ``target`` or not there at all.

        Returns the sha256. Wrong bytes raise IntegrityError, a file that is gone LockError, a body that stays cut short
        RemoteError.
        """
        return self._keep(file, target, package or file.filename, self.client.send, 0)

    def download_unhashed(self, file: ProjectFile, target: Path) -> str:
        """The same for a file whose hash nobody has said yet: by the rule of a page (:class:`IndexClient`), and 2 GiB at most."""
        return self._keep(file, target, file.filename, self.client.open_page, _LARGEST)

    def _keep(self, file: ProjectFile, target: Path, package: str, request: _Request, limit: int) -> str:
        """``limit``: bytes that the body may have, 0 for any number."""
        problem: RemoteError | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                self.client.pause(compute_pause(attempt, ""))
            try:
                # Closed here, whatever happens: what is left of a body too long is not read, and its connection not kept.
                with replacing(target) as stream, contextlib.closing(self._read_blocks(file, request)) as blocks:
                    return self._stream(file, blocks, stream, package, limit)
            except CutShortError as error:
                problem = RemoteError(
                    f"package index {self.index.name!r} cut {file.filename} short {ATTEMPTS} times ({error})",
                    "try again; nothing was kept",
                )
            except OSError as error:
                raise explain_os_error(error, f"keeping {file.filename}") from None
        assert problem is not None
        raise problem

    def _stream(self, file: ProjectFile, blocks: Iterator[bytes], target: BinaryIO, package: str, limit: int) -> str:
        digest = hashlib.sha256()
        size = 0
        for block in blocks:
            if self.client.stopped.is_set():
                raise RemoteError(f"{file.filename} was not fetched completely", "run it again; nothing was kept")
            size += len(block)
            if file.size and size > file.size:
                break
            if limit and size > limit:
                raise RemoteError(
                    f"package index {self.index.name!r} sent more than {limit >> 30} GiB for {file.filename}",
                    "report it to the index's operators",
                )
            digest.update(block)
            target.write(block)
            advance(len(block))
        if file.size and size < file.size:
            raise CutShortError(f"{size} of {file.size} bytes")
        found = digest.hexdigest()
        if (file.size and size != file.size) or (file.sha256 and found != file.sha256):
            raise IntegrityError(
                f"{package}: {file.filename} from index {self.index.name!r} is not the expected file",
                "nothing was kept; if it happens again, somebody replaced the file: do not use that index until you know why",
                (
                    f"expected sha256 {file.sha256 or '(none given)'}" + (f", {file.size} bytes" if file.size else ""),
                    f"got      sha256 {found}" if size == file.size or not file.size else f"got      more than {file.size} bytes",
                ),
            )
        return found

    def _read_blocks(self, file: ProjectFile, request: _Request) -> Generator[bytes, None, None]:
        if file.url.startswith("file:"):
            with self.open_local(file) as stream:
                while block := stream.read(CHUNK):
                    yield block
            return
        with request(file.url, {"Accept-Encoding": "identity"}, file.filename) as answer:
            if answer.status_code in (404, 410):
                raise self.explain_vanished(file)
            if answer.status_code != 200:
                raise self.client.explain_refusal(answer.status_code, file.filename)
            yield from self.client.read_blocks(answer)

    def explain_vanished(self, file: ProjectFile) -> ImagebuildError:
        """The error for a file that its index no longer has."""
        return LockError(
            f"{file.filename} is no longer on package index {self.index.name!r}", "lock again, or get the file back onto the index"
        )

    def is_there(self, file: ProjectFile) -> bool:
        """Whether a file answers, and with the size that is known; its bytes are not read."""
        if file.url.startswith("file:"):
            path = path_of(file.url)
            return path.is_file() and path.stat().st_size == file.size
        with self.client.send(file.url, {"Accept-Encoding": "identity"}, file.filename) as answer:
            if answer.status_code in (404, 410):
                return False
            if answer.status_code != 200:
                raise self.client.explain_refusal(answer.status_code, file.filename)
            length = answer.headers.get("Content-Length", "")
            return not length.isdigit() or int(length) == file.size

    def open_local(self, file: ProjectFile) -> BinaryIO:
        """A file of a ``file:`` index; LockError when it is gone."""
        try:
            return path_of(file.url).open("rb")
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                raise self.explain_vanished(file) from None
            raise explain_os_error(error, "reading an index") from None
