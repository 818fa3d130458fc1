"""The one index a resolver sees: a loopback server that routes names, applies the cutoff, and stands in for the base.

It serves PEP 691 JSON only. For each version it offers at most one wheel, the best by the base's own tags, so whichever
resolver asks, the wheel chosen is the same. What it left out, and why, is kept for the message when a resolver gives up.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import parse_tag
from packaging.utils import (
    BuildTag,
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from imagebuild.errors import ImagebuildError, LockError
from imagebuild.lock.indexes import LOCAL_NAME, URL_NAME, PackageIndex, UnroutedError, route_name
from imagebuild.lock.localpackage import LocalWheel
from imagebuild.lock.metadata import read_requires, strip_addresses
from imagebuild.lock.pages import JSON_TYPE, ProjectFile, ProjectPage
from imagebuild.lock.ranges import read_wheel_file
from imagebuild.lock.stubs import Stub
from imagebuild.lock.upstream import Upstream, wheel_cache_path

_HOST = "127.0.0.1"
_AHEAD = 8  # threads that read ahead of a resolver which asks for one thing at a time


class Offer(msgspec.Struct, frozen=True):
    """What the resolver is shown of one project, and what was left out (versions, or tags by version)."""

    name: str
    index: str
    wheels: dict[str, ProjectFile] = {}  # version -> the best wheel
    absent: bool = False  # 404
    sdist_only: tuple[str, ...] = ()
    other_tags: dict[str, tuple[str, ...]] = {}  # versions with wheels, none of which fits the base: their tags
    other_python: dict[str, str] = {}  # version -> its Requires-Python
    too_new: tuple[str, ...] = ()
    yanked: tuple[str, ...] = ()
    undated: int = 0  # wheels without an upload time that a cutoff could not judge
    sources: dict[str, ProjectFile] = {}  # version -> the archive, where there is no wheel and one may be built


class Choice(msgspec.Struct, frozen=True):
    """Limits on what may be offered."""

    tags: tuple[str, ...]  # best first
    python: str  # full version
    cutoff: str = ""  # RFC 3339 UTC; "" for none
    explicit_cutoff: bool = False
    pins: Mapping[str, frozenset[str]] = {}  # name -> versions asked for with ==: yanked ones are allowed
    markers: Mapping[str, str] = {}  # of the base; with them, what a served package needs is read before it is asked for


def select_wheels(page: ProjectPage, index: str, choice: Choice) -> Offer:
    """Judge every file of a project page. An explicit cutoff on an index without upload times raises LockError."""
    ranks = {tag: rank for rank, tag in enumerate(choice.tags)}
    best: dict[Version, tuple[int, BuildTag, ProjectFile]] = {}
    sdists: set[Version] = set()
    other_tags: dict[Version, set[str]] = {}
    other_python: dict[Version, str] = {}
    too_new: set[Version] = set()
    yanked: set[Version] = set()
    undated: list[ProjectFile] = []
    dated = any(file.upload_time for file in page.files)
    pins = choice.pins.get(page.name, frozenset())
    for file in page.files:
        sdist = _parse_sdist(file.filename)
        if sdist is not None and sdist[0] == page.name:
            sdists.add(sdist[1])
        try:
            name, version, build, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        if name != page.name:
            continue
        rank = min((ranks[str(tag)] for tag in tags if str(tag) in ranks), default=-1)
        if choice.cutoff:
            if not file.upload_time:
                undated.append(file)
                if dated:
                    continue  # this index tells times, and not this one: it can't be shown to be old enough
            elif file.upload_time > choice.cutoff:
                too_new.add(version)
                continue
        if file.yanked and str(version) not in pins:
            yanked.add(version)
        elif rank < 0:
            other_tags.setdefault(version, set()).update(str(tag) for tag in tags)
        elif not allows_python(file.requires_python, choice.python):
            other_python[version] = file.requires_python
        elif version not in best or (-rank, build) > (-best[version][0], best[version][1]):
            best[version] = (rank, build, file)
    if undated and not dated and choice.explicit_cutoff:
        raise LockError(
            f"package index {index!r} tells no upload times, so the cutoff {choice.cutoff} cannot be applied to {page.name}",
            "lock without --as-of, or use an index that serves upload times (PEP 700)",
        )
    judged = set(best) | set(other_tags) | set(other_python) | too_new | yanked
    return Offer(
        page.name,
        index,
        wheels={str(version): best[version][2] for version in sorted(best)},
        sdist_only=_write(sdists - judged - {_parse_version(file) for file in undated}),
        other_tags={str(v): tuple(sorted(other_tags[v])) for v in sorted(other_tags) if v not in best},
        other_python={str(v): other_python[v] for v in sorted(other_python) if v not in best},
        too_new=_write(too_new - set(best)),
        yanked=_write(yanked - set(best)),
        undated=len(undated),
    )


def _write(versions: set[Version]) -> tuple[str, ...]:
    return tuple(str(version) for version in sorted(versions))


def _parse_version(file: ProjectFile) -> Version:
    return parse_wheel_filename(file.filename)[1]


def _parse_sdist(filename: str) -> tuple[str, Version] | None:
    try:
        return parse_sdist_filename(filename)
    except InvalidSdistFilename:
        return None


def allows_python(requires_python: str, python: str) -> bool:
    """Whether a Requires-Python admits a full Python version; one that cannot be parsed admits all, as pip has it."""
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:
        return True


def describe_tags(tags: Sequence[str]) -> str:
    """The Pythons and platforms of some wheel tags, for people: ``cp312, cp313 on macosx_11_0_arm64``."""
    parsed = [tag for text in tags for tag in parse_tag(text)]
    pythons = sorted({tag.interpreter for tag in parsed}, key=lambda text: (len(text), text))
    platforms = sorted({tag.platform for tag in parsed})
    shown = ", ".join(platforms[:4]) + (f" and {len(platforms) - 4} more" if len(platforms) > 4 else "")
    return f"{', '.join(pythons)} on {shown}"


class Sources(Protocol):
    """What makes wheels of source archives (:class:`imagebuild.lock.source.SourceWheels`)."""

    def may_build(self, name: str) -> bool:
        """Whether a normalised name is one of those that may be built."""

    def find_archives(self, page: ProjectPage, choice: Choice) -> dict[str, ProjectFile]:
        """Version -> archive."""

    def read_metadata(self, name: str, version: str, file: ProjectFile, upstream: Upstream) -> bytes:
        """METADATA of the wheel that an archive gives."""


def stand_in_name(name: str, version: str) -> str:
    """The file name a resolver is shown for a wheel that is yet to be built."""
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


class PolicyIndex:
    """The server. Use as a context manager; give :attr:`url` to a resolver; then :meth:`raise_failure`."""

    def __init__(
        self,
        indexes: Sequence[PackageIndex],
        upstreams: Mapping[str, Upstream],
        choice: Choice,
        stubs: Mapping[str, Stub],
        unusable: Mapping[str, str],
        local: Mapping[str, LocalWheel],
        cache: Path,
        report: Callable[[str], None],
        sources: Sources | None = None,
    ) -> None:
        self._indexes = indexes
        self._sources = sources
        self._upstreams = upstreams
        self._choice = choice
        self._stubs = stubs
        self._unusable = unusable
        self._local = local
        self._cache = cache
        self._report = report
        self._secret = secrets.token_urlsafe(24)
        self._guard = threading.Lock()
        self._offers: dict[str, Future[Offer]] = {}
        self._failures: list[Exception] = []
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._told: set[str] = set()
        self._served: dict[str, bytes] = {}  # wheel -> its METADATA
        self._ahead: ThreadPoolExecutor | None = None
        self._foreseen: set[str] = set()  # requirements that were followed ahead
        self.bodies: list[str] = []  # wheels whose bodies the resolver asked for
        self.reached = False  # whether any request came at all

    # -- life

    def __enter__(self) -> PolicyIndex:
        policy = self

        class Handler(_Handler):
            owner = policy

        self._server = _Server((_HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self._ahead = ThreadPoolExecutor(_AHEAD, "ahead") if self._choice.markers else None
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.hang_up()
            self._server.server_close()
            self._thread.join()

    @property
    def url(self) -> str:
        """The address of the simple API, with a part nobody can guess."""
        assert self._server is not None
        return f"http://{_HOST}:{self._server.server_address[1]}/{self._secret}/simple/"

    def raise_failure(self) -> None:
        """Raise the first error that happened while serving: the resolver saw only a status code."""
        with self._guard:
            failures = list(self._failures)
        for failure in failures:
            if isinstance(failure, UnroutedError):
                raise UnroutedError(failure.name, self.find_askers(failure.name))
            raise failure

    def find_askers(self, name: str) -> tuple[str, ...]:
        """Which of the wheels whose metadata was served need a name, one line each: ``thing 1.0 needs name>=2``."""
        with self._guard:
            served = dict(self._served)
        found: dict[str, None] = {}
        for filename, metadata in served.items():
            for line in read_requires(metadata):
                if canonicalize_name(line.name) == name:
                    wheel = parse_wheel_filename(filename)
                    found[f"{wheel[0]} {wheel[1]} needs {line}"] = None
        return tuple(found)

    # -- answers

    def find_offer(self, name: str) -> Offer | None:
        """What the resolver was shown of a project, None when it never asked."""
        with self._guard:
            future = self._offers.get(canonicalize_name(name))
        return future.result() if future is not None and future.done() and future.exception() is None else None

    def ask_offer(self, name: str) -> Offer:
        """The offer of a normalised name, read once."""
        with self._guard:
            future = self._offers.get(name)
            mine = future is None
            if future is None:
                future = self._offers[name] = Future()
        if mine:
            try:
                future.set_result(self._make_offer(name))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _make_offer(self, name: str) -> Offer:
        index = route_name(name, self._indexes)
        page = self._upstreams[index.name].read_project(name)
        if page is None:
            return Offer(name, index.name, absent=True)
        offer = select_wheels(page, index.name, self._choice)
        if self._sources is not None and self._sources.may_build(name):
            archives = self._sources.find_archives(page, self._choice)
            offer = msgspec.structs.replace(offer, sources={key: file for key, file in archives.items() if key not in offer.wheels})
        if offer.undated and not self._choice.explicit_cutoff:
            with self._guard:
                fresh = index.name not in self._told
                self._told.add(index.name)
            if fresh:
                self._report(f"package index {index.name!r} tells no upload times for some files: the cutoff is not applied to those")
        return offer

    def page_of(self, name: str) -> list[dict[str, Any]] | None:
        """The file entries of a project page, None for 404."""
        if name in self._unusable:
            raise LockError(
                f"the base has {name} {self._unusable[name]}, which is not a version that Python packaging understands",
                f"replace {name} in the team's layer, or choose another base",
            )
        if name in self._local:
            wheel = self._local[name]
            return [
                {
                    "filename": wheel.filename,
                    "url": self._file_url(name, wheel.filename),
                    "hashes": {"sha256": wheel.sha256},
                    "core-metadata": True,
                }
            ]
        if name in self._stubs:
            stub = self._stubs[name]
            return [
                {
                    "filename": stub.filename,
                    "url": self._file_url(name, stub.filename),
                    "hashes": {"sha256": stub.sha256},
                    "core-metadata": True,
                }
            ]
        offer = self.ask_offer(name)
        if offer.absent:
            return None
        entries: list[dict[str, Any]] = []
        for file in offer.wheels.values():
            entry: dict[str, Any] = {
                "filename": file.filename,
                "url": self._file_url(name, file.filename),
                "hashes": {"sha256": file.sha256} if file.sha256 else {},
                "core-metadata": True,
                "yanked": (file.yanked_reason or True) if file.yanked else False,
            }
            if file.requires_python:
                entry["requires-python"] = file.requires_python
            if file.size:
                entry["size"] = file.size
            if file.upload_time:
                entry["upload-time"] = file.upload_time
            entries.append(entry)
        for version, file in offer.sources.items():
            filename = stand_in_name(name, version)
            entries.append(
                {
                    "filename": filename,
                    "url": self._file_url(name, filename),
                    "hashes": {},
                    "core-metadata": True,
                    "yanked": (file.yanked_reason or True) if file.yanked else False,
                    **({"requires-python": file.requires_python} if file.requires_python else {}),
                }
            )
        return entries

    def _file_url(self, name: str, filename: str) -> str:
        return f"../../files/{name}/{quote(filename)}"

    def _find_file(self, name: str, filename: str) -> tuple[ProjectFile, str] | None:
        offer = self.ask_offer(name)
        for file in offer.wheels.values():
            if file.filename == filename:
                return file, offer.index
        return None

    def metadata_of(self, name: str, filename: str) -> bytes | None:
        """METADATA of a wheel that was offered; what it needs by address it needs by name there, so that it is routed like all else."""
        metadata = self._find_metadata(name, filename)
        if metadata is None:
            return None
        with self._guard:
            self._served[filename] = metadata
        self.read_ahead(read_requires(metadata))
        return strip_addresses(metadata)

    def read_ahead(self, needs: Iterable[Requirement]) -> None:
        """Start reading what will be asked for: the pages of needs that apply, and the metadata of the versions likely to be taken."""
        if self._ahead is None:
            return
        for requirement in needs:
            key = f"{canonicalize_name(requirement.name)}{requirement.specifier}"
            if requirement.marker is not None and not requirement.marker.evaluate({**self._choice.markers, "extra": ""}):
                continue
            with self._guard:
                fresh = key not in self._foreseen
                self._foreseen.add(key)
            if fresh:
                with contextlib.suppress(RuntimeError):  # the resolver has ended meanwhile
                    self._ahead.submit(self._follow, canonicalize_name(requirement.name), requirement.specifier)

    def _follow(self, name: str, specifier: SpecifierSet) -> None:
        """Nothing that goes wrong here matters: it goes wrong again when it is asked for, and is told then."""
        if name in self._local or name in self._stubs or name in self._unusable:
            return
        with contextlib.suppress(Exception):
            offer = self.ask_offer(name)
            fitting = [version for version in offer.wheels if specifier.contains(version)]
            if fitting:
                self.read_ahead(read_requires(self._upstreams[offer.index].read_metadata(offer.wheels[fitting[-1]])))

    def _find_metadata(self, name: str, filename: str) -> bytes | None:
        if name in self._local:
            wheel = self._local[name]
            if filename != wheel.filename:
                return None
            with wheel.path.open("rb") as stream:
                return read_wheel_file(stream, filename).metadata
        if name in self._stubs:
            return self._stubs[name].metadata if filename == self._stubs[name].filename else None
        found = self._find_file(name, filename)
        if found is not None:
            return self._upstreams[found[1]].read_metadata(found[0])
        offer = self.ask_offer(name)
        for version, file in offer.sources.items():
            if self._sources is not None and filename == stand_in_name(name, version):
                return self._sources.read_metadata(name, version, file, self._upstreams[offer.index])
        return None

    def body_of(self, name: str, filename: str) -> bytes | Path | None:
        """A wheel's bytes, or the verified file that holds them."""
        with self._guard:
            self.bodies.append(filename)
        if name in self._local:
            return self._local[name].path if filename == self._local[name].filename else None
        if name in self._stubs:
            return self._stubs[name].data if filename == self._stubs[name].filename else None
        found = self._find_file(name, filename)
        if found is None:
            return None
        file, index = found
        path = wheel_cache_path(self._cache, file.sha256 or hashlib.sha256(file.url.encode()).hexdigest(), filename)
        if not path.is_file():
            self._upstreams[index].download(file, path)
        return path

    def record_failure(self, error: Exception) -> None:
        """Keep an error for :meth:`raise_failure`."""
        with self._guard:
            self._failures.append(error)


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close: no thread outlives the lock
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End kept-alive connections, whose threads would wait for a next request otherwise."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A resolver that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    owner: PolicyIndex
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # head and body in one packet: two would wait for each other 40 ms (Nagle, delayed acknowledgement)
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the resolver tells what it asks."""

    def _answer(self, *, body: bool) -> None:
        owner = self.owner
        owner.reached = True
        parts = [unquote(part) for part in self.path.partition("?")[0].split("/")[1:]]
        try:
            if len(parts) < 2 or not secrets.compare_digest(parts[0].encode(), owner._secret.encode()):
                self._send(404, b"", "text/plain", body)
            elif parts[1] == "simple" and len(parts) in (3, 4) and parts[2]:
                name = canonicalize_name(parts[2])
                entries = owner.page_of(name)
                if entries is None:
                    self._send(404, b"", "text/plain", body)
                else:
                    page = {"meta": {"api-version": "1.0"}, "name": name, "files": entries}
                    self._send(200, msgspec.json.encode(page), JSON_TYPE, body)
            elif parts[1] == "files" and len(parts) == 4:
                self._send_file(parts[2], parts[3], body)
            else:
                self._send(404, b"", "text/plain", body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # reported by raise_failure; the resolver gets a plain refusal
            owner.record_failure(error)
            status = 404 if isinstance(error, ImagebuildError) else 500
            self._send(status, b"imagebuild knows why", "text/plain", body)

    def _send_file(self, name: str, filename: str, body: bool) -> None:
        if filename.endswith(".metadata"):
            data: bytes | Path | None = self.owner.metadata_of(name, filename.removesuffix(".metadata"))
        else:
            data = self.owner.body_of(name, filename)
        if data is None:
            self._send(404, b"", "text/plain", body)
        else:
            self._send(200, data.read_bytes() if isinstance(data, Path) else data, "application/octet-stream", body)

    def _send(self, status: int, data: bytes, content_type: str, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(data)
        self.wfile.flush()


def offer_of_local(wheel: LocalWheel) -> Offer:
    """A wheel that no index offers, as an offer, for code that treats both alike."""
    return Offer(
        wheel.name,
        URL_NAME if wheel.url else LOCAL_NAME,
        wheels={wheel.version: ProjectFile(wheel.filename, wheel.url or wheel.path.as_uri(), sha256=wheel.sha256, size=wheel.size)},
    )
