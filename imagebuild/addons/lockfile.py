"""The lock of add-ons as a file: ``lockfiles/r.<team>.toml``, ``lockfiles/vscode.<team>.toml``. Whole or not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from imagebuild.addons.model import ADDON_LOCK_FORMAT, Addon, AddonLock, SourceOf
from imagebuild.decoding import Converter, load_toml
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.files import read_regular, sweep_writes, write_atomic
from imagebuild.lock.index.routing import LOCAL_NAME
from imagebuild.toml import format_key, format_list, quote_text

_LARGEST = 16 << 20  # bytes of a lock
_HEX = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class _Head(msgspec.Struct, frozen=True):
    """What is read of a file before anything else of it is believed."""

    format: int


_HEAD, _LOCK = Converter(_Head), Converter(AddonLock)


def write_addon_lock(path: Path, lock: AddonLock) -> None:
    """Write the lock in one step."""
    sweep_writes(path.parent)
    write_atomic(path, format_addon_lock(lock).encode())


def format_addon_lock(lock: AddonLock) -> str:
    """The file's text."""
    lines = [
        f"# The {lock.kind} add-ons of {lock.team} on base {lock.base}. Made by imagebuild from the team's folder: change that, not this.",
        f"format = {lock.format}",
        *(f"{key} = {quote_text(getattr(lock, key))}" for key in ("kind", "team", "base", "cutoff")),
        format_list("satisfied", lock.satisfied),
        "",
        "[against]",
        *_format_table(lock.against),
        "",
        "[inputs]",
        *_format_table(lock.inputs),
    ]
    for item in lock.addons:
        lines += ["", "[[addon]]", *_format_addon(item)]
    return "\n".join(lines) + "\n"


def _format_addon(item: Addon) -> Iterable[str]:
    for key, value in msgspec.to_builtins(item).items():
        if isinstance(value, dict):
            yield f"{key} = {{ " + ", ".join(f"{name} = {_format_value(part)}" for name, part in value.items()) + " }"
        elif isinstance(value, list | tuple):
            yield format_list(key, tuple(value))
        else:
            yield f"{key} = {_format_value(value)}"


def _format_value(value: str | int) -> str:
    return str(value) if isinstance(value, int) else quote_text(value)


def _format_table(table: dict[str, str]) -> Iterable[str]:
    for key in sorted(table):
        yield f"{format_key(key)} = {quote_text(table[key])}"


def read_addon_lock(path: Path) -> AddonLock:
    """Read and check a lock; LockError says what is wrong with which key, or that it is missing."""
    command = f"imagebuild lock {path.name.removesuffix('.toml').partition('.')[2] or 'TEAM'}"
    try:
        data = read_regular(path, _LARGEST, path.name)
    except FileNotFoundError:
        raise LockError(f"{path.name} is missing", f"make it with: {command}") from None
    except ConfigurationError as error:
        raise LockError(error.message, f"restore it from version control, or lock again with: {command}") from None
    try:
        return parse_addon_lock(data)
    except ValueError as error:
        raise LockError(f"{path.name}: {error}", f"restore it from version control, or lock again with: {command}") from None


def parse_addon_lock(data: bytes) -> AddonLock:
    """The lock in a file's bytes; ValueError says what is wrong."""
    document = load_toml(data.decode("utf-8"))
    try:
        number = _HEAD.convert(document).format
        if number != ADDON_LOCK_FORMAT:
            raise ValueError(f"its format is {number}, and this imagebuild reads {ADDON_LOCK_FORMAT}")
        lock = _LOCK.convert(document)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    unknown = document.keys() - {field.encode_name for field in msgspec.structs.fields(AddonLock)}
    if unknown:
        raise ValueError(f"unknown key {min(unknown)}")
    _check(lock)
    return lock


def _check(lock: AddonLock) -> None:
    if not _TIME.fullmatch(lock.cutoff):
        raise ValueError("cutoff must be a time like 2026-10-01T00:00:00Z")
    if not all(_HEX.fullmatch(value) for value in lock.inputs.values()):
        raise ValueError("inputs must be a table of paths to 64 hex digits")
    names = [item.name for item in lock.addons]
    if names != sorted(set(names)):
        raise ValueError("the add-ons must be sorted by name, each once")
    for attribute in ("filename", "folder"):
        if len({getattr(item, attribute) for item in lock.addons}) != len(names):
            raise ValueError(f"two add-ons have the same {attribute}")
    for item in lock.addons:
        _check_addon(item)


def _check_addon(item: Addon) -> None:
    files: tuple[Addon | SourceOf, ...] = (item,) if item.source is None else (item, item.source)
    for file in files:
        if not _HEX.fullmatch(file.sha256) or file.size < 0:
            raise ValueError(f"{item.name}: sha256 must be 64 hex digits, and size a whole number")
        name = file.filename
        if "/" in name or "\\" in name or name.startswith(".") or not name or not name.isprintable():
            raise ValueError(f"{item.name}: filename must be a file name without folders")
    if item.tree and not _HEX.fullmatch(item.tree):
        raise ValueError(f"{item.name}: tree must be 64 hex digits")
    parts = item.folder.split("/")
    if parts[0] or len(parts) < 3 or any(part in ("", ".", "..") or part.startswith(".wh.") for part in parts[1:]):
        raise ValueError(f"{item.name}: folder must be an absolute path in plain form")
    if not all(text.isprintable() for text in (item.name, item.version, item.folder, item.index)):
        raise ValueError("a name, version, folder or index holds a character that does not print")
    if (item.form == "source") is not (item.source is not None):
        raise ValueError(f"{item.name}: source goes with form source, and with no other")
    if item.index == LOCAL_NAME and item.source is not None:
        raise ValueError(f"{item.name}: what is built from source comes from an index")
