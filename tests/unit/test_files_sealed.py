"""Cache files that say themselves whether they are whole."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from imagebuild.errors import ConfigurationError
from imagebuild.sealed import SealedCache


class Fact(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    sizes: dict[str, int] = {}
    check: str = ""


VALUE = Fact("numpy", {"code": 3, "data": 0})


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_file_that_differs_in_one_byte_counts_as_none(tmp_path: Path, encoding: Literal["json", "msgpack"]) -> None:
    cache, path = SealedCache(Fact, encoding), tmp_path / "folder" / "fact"
    assert cache.read(path) is None
    cache.write(path, VALUE, doing="keeping a fact")
    whole = path.read_bytes()
    assert cache.read(path) == VALUE
    for position, change in itertools.product(range(len(whole)), (1, 2, 0x20, 0x80)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ change]) + whole[position + 1 :])
        assert cache.read(path) is None, (position, change)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache.read(path) is None, length
    path.write_bytes(whole)
    assert cache.read(path) == VALUE


def test_the_seal_is_that_of_the_value_without_it() -> None:
    cache = SealedCache(Fact)
    assert cache.seal(cache.seal(VALUE)) == cache.seal(VALUE)
    assert cache.seal(Fact("numpy")).check != cache.seal(Fact("scipy")).check
    # sha256 of {"name":"numpy"}, by sha256sum
    assert cache.seal(Fact("numpy")).check == "9dd29344272ec80162d259bf76d4173ca03f619020396e86cf7bb53c23d942da"


def test_what_cannot_be_kept_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="keeping a fact"):
        SealedCache(Fact).write(tmp_path / "file" / "fact", VALUE, doing="keeping a fact")
