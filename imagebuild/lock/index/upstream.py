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
from urllib.parse import urljoin

import msgspec
from packaging.utils import canonicalize_name

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.lock.index.bodies import Bodies, path_of, wheel_cache_path
from imagebuild.lock.index.client import Body, Elsewhere, IndexClient
from imagebuild.lock.index.metadatacache import recall, remember
from imagebuild.lock.index.pagecache import KeptPage, PageCache, keep_page
from imagebuild.lock.index.pages import HTML_TYPE, JSON_TYPE, ProjectFile, ProjectPage, parse_html_page, parse_json_page
from imagebuild.lock.index.ranges import BLOCK, METADATA_LIMIT, RangeFile, WheelMetadata, read_content_range, read_wheel_file
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.wheel.sizes import WheelShape, keep_shape

_ACCEPT = f"{JSON_TYPE}, {HTML_TYPE};q=0.2, text/html;q=0.1"


class Upstream:
    """One index, read over the network (or from ``file:``). Safe to share between threads."""

    def __init__(self, index: PackageIndex, cache: Path, *, pause: Callable[[float], object] | None = None) -> None:
        self.index = index
        self.cache = cache
        self.client = IndexClient(index, pause)
        self._bodies = Bodies(self.client)
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
        """The files of a project, None when the index does not have it: 404, or a redirect elsewhere (:meth:`find_redirect`)."""
        if self.index.address.startswith("file:"):
            return self._read_local_page(name)
        kept = self._read_kept(name)
        return kept.read_page(name) if kept is not None else None

    def find_redirect(self, name: str) -> str:
        """Where the page of a project redirected to (scheme, host and port), if that was refused and so counts as absent; else ""."""
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
        path = path_of(url) / "index.html"
        if not path.is_file():
            if not path_of(self.index.address).is_dir():
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
            self._elsewhere[name] = answer.target
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
                "report it to the index's operators, or use another index",
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
        """The wheel's METADATA: the one that the index serves beside it if its page has the right hash, else the one in the wheel."""
        known = recall(self.cache, file.sha256)
        if known.metadata:
            return known.metadata.encode("utf-8", "surrogateescape")
        if file.has_metadata and file.metadata_sha256:
            data = self._read_advertised(file)
            if data is not None:
                remember(self.cache, file.sha256, data, known.installed_size)
                return data
        return self._read_from_wheel(file).metadata

    def read_installed_size(self, file: ProjectFile) -> int:
        """Bytes of the wheel's files once unpacked: the sum over its zip directory."""
        known = recall(self.cache, file.sha256)
        return known.installed_size if known.installed_size >= 0 else self._read_from_wheel(file).installed_size

    def _read_advertised(self, file: ProjectFile) -> bytes | None:
        url = file.url + ".metadata"
        if url.startswith("file:"):
            path = path_of(url)
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
                f"the metadata of {file.filename} on index {self.index.name!r} does not have the hash on its page",
                "try again; if it fails again, report it to the index's operators",
                (f"expected sha256 {file.metadata_sha256}", f"got      sha256 {found}"),
            )
        return body

    def _read_from_wheel(self, file: ProjectFile) -> WheelMetadata:
        with self._open_wheel(file) as stream:
            result = read_wheel_file(stream, file.filename)
            if file.sha256:
                keep_shape(self.cache, file.sha256, stream, file.filename)
        remember(self.cache, file.sha256, result.metadata, result.installed_size)
        return result

    def read_shape(self, file: ProjectFile) -> WheelShape:
        """What the wheel holds by kind, from its zip directory; kept by its hash."""
        with self._open_wheel(file) as stream:
            return keep_shape(self.cache, file.sha256, stream, file.filename)

    @contextlib.contextmanager
    def _open_wheel(self, file: ProjectFile) -> Iterator[BinaryIO]:
        """A seekable reader of the wheel: kept, local, by ranges, or (servers without ranges) downloaded whole."""
        kept = wheel_cache_path(self.cache, file.sha256, file.filename) if file.sha256 else None
        if kept is not None and kept.is_file():
            with kept.open("rb") as stream:
                yield stream
            return
        if file.url.startswith("file:"):
            with self._bodies.open_local(file) as stream:
                yield stream
            return
        ranged = self._open_ranges(file)
        if ranged is not None:
            with ranged:
                yield ranged  # type: ignore[misc]  # a RawIOBase whose readinto always fills: enough for zipfile
            return
        with self._download_aside(file) as path, path.open("rb") as stream:
            yield stream

    def _open_ranges(self, file: ProjectFile) -> RangeFile | None:
        """A reader by HTTP ranges (RFC 9110 section 14), None when the server has none."""
        wanted = f"bytes={max(0, file.size - BLOCK)}-{file.size - 1}" if file.size else f"bytes=-{BLOCK}"
        with self.client.send(file.url, {"Range": wanted, "Accept-Encoding": "identity"}, file.filename, body=True) as answer:
            if answer.status_code == 404:
                raise self._bodies.explain_vanished(file)
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
                        f"package index {self.index.name!r} answered a request for a range of {file.filename} with other content",
                        "try again later",
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
        """The same file with hash and size, read from the body where the index does not give the hash."""
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
            with self._bodies.open_local(file) as stream:
                return stream.seek(0, io.SEEK_END)
        ranged = self._open_ranges(file)
        return ranged.seek(0, io.SEEK_END) if ranged is not None else 0

    # -- bodies

    def download(self, file: ProjectFile, target: Path, *, package: str = "") -> str:
        """:meth:`imagebuild.lock.index.bodies.Bodies.download`."""
        return self._bodies.download(file, target, package=package)

    def is_there(self, file: ProjectFile) -> bool:
        """:meth:`imagebuild.lock.index.bodies.Bodies.is_there`."""
        return self._bodies.is_there(file)
