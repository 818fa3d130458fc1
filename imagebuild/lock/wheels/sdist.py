"""Packages that no index has a wheel of: their source archives (PEP 625), built into wheels inside the base.

Only names the team lists in ``[source] packages`` are ever built. How a build is done is a function given from outside (the
docker engine's); here is decided what is built, with which wheels beside it, and whether it was built before.
"""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
import threading
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from email.parser import BytesParser
from email.policy import compat32
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from imagebuild.base.sourceorder import BuildSource, SourceOrder, compute_epoch
from imagebuild.decoding import load_toml, make_decoder
from imagebuild.errors import BuildError, IntegrityError, LockError
from imagebuild.files import exclusive, explain_os_error, scratch_folder, write_atomic
from imagebuild.lock.file.model import BuildWheel, LockedPackage, SourceArchive, SourceRules
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.ranges import read_wheel_file
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.localpackage import repack_wheel
from imagebuild.lock.resolve.candidates import Choice, allows_python
from imagebuild.lock.wheels.fetching import find_locked_file, is_cached

_FORMAT = 1  # of a build: raise it when the same order would give other bytes
_MEMBER_LIMIT = 4 << 20  # bytes of pyproject.toml or PKG-INFO
_STATIC = Version("2.2")  # PEP 643: from this metadata version on, what is not named Dynamic is final
_DECIDING = frozenset({"requires-dist", "provides-extra"})


class SourceWheel(msgspec.Struct, frozen=True):
    """A wheel that was built, in the wheel cache."""

    path: Path
    filename: str
    sha256: str
    size: int
    source: SourceArchive


class _Note(msgspec.Struct, frozen=True):
    filename: str
    sha256: str
    size: int


_NOTE = make_decoder(_Note)


ResolveRequires = Callable[[Sequence[str]], tuple[BuildWheel, ...]]
FetchRequires = Callable[[Sequence[BuildWheel]], tuple[Path, ...]]


def find_archives(page: ProjectPage, choice: Choice) -> dict[str, ProjectFile]:
    """Version -> the archive that may be built, by the rules that wheels are judged by; ``.tar.gz`` before ``.zip``."""
    found: dict[Version, ProjectFile] = {}
    pins = choice.pins.get(page.name, frozenset())
    dated = any(file.upload_time for file in page.files)
    for file in page.files:
        try:
            name, version = parse_sdist_filename(file.filename)
        except InvalidSdistFilename:
            continue
        if name != page.name or (file.yanked and str(version) not in pins) or not allows_python(file.requires_python, choice.python):
            continue
        if not choice.allows_hash(name, file):
            continue
        if choice.cutoff and (file.upload_time > choice.cutoff if file.upload_time else dated):
            continue
        if version not in found or file.filename.endswith(".tar.gz"):
            found[version] = file
    return {str(version): found[version] for version in sorted(found)}


def read_member(archive: Path, name: str) -> bytes | None:
    """``<top folder>/name`` of a source archive; None when it has none. IntegrityError for what is not an archive."""
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                for item in packed.infolist():
                    if _is_member(item.filename, name) and item.file_size <= _MEMBER_LIMIT:
                        return packed.read(item)
            return None
        with tarfile.open(archive, "r:gz") as unpacked:
            for entry in unpacked:
                if _is_member(entry.name, name) and entry.isreg() and entry.size <= _MEMBER_LIMIT:
                    stream = unpacked.extractfile(entry)
                    return stream.read() if stream else None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise IntegrityError(f"{archive.name} is not a readable source archive: {error}", "report it to the index's operators") from None
    return None


def _is_member(path: str, name: str) -> bool:
    parts = path.removeprefix("./").split("/")
    return len(parts) == 2 and parts[1] == name


def read_build_requires(archive: Path) -> tuple[str, ...]:
    """``[build-system] requires`` (PEP 518); setuptools and wheel where the archive says nothing (PEP 517)."""
    data = read_member(archive, "pyproject.toml")
    table: object = None
    if data is not None:
        try:
            table = load_toml(data.decode("utf-8")).get("build-system")
        except ValueError as error:
            raise LockError(f"{archive.name}: its pyproject.toml is not TOML: {error}", "ask for another version") from None
    if not isinstance(table, dict):
        return ("setuptools", "wheel")
    requires = table.get("requires", [])
    if not isinstance(requires, list) or not all(isinstance(item, str) for item in requires):
        raise LockError(f"{archive.name}: its [build-system] requires is not a list of strings", "ask for another version")
    legacy = "build-backend" not in table or str(table["build-backend"]).startswith("setuptools.")
    # setuptools before 70 asks for wheel only when it is already running.
    return (*requires, *(["wheel"] if legacy else []))


def read_static_metadata(archive: Path) -> bytes | None:
    """PKG-INFO where PEP 643 says that a build cannot change what decides a resolution; None where only a build can tell."""
    data = read_member(archive, "PKG-INFO")
    if data is None:
        return None
    message = BytesParser(policy=compat32).parsebytes(data, headersonly=True)
    dynamic = {str(item).strip().lower() for item in message.get_all("Dynamic", [])}
    try:
        return data if Version(str(message["Metadata-Version"])) >= _STATIC and not dynamic & _DECIDING else None
    except InvalidVersion:
        return None


class SourceWheels:
    """Wheels made on demand. Safe to ask from several threads: one build at a time."""

    def __init__(
        self,
        rules: SourceRules,
        *,
        base_digest: str,
        cache: Path,
        build: BuildSource,
        fetch: FetchRequires,
        report: Callable[[str], None],
        resolve: ResolveRequires | None = None,
        existing: Mapping[str, LockedPackage] | None = None,
    ) -> None:
        self.rules = rules
        self._base_digest = base_digest
        self._cache = cache
        self._build = build
        self._resolve = resolve
        self._fetch = fetch
        self._report = report
        self._existing = existing or {}
        self._guard = threading.RLock()
        self._made: dict[str, SourceWheel] = {}

    def may_build(self, name: str) -> bool:
        """Whether a normalised name is one of ``[source] packages``."""
        return name in self.rules.packages

    def find_archives(self, page: ProjectPage, choice: Choice) -> dict[str, ProjectFile]:
        """:func:`find_archives`."""
        return find_archives(page, choice)

    def read_metadata(self, name: str, version: str, file: ProjectFile, upstream: Upstream) -> bytes:
        """METADATA of the wheel that ``file`` gives: from the archive itself when that is final, else by building it."""
        archive, _ = self._keep_archive(file, upstream)
        static = read_static_metadata(archive)
        if static is not None:
            return static
        wheel = self.make_wheel(name, version, file, upstream)
        with wheel.path.open("rb") as stream:
            return read_wheel_file(stream, wheel.filename).metadata

    def make_wheel(self, name: str, version: str, file: ProjectFile, upstream: Upstream) -> SourceWheel:
        """The wheel of one version, with the build requirements of an existing lock where that has the same archive."""
        with self._guard:
            if file.filename in self._made:
                return self._made[file.filename]
            archive, sha256 = self._keep_archive(file, upstream)
            before = self._existing.get(name)
            if before is not None and before.source is not None and before.source.sha256 == sha256:
                requires = before.source.requires
            else:
                assert self._resolve is not None  # only a lock that is there already needs none
                lines = (*read_build_requires(archive), *self.rules.requires)
                requires = self._resolve(_check_requires(lines, file.filename))
            source = SourceArchive(file.filename, sha256, archive.stat().st_size, requires)
            made = self._make(name, version, archive, source, _read_epoch(file.upload_time))
            self._made[file.filename] = made
            return made

    def remake_wheel(self, package: LockedPackage, upstream: Upstream) -> Path:
        """The locked wheel of ``package``, built again from the locked archive; IntegrityError when it comes out otherwise."""
        source = package.source
        assert source is not None
        with self._guard:
            archive = wheel_cache_path(self._cache, source.sha256, source.filename)
            if not is_cached(archive, source.sha256):
                upstream.download(find_locked_file(package.name, source, upstream, "imagebuild lock TEAM --upgrade"), archive)
            made = self._make(package.name, package.version, archive, source, _read_epoch(package.upload_time))
        if (made.sha256, made.filename) != (package.sha256, package.filename):
            raise IntegrityError(
                f"{package.name}: the wheel built from {source.filename} is not the locked one",
                "the base or the Debian packages it is built with changed since: lock again",
                (f"expected sha256 {package.sha256}", f"got      sha256 {made.sha256}"),
            )
        return made.path

    def _keep_archive(self, file: ProjectFile, upstream: Upstream) -> tuple[Path, str]:
        """(the verified archive in the wheel cache, its sha256)."""
        if not file.sha256:
            file = upstream.complete(file)
        path = wheel_cache_path(self._cache, file.sha256, file.filename)
        if not is_cached(path, file.sha256):
            upstream.download(file, path)
        return path, file.sha256

    def _make(self, name: str, version: str, archive: Path, source: SourceArchive, epoch: int) -> SourceWheel:
        order = [_FORMAT, source.sha256, [item.sha256 for item in source.requires], self._base_digest, sorted(self.rules.system), epoch]
        key = hashlib.sha256(msgspec.json.encode(order)).hexdigest()
        note = self._cache / "source" / f"{key}.json"
        try:
            with exclusive(self._cache / "source" / f"{key}.lock"):
                kept = self._recall(note, source)
                if kept is not None:
                    return kept
                self._report(f"building {name} {version} from source, inside the base")
                requires = self._fetch(source.requires)
                with scratch_folder(self._cache) as folder:
                    built = self._build(SourceOrder(name, version, archive, requires, epoch), folder)
                    _check_built(name, version, built.name)
                    data = repack_wheel(built.read_bytes(), name)
                sha256 = hashlib.sha256(data).hexdigest()
                path = wheel_cache_path(self._cache, sha256, built.name)
                write_atomic(path, data)
                write_atomic(note, msgspec.json.encode(_Note(built.name, sha256, len(data))))
                return SourceWheel(path, built.name, sha256, len(data), source)
        except OSError as error:
            raise explain_os_error(error, f"building {name}") from None

    def _recall(self, note: Path, source: SourceArchive) -> SourceWheel | None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
            found = _NOTE.decode(note.read_bytes())
            path = wheel_cache_path(self._cache, found.sha256, found.filename)
            if is_cached(path, found.sha256):
                return SourceWheel(path, found.filename, found.sha256, found.size, source)
        return None


def _read_epoch(upload_time: str) -> int:
    return compute_epoch(datetime.fromisoformat(upload_time) if upload_time else None)


def _check_requires(lines: Sequence[str], archive: str) -> tuple[str, ...]:
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            raise LockError(f"{archive}: {line!r} is not a requirement", "ask for another version") from None
        if requirement.url:
            raise LockError(f"{archive} needs {requirement.name} by URL to build", "publish a wheel of it on an index")
    return tuple(dict.fromkeys(lines))


def _check_built(name: str, version: str, filename: str) -> None:
    try:
        found, found_version, _build, _tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        raise BuildError(f"{name}: the build made {filename!r}, which is not a wheel", "ask for another version") from None
    if canonicalize_name(found) != name or str(found_version) != version:
        raise BuildError(f"{name} {version}: the build made {filename}, another package or version", "report it to the index's operators")
