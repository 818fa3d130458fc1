"""The tar reader against tarfile on valid archives, and on archives nobody should trust."""

from __future__ import annotations

import contextlib
import io
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.base.archive import LayerArchive, normalise_name
from imagebuild.errors import IntegrityError
from tests.support.images import entry, make_layer

_TEXT = st.text(st.characters(min_codepoint=1, exclude_characters="/\n", exclude_categories=["Cs"]), min_size=1, max_size=60)
_NAME = st.lists(_TEXT.filter(lambda part: part not in (".", "..")), min_size=1, max_size=5).map("/".join)


def read_all(data: bytes) -> list[tuple[Any, ...]]:
    archive = LayerArchive(io.BytesIO(data))
    found = []
    for header in archive.entries():
        content = b"".join(archive.content()) if header.kind == "file" else b""
        found.append((header.path, header.kind, header.mode, header.uid, header.gid, header.link, content))
    archive.drain()
    assert archive.count == len(data)
    return found


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(_NAME, st.one_of(st.binary(max_size=1500), st.none()), _NAME, st.integers(0, 2**31), st.integers(0, 0o7777)), max_size=6
    ),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_reads_what_tarfile_writes(items: list[tuple[str, bytes | None, str, int, int]], form: int) -> None:
    entries = [
        entry(name, data, link="" if data is not None else link, uid=uid, gid=uid // 2, mode=mode) for name, data, link, uid, mode in items
    ]
    found = read_all(make_layer(entries, form))
    assert found == [
        (
            b"/" + name.encode(),
            "symlink" if data is None else "file",
            mode,
            uid,
            uid // 2,
            link.encode() if data is None else b"",
            data or b"",
        )
        for name, data, link, uid, mode in items
    ]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_damaged_archives_never_crash(data: st.DataObject) -> None:
    good = bytearray(make_layer([entry("a/" + "n" * 120, b"x" * 700, pax={"comment": "y"}), entry("b", link="a")]))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(good)))
    with contextlib.suppress(IntegrityError):
        read_all(bytes(good[:cut]))


def test_names_are_made_absolute_and_normal() -> None:
    assert normalise_name(b"./usr//bin/") == b"/usr/bin"
    assert normalise_name(b"/etc/./passwd") == b"/etc/passwd"
    assert normalise_name(b"./") == b"/"
    assert [item[0] for item in read_all(make_layer([entry("./x", b""), entry("/y", b""), entry("./")]))] == [b"/x", b"/y", b"/"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/..", "a/.."])
def test_names_with_dot_dot_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="named"):
        read_all(make_layer([entry(name, b"")]))


def test_hard_link_out_of_the_tree_is_refused() -> None:
    with pytest.raises(IntegrityError):
        read_all(make_layer([entry("a", hard="../../etc/shadow")]))


def test_wrong_checksum_truncation_and_unknown_type_are_refused() -> None:
    good = make_layer([entry("file", b"z" * 2000)])
    with pytest.raises(IntegrityError, match="checksum"):
        read_all(good[:3] + b"!" + good[4:])
    for end in (100, 512, 1024, 2000):
        with pytest.raises(IntegrityError, match="ends in the middle"):
            read_all(good[:end])
    with pytest.raises(IntegrityError, match="unknown type"):
        read_all(make_layer([entry("odd", kind=b"V")]))


def test_huge_extended_header_is_refused_without_reading_it() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(IntegrityError, match="extended"):
        read_all(info.tobuf(tarfile.GNU_FORMAT))


def test_pax_size_and_global_headers() -> None:
    data = make_layer([entry("f", b"q" * 10, pax={"size": "10"}), entry("g", b"r")])
    assert [(item[0], item[6]) for item in read_all(data)] == [(b"/f", b"q" * 10), (b"/g", b"r")]
    with pytest.raises(IntegrityError, match="range"):
        read_all(make_layer([entry("f", b"q", pax={"uid": "-5"})]))
    with pytest.raises(IntegrityError, match="range"):
        read_all(make_layer([entry("f", b"q", pax={"size": "9" * 5000})]))
    with pytest.raises(IntegrityError, match="PAX"):
        read_all(make_layer([entry("f", b"q", pax={"x": "y"})]).replace(b" x=y\n", b" xxy\n"))


def test_devices_and_fifos_are_other() -> None:
    assert [item[1] for item in read_all(make_layer([entry("d", kind=tarfile.CHRTYPE), entry("p", kind=tarfile.FIFOTYPE)]))] == [
        "other"
    ] * 2


def test_errors_of_a_decompressor_are_integrity_errors() -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:  # noqa: ARG002
            raise ValueError("bad block")

    with pytest.raises(IntegrityError, match="bad block"):
        list(LayerArchive(Broken()).entries())  # type: ignore[arg-type]
