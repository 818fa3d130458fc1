"""The one index a resolver sees: a loopback server that routes names, applies the cutoff, and stands in for the base.

For each version it offers at most one wheel (:mod:`imagebuild.lock.resolve.candidates`), so whichever resolver asks, the wheel
chosen is the same; :mod:`imagebuild.lock.resolve.serving` is the server.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from imagebuild.errors import LockError
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.ranges import read_wheel_file
from imagebuild.lock.index.routing import PackageIndex, UnroutedError, route_name
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.localpackage import LocalWheel
from imagebuild.lock.inputs.metadata import read_requires, strip_addresses
from imagebuild.lock.inputs.resolverules import NO_RULES, ResolveRules
from imagebuild.lock.resolve.candidates import Candidates, Choice, candidates_of_local, select_wheels, stand_in_name
from imagebuild.lock.resolve.serving import LoopbackServer
from imagebuild.lock.resolve.stubs import Stub

_AHEAD = 8  # threads that read ahead of a resolver which asks for one thing at a time


class Sources(Protocol):
    """What makes wheels of source archives (:class:`imagebuild.lock.wheels.sdist.SourceWheels`)."""

    def may_build(self, name: str) -> bool:
        """Whether a normalised name is one of those that may be built."""

    def find_archives(self, page: ProjectPage, choice: Choice) -> dict[str, ProjectFile]:
        """Version -> archive."""

    def read_metadata(self, name: str, version: str, file: ProjectFile, upstream: Upstream) -> bytes:
        """METADATA of the wheel that an archive gives."""


class RoutedIndex:
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
        rules: ResolveRules = NO_RULES,
    ) -> None:
        self._rules = rules
        self._indexes = indexes
        self._sources = sources
        self._upstreams = upstreams
        self._choice = choice
        self._stubs = stubs
        self._unusable = unusable
        self._local = local
        self._cache = cache
        self._report = report
        self._guard = threading.Lock()
        self._candidates: dict[str, Future[Candidates]] = {}
        self._failures: list[Exception] = []
        self._server: LoopbackServer | None = None
        self._told: set[str] = set()
        self._served: dict[str, bytes] = {}  # wheel -> its METADATA
        self._ahead: ThreadPoolExecutor | None = None
        self._foreseen: set[str] = set()  # requirements that were followed ahead
        self.bodies: list[str] = []  # wheels whose bodies the resolver asked for
        self.reached = False  # whether any request came at all

    # -- life

    def __enter__(self) -> RoutedIndex:
        self._server = LoopbackServer(self)
        self._ahead = ThreadPoolExecutor(_AHEAD, "ahead") if self._choice.markers else None
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        if self._server is not None:
            self._server.stop()

    @property
    def url(self) -> str:
        """The address of the simple API, with a part nobody can guess."""
        assert self._server is not None
        return self._server.url

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

    def find_candidates(self, name: str) -> Candidates | None:
        """What the resolver was shown of a project, None when it never asked."""
        with self._guard:
            future = self._candidates.get(canonicalize_name(name))
        return future.result() if future is not None and future.done() and future.exception() is None else None

    def ask_candidates(self, name: str) -> Candidates:
        """The candidates of a normalised name, read once. No index hears the name of a source tree or of a wheel by URL."""
        if name in self._local:
            return candidates_of_local(self._local[name])
        with self._guard:
            future = self._candidates.get(name)
            mine = future is None
            if future is None:
                future = self._candidates[name] = Future()
        if mine:
            try:
                future.set_result(self._make_candidates(name))
            except BaseException as error:
                future.set_exception(error)
        return future.result()

    def _make_candidates(self, name: str) -> Candidates:
        index = route_name(name, self._indexes)
        page = self._upstreams[index.name].read_project(name)
        if page is None:
            target = self._upstreams[index.name].find_redirect(name)
            if target and self._is_news(f"redirect {index.name}"):
                self._report(
                    f"warning: package index {index.name!r} redirects {name} to {target}: the redirect is not "
                    f"followed, and {name} counts as missing there (redirects in its [[index]] allows hosts)"
                )
            return Candidates(name, index.name, absent=True, elsewhere=target)
        candidates = select_wheels(page, index.name, self._choice)
        if self._sources is not None and self._sources.may_build(name):
            archives = self._sources.find_archives(page, self._choice)
            candidates = msgspec.structs.replace(
                candidates, sources={key: file for key, file in archives.items() if key not in candidates.wheels}
            )
        if candidates.undated and not self._choice.explicit_cutoff and self._is_news(f"undated {index.name}"):
            self._report(f"package index {index.name!r} gives no upload times for some files: the cutoff is not applied to those")
        return candidates

    def _is_news(self, fact: str) -> bool:
        """Whether a fact was not reported before; from then on it counts as reported."""
        with self._guard:
            fresh = fact not in self._told
            self._told.add(fact)
        return fresh

    def page_of(self, name: str) -> list[dict[str, Any]] | None:
        """The file entries of a project page, None for 404."""
        if name in self._unusable:
            raise LockError(
                f"the base has {name} {self._unusable[name]}, which is not a version that Python packaging understands",
                f"replace {name} in the team's layer, or choose another base",
            )
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
        candidates = self.ask_candidates(name)
        if candidates.absent:
            return None
        entries: list[dict[str, Any]] = []
        for file in candidates.wheels.values():
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
        for version, file in candidates.sources.items():
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
        candidates = self.ask_candidates(name)
        for file in candidates.wheels.values():
            if file.filename == filename:
                return file, candidates.index
        return None

    def metadata_of(self, name: str, filename: str) -> bytes | None:
        """METADATA of a wheel that was offered; its requirements by URL are requirements by name there, so that they are routed."""
        metadata = self._find_metadata(name, filename)
        if metadata is None:
            return None
        metadata = self._rules.rewrite_metadata(metadata)
        with self._guard:
            self._served[filename] = metadata
        self.read_ahead(read_requires(metadata))
        return strip_addresses(metadata)

    def read_needs(self, name: str, version: str) -> list[Requirement]:
        """What a candidate of an index needs, as the resolver is shown it."""
        candidates = self.ask_candidates(name)
        return self._rules.rewrite_all(read_requires(self._read_metadata(name, candidates.wheels[version], candidates.index)))

    def count_projects(self) -> int:
        """How many projects have been asked for."""
        with self._guard:
            return len(self._candidates)

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
        """Errors are ignored here: the same request fails again when its result is needed, and is reported then."""
        if name in self._stubs or name in self._unusable:
            return
        with contextlib.suppress(Exception):
            candidates = self.ask_candidates(name)
            fitting = [version for version in candidates.wheels if specifier.contains(version)]
            if fitting:
                self.read_ahead(self.read_needs(name, fitting[-1]))

    def _find_metadata(self, name: str, filename: str) -> bytes | None:
        if name in self._stubs:
            return self._stubs[name].metadata if filename == self._stubs[name].filename else None
        found = self._find_file(name, filename)
        if found is not None:
            return self._read_metadata(name, *found)
        candidates = self.ask_candidates(name)
        for version, file in candidates.sources.items():
            if self._sources is not None and filename == stand_in_name(name, version):
                return self._sources.read_metadata(name, version, file, self._upstreams[candidates.index])
        return None

    def _read_metadata(self, name: str, file: ProjectFile, index: str) -> bytes:
        if name not in self._local:
            return self._upstreams[index].read_metadata(file)
        with self._local[name].path.open("rb") as stream:
            return read_wheel_file(stream, file.filename).metadata

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
