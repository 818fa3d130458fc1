"""``verify`` on zstd:chunked layers: a true table of contents passes, and any other is refused: two readers would see two trees."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.check.verify.chunked import ChunkedAudit, ChunkedFacts, is_chunked, judge_contents
from imagebuild.layer.chunked.packing import pack_chunked
from imagebuild.layer.model import CHUNKED, Codec
from imagebuild.oci.model import OCI_LAYER_ZSTD, Descriptor, Digest
from tests.support.images import entry, make_layer

PREFIX = "io.github.containers.zstd-chunked."
CODEC = Codec(CHUNKED)
NO_NOTES: Mapping[str, str] = {}


class Sample:
    """A layer, with its parts to be changed."""

    def __init__(self, folder: Path) -> None:
        self.tar = make_layer(
            [entry("opt"), entry("opt/one.py", b"one = 1\n" * 300), entry("opt/none", b""), entry("opt/link", link="one.py"),
             entry("opt/two.bin", bytes(range(256)) * 40), entry("opt/same", hard="opt/two.bin")]
        )  # fmt: skip
        blob = folder / "blob"
        blob.write_bytes(zstandard.ZstdCompressor().compress(self.tar))
        self.annotations = pack_chunked(blob, CODEC)
        self.data = blob.read_bytes()
        where = [int(part) for part in self.annotations[PREFIX + "manifest-position"].split(":")]
        second = [int(part) for part in self.annotations[PREFIX + "tarsplit-position"].split(":")]
        self.frames = self.data[: where[0] - 8]
        self.toc = json.loads(unpack(self.data[where[0] : where[0] + where[1]]))
        self.lines = unpack(self.data[second[0] : second[0] + second[1]])

    def judge(
        self, toc: Any = None, lines: bytes | None = None, frames: bytes | None = None, notes: Mapping[str, str] = NO_NOTES
    ) -> list[str]:
        """The faults of this layer with another ending, which agrees with itself as far as ``notes`` leave that."""
        frames, packed_lines = self.frames if frames is None else frames, pack(self.lines if lines is None else lines)
        document = copy.deepcopy(self.toc if toc is None else toc)
        if isinstance(document, dict):
            document["tarSplitDigest"] = f"sha256:{hashlib.sha256(packed_lines).hexdigest()}"
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        packed = pack(text)
        first = len(frames) + 8
        second = first + len(packed) + 8
        plain = len(self.lines if lines is None else lines)
        numbers = (first, len(packed), len(text), 1, second, len(packed_lines), plain)
        footer = struct.pack("<7Q8s", *numbers, b"GNUlInUx")
        data = frames + b"".join(b"\x50\x2a\x4d\x18" + struct.pack("<I", len(part)) + part for part in (packed, packed_lines, footer))
        annotations = {
            PREFIX + "manifest-checksum": f"sha256:{hashlib.sha256(packed).hexdigest()}",
            PREFIX + "manifest-position": "{}:{}:{}:{}".format(*numbers[:4]),
            PREFIX + "tarsplit-position": "{}:{}:{}".format(*numbers[4:]),
        }
        return audit(data, self.tar, {**annotations, **{PREFIX + name.replace("_", "-"): value for name, value in notes.items()}}).faults


def pack(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def unpack(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()


def audit(data: bytes, tar: bytes, annotations: dict[str, str]) -> ChunkedFacts:
    descriptor = Descriptor(OCI_LAYER_ZSTD, Digest.of(data), len(data), annotations)
    assert is_chunked(descriptor)
    watching = ChunkedAudit()
    assert watching.watch(io.BytesIO(data)).read() == data
    watching.read(iter([tar]))
    return watching.finish(descriptor)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return Sample(tmp_path_factory.mktemp("layer"))


def test_a_true_table_passes(sample: Sample) -> None:
    assert unpack(sample.data) == sample.tar
    facts = audit(sample.data, sample.tar, sample.annotations)
    assert (facts.faults, facts.entries, facts.parts) == ([], 6, 0)
    assert judge_contents(facts).status == "passed"
    assert sample.judge() == []  # the ending that this test writes is as good as ours
    assert [(item["type"], item["name"], item.get("linkName", "")) for item in sample.toc["entries"]] == [
        ("dir", "opt/", ""), ("reg", "opt/one.py", ""), ("reg", "opt/none", ""), ("symlink", "opt/link", "one.py"),
        ("reg", "opt/two.bin", ""), ("hardlink", "opt/same", "opt/two.bin"),
    ]  # fmt: skip


LIES: dict[str, tuple[int, dict[str, Any]]] = {
    "mode": (1, {"mode": 0o4755}),
    "uid": (1, {"uid": 1000}),
    "size": (1, {"size": 5}),
    "modified": (1, {"modtime": "2026-01-01T00:00:00Z"}),
    "xattrs": (1, {"xattrs": {"user.x": "eA=="}}),
    "digest": (1, {"digest": "sha256:" + "0" * 64}),
    "link": (3, {"linkName": "/etc/shadow"}),
    "type": (3, {"type": "reg"}),
}


@pytest.mark.parametrize("field", LIES)
def test_a_table_that_lies_is_refused(sample: Sample, field: str) -> None:
    number, change = LIES[field]
    toc = copy.deepcopy(sample.toc)
    toc["entries"][number].update(change)
    [fault] = sample.judge(toc)
    name = sample.toc["entries"][number]["name"]
    assert fault.endswith(f"{name}: the table of contents has another {field}")


def test_another_files_frames_are_refused(sample: Sample) -> None:
    toc = copy.deepcopy(sample.toc)
    one, two = toc["entries"][1], toc["entries"][4]
    one["offset"], one["endOffset"] = two["offset"], two["endOffset"]
    [fault] = sample.judge(toc)
    assert fault.endswith("opt/one.py: the table of contents has another offset, end")


def test_entries_too_many_too_few_and_twice(sample: Sample) -> None:
    entries = sample.toc["entries"]
    assert [text.partition(": ")[2] for text in sample.judge({**sample.toc, "entries": entries[:-1]})] == [
        "opt/same is not in the table of contents"
    ]
    more = {**entries[1], "name": "opt/evil.py"}
    assert "opt/evil.py is in the table of contents alone" in sample.judge({**sample.toc, "entries": [*entries, more]})[0]
    assert "lists a path twice" in sample.judge({**sample.toc, "entries": [*entries, entries[1]]})[0]


def test_a_tarsplit_that_makes_another_tar(sample: Sample) -> None:
    lines = sample.lines.splitlines(keepends=True)
    for changed in (lines[:-1], [*lines, lines[-1]], [lines[1], lines[0], *lines[2:]]):
        assert any("another tar" in fault for fault in sample.judge(lines=b"".join(changed)))
    assert "tar-split cannot be read" in sample.judge(lines=b"no JSON\n")[0]


@pytest.mark.parametrize(
    ("notes", "said"),
    [
        ({"manifest_position": "1:2:3:1"}, "name other bytes"),
        ({"manifest_position": "x"}, "not 4 numbers"),
        ({"manifest_position": "9" * 5000}, "not 4 numbers"),
        ({"tarsplit_position": ""}, "not 3 numbers"),
        ({"manifest_checksum": "sha256:" + "0" * 64}, "not the one that its annotation names"),
    ],
)
def test_annotations_that_lie(sample: Sample, notes: dict[str, str], said: str) -> None:
    assert said in sample.judge(notes=notes)[0]


def test_never_together_with_estargz(sample: Sample) -> None:
    [fault] = audit(
        sample.data, sample.tar, {**sample.annotations, "containerd.io/snapshot/stargz/toc.digest": "sha256:" + "0" * 64}
    ).faults
    assert "eStargz" in fault


def test_files_that_share_a_frame_and_layers_without_an_ending(sample: Sample) -> None:
    assert "is not in a zstd frame of its own" in sample.judge(frames=pack(sample.tar))[0]
    assert "does not end with" in audit(sample.frames, sample.tar, sample.annotations).faults[0]
    assert "no zstd frame at byte 0" in audit(b"gzip?" * 20, sample.tar, sample.annotations).faults[0]
    early = sample.data[len(sample.frames) :] + sample.frames
    assert "no zstd frame at byte" in audit(early, sample.tar, sample.annotations).faults[0]


@given(st.data())
def test_no_change_of_the_table_goes_unseen(sample: Sample, data: st.DataObject) -> None:
    toc = copy.deepcopy(sample.toc)
    chosen = data.draw(st.sampled_from(toc["entries"]))
    field = data.draw(
        st.sampled_from(["type", "name", "linkName", "mode", "size", "uid", "gid", "digest", "offset", "endOffset", "devMajor"])
    )
    old = chosen.get(field)
    text = field in ("type", "name", "linkName", "digest")
    chosen[field] = data.draw(st.text(max_size=20) if text else st.integers(-(2**63), 2**63 - 1))
    if chosen[field] == (old if old is not None else "" if text else 0) or (field == "type" and chosen[field] == "chunk"):
        return
    assert sample.judge(toc)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["version", "entries", "type", "name", "size"]), inner),
)


@given(st.one_of(_JSON.map(lambda value: json.dumps(value).encode()), st.binary(max_size=200)))
def test_tables_of_anything_are_a_fault_and_no_traceback(sample: Sample, text: bytes) -> None:
    assert sample.judge(text)


@given(st.binary(max_size=300), st.integers(0, 4000))
def test_layers_with_any_damage_are_a_fault_and_no_traceback(sample: Sample, noise: bytes, place: int) -> None:
    damaged = sample.data[:place] + noise + sample.data[place + len(noise) :]
    if damaged != sample.data:
        audit(damaged, sample.tar, sample.annotations)
