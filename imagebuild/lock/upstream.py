"""Reading a package index: project pages (PEP 503, 592, 629, 658, 691, 700, 714) and wheels' metadata without their bodies.

Three answers, never mixed: there, absent (404), and failed (RemoteError, exit 6).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import unquote, urljoin, urlsplit

import msgspec
from packaging.utils import canonicalize_name

from imagebuild import __version__
from imagebuild.errors import ImagebuildError, IntegrityError, LockError, RemoteError
from imagebuild.files import explain_os_error, replacing, write_atomic
from imagebuild.lock.indexes import PackageIndex

if TYPE_CHECKING:
    import requests

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
_ACCEPT = f"{JSON_TYPE}, {HTML_TYPE};q=0.2, text/html;q=0.1"
_ATTEMPTS = 4
_CONNECT_ATTEMPTS = 3  # where nothing answers at all: no network should not take long to say so
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds between bytes
_LONGEST_PAUSE = 30.0
_PASSING = frozenset({429, 500, 502, 503, 504})
_PAGE_LIMIT = 256 << 20
_METADATA_LIMIT = 16 << 20
_BLOCK = 64 << 10
_CHUNK = 1 << 20
_PIECE = 128 << 10  # of a body: small enough to stop soon where the network is slow
_SHA256 = re.compile(r"[0-9a-f]{64}")
_METADATA_MEMBER = re.compile(r"([^/]+)\.dist-info/METADATA")


class ProjectFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a project, as its index tells. Empty means that the index does not say."""

    filename: str
    url: str  # absolute, without fragment
    sha256: str = ""  # 64 hex digits
    size: int = 0  # bytes
    upload_time: str = ""  # RFC 3339, UTC, whole seconds
    requires_python: str = ""
    yanked: bool = False
    yanked_reason: str = ""
    has_metadata: bool = False  # PEP 658: the METADATA file is served beside it
    metadata_sha256: str = ""


class ProjectPage(msgspec.Struct, frozen=True):
    """All files of one project on one index."""

    name: str
    files: tuple[ProjectFile, ...]


class WheelMetadata(msgspec.Struct, frozen=True):
    """What a wheel says of itself: its METADATA bytes, and the bytes of its files once unpacked."""

    metadata: bytes
    installed_size: int


class _CachedMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    metadata: str = ""  # base64 by msgspec would need bytes; METADATA is UTF-8 text with rare stray bytes
    installed_size: int = -1
    check: str = ""  # SHA-256 of the two: what decides a resolution must not rot unseen

    def sealed(self) -> _CachedMetadata:
        digest = hashlib.sha256(f"{self.installed_size}\n{self.metadata}".encode())
        return _CachedMetadata(self.metadata, self.installed_size, digest.hexdigest())


def parse_time(text: object) -> str:
    """An RFC 3339 time as UTC with whole seconds (``2026-10-01T00:00:00Z``), or "" when it is none."""
    if not isinstance(text, str) or not text:
        return ""
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if value.year >= 1000 else ""
    except (ValueError, OverflowError):
        return ""


def parse_json_page(name: str, data: bytes, url: str) -> ProjectPage:
    """PEP 691 and 700. A file entry that makes no sense is left out; a page that makes none raises ValueError."""
    try:
        page = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"malformed JSON: {error}") from None
    if not isinstance(page, dict) or not isinstance(page.get("files"), list):
        raise ValueError("no list of files")
    meta = page.get("meta")
    version = meta.get("api-version") if isinstance(meta, dict) else None
    _check_api_version(version)
    files = (_read_json_file(entry, url) for entry in page["files"])
    return ProjectPage(name, tuple(item for item in files if item is not None))


def _check_api_version(version: object) -> None:
    """PEP 629: a page of another major version must not be read."""
    if isinstance(version, str) and version.partition(".")[0] not in ("", "1"):
        raise ValueError(f"version {version[:20]!r} of the index's interface is not supported")


def _read_json_file(entry: object, url: str) -> ProjectFile | None:
    if not isinstance(entry, dict):
        return None
    filename, address = entry.get("filename"), entry.get("url")
    if not isinstance(filename, str) or not isinstance(address, str) or not _is_plain_name(filename):
        return None
    hashes = entry.get("hashes")
    size = entry.get("size")
    python = entry.get("requires-python")
    yanked = entry.get("yanked", False)
    advertised = entry.get("core-metadata", entry.get("dist-info-metadata", False))
    joined = _join(url, address)
    if joined is None:
        return None
    return ProjectFile(
        filename,
        joined,
        sha256=_read_sha256(hashes),
        size=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else 0,
        upload_time=parse_time(entry.get("upload-time")),
        requires_python=python if isinstance(python, str) else "",
        yanked=yanked is True or isinstance(yanked, str),
        yanked_reason=yanked if isinstance(yanked, str) else "",
        has_metadata=advertised is True or isinstance(advertised, dict),
        metadata_sha256=_read_sha256(advertised),
    )


def _read_sha256(hashes: object) -> str:
    value = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    return value.lower() if isinstance(value, str) and _SHA256.fullmatch(value.lower()) else ""


def _is_plain_name(filename: str) -> bool:
    """A file name and nothing else: it becomes a path on this machine."""
    return bool(filename) and "/" not in filename and "\\" not in filename and not filename.startswith(".") and filename.isprintable()


def _join(base: str, address: str) -> str | None:
    """An absolute http(s) or file address; a page from the network may not name files of this machine."""
    try:
        joined = urljoin(base, address)
        scheme = urlsplit(joined).scheme
        origin = urlsplit(base).scheme
    except ValueError:
        return None
    if scheme in ("http", "https") or (scheme == "file" and origin == "file"):
        return joined.partition("#")[0]
    return None


class _PageParser(HTMLParser):
    """Collects anchors of a PEP 503 page."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base = url
        self.files: list[ProjectFile] = []
        self.version: str | None = None
        self._based = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(reversed(attrs))  # the first of two equal attributes counts
        if tag == "base" and not self._based and values.get("href"):
            with contextlib.suppress(ValueError):
                self.base = urljoin(self.base, str(values["href"]))
            self._based = True
        elif tag == "meta" and values.get("name") == "pypi:repository-version":
            self.version = values.get("content")
        elif tag == "a" and values.get("href"):
            found = self._read_anchor(values)
            if found is not None:
                self.files.append(found)

    def _read_anchor(self, values: dict[str, str | None]) -> ProjectFile | None:
        href = str(values["href"])
        address = _join(self.base, href)
        if address is None:
            return None
        fragment = href.partition("#")[2]
        try:
            filename = unquote(urlsplit(address).path.rpartition("/")[2])
        except ValueError:
            return None
        if not _is_plain_name(filename):
            return None
        algorithm, _separator, value = fragment.partition("=")
        advertised = values.get("data-core-metadata", values.get("data-dist-info-metadata", ""))
        kind, _separator, digest = (advertised or "").partition("=")
        return ProjectFile(
            filename,
            address,
            sha256=_read_sha256({algorithm: value}),
            requires_python=values.get("data-requires-python") or "",
            yanked="data-yanked" in values,
            yanked_reason=values.get("data-yanked") or "",
            has_metadata=bool(advertised) and advertised != "false",
            metadata_sha256=_read_sha256({kind: digest}),
        )


def parse_html_page(name: str, text: str, url: str) -> ProjectPage:
    """PEP 503, with the attributes of PEP 592, 658 and 714. Never fails on odd markup; ValueError on a newer version."""
    parser = _PageParser(url)
    with contextlib.suppress(AssertionError):  # html.parser on "<![" of an unknown kind
        parser.feed(text)
        parser.close()
    _check_api_version(parser.version)
    return ProjectPage(name, tuple(parser.files))


def wheel_cache_path(cache: Path, sha256: str, filename: str) -> Path:
    """Where a verified wheel is kept."""
    return cache / "wheels" / sha256 / filename


class Upstream:
    """One index, read over the network (or from ``file:``). Safe to share between threads."""

    def __init__(self, index: PackageIndex, cache: Path, *, pause: Callable[[float], object] | None = None) -> None:
        self.index = index
        self.cache = cache
        self._stopped = threading.Event()
        self._pause = pause or self._stopped.wait
        self._session: requests.Session | None = None

    def stop(self) -> None:
        """Make downloads of other threads end at their next piece: one has failed, or the user has had enough."""
        self._stopped.set()

    def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            self._session.close()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    # -- project pages

    def read_project(self, name: str) -> ProjectPage | None:
        """The files of a project, None when the index does not have it (404)."""
        url = urljoin(self.index.address, f"{canonicalize_name(name)}/")
        if url.startswith("file:"):
            path = _path_of(url) / "index.html"
            if not path.is_file():
                if not _path_of(self.index.address).is_dir():
                    raise RemoteError(f"the folder of package index {self.index.name!r} is not there", "mount it, or correct its url")
                return None
            return parse_html_page(name, path.read_text("utf-8", "replace"), url)
        answer = self._get_body(url, {"Accept": _ACCEPT}, _PAGE_LIMIT, f"the page of {name}")
        if answer is None:
            return None
        body, content_type, final = answer
        try:
            if content_type.endswith("json"):
                return parse_json_page(name, body, final)
            if content_type in ("text/html", HTML_TYPE, "application/xhtml+xml", ""):
                return parse_html_page(name, body.decode("utf-8", "replace"), final)
        except ValueError as error:
            raise RemoteError(
                f"package index {self.index.name!r} sent a page for {name} that cannot be read: {error}",
                "tell its owners, or use another index",
            ) from None
        raise RemoteError(
            f"package index {self.index.name!r} answered {name} with {content_type[:60]!r}",
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
        answer = self._get_body(file.url + ".metadata", {}, _METADATA_LIMIT, f"the metadata of {file.filename}")
        if answer is None:
            return None  # advertised and not there: some mirrors copy the page but not these files
        body = answer[0]
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
        self._remember(file, result.metadata, result.installed_size)
        return result

    def _memory(self, file: ProjectFile) -> Path | None:
        return self.cache / "metadata" / f"{file.sha256}.json" if file.sha256 else None

    def _recall(self, file: ProjectFile) -> _CachedMetadata:
        path = self._memory(file)
        if path is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError, msgspec.DecodeError):
                found = msgspec.json.decode(path.read_bytes(), type=_CachedMetadata)
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
                write_atomic(path, msgspec.json.encode(_CachedMetadata(text, installed_size).sealed()))
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
        wanted = f"bytes={max(0, file.size - _BLOCK)}-{file.size - 1}" if file.size else f"bytes=-{_BLOCK}"
        with self._send(file.url, {"Range": wanted, "Accept-Encoding": "identity"}, file.filename, body=True) as answer:
            if answer.status_code == 404:
                raise self._vanished(file)
            if answer.status_code != 206:
                return None
            span = _read_content_range(answer.headers.get("Content-Range", ""))
            tail = answer.content
        if span is None or span[1] - span[0] + 1 != len(tail) or span[1] + 1 != span[2]:
            return None

        def fetch(start: int, end: int) -> bytes:
            headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
            with self._send(file.url, headers, file.filename, body=True) as part:
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
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(_compute_pause(attempt, ""))
            try:
                with replacing(target) as stream:
                    return self._stream(file, stream, package or file.filename)
            except _CutShortError as error:
                problem = RemoteError(
                    f"package index {self.index.name!r} cut {file.filename} short {_ATTEMPTS} times ({error})",
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
            if self._stopped.is_set():
                raise RemoteError(f"{file.filename} was not fetched to its end", "run it again; nothing was kept")
            size += len(block)
            if file.size and size > file.size:
                break
            digest.update(block)
            target.write(block)
        if file.size and size < file.size:
            raise _CutShortError(f"{size} of {file.size} bytes")
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
        import requests
        from urllib3.exceptions import HTTPError

        with self._send(file.url, {"Accept-Encoding": "identity"}, file.filename) as answer:
            if answer.status_code in (404, 410):
                raise self._vanished(file)
            if answer.status_code != 200:
                raise self._refused(answer.status_code, file.filename)
            try:
                yield from answer.iter_content(_PIECE)
            except (requests.RequestException, HTTPError, ConnectionError, TimeoutError) as error:
                raise _CutShortError(type(error).__name__) from None

    # -- one request

    def _get_body(self, url: str, headers: dict[str, str], limit: int, what: str) -> tuple[bytes, str, str] | None:
        """Body, media type and final address; None for 404 or 410."""
        if url.startswith("file:"):
            path = _path_of(url)
            return (path.read_bytes(), "", url) if path.is_file() else None
        with self._send(url, headers, what, body=True, limit=limit) as answer:
            if answer.status_code in (404, 410):
                return None
            if answer.status_code != 200:
                raise self._refused(answer.status_code, what)
            return answer.content, answer.headers.get("Content-Type", "").partition(";")[0].strip().lower(), answer.url

    def _send(self, url: str, headers: dict[str, str], what: str, *, body: bool = False, limit: int = _PAGE_LIMIT) -> requests.Response:
        """GET with bounded retries on what passes by itself. With ``body``, the body has been read when this returns."""
        import requests
        from urllib3.exceptions import HTTPError

        problem: RemoteError | None = None
        after = ""
        attempts = _ATTEMPTS
        for attempt in range(_ATTEMPTS):
            if attempt >= attempts or (attempt and self._stopped.is_set()):
                break
            if attempt:
                self._pause(_compute_pause(attempt, after))
            after = ""
            try:
                answer = self._connect().get(url, headers=headers, stream=True, timeout=_TIMEOUT, auth=self._credentials_for(url))
                if answer.status_code in _PASSING:
                    problem, after = self._refused(answer.status_code, what), answer.headers.get("Retry-After", "")
                    answer.close()
                    continue
                if body:
                    self._read_whole(answer, limit, what)
                return answer
            except requests.exceptions.SSLError:
                raise RemoteError(
                    f"this machine does not trust the certificate of package index {self.index.name!r}",
                    "hand in the authority that signed it: set cert in pip's configuration, or REQUESTS_CA_BUNDLE",
                ) from None
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
                raise RemoteError(
                    f"package index {self.index.name!r} names an address that is none, for {what}", "tell its owners"
                ) from None
            except (requests.RequestException, HTTPError, ConnectionError, TimeoutError) as error:
                problem = RemoteError(
                    f"no network: package index {self.index.name!r} cannot be reached for {what} ({_name_cause(error)})",
                    "check the network and proxy of this machine, then run it again",
                )
                if "NewConnectionError" in repr(error) or isinstance(error, requests.ConnectTimeout):
                    attempts = _CONNECT_ATTEMPTS
        assert problem is not None
        raise problem

    def _read_whole(self, answer: requests.Response, limit: int, what: str) -> None:
        blocks: list[bytes] = []
        total = 0
        if answer.status_code == 200 or answer.status_code == 206:
            if answer.status_code == 200 and "Range" in answer.request.headers:
                answer.close()  # the server has no ranges: its whole body is read elsewhere, to disk
                return
            for block in answer.iter_content(_CHUNK):
                total += len(block)
                if total > limit:
                    answer.close()
                    raise RemoteError(f"package index {self.index.name!r} sent more than {limit >> 20} MiB for {what}", "tell its owners")
                blocks.append(block)
        answer._content = b"".join(blocks)  # what Response.content would do, with a limit
        answer._content_consumed = True  # type: ignore[attr-defined]
        answer.close()

    def _connect(self) -> requests.Session:
        if self._session is None:
            import requests
            from requests.adapters import HTTPAdapter

            session = requests.Session()
            session.headers["User-Agent"] = f"imagebuild/{__version__}"
            adapter = HTTPAdapter(pool_connections=8, pool_maxsize=32)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            if self.index.certificate:
                session.verify = self.index.certificate
            self._session = session
        return self._session

    def _credentials_for(self, url: str) -> tuple[str, str] | None:
        """The index's credentials for its own host only; elsewhere netrc, which requests reads by host."""
        own, other = urlsplit(self.index.address), urlsplit(url)
        return self.index.credentials if (own.scheme, own.netloc) == (other.scheme, other.netloc) else None

    def _refused(self, status: int, what: str) -> RemoteError:
        hint = {
            401: "it wants a user and password: put them in the machine's netrc or in the index's configuration",
            403: "these credentials may not read it: ask its owners",
            429: "it asks for patience: try again later",
        }.get(status, "try again later; if it stays, tell its owners")
        return RemoteError(f"package index {self.index.name!r} answered {status} for {what}", hint)

    def _vanished(self, file: ProjectFile) -> ImagebuildError:
        return LockError(
            f"{file.filename} is no longer on package index {self.index.name!r}", "lock again, or get the file back onto the index"
        )


class _CutShortError(Exception):
    """A body that ended early; worth another try."""


class RangeFile(io.RawIOBase):
    """A read-only, seekable view of a remote file. ``fetch(start, end)`` brings bytes; blocks of 64 KiB are kept."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: int, start: int = 0, data: bytes = b"") -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._segments: list[tuple[int, bytes]] = [(start, data)] if data else []
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise OSError("negative seek")
        self._position = origin + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        end = self._size if size is None or size < 0 else min(self._size, self._position + size)
        if self._position >= end:
            return b""
        data = self._get(self._position, end)
        self._position = end
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _get(self, start: int, end: int) -> bytes:
        for offset, data in self._segments:
            if offset <= start and end <= offset + len(data):
                return data[start - offset : end - offset]
        low = start // _BLOCK * _BLOCK
        high = min(self._size, -(-end // _BLOCK) * _BLOCK)
        data = self._fetch(low, high)
        self._segments.append((low, data))
        return data[start - low : end - low]


def read_wheel_file(stream: BinaryIO, filename: str) -> WheelMetadata:
    """METADATA and installed size out of a wheel's zip directory; IntegrityError when it is no wheel."""
    wanted = canonicalize_name(filename.partition("-")[0])
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            found = [
                item
                for item in entries
                if (match := _METADATA_MEMBER.fullmatch(item.filename)) and canonicalize_name(match[1].rpartition("-")[0]) == wanted
            ]
            if len(found) != 1 or found[0].file_size > _METADATA_LIMIT:
                raise IntegrityError(f"{filename} has no usable METADATA of its own name", "it is not a wheel: tell the index's owners")
            return WheelMetadata(archive.read(found[0]), sum(item.file_size for item in entries))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OSError) as error:
        raise IntegrityError(f"{filename} is not a readable wheel: {error}", "tell the index's owners") from None


def _read_content_range(text: str) -> tuple[int, int, int] | None:
    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", text.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _compute_pause(attempt: int, after: str) -> float:
    """Seconds to wait: what Retry-After asks (seconds or a date), else doubling with jitter; never more than 30."""
    if after.strip().isdigit():
        return min(float(after), _LONGEST_PAUSE)
    if after:
        with contextlib.suppress(ValueError, TypeError):
            return min(max(0.0, parsedate_to_datetime(after).timestamp() - time.time()), _LONGEST_PAUSE)
    return min(0.4 * 2.0**attempt, _LONGEST_PAUSE) * (0.5 + random.random() / 2)


def _name_cause(error: Exception) -> str:
    """The kind of failure without the address that requests puts into its messages."""
    text = f"{error!r}"
    for sign, cause in (
        ("NameResolutionError", "its host name does not resolve"),
        ("Connection refused", "connection refused"),
        ("unreachable", "no route to it"),
        ("timed out", "timed out"),
        ("ProxyError", "the proxy refused"),
        ("IncompleteRead", "the body was cut short"),
        ("Connection reset", "connection reset"),
    ):
        if sign in text:
            return cause
    return type(error).__name__


def _path_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))
