"""A team's own source tree, as a hash and as a wheel whose bytes depend on nothing but the tree.

The tree is copied aside, built by its own PEP 517 backend in a scrubbed process of this Python, and packed again in a
canonical form: entries sorted with ``*.dist-info`` last, stored, dated 1980-01-01, modes 0644 and 0755.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import importlib.metadata
import io
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from imagebuild.decoding import load_toml, make_decoder
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.files import exclusive, explain_os_error, hash_file, read_regular, replacing, write_atomic
from imagebuild.lock.inputs.sourcetree import hash_tree, list_tree
from imagebuild.permissions import choose_mode
from imagebuild.wheel.record import encode_hash

_FORMAT = 1  # of the repacked wheel: raise it when the same tree would give other bytes
_BACKENDS = {
    "flit_core.buildapi": "flit-core",
    "hatchling.build": "hatchling",
    "setuptools.build_meta": "setuptools",
    "setuptools.build_meta:__legacy__": "setuptools",
}
_TOOLS = ("flit-core", "hatchling", "setuptools", "wheel")
_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
_BUILD_SECONDS = 300
_READ = 1 << 20


class LocalWheel(msgspec.Struct, frozen=True):
    """The wheel of a source tree, or (without ``tree``) one that requirements.in names by URL."""

    path: Path
    filename: str
    sha256: str
    size: int
    name: str  # normalised
    version: str
    tree: str  # sha256 of the source tree
    url: str = ""  # the address


BuildTools = Callable[[str, Sequence[str], Path], Path]  # (whose, build requirements, an empty folder) -> a Python that has them


def build_local_wheel(folder: Path, cache: Path, cutoff: str, tools: BuildTools | None = None) -> LocalWheel:
    """The wheel of a source tree, from the cache or built. ``cutoff`` (RFC 3339) is the build's SOURCE_DATE_EPOCH.

    flit_core, hatchling and setuptools are here; for any other backend, or another version, ``tools`` makes an environment.
    LockError: a backend that neither has, a failing build, a wheel that is not pure.
    """
    tree = hash_tree(folder)
    backend, requires, path_to_backend = _read_build_system(folder)
    system = BuildSystem(backend, requires, path_to_backend)
    missing: LockError | None = None
    try:
        versions: object = _check_backend(folder, backend, requires, path_to_backend)
    except LockError as error:  # of what is locked the hash is known: the versions of its tools need not be part of the key
        missing, versions = error, ["isolated", *requires, *system.path]
    epoch = int(datetime.fromisoformat(cutoff).astimezone(UTC).timestamp())
    key = hashlib.sha256(msgspec.json.encode([_FORMAT, tree, backend, versions, epoch])).hexdigest()
    home = cache / "local" / key
    note = home / "wheel.json"
    try:
        with exclusive(cache / "local" / f"{key}.lock"):
            kept = _recall(note)
            if kept is None:
                if missing is not None and tools is None:
                    raise missing
                kept = _build(folder, tree, system, epoch, home, tools if missing is not None else None)
                write_atomic(note, msgspec.json.encode(_Note(kept.filename, kept.sha256, kept.size, kept.name, kept.version, kept.tree)))
    except OSError as error:
        raise explain_os_error(error, f"building {folder.name}") from None
    return kept


class BuildSystem(msgspec.Struct, frozen=True):
    """``[build-system]`` of PEP 517 and 518."""

    backend: str
    requires: tuple[str, ...]
    backend_path: object = None  # as written

    @property
    def path(self) -> list[str]:
        """Folders of the tree that hold its own backend."""
        return [str(item) for item in self.backend_path] if isinstance(self.backend_path, list) else []


class _Note(msgspec.Struct, frozen=True):
    filename: str
    sha256: str
    size: int
    name: str
    version: str
    tree: str


_LARGEST = 4 << 20  # bytes of a pyproject.toml
_NOTE = make_decoder(_Note)


def _recall(note: Path) -> LocalWheel | None:
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
        found = _NOTE.decode(note.read_bytes())
        path = note.parent / found.filename
        if path.is_file() and hash_file(path) == found.sha256:
            return LocalWheel(path, found.filename, found.sha256, found.size, found.name, found.version, found.tree)
    return None


def _read_build_system(folder: Path) -> tuple[str, tuple[str, ...], object]:
    """(backend, requires, backend-path) of PEP 518; setuptools' legacy backend where pyproject.toml says nothing."""
    legacy = ("setuptools.build_meta:__legacy__", ("setuptools",), None)
    file = folder / "pyproject.toml"
    if not file.is_file():
        if (folder / "setup.py").is_file() or (folder / "setup.cfg").is_file():
            return legacy
        raise LockError(f"{folder} has no pyproject.toml, so it is not a package", "add one with [build-system] and [project]")
    try:
        table = load_toml(read_regular(file, _LARGEST).decode("utf-8")).get("build-system")
    except ValueError as error:
        raise ConfigurationError(f"{file}: {error}", "correct the file") from None
    if table is None:
        return legacy
    requires = table.get("requires", []) if isinstance(table, dict) else None
    if not isinstance(requires, list) or not all(isinstance(item, str) for item in requires):
        raise ConfigurationError(f"{file}: [build-system] requires is not a list of strings", "correct the file")
    return str(table.get("build-backend", legacy[0])), tuple(requires), table.get("backend-path")


def _check_backend(folder: Path, backend: str, requires: Sequence[str], path_to_backend: object) -> dict[str, str]:
    """Versions of the tools a build will use; LockError when it would need more than is here without a network."""
    offered = "flit_core, hatchling or setuptools"
    if backend not in _BACKENDS or path_to_backend is not None:
        what = f"{backend} from its own tree" if path_to_backend is not None else backend
        raise LockError(
            f"{folder.name} builds with {what}, which imagebuild does not have", f"use {offered} as build-backend, or publish it as a wheel"
        )
    used = {_BACKENDS[backend]}
    for line in requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            raise ConfigurationError(
                f"{folder / 'pyproject.toml'}: {line!r} is not a requirement", "correct [build-system] requires"
            ) from None
        name = canonicalize_name(requirement.name)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        if name not in _TOOLS:
            raise LockError(
                f"{folder.name} needs {name} to build, which imagebuild does not have",
                f"build with {offered} alone, or publish it as a wheel",
            )
        used.add(name)
        if not requirement.specifier.contains(_find_version(name), prereleases=True):
            raise LockError(
                f"{folder.name} needs {line} to build, and imagebuild has {name} {_find_version(name)}",
                f"widen the line in {folder.name}/pyproject.toml, or install that version beside imagebuild",
            )
    return {name: _find_version(name) for name in sorted(used)}


def _find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise LockError(f"{name} is not installed beside imagebuild", f"pip install {name}") from None


def _build(folder: Path, tree: str, system: BuildSystem, epoch: int, home: Path, tools: BuildTools | None) -> LocalWheel:
    with tempfile.TemporaryDirectory(prefix="imagebuild-") as name:
        scratch = Path(name).resolve()
        for barrier in (".gitignore", ".hgignore"):  # hatchling looks for these in every parent folder
            (scratch / barrier).write_bytes(b"")
        source = scratch / "source"
        _copy_tree(folder, source)
        if hash_tree(source) != tree:
            raise LockError(f"{folder} changed while it was read", "run it again")
        built = _run_backend(folder.name, source, system, epoch, scratch, tools)
        distribution, version = _check_filename(folder.name, built.name)
        home.mkdir(parents=True, exist_ok=True)
        target = home / built.name
        with replacing(target) as stream:
            stream.write(repack_wheel(built.read_bytes(), folder.name))
    return LocalWheel(target, target.name, hash_file(target), target.stat().st_size, distribution, version, tree)


def _copy_tree(folder: Path, target: Path) -> None:
    target.mkdir(mode=0o755)
    for entry in list_tree(folder):
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.link:
            path.symlink_to(entry.link)
            continue
        shutil.copyfile(folder / entry.path, path)
        path.chmod(choose_mode(entry.executable))


def _run_backend(label: str, source: Path, system: BuildSystem, epoch: int, scratch: Path, tools: BuildTools | None) -> Path:
    from pyproject_hooks import BackendUnavailable, BuildBackendHookCaller

    output = scratch / "wheels"
    home = scratch / "home"
    output.mkdir()
    home.mkdir()
    python = tools(label, system.requires, scratch / "environment") if tools else Path(sys.executable)
    environment = {
        "PATH": f"{python.parent}:/usr/bin:/bin" if tools else "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home),
        "LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "SOURCE_DATE_EPOCH": str(epoch),
    }  # fmt: skip
    log: list[str] = []

    def run(cmd: Sequence[str], cwd: str | None = None, extra_environ: Mapping[str, str] | None = None) -> None:
        done = subprocess.run(
            list(cmd), cwd=cwd, env={**environment, **(extra_environ or {})}, umask=0o022, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_BUILD_SECONDS, check=False, text=True, errors="replace",
        )  # fmt: skip
        log.extend(done.stdout.splitlines())
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, "backend")

    hint = "build it by hand with: python -m build --wheel --no-isolation"
    try:
        caller = BuildBackendHookCaller(str(source), system.backend, system.path or None, run, str(python))
        if tools and (more := caller.get_requires_for_build_wheel()):
            python = tools(label, [*system.requires, *more], scratch / "full-environment")
            environment["PATH"] = f"{python.parent}:/usr/bin:/bin"
            caller = BuildBackendHookCaller(str(source), system.backend, system.path or None, run, str(python))
        filename = caller.build_wheel(str(output))
    except subprocess.CalledProcessError:
        raise LockError(f"{label} does not build: {_find_reason(log)}", hint, tuple(log[-15:])) from None
    except subprocess.TimeoutExpired:
        raise LockError(f"{label} took more than {_BUILD_SECONDS} s to build", hint) from None
    except BackendUnavailable as error:
        raise LockError(f"{label}: its build backend cannot be imported: {error}", hint) from None
    return output / filename


def _find_reason(log: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(log) if line.strip()), "its backend failed without any output")


def _check_filename(label: str, filename: str) -> tuple[str, str]:
    try:
        name, version, build, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        raise LockError(f"{label}: its backend made {filename!r}, which is not a wheel", "correct its name and version") from None
    if build or {str(tag) for tag in tags} - {"py3-none-any", "py2-none-any"} or "py3-none-any" not in {str(tag) for tag in tags}:
        raise LockError(
            f"{label} builds {filename}, which is not a pure Python wheel (py3-none-any)",
            "publish it as wheels on an index; a source tree of the team must be pure Python",
        )
    return str(name), str(version)


def repack_wheel(data: bytes, label: str) -> bytes:
    """The same wheel in canonical form: order, dates, modes, no compression, its generator unnamed, RECORD anew."""
    files: dict[str, tuple[bytes, bool]] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            path = PurePosixPath(entry.filename)
            if entry.is_dir():
                continue
            if path.is_absolute() or ".." in path.parts or entry.filename in files:
                raise LockError(f"{label}: its wheel has the path {entry.filename!r}", "correct the package")
            files[entry.filename] = (archive.read(entry), bool(entry.external_attr >> 16 & 0o100))
    folders = {name.partition("/")[0] for name in files if re.fullmatch(r"[^/]+\.dist-info/.*", name)}
    if len(folders) != 1:
        raise LockError(f"{label}: its wheel has {len(folders)} .dist-info folders", "correct the package")
    info = folders.pop()
    wheel, _executable = files.get(f"{info}/WHEEL", (b"", False))
    # The backend's version must not decide the bytes.
    files[f"{info}/WHEEL"] = (re.sub(rb"(?m)^Generator: .*$", b"Generator: imagebuild", wheel).replace(b"\r\n", b"\n"), False)
    for name in (f"{info}/RECORD", f"{info}/RECORD.jws", f"{info}/RECORD.p7s"):
        files.pop(name, None)
    order = sorted(files, key=lambda name: (name.startswith(f"{info}/"), name.encode()))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    for name in order:
        content = files[name][0]
        writer.writerow((name, encode_hash(hashlib.sha256(content).hexdigest()), len(content)))
    writer.writerow((f"{info}/RECORD", "", ""))
    files[f"{info}/RECORD"] = (table.getvalue().encode(), False)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in [*order, f"{info}/RECORD"]:
            content, executable = files[name]
            entry = zipfile.ZipInfo(name, _TIMESTAMP)
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | choose_mode(executable)) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
