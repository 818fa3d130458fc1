"""``lockfiles/pylock.<team>.toml``: a :class:`~imagebuild.lock.file.model.Lock` as PEP 751 writes it, without any URL.

Each package has one wheel with its file name as ``path``; where it comes from is ``[packages.tool.imagebuild] index``, a
name. Same lock, same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.decoding import load_toml
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.files import read_regular, sweep_writes, write_atomic
from imagebuild.lock.file.model import LOCK_FORMAT, BuildWheel, Lock, LockedPackage, SourceArchive
from imagebuild.lock.index.routing import URL_NAME
from imagebuild.oci.model import Digest
from imagebuild.toml import format_key, format_list, quote_text

LOCK_VERSION = "1.0"
_LARGEST = 16 << 20  # bytes
CREATED_BY = "imagebuild"
_HEX = re.compile(r"[0-9a-f]{64}")
_FILE_NAME = re.compile(r"pylock\.([^.]+)\.toml")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LATER = ("exclude", "override", "rewritten")  # written where they say something: older locks keep their digest
_BUILD_TEXTS = ("name", "version", "filename", "sha256", "index")
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def write_lock(path: Path, lock: Lock) -> None:
    """Write the lock in one step."""
    sweep_writes(path.parent)
    write_atomic(path, format_lock(lock).encode())


def lock_digest(lock: Lock) -> str:
    """``sha256:...`` of the lock's content, however its file is laid out."""
    document = msgspec.to_builtins(lock)
    # What came later to the format counts where it is said, so that older locks keep their digest.
    document = {key: value for key, value in document.items() if key not in _LATER or value}
    document["packages"] = [{key: value for key, value in item.items() if value is not None} for item in document["packages"]]
    return Digest.of(msgspec.json.encode(document, order="sorted"))


def format_lock(lock: Lock) -> str:
    """The file's text."""
    operating_system, _slash, machine = lock.platform.partition("/")
    machine = machine.partition("/")[0]
    environment = (
        f"python_full_version == '{lock.python}' and sys_platform == '{operating_system}' "
        f"and platform_machine == '{_MACHINES.get(machine, machine)}'"
    )
    lines = [
        f"# What {lock.team} adds to base {lock.base}. Compiled by imagebuild from requirements.in: change that, not this.",
        f"lock-version = {quote_text(LOCK_VERSION)}",
        f"created-by = {quote_text(CREATED_BY)}",
        f"requires-python = {quote_text(f'=={lock.python}')}",
        f"environments = [{quote_text(environment)}]",
    ]
    if not lock.packages:
        lines.append("packages = []")
    for package in lock.packages:
        lines += ["", *_format_package(package)]
    lines += [
        "",
        "[tool.imagebuild]",
        f"format = {lock.format}",
        f"team = {quote_text(lock.team)}",
        f"base = {quote_text(lock.base)}",
        f"base-digest = {quote_text(lock.base_digest)}",
        f"base-fingerprint = {quote_text(lock.base_fingerprint)}",
        f"python = {quote_text(lock.python)}",
        f"platform = {quote_text(lock.platform)}",
        f"resolver = {quote_text(lock.resolver)}",
        f"cutoff = {quote_text(lock.cutoff)}",
        format_list("satisfied", lock.satisfied),
        *(format_list(key, getattr(lock, key)) for key in _LATER if getattr(lock, key)),
        "",
        "[tool.imagebuild.inputs]",
        *(f"{format_key(key)} = {quote_text(lock.inputs[key])}" for key in sorted(lock.inputs)),
    ]
    return "\n".join(lines) + "\n"


def _format_package(package: LockedPackage) -> list[str]:
    wheel = [
        "[[packages.wheels]]",
        f"name = {quote_text(package.filename)}",
        f"path = {quote_text(package.filename)}",
        f"size = {package.size}",
        f"hashes = {{ sha256 = {quote_text(package.sha256)} }}",
    ]
    if package.url:
        wheel.insert(2, f"url = {quote_text(package.url)}")
    if package.upload_time:
        wheel.insert(3, f"upload-time = {package.upload_time}")
    lines = ["[[packages]]", f"name = {quote_text(package.name)}", f"version = {quote_text(package.version)}"]
    if package.requires_python:
        lines.append(f"requires-python = {quote_text(package.requires_python)}")
    if package.dependencies:
        lines.append("dependencies = [" + ", ".join(f"{{ name = {quote_text(name)} }}" for name in package.dependencies) + "]")
    source = package.source
    if source is not None:
        wheel += [
            "[packages.sdist]",
            f"name = {quote_text(source.filename)}",
            f"path = {quote_text(source.filename)}",
            f"size = {source.size}",
            f"hashes = {{ sha256 = {quote_text(source.sha256)} }}",
        ]
    lines += [*wheel, "[packages.tool.imagebuild]", f"index = {quote_text(package.index)}", f"installed-size = {package.installed_size}"]
    lines.append(format_list("via", package.via))
    if package.yanked:
        lines.append(f"yanked = {quote_text(package.yanked)}")
    if package.tree:
        lines.append(f"tree = {quote_text(package.tree)}")
    for item in source.requires if source is not None else ():
        lines += ["[[packages.tool.imagebuild.build-requires]]", *(f"{key} = {quote_text(getattr(item, key))}" for key in _BUILD_TEXTS)]
        lines.append(f"size = {item.size}")
    return lines


def read_lock(path: Path) -> Lock:
    """Read and check a lock; LockError names the file and the key that is wrong, or says that it is missing."""
    match = _FILE_NAME.fullmatch(path.name)
    command = f"imagebuild lock {match[1] if match else 'TEAM'}"
    try:
        text = read_regular(path, _LARGEST, path.name).decode("utf-8")
    except FileNotFoundError:
        raise LockError(f"{path.name} is missing", f"make it with: {command}") from None
    except ConfigurationError as error:
        raise LockError(error.message, f"restore it from version control, or lock again with: {command}") from None
    except UnicodeDecodeError as error:
        raise LockError(f"{path.name} cannot be read: {error}", f"restore it from version control, or lock again with: {command}") from None
    try:
        return parse_lock(text)
    except _MalformedError as error:
        raise LockError(f"{path.name}: {error}", f"restore it from version control, or lock again with: {command}") from None


def decode_lock(data: bytes, name: str) -> Lock:
    """A lock that is not a file of this checkout; LockError calls it ``name``."""
    try:
        return parse_lock(data.decode("utf-8"))
    except (UnicodeDecodeError, _MalformedError) as error:
        raise LockError(f"{name}: {error}", "push the image again with this version of imagebuild") from None


class _MalformedError(Exception):
    """What is wrong, with its key."""


class _Reader:
    """Typed look-ups in one table; the key's whole name is in every complaint."""

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        self._table = table
        self._where = where

    def _name(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def has(self, key: str) -> bool:
        return key in self._table

    def text(self, key: str, default: str | None = None) -> str:
        value = self._table.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise _MalformedError(f"{self._name(key)} must be a string")
        return value

    def number(self, key: str) -> int:
        value = self._table.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise _MalformedError(f"{self._name(key)} must be a whole number")
        return value

    def hex(self, key: str, default: str | None = None) -> str:
        value = self.text(key, default)
        if value != default and not _HEX.fullmatch(value):
            raise _MalformedError(f"{self._name(key)} must be 64 hex digits")
        return value

    def table(self, key: str) -> _Reader:
        value = self._table.get(key)
        if not isinstance(value, dict):
            raise _MalformedError(f"{self._name(key)} must be a table")
        return _Reader(value, self._name(key))

    def tables(self, key: str) -> list[_Reader]:
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise _MalformedError(f"{self._name(key)} must be an array of tables")
        return [_Reader(item, f"{self._name(key)}[{number}]") for number, item in enumerate(value)]

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._table.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _MalformedError(f"{self._name(key)} must be an array of strings")
        return tuple(value)

    def hexes(self, key: str) -> dict[str, str]:
        value = self._table.get(key)
        if not isinstance(value, dict) or not all(isinstance(item, str) and _HEX.fullmatch(item) for item in value.values()):
            raise _MalformedError(f"{self._name(key)} must be a table of names to 64 hex digits")
        return dict(value)

    def time(self, key: str) -> str:
        value = self._table.get(key)
        if value is None:
            return ""
        if not isinstance(value, datetime) or value.tzinfo is None:
            raise _MalformedError(f"{self._name(key)} must be a date and time with its offset")
        return value.astimezone(UTC).strftime(_TIME)


def parse_lock(text: str) -> Lock:
    """The lock in a file's text; raises :class:`_MalformedError`. Checked by packaging's PEP 751 reader and by our own rules."""
    from packaging.pylock import Pylock, PylockUnsupportedVersionError, PylockValidationError

    try:
        document = load_toml(text)
    except ValueError as error:
        raise _MalformedError(f"not TOML: {error}") from None
    try:
        Pylock.from_dict(document)
    except (PylockValidationError, PylockUnsupportedVersionError) as error:
        raise _MalformedError(f"not a PEP 751 lock: {error}") from None
    tool = document.get("tool")
    if not isinstance(tool, dict) or not isinstance(tool.get("imagebuild"), dict):
        raise _MalformedError("tool.imagebuild is missing: another program made this file")
    ours = _Reader(tool["imagebuild"], "tool.imagebuild")
    number = ours.number("format")
    if number != LOCK_FORMAT:
        raise _MalformedError(f"tool.imagebuild.format is {number}, and this imagebuild reads {LOCK_FORMAT}")
    packages = tuple(_read_package(entry) for entry in _Reader(document, "").tables("packages"))
    names = [package.name for package in packages]
    if names != sorted(set(names)):
        raise _MalformedError("packages must be sorted by name, each once")
    filenames = {package.filename for package in packages}
    if len(filenames) != len(packages):
        raise _MalformedError("packages: two of them name the same wheel")
    lock = Lock(
        team=ours.text("team"),
        base=ours.text("base"),
        base_digest=_check_digest(ours, "base-digest"),
        base_fingerprint=_check_digest(ours, "base-fingerprint"),
        python=ours.text("python"),
        platform=ours.text("platform"),
        inputs=ours.hexes("inputs"),
        resolver=ours.text("resolver"),
        cutoff=ours.text("cutoff"),
        packages=packages,
        satisfied=ours.texts("satisfied"),
        exclude=ours.texts("exclude"),
        override=ours.texts("override"),
        rewritten=ours.texts("rewritten"),
        format=number,
    )
    if not _is_time(lock.cutoff):
        raise _MalformedError("tool.imagebuild.cutoff must be a time like 2026-10-01T00:00:00Z")
    return lock


def _check_digest(reader: _Reader, key: str) -> str:
    value = reader.text(key)
    if not value.startswith("sha256:") or not _HEX.fullmatch(value[7:]):
        raise _MalformedError(f"tool.imagebuild.{key} must be sha256: and 64 hex digits")
    return value


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).strftime(_TIME) == text
    except ValueError:
        return False


def _read_package(entry: _Reader) -> LockedPackage:
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

    name, version = entry.text("name"), entry.text("version")
    wheels = entry.tables("wheels")
    if len(wheels) != 1:
        raise _MalformedError(f"package {name} must have exactly one wheel")
    wheel = wheels[0]
    filename = _check_filename(wheel.text("path"), f"package {name}: wheels.path")
    if wheel.text("name", filename) != filename:
        raise _MalformedError(f"package {name}: wheels.name and wheels.path differ")
    url = wheel.text("url", "")
    try:
        wheel_name, wheel_version, _build, _tags = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise _MalformedError(f"package {name}: wheels.path is not a wheel's name: {error}") from None
    if wheel_name != canonicalize_name(name) or str(wheel_version) != version:
        raise _MalformedError(f"package {name} {version}: wheels.path names another package, {filename}")
    ours = entry.table("tool").table("imagebuild")
    if bool(url) is not (ours.text("index") == URL_NAME):
        raise _MalformedError(f"package {name}: wheels.url is for index {URL_NAME!r} only; every other index is named")
    return LockedPackage(
        name=name,
        version=version,
        filename=filename,
        sha256=wheel.table("hashes").hex("sha256"),
        size=wheel.number("size"),
        installed_size=ours.number("installed-size"),
        index=ours.text("index"),
        upload_time=wheel.time("upload-time"),
        requires_python=entry.text("requires-python", ""),
        dependencies=tuple(item.text("name") for item in entry.tables("dependencies")),
        via=ours.texts("via"),
        tree=ours.hex("tree", ""),
        source=_read_source(entry, ours, name),
        url=url or None,
        yanked=ours.text("yanked", "") or None,
    )


def _read_source(entry: _Reader, ours: _Reader, name: str) -> SourceArchive | None:
    if not entry.has("sdist"):
        return None
    archive = entry.table("sdist")
    return SourceArchive(
        filename=_check_filename(archive.text("path"), f"package {name}: sdist.path"),
        sha256=archive.table("hashes").hex("sha256"),
        size=archive.number("size"),
        requires=tuple(
            BuildWheel(
                name=item.text("name"),
                version=item.text("version"),
                filename=_check_filename(item.text("filename"), f"package {name}: build-requires.filename"),
                sha256=item.hex("sha256"),
                size=item.number("size"),
                index=item.text("index"),
            )
            for item in ours.tables("build-requires")
        ),
    )


def _check_filename(filename: str, where: str) -> str:
    if "/" in filename or "\\" in filename or filename.startswith(".") or not filename.isprintable():
        raise _MalformedError(f"{where} must be a file name without folders")
    return filename
