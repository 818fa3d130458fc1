"""TOML files into typed values, with errors a person can act on: the file, the key, and the key that was meant."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import msgspec

from imagebuild.decoding import Converter, load_toml
from imagebuild.errors import ConfigurationError
from imagebuild.files import read_regular
from imagebuild.text import suggest

T = TypeVar("T")

_LONGEST_NAME = 100
_LINE = 100  # characters of an array on one line
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LARGEST = 1 << 20  # bytes of a file that people write
# What moves a terminal's cursor, ends a line to one reader and not to another, or turns the order of what is read: Unicode's Cc, Zl, Zp
# and Bidi_Control. The tab and the line feed stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def read_toml(path: Path) -> dict[str, Any]:
    """The file as a mapping; a missing or malformed file is a :class:`ConfigurationError`."""
    try:
        data = read_regular(path, _LARGEST)
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing", "create it, or give --root the folder that holds images/ and lockfiles/") from None
    try:
        found = load_toml(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not valid TOML: it is not UTF-8", "save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}", "correct that line") from None
    except ValueError as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", "see docs/formats.md for what it holds") from None
    refuse_characters(found, path, _CONTROL)
    return found


def refuse_characters(value: Any, path: Path, pattern: re.Pattern[str], where: str = "") -> None:
    """ConfigurationError for the first text (or key) in ``value`` that has one of ``pattern``'s characters."""
    if isinstance(value, str):
        if match := pattern.search(value):
            raise ConfigurationError(
                f"{path}: {where or 'a text'} holds a character that does not print (U+{ord(match[0]):04X})",
                "remove it: it would reach labels, YAML files and terminals",
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            refuse_characters(key, path, pattern, f"a key in {where}" if where else "a key")
            refuse_characters(item, path, pattern, f"{where}.{key}" if where else key)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_characters(item, path, pattern, where)


def _check_keys(value: Any, kind: Any, path: Path, where: str, table: str = "") -> None:
    """Walk the typed shape and refuse keys it does not have, by name and place. ``table``: which of an array of tables."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, dict):
            return  # convert() says it better
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        for key, item in value.items():
            if key not in fields:
                raise ConfigurationError(f"{path}: unknown key {where}{key}{table}", suggest(key, list(fields)))
            _check_keys(item, fields[key], path, f"{where}{key}.", table)
        return
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is dict and isinstance(value, dict):
        for key, item in value.items():
            _check_keys(item, arguments[1], path, f"{where}{key}.", table)
    elif origin in (tuple, list) and isinstance(value, list):
        for number, item in enumerate(value, 1):
            _check_keys(item, arguments[0], path, where, _name_table(where.rstrip("."), item, number, table))
    elif arguments and isinstance(value, dict):  # a union such as Struct | None
        for option in arguments:
            if isinstance(option, type) and issubclass(option, msgspec.Struct):
                _check_keys(value, option, path, where, table)


def _name_table(key: str, item: Any, number: int, outer: str) -> str:
    """`` in [[index]] 'corp'`` for an entry of an array of tables; ``outer`` for any other value, and within such an entry."""
    if not isinstance(item, dict) or outer:
        return outer
    name = item.get("name") or item.get("id")
    return f" in [[{key}]] {name!r}" if isinstance(name, str) and len(name) <= _LONGEST_NAME else f" in [[{key}]] number {number}"


_TOML_NAMES = {"object": "table", "int": "whole number", "str": "string", "bool": "true or false", "float": "number", "null": "nothing"}


def _translate(message: str) -> str:
    """msgspec's complaint (``Expected `object`, got `int` - at `$.budget```) in the words of TOML, the key first."""
    text, _, place = message.partition(" - at ")
    key = place.strip("`").removeprefix("$").lstrip(".").replace("[...]", "")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", text):
        return f"{key}.{missing[1]} is missing" if key else f"{missing[1]} is missing"
    text = re.sub(r"`([\w |]+)`", lambda match: " or ".join(_TOML_NAMES.get(kind, kind) for kind in match[1].split(" | ")), text)
    text = text[:1].lower() + text[1:]
    return f"{key}: {text}" if key else text


def decode_toml(path: Path, kind: type[T]) -> T:
    """Read ``path`` as ``kind`` (a msgspec Struct). Wrong keys and wrong types are ConfigurationErrors."""
    raw = read_toml(path)
    _check_keys(raw, kind, path, "")
    try:
        return Converter(kind).convert(raw)
    except msgspec.ValidationError as error:
        table = _find_table(raw, kind)
        text = re.sub(r"\[\d+\]", "", _translate(str(error)), count=1) if table else _translate(str(error))
        raise ConfigurationError(f"{path}: {text}{table}", "see docs/formats.md for what each key takes") from None


def _find_table(raw: dict[str, Any], kind: type[Any]) -> str:
    """The entry of an array of tables that does not fit, as :func:`_name_table` names it; "" when it is something else."""
    for field in msgspec.structs.fields(kind):
        items, arguments = raw.get(field.encode_name), get_args(field.type)
        if get_origin(field.type) not in (tuple, list) or not isinstance(items, list):
            continue
        for number, item in enumerate(items, 1):
            try:
                Converter(arguments[0]).convert(item)
            except msgspec.ValidationError:
                return _name_table(field.encode_name, item, number, "")
    return ""


def format_list(key: str, values: Sequence[str]) -> str:
    """An array of strings: on one line when it is short, one value a line when it isn't, so that diffs stay small."""
    flat = f"{key} = [{', '.join(quote_text(value) for value in values)}]"
    if len(flat) <= _LINE:
        return flat
    return "\n".join([f"{key} = [", *(f"    {quote_text(value)}," for value in values), "]"])


def format_key(key: str) -> str:
    """A key as it stands in a table, quoted where it has to be (TOML 1.0, Keys)."""
    return key if _BARE_KEY.fullmatch(key) else quote_text(key)


def quote_text(text: str) -> str:
    """A TOML basic string (TOML 1.0, String)."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in text) + '"'
