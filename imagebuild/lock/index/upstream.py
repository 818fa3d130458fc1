"""Reading a package index: project pages and wheels' metadata without their bodies, and bodies that are verified while they stream.

Three answers, never mixed: there, absent (404), and failed (RemoteError, exit 6).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from packaging.utils import canonicalize_name

from imagebuild.decoding import make_decoder
from imagebuild.errors import ImagebuildError, IntegrityError, LockError, RemoteError
from imagebuild.files import explain_os_error, replacing, write_sealed
from imagebuild.lock.index.client import ATTEMPTS, Body, CutShortError, Elsewhere, IndexClient, compute_pause
from imagebuild.lock.index.pagecache import KeptPage, PageCache, keep_page
from imagebuild.lock.index.pages import HTML_TYPE, JSON_TYPE, ProjectFile, ProjectPage, parse_html_page, parse_json_page
from imagebuild.lock.index.ranges import BLOCK, METADATA_LIMIT, RangeFile, WheelMetadata, read_content_range, read_wheel_file
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.wheel.sizes import WheelShape, keep_shape

_ACCEPT = f"{JSON_TYPE}, {HTML_TYPE};q=0.2, text/html;q=0.1"
_CHUNK = 1 << 20


class _CachedMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    metadata: str = ""  # base64 by msgspec would need bytes; METADATA is UTF-8 text with rare stray bytes
    installed_size: int = -1
    check: str = ""  # SHA-256 of the two: what decides a resolution must not rot unseen

    def sealed(self) -> _CachedMetadata:
        digest = hashlib.sha256(f"{self.installed_size}\n{self.metadata}".encode())
        return _CachedMetadata(self.metadata, self.installed_size, digest.hexdigest())


_METADATA = make_decoder(_CachedMetadata)


def recall_metadata(cache: Path, sha256: str) -> bytes:
    """The METADATA kept of the wheel with this hash; empty where none is, or it is damaged."""
    with contextlib.suppress(OSError, UnicodeDecodeError, msgspec.DecodeError):
        found = _METADATA.decode((cache / "metadata" / f"{sha256}.json").read_bytes())
        if found == found.sealed():
            return found.metadata.encode("utf-8", "surrogateescape")
    return b""


def wheel_cache_path(cache: Path, sha256: str, filename: str) -> Path:
    """Where a verified wheel is kept."""
    return cache / "wheels" / sha256 / filename


class Upstream:
    """One index, read over the network (or from ``file:``). Safe to share between threads."""

    def __init__(self, index: PackageIndex, cache: Path, *, pause: Callable[[float], object] | None = None) -> None:
        self.index = index
        self.cache = cache
        self.client = IndexClient(index, pause)
        self._pages = PageCache(cache, index.address)
        self._elsewhere: dict[str, str] = {}

    def stop(self) -> None:
        """Make downloads of other threads end at their next piece: one has failed, or the user has had enough."""
        self.client.stopped.set()

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # -- project pages

    def read_project(self, name: str) -> ProjectPage | None:
        """The files of a project, None when the index does not have it: 404, or a redirect to another host (:meth:`find_redirect`)."""
        if self.index.address.startswith("file:"):
            return self._read_local_page(name)
        kept = self._read_kept(name)
        return kept.read_page(name) if kept is not None else None

    def find_redirect(self, name: str) -> str:
        """The host that the page of a project redirected to, if that was refused and so counts as absent; else ""."""
        return self._elsewhere.get(name, "")

    def find_file(self, name: str, filename: str) -> ProjectFile | None:
        """One file of a project, None when the index does not list it."""
        if self.index.address.startswith("file:"):
            page = self._read_local_page(name)
            return next((file for file in page.files if file.filename == filename), None) if page is not None else None
        kept = self._read_kept(name)
        return kept.find_file(filename) if kept is not None else None

    def _read_local_page(self, name: str) -> ProjectPage | None:
        url = urljoin(self.index.address, f"{canonicalize_name(name)}/")
        path = _path_of(url) / "index.html"
        if not path.is_file():
            if not _path_of(self.index.address).is_dir():
                raise RemoteError(f"the folder of package index {self.index.name!r} is not there", "mount it, or correct its url")
            return None
        return parse_html_page(name, path.read_text("utf-8", "replace"), url)

    def _read_kept(self, name: str) -> KeptPage | None:
        """The page as the server has it now; what was kept of it saves sending it (ETag) or parsing it (hash of the body)."""
        kept = self._pages.recall(name)
        if kept is not None and not self.index.may_redirect(kept.address):
            kept = None  # an older version followed the redirect that led there
        headers = {"Accept": _ACCEPT, **({"If-None-Match": kept.etag} if kept and kept.etag else {})}
        url = urljoin(self.index.address, f"{canonicalize_name(name)}/")
        answer = self.client.read_page(url, headers, f"the page of {name}")
        if isinstance(answer, Elsewhere):
            self._elsewhere[name] = answer.host
            return None
        if answer is None or (answer.unchanged and kept is not None):
            return kept if answer is not None else None
        sha256, etag = hashlib.sha256(answer.data).hexdigest(), answer.headers.get("ETag", "")
        if kept is not None and (kept.sha256, kept.address, kept.etag) == (sha256, answer.url, etag):
            return kept
        page = keep_page(self._parse_page(name, answer), etag, answer.url, sha256)
        self._pages.remember(name, page)
        return page

    def _parse_page(self, name: str, answer: Body) -> ProjectPage:
        try:
            if answer.content_type.endswith("json"):
                return parse_json_page(name, answer.data, answer.url)
            if answer.content_type in ("text/html", HTML_TYPE, "application/xhtml+xml", ""):
                return parse_html_page(name, answer.data.decode("utf-8", "replace"), answer.url)
        except ValueError as error:
            raise RemoteError(
                f"package index {self.index.name!r} sent a page for {name} that cannot be read: {error}",
                "tell its owners, or use another index",
            ) from None
        raise RemoteError(
            f"package index {self.index.name!r} answered {name} with {answer.content_type[:60]!r}",
            "its url must be that of a simple index (PEP 503 or 691)",
        )

    # -- metadata

    def read_wheel_metadata(self, file: ProjectFile) -> WheelMetadata:
        """METADATA and installed size; kept by the wheel's hash. See :meth:`read_metadata`, :meth:`read_installed_size`."""
        return WheelMetadata(self.read_metadata(file), self.read_installed_size(file))

    def read_metadata(self, file: ProjectFile) -> bytes:
        """The wheel's METADATA: the one the index serves beside it if its hash is told and right, else out of the wheel."""
        known = self._recall(file)
        if known.metadata:
            return known.metadata.encode("utf-8", "surrogateescape")
        if file.has_metadata and file.metadata_sha256:
            data = self._read_advertised(file)
            if data is not None:
                self._remember(file, data, known.installed_size)
                return data
        return self._read_from_wheel(file).metadata

    def read_installed_size(self, file: ProjectFile) -> int:
        """Bytes of the wheel's files once unpacked: the sum over its zip directory."""
        known = self._recall(file)
        return known.installed_size if known.installed_size >= 0 else self._read_from_wheel(file).installed_size

    def _read_advertised(self, file: ProjectFile) -> bytes | None:
        url = file.url + ".metadata"
        if url.startswith("file:"):
            path = _path_of(url)
            if not path.is_file():
                return None
            body = path.read_bytes()
        else:
            answer = self.client.read_body(url, {}, METADATA_LIMIT, f"the metadata of {file.filename}")
            if answer is None:
                return None  # advertised and not there: some mirrors copy the page but not these files
            body = answer.data
        found = hashlib.sha256(body).hexdigest()
        if found != file.metadata_sha256:
            raise IntegrityError(
                f"the metadata of {file.filename} on index {self.index.name!r} is not what its page promises",
                "try again; if it stays, tell the index's owners",
                (f"expected sha256 {file.metadata_sha256}", f"got      sha256 {found}"),
            )
        return body

    def _read_from_wheel(self, file: ProjectFile) -> WheelMetadata:
        with self._open_wheel(file) as stream:
            result = read_wheel_file(stream, file.filename)
            if file.sha256:
                keep_shape(self.cache, file.sha256, stream, file.filename)
        self._remember(file, result.metadata, result.installed_size)
        return result

    def read_shape(self, file: ProjectFile) -> WheelShape:
        """What the wheel holds by kind, from its zip directory; kept by its hash."""
        with self._open_wheel(file) as stream:
            return keep_shape(self.cache, file.sha256, stream, file.filename)

    def _memory(self, file: ProjectFile) -> Path | None:
        return self.cache / "metadata" / f"{file.sha256}.json" if file.sha256 else None

    def _recall(self, file: ProjectFile) -> _CachedMetadata:
        path = self._memory(file)
        if path is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError, msgspec.DecodeError):
                found = _METADATA.decode(path.read_bytes())
                if found == found.sealed():
                    return found
        return _CachedMetadata()

    def _remember(self, file: ProjectFile, metadata: bytes, installed_size: int) -> None:
        path = self._memory(file)
        try:
            text = metadata.decode("utf-8")
        except UnicodeDecodeError:
            return  # rare and old: read again next time
        if path is not None:
            try:
                write_sealed(path, msgspec.json.encode(_CachedMetadata(text, installed_size).sealed()))
            except OSError as error:
                raise explain_os_error(error, "keeping a wheel's metadata") from None

    @contextlib.contextmanager
    def _open_wheel(self, file: ProjectFile) -> Iterator[BinaryIO]:
        """A seekable reader of the wheel: kept, local, by ranges, or (servers without ranges) downloaded whole."""
        kept = wheel_cache_path(self.cache, file.sha256, file.filename) if file.sha256 else None
        if kept is not None and kept.is_file():
            with kept.open("rb") as stream:
                yield stream
            return
        if file.url.startswith("file:"):
            with self._open_local(file) as stream:
                yield stream
            return
        ranged = self._open_ranges(file)
        if ranged is not None:
            with ranged:
                yield ranged  # type: ignore[misc]  # a RawIOBase whose readinto always fills: enough for zipfile
            return
        with self._download_aside(file) as path, path.open("rb") as stream:
            yield stream

    def _open_local(self, file: ProjectFile) -> BinaryIO:
        try:
            return _path_of(file.url).open("rb")
        except OSError as error:
            raise self._vanished(file) if isinstance(error, FileNotFoundError) else explain_os_error(error, "reading an index") from None

    def _open_ranges(self, file: ProjectFile) -> RangeFile | None:
        """A reader by HTTP ranges (RFC 9110 section 14), None when the server has none."""
        wanted = f"bytes={max(0, file.size - BLOCK)}-{file.size - 1}" if file.size else f"bytes=-{BLOCK}"
        with self.client.send(file.url, {"Range": wanted, "Accept-Encoding": "identity"}, file.filename, body=True) as answer:
            if answer.status_code == 404:
                raise self._vanished(file)
            if answer.status_code != 206:
                return None
            span = read_content_range(answer.headers.get("Content-Range", ""))
            tail = answer.content
        if span is None or span[1] - span[0] + 1 != len(tail) or span[1] + 1 != span[2]:
            return None

        def fetch(start: int, end: int) -> bytes:
            headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
            with self.client.send(file.url, headers, file.filename, body=True) as part:
                if part.status_code != 206 or len(part.content) != end - start:
                    raise RemoteError(
                        f"package index {self.index.name!r} answered a range of {file.filename} with something else", "try again later"
                    )
                return part.content

        return RangeFile(fetch, span[2], span[0], tail)

    @contextlib.contextmanager
    def _download_aside(self, file: ProjectFile) -> Iterator[Path]:
        """The whole wheel: kept in the wheel cache when its hash is known, else for as long as it is read."""
        if file.sha256:
            path = wheel_cache_path(self.cache, file.sha256, file.filename)
            self.download(file, path)
            yield path
            return
        path = self.cache / "metadata" / f".tmp-{random.getrandbits(64):016x}.whl"
        try:
            self.download(file, path)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def complete(self, file: ProjectFile) -> ProjectFile:
        """The same file with hash and size, read from the body where the index does not tell the hash."""
        if file.sha256:
            path = wheel_cache_path(self.cache, file.sha256, file.filename)
            if not path.is_file():
                size = self._read_remote_size(file)
                if size:
                    return msgspec.structs.replace(file, size=size)
                self.download(file, path)
            return msgspec.structs.replace(file, size=path.stat().st_size)
        with self._download_aside(file) as path:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            size = path.stat().st_size
            kept = wheel_cache_path(self.cache, sha256, file.filename)
            kept.parent.mkdir(parents=True, exist_ok=True)
            path.replace(kept)
        return msgspec.structs.replace(file, sha256=sha256, size=size)

    def is_there(self, file: ProjectFile) -> bool:
        """Whether a file answers, and with the size that is known; its bytes are not read."""
        if file.url.startswith("file:"):
            path = _path_of(file.url)
            return path.is_file() and path.stat().st_size == file.size
        with self.client.send(file.url, {"Accept-Encoding": "identity"}, file.filename) as answer:
            if answer.status_code in (404, 410):
                return False
            if answer.status_code != 200:
                raise self.client.explain_refusal(answer.status_code, file.filename)
            length = answer.headers.get("Content-Length", "")
            return not length.isdigit() or int(length) == file.size

    def _read_remote_size(self, file: ProjectFile) -> int:
        """The body's length without the body, 0 when the server won't say."""
        if file.url.startswith("file:"):
            with self._open_local(file) as stream:
                return stream.seek(0, io.SEEK_END)
        ranged = self._open_ranges(file)
        return ranged.seek(0, io.SEEK_END) if ranged is not None else 0

    # -- bodies

    def download(self, file: ProjectFile, target: Path, *, package: str = "") -> str:
        """The file's bytes, verified by size and hash while they stream, at ``target`` or not there at all.

        Returns the sha256. Wrong bytes raise IntegrityError, a file that is gone LockError, a body that stays cut short
        RemoteError.
        """
        problem: RemoteError | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                self.client.pause(compute_pause(attempt, ""))
            try:
                with replacing(target) as stream:
                    return self._stream(file, stream, package or file.filename)
            except CutShortError as error:
                problem = RemoteError(
                    f"package index {self.index.name!r} cut {file.filename} short {ATTEMPTS} times ({error})",
                    "try again; nothing was kept",
                )
            except OSError as error:
                raise explain_os_error(error, f"keeping {file.filename}") from None
        assert problem is not None
        raise problem

    def _stream(self, file: ProjectFile, target: BinaryIO, package: str) -> str:
        digest = hashlib.sha256()
        size = 0
        for block in self._read_blocks(file):
            if self.client.stopped.is_set():
                raise RemoteError(f"{file.filename} was not fetched to its end", "run it again; nothing was kept")
            size += len(block)
            if file.size and size > file.size:
                break
            digest.update(block)
            target.write(block)
        if file.size and size < file.size:
            raise CutShortError(f"{size} of {file.size} bytes")
        found = digest.hexdigest()
        if (file.size and size != file.size) or (file.sha256 and found != file.sha256):
            raise IntegrityError(
                f"{package}: {file.filename} from index {self.index.name!r} is not the file that was promised",
                "nothing was kept; if it stays, somebody replaced the file: do not use that index until you know why",
                (
                    f"expected sha256 {file.sha256 or '(none told)'}" + (f", {file.size} bytes" if file.size else ""),
                    f"got      sha256 {found}" if size == file.size or not file.size else f"got      more than {file.size} bytes",
                ),
            )
        return found

    def _read_blocks(self, file: ProjectFile) -> Iterator[bytes]:
        if file.url.startswith("file:"):
            with self._open_local(file) as stream:
                while block := stream.read(_CHUNK):
                    yield block
            return
        with self.client.send(file.url, {"Accept-Encoding": "identity"}, file.filename) as answer:
            if answer.status_code in (404, 410):
                raise self._vanished(file)
            if answer.status_code != 200:
                raise self.client.explain_refusal(answer.status_code, file.filename)
            yield from self.client.read_blocks(answer)

    def _vanished(self, file: ProjectFile) -> ImagebuildError:
        return LockError(
            f"{file.filename} is no longer on package index {self.index.name!r}", "lock again, or get the file back onto the index"
        )


def _path_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))
