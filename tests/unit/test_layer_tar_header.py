"""Tar headers against the standard library's reader."""

from __future__ import annotations

import io
import tarfile

from hypothesis import example, given
from hypothesis import strategies as st

from imagebuild.layer.tar.header import BLOCK, END_OF_ARCHIVE, count_entry, count_padding, encode_header

PART = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=90).filter(lambda part: part not in (".", ".."))


def read_header(data: bytes) -> tarfile.TarInfo:
    with tarfile.open(fileobj=io.BytesIO(data + END_OF_ARCHIVE)) as archive:
        entry = archive.next()
    assert entry is not None
    return entry


@given(
    st.lists(PART, min_size=1, max_size=8),
    st.sampled_from([0, 1, 511, 512, 8**11 - 1, 8**11, 1 << 40]),
    st.sampled_from([0, 1000, 8**7 - 1, 8**7, 1000660000]),
    st.booleans(),
)
@example(["a" * 100], 0, 0, False)
@example(["a" * 101], 0, 0, False)
@example(["p" * 90, "q" * 64, "n" * 90], 0, 0, False)
@example(["p" * 90, "q" * 65, "n" * 90], 0, 0, True)
@example(["x" * 87, "é" * 40], 8**11, 8**7, False)
def test_any_name_and_number_comes_back(parts: list[str], size: int, owner: int, folder: bool) -> None:
    path = "/" + "/".join(parts)
    size = 0 if folder else size
    data = encode_header(path, size=size, mode=0o2755, mtime=315532800, uid=owner, gid=owner, folder=folder)
    entry = read_header(data)
    assert entry.pax_headers.get("path", entry.name) == path[1:]
    assert (entry.size, entry.uid, entry.gid, entry.mode, entry.mtime) == (size, owner, owner, 0o2755, 315532800)
    plain = encode_header(path, size=size, mode=0, mtime=0)
    assert count_entry(path, size) == len(plain) + size + count_padding(size)
    assert (entry.isdir(), entry.isfile()) == (folder, not folder)
    assert (entry.uname, entry.gname) == ("", "")
    assert len(data) % BLOCK == 0


@given(st.lists(st.text("ab-._", min_size=1, max_size=60), min_size=1, max_size=6))
def test_pax_is_used_only_where_ustar_cannot_say_it(parts: list[str]) -> None:
    name = "/".join(parts)
    plain = len(name) <= 100 or any(
        letter == "/" and 0 < index <= 155 and 0 < len(name) - index - 1 <= 100 for index, letter in enumerate(name)
    )
    assert len(encode_header("/" + name, mode=0o644, mtime=0)) == (BLOCK if plain else 3 * BLOCK)


def test_padding_and_entry_sizes() -> None:
    assert [count_padding(size) for size in (0, 1, 511, 512, 513)] == [0, 511, 1, 0, 511]
    assert count_entry("/a", 513) == 512 + 1024
    assert count_entry("/é", 0) == 3 * 512
