"""Decoders of typed values, built one at a time.

msgspec builds what it knows of a Struct at the first decoding of it, and puts it on the class before it is whole. When several threads
are the first, one of them reads the unfinished half and the process dies of a segmentation fault (seen with msgspec 0.22: 45 of 60 runs
with eight threads behind a barrier). So every decoder is made here, under one lock, and at module level: before anything is decoded.
"""

from __future__ import annotations

import threading
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
_BUILDING = threading.Lock()


def make_decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    """What reads JSON as ``kind``. Its ``decode`` may be called from any thread."""
    with _BUILDING:
        return msgspec.json.Decoder(kind)


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
