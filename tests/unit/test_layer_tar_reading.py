"""Headers of a layer's tar: read as tarfile reads them, whoever wrote them."""

from __future__ import annotations

import tarfile
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.layer.tar.header import encode_header
from imagebuild.layer.tar.reading import RawTarInfo

FIELDS = (
    "name", "mode", "uid", "gid", "size", "mtime", "chksum", "type", "linkname", "uname", "gname", "devmajor", "devminor",
)  # fmt: skip
TYPES = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.AREGTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE)


def read_both(header: bytes) -> tuple[object, object]:
    """What tarfile and we make of a header: its fields, or the kind of its error."""

    def read(kind: type[tarfile.TarInfo]) -> object:
        try:
            found = kind.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            return type(error)
        return [getattr(found, field) for field in FIELDS]

    return read(tarfile.TarInfo), read(RawTarInfo)


def seal(header: bytes) -> bytes:
    """With the checksum that it should have."""
    return header[:148] + b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:])) + header[156:]


@pytest.mark.slow
@given(
    st.text(min_size=1, max_size=160), st.integers(0, 0o7777), st.integers(0, 1 << 40), st.booleans(),
    st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), max_size=4), st.booleans(),
)  # fmt: skip
def test_headers_of_ours_and_damaged_ones(
    name: str, mode: int, size: int, folder: bool, damage: list[tuple[int, int]], sealed: bool
) -> None:
    written = encode_header("/" + name.replace("\0", "0").strip("/") + "x", size=0 if folder else size, mode=mode, mtime=7, folder=folder)
    for start in range(0, len(written), 512):
        header = bytearray(written[start : start + 512])
        for place, value in damage:
            header[place] = value
        theirs, ours = read_both(seal(bytes(header)) if sealed else bytes(header))
        assert theirs == ours


@pytest.mark.slow
@given(st.fixed_dictionaries({
    "name": st.text(min_size=1, max_size=300), "mode": st.integers(0, 0o7777), "uid": st.integers(0, 1 << 33), "gid": st.integers(0, 9),
    "size": st.integers(0, 1 << 40), "mtime": st.integers(-5, 1 << 36), "type": st.sampled_from(TYPES), "linkname": st.text(max_size=120),
    "uname": st.text(max_size=40), "devmajor": st.integers(0, 9),
}), st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))  # fmt: skip
def test_headers_that_tarfile_wrote(facts: dict[str, Any], kind: Literal[0, 1, 2]) -> None:
    entry = tarfile.TarInfo()
    for field, value in facts.items():
        setattr(entry, field, value)
    try:
        written = entry.tobuf(kind, "utf-8", "surrogateescape")
    except (ValueError, UnicodeEncodeError):
        return  # it does not fit
    for start in range(0, len(written), 512):
        theirs, ours = read_both(written[start : start + 512])
        assert theirs == ours


def test_plain_headers_are_not_left_to_tarfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's headers are all plain; the way they are read is what makes it quick."""
    written = [encode_header("/opt/a", size=5, mode=0o644, mtime=7), encode_header("/opt", mode=0o755, mtime=7, folder=True)]
    written.append(encode_header("/" + "a/" * 90 + "b", size=5, mode=0o644, mtime=7))
    monkeypatch.setattr(tarfile, "calc_chksums", None)
    assert [RawTarInfo.frombuf(header, "utf-8", "surrogateescape").name for header in written] == ["opt/a", "opt", "a/" * 90 + "b"]


def test_a_wrong_checksum_is_an_error() -> None:
    header = bytearray(encode_header("/opt/a", size=5, mode=0o644, mtime=7))
    header[0] ^= 1
    with pytest.raises(tarfile.InvalidHeaderError):  # type: ignore[attr-defined]
        RawTarInfo.frombuf(header, "utf-8", "surrogateescape")
