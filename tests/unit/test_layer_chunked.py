"""zstd:chunked layers: each file fetched alone, the tar made again from tar-split, and what reads and writes the pieces."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import tarfile
from typing import Any

import pytest
import zstandard
from fastcrc import crc64
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.chunked.contents import Contents
from imagebuild.layer.chunked.framescan import FrameScanner
from imagebuild.layer.model import CHUNKED, Codec, ExtraFile, Layer
from tests.support.builders import make_host_base, make_wheel
from tests.support.runtimes import HostRuntime
from tests.unit.test_layer_assembly import build

PREFIX = "io.github.containers.zstd-chunked."


def unpack_all(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()


def read_stored(layer: Layer) -> bytes:
    assert layer.blob is not None
    return layer.blob.read_bytes()


def compute_crc64(data: bytes) -> int:
    """Bit by bit, as the definition has it."""
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xD800000000000000 if crc & 1 else 0)
    return crc ^ ((1 << 64) - 1)


def read_parts(layer: Layer) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Table of contents and tar-split, by the annotations alone, as containers/storage reads them."""
    data, notes = read_stored(layer), layer.annotations
    start, length, plain, kind = map(int, notes[PREFIX + "manifest-position"].split(":"))
    packed = data[start : start + length]
    assert notes[PREFIX + "manifest-checksum"] == "sha256:" + hashlib.sha256(packed).hexdigest()
    toc = zstandard.ZstdDecompressor().decompress(packed)
    assert (len(toc), kind) == (plain, 1)
    second, stored, size = map(int, notes[PREFIX + "tarsplit-position"].split(":"))
    document = json.loads(toc)
    assert document["tarSplitDigest"] == "sha256:" + hashlib.sha256(data[second : second + stored]).hexdigest()
    lines = unpack_all(data[second : second + stored])
    assert len(lines) == size
    assert data[start - 8 : start - 4] == data[second - 8 : second - 4] == b"\x50\x2a\x4d\x18"
    footer = struct.unpack("<4sI7Q8s", data[-72:])
    assert footer == (b"\x50\x2a\x4d\x18", 64, start, length, plain, 1, second, stored, size, b"GNUlInUx")
    return document, [json.loads(line) for line in lines.splitlines()]


def fetch_files(layer: Layer, entries: list[dict[str, Any]]) -> dict[str, bytes]:
    """Each file by its own range."""
    data, found = read_stored(layer), {}
    for entry in entries:
        if entry["type"] == "reg":
            part = data[entry.get("offset", 0) : entry.get("endOffset", 0)]
            content = unpack_all(part) if part else b""
            assert len(content) == entry.get("size", 0)
            assert entry.get("digest", "") == ("sha256:" + hashlib.sha256(content).hexdigest() if content else "")
            found[entry["name"]] = content
    return found


def join_tar(lines: list[dict[str, Any]], files: dict[str, bytes]) -> bytes:
    """The tar again; checksums compared as tar-split's own reader does."""
    parts = []
    for number, line in enumerate(lines):
        assert line["position"] == number
        if line["type"] == 2:
            parts.append(base64.b64decode(line["payload"]))
        elif line.get("size"):
            parts.append(files[line["name"]])
            assert base64.b64decode(line["payload"]) == compute_crc64(files[line["name"]]).to_bytes(8, "big")
        else:
            assert line["payload"] is None
    return b"".join(parts)


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Layer, Layer]:
    """The same wheels, plain and chunked."""
    folder = tmp_path_factory.mktemp("layers")
    files = {
        "demo/__init__.py": b"x = 1\n",
        "demo/empty.txt": b"",
        "demo/" + "long" * 40 + "/ä.bin": bytes(300_000),
        "demo/block": b"b" * 512,
    }
    wheels = [make_wheel(folder, files=files), make_wheel(folder, name="other", files={"other.py": b"y = 2\n" * 5000})]
    base, extra = make_host_base(runtime=HostRuntime()), (ExtraFile("/etc/c.txt", b"a==1\n"),)
    made = []
    for codec in (Codec(), Codec(CHUNKED)):
        out = folder / codec.name
        made.append(build(folder, wheels, base=base, codec=codec, extra=extra, out=out))
    return made[0], made[1]


def test_the_tar_is_the_plain_layers(layers: tuple[Layer, Layer]) -> None:
    plain, chunked = layers
    assert (plain.diff_id, plain.uncompressed, plain.files) == (chunked.diff_id, chunked.uncompressed, chunked.files)
    assert plain.annotations == {}
    assert unpack_all(read_stored(chunked)) == unpack_all(read_stored(plain))


def test_each_file_can_be_fetched_alone_and_the_tar_made_again(layers: tuple[Layer, Layer]) -> None:
    plain, chunked = layers
    toc, lines = read_parts(chunked)
    files = fetch_files(chunked, toc["entries"])
    tar = join_tar(lines, files)
    assert tar == unpack_all(read_stored(plain))
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = archive.getmembers()
    assert [(item.name, item.mode, item.uid, item.gid) for item in members] == [
        (item["name"], item["mode"], item.get("uid", 0), item.get("gid", 0)) for item in toc["entries"]
    ]
    assert {item["modtime"] for item in toc["entries"]} == {"1970-01-01T00:00:09Z"}
    assert {item["type"] for item in toc["entries"]} == {"dir", "reg"}


@pytest.mark.parametrize(
    ("text", "crc"),
    [
        ("", 0),
        ("a", 0x3420000000000000),
        ("abcdefghij", 0x7F5B6E21B002D367),
        ("Discard medicine more than two years old.", 0x8EC0E7C835BF9CDF),
        ("He who has a shady past knows that nice guys finish last.", 0xC7DB1759E2BE5AB4),
        ("123456789", 0xB90956C775A41001),  # the catalogue of CRCs, CRC-64/GO-ISO; the others: Go's own test of hash/crc64
    ],
)
def test_published_checksums(text: str, crc: int) -> None:
    assert crc64.go_iso(text.encode()) == compute_crc64(text.encode()) == crc


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_checksums_of_anything_in_two_pieces(data: bytes, cut: int) -> None:
    assert crc64.go_iso(data[cut:], crc64.go_iso(data[:cut], 0)) == compute_crc64(data)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1])
def test_the_checksum_of_a_file_that_is_read_in_pieces(size: int) -> None:
    content, stored = bytes(range(251)) * (size // 251) + bytes(size % 251), io.BytesIO()
    with tarfile.open(fileobj=stored, mode="w") as archive:
        entry = tarfile.TarInfo("large")
        entry.size = size
        archive.addfile(entry, io.BytesIO(content))
    contents = Contents(Codec(CHUNKED))
    contents.read(iter([stored.getvalue()]))
    (line,) = [line for line in map(json.loads, unpack_all(contents.tarsplit).splitlines()) if line["type"] == 1]
    assert base64.b64decode(line["payload"]) == crc64.go_iso(content).to_bytes(8, "big")


@given(st.lists(st.binary(max_size=300_000), max_size=5), st.integers(1, 5000), st.booleans())
def test_frames_are_found_however_the_bytes_come(contents: list[bytes], step: int, checksum: bool) -> None:
    compressor = zstandard.ZstdCompressor(level=1, write_checksum=checksum)
    frames = [compressor.compress(content) for content in contents]
    scanner = FrameScanner(ended=True)
    data = b"".join(frames) + b"\x51\x2a\x4d\x18\x03\x00\x00\x00abc"
    for start in range(0, len(data), step):
        scanner.feed(data[start : start + step])
    scanner.finish()
    wanted: dict[int, int] = {}
    for number in range(len(frames) + 1):
        wanted.setdefault(sum(map(len, contents[:number])), sum(map(len, frames[:number])))
    assert scanner.starts == wanted
    assert scanner.skippable == [(len(data) - 3, b"abc")]
    assert (scanner.stored, scanner.content) == (len(data), sum(map(len, contents)))


@given(st.binary(max_size=200))
def test_what_is_no_zstd_stream_is_refused(data: bytes) -> None:
    scanner = FrameScanner()
    try:
        scanner.feed(data)
        scanner.finish()
    except IntegrityError:
        return
    assert scanner.stored == len(data)
