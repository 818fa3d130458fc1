"""``verify --first-frame`` beside a decoder that stops at the first frame: what it would unpack is what is told."""

from __future__ import annotations

import gzip
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from imagebuild.catalogue.lookup import find_named_image
from imagebuild.check.verify.evidence import gather_evidence
from imagebuild.check.verify.firstframe import judge_first_frame, read_first_frame
from imagebuild.errors import IntegrityError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_LAYER_GZIP, OCI_LAYER_TAR, OCI_LAYER_ZSTD, Descriptor, Digest
from tests.support.handmade import HandMade
from tests.support.images import entry, make_layer

LAYER = make_layer([entry("a"), entry("a/one", b"1" * 5000), entry("a/two", b"2" * 70_000), entry("a/three", b"3")])
CUT = 512 + 512 + 5120 + 512  # after the second file's header
SKIPPABLE = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"12345678"


def compress(data: bytes, form: str) -> bytes:
    return zstandard.ZstdCompressor().compress(data) if form == "zstd" else gzip.compress(data)


def read(tmp_path: Path, data: bytes, media_type: str) -> tuple[int, int]:
    store = LayoutStore(tmp_path / "layout")
    descriptor = Descriptor(media_type, str(Digest.of(data)), len(data))
    store.put_blob("a", descriptor, data)
    return read_first_frame(store, "a", descriptor)


@pytest.mark.parametrize(("form", "media_type"), [("zstd", OCI_LAYER_ZSTD), ("gzip", OCI_LAYER_GZIP)])
def test_it_is_what_a_decoder_of_one_frame_gives(tmp_path: Path, form: str, media_type: str) -> None:
    assert read(tmp_path, compress(LAYER, form), media_type) == (len(LAYER), 4)
    assert read(tmp_path, compress(LAYER[:CUT], form) + compress(LAYER[CUT:], form), media_type) == (CUT, 2)
    assert read(tmp_path, compress(b"", form) + compress(LAYER, form), media_type) == (0, 0)


def test_frames_without_content_do_not_count(tmp_path: Path) -> None:
    assert read(tmp_path, compress(LAYER, "zstd") + SKIPPABLE, OCI_LAYER_ZSTD) == (len(LAYER), 4)
    assert read(tmp_path, LAYER, OCI_LAYER_TAR) == (len(LAYER), 4)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "media_type"), [("zstd", OCI_LAYER_ZSTD), ("gzip", OCI_LAYER_GZIP)])
def test_a_bomb_is_read_in_pieces(tmp_path: Path, form: str, media_type: str) -> None:
    header = tarfile.TarInfo("zeros")
    header.size = 128 << 20
    bomb = compress(header.tobuf() + bytes(header.size + 2 * tarfile.BLOCKSIZE), form)
    tracemalloc.start()
    try:
        assert read(tmp_path, bomb, media_type)[1] == 1
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_what_cannot_be_decompressed(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot be decompressed"):
        read(tmp_path, b"no frame", OCI_LAYER_ZSTD)
    with pytest.raises(IntegrityError, match="cannot be decompressed"):
        read(tmp_path, b"no member", OCI_LAYER_GZIP)


def test_an_image_of_one_stream_passes_and_one_of_frames_fails(tmp_path: Path) -> None:
    image = HandMade(tmp_path)
    image.push()
    evidence = gather_evidence(image.workspace, find_named_image(image.workspace, f"oci:{image.store.folder}:cosml:1"))
    found = judge_first_frame(evidence)
    assert (found.status, str(evidence.facts.entries) in found.text) == ("passed", True)
    evidence.facts.uncompressed += 1  # as if there were more in another frame
    found = judge_first_frame(evidence)
    assert found.status == "failed"
    assert "single-stream = true" in found.details[1]
