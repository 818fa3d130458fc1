"""Bounded reading of JSON, TOML and YAML that others wrote, and decoders of typed values, built one at a time.

Every reader has a limit in bytes (JSON's is the one of whoever fetched it) and in depth, so that each ends in bounded time and none in a
RecursionError: what is nested deeper than :data:`DEPTH` is an error like any other of its format.

msgspec builds what it knows of a Struct at the first decoding of it, and puts it on the class before it is whole. When several threads
are the first, one of them reads the unfinished half and the process dies of a segmentation fault (seen with msgspec 0.22: 45 of 60 runs
with eight threads behind a barrier). So every decoder is made here, under one lock, and at module level: before anything is decoded.
"""

from __future__ import annotations

import json
import re
import threading
import time
import tomllib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
_BUILDING = threading.Lock()

DEPTH = 64  # levels of lists and mappings; the deepest that is known of (a CustomResourceDefinition's schema) has about 40
TOML_LIMIT = 16 << 20  # characters; a lock of 1,000 packages has 1 MiB
YAML_LIMIT = 1 << 20  # characters; a Kubernetes object has less
_YAML_SECONDS = 60.0
_YAML_NODES = 1_000_000  # with every alias written out
_TOO_DEEP = f"nested more than {DEPTH} levels deep"


# --- typed ----------------------------------------------------------------------------------------------------------


class JsonDecoder(Generic[T]):
    """Reads JSON as a ``kind``; msgspec.DecodeError for whatever does not fit, too deep nesting and text that is not a UTF-8 among it."""

    def __init__(self, kind: type[T]) -> None:
        with _BUILDING:
            self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes | bytearray | memoryview | str) -> T:
        """May be called from any thread."""
        try:
            return self._decoder.decode(data)
        except RecursionError:
            raise msgspec.DecodeError("nested too deeply") from None
        except UnicodeDecodeError as error:
            raise msgspec.DecodeError(f"not UTF-8: {error.reason}") from None


def make_decoder(kind: type[T]) -> JsonDecoder[T]:
    """What reads JSON as ``kind``. Its ``decode`` may be called from any thread."""
    return JsonDecoder(kind)


def make_msgpack_decoder(kind: type[T]) -> msgspec.msgpack.Decoder[T]:
    """What reads msgpack as ``kind``."""
    with _BUILDING:
        return msgspec.msgpack.Decoder(kind)


class Converter(Generic[T]):
    """Makes a ``kind`` of plain values (dicts, lists, texts); msgspec.ValidationError says what does not fit, and where."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind
        make_decoder(kind)  # converting reads the same description of the class

    def convert(self, value: Any) -> T:
        """``value`` as a ``kind``."""
        return msgspec.convert(value, self.kind)


# --- plain values ---------------------------------------------------------------------------------------------------


def check_depth(value: Any) -> None:
    """ValueError for lists and mappings nested deeper than :data:`DEPTH`. A value that is shared is looked at once."""
    level, seen = [value], set[int]()
    for _ in range(DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict | list) and item and id(item) not in seen:
                seen.add(id(item))
                inner.extend(item.values() if isinstance(item, dict) else item)
        if not inner:
            return
        level = inner
    raise ValueError(_TOO_DEEP)


def load_json(data: bytes | str) -> Any:
    """The document as plain values; ValueError for what is not JSON and for what is nested too deeply."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_depth(found)
    return found


def check_json_depth(data: bytes) -> None:
    """ValueError for JSON nested deeper than :data:`DEPTH`; nearly free where there are few brackets in all."""
    if data.count(b"[") + data.count(b"{") > DEPTH:
        load_json(data)


_PART = r"""(?:(?<![\w-])[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')"""
_LONG_KEY = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEPTH}}}")
_TOML_TEXT = re.compile(r'"""(?:[^\\]|\\.)*?"""|\'\'\'.*?\'\'\'|"(?:[^"\\\n]|\\.)*+"|\'[^\'\n]*+\'|#[^\n]*+', re.DOTALL)


def load_toml(text: str, limit: int = TOML_LIMIT) -> dict[str, Any]:
    """The document as plain values; ValueError (tomllib's among it) for what is not TOML, too long or nested too deeply."""
    if len(text) > limit:
        raise ValueError(f"more than {limit >> 10} KiB")
    # tomllib takes time and memory by the square of a dotted key's parts. The cheap look comes first: it finds what is in strings, too.
    if _LONG_KEY.search(text) and _LONG_KEY.search(_TOML_TEXT.sub('""', text)):
        raise ValueError(_TOO_DEEP)
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit of digits, in its words
        raise ValueError("a number has too many digits") from None
    check_depth(found)
    return found


def check_yaml(text: str) -> None:
    """ValueError for YAML that takes too long to load: by its length, its depth, its aliases. What is no YAML passes: loading tells it."""
    from ruamel.yaml.error import YAMLError

    if len(text) > YAML_LIMIT:
        raise ValueError(f"more than {YAML_LIMIT >> 10} KiB")
    if _is_flat(text):
        return
    try:
        _check_events(text)
    except YAMLError:
        return


_PLAIN_FLOW = re.compile(r"""\[[^\[\]{}\n"'#]*+\]|\{[^\[\]{}\n"'#]*+\}""")
_INDENT = re.compile(r"^(?:[ ]|[-?:][ \t])*+", re.MULTILINE)
_ANCHOR = re.compile(r"(?<![^\s,\[{])[&*][^\s]")


def _is_flat(text: str) -> bool:
    """Whether a look at brackets, indents and anchors is enough to say that nothing here is deep: parsing takes as long as loading."""
    if any(mark in text for mark in "\r\x85\u2028\u2029"):  # what YAML ends a line at, and ^ does not
        return False
    deepest = max((match.end() - match.start() for match in _INDENT.finditer(text)), default=0)
    rest = _PLAIN_FLOW.sub("", text)
    return deepest + rest.count("[") + rest.count("{") + 2 <= DEPTH and not _ANCHOR.search(text)


def _check_events(text: str) -> None:
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the count of nodes before it
    sizes: dict[str, int] = {}  # of what an anchor names, aliases written out
    count, deadline = 0, time.monotonic() + _YAML_SECONDS
    for event in _iterate_events(text):
        if isinstance(event, AliasEvent):
            count += sizes.get(str(event.anchor), 1)
        elif isinstance(event, CollectionStartEvent):
            open_nodes.append((event.anchor, count))
            count += 1
            if len(open_nodes) > DEPTH:
                raise ValueError(_TOO_DEEP)
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, NodeEvent):
            count += 1
        if count > _YAML_NODES:
            raise ValueError(f"more than {_YAML_NODES:,} values, its aliases written out")
        if time.monotonic() > deadline:
            raise ValueError(f"not read within {_YAML_SECONDS:.0f} seconds")


def _iterate_events(text: str) -> Iterator[Any]:
    from ruamel.yaml import YAML

    yield from YAML(pure=True).parse(text)
