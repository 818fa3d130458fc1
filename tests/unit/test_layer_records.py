"""A layer that the target has is not made again; with any other content, rule or place it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from imagebuild.errors import IntegrityError
from imagebuild.layer.assembly import build_layers
from imagebuild.layer.invariants import TarEntries
from imagebuild.layer.model import CHUNKED, Codec, ExtraFile, TeamLayers
from imagebuild.layer.records import LayerRecords
from imagebuild.oci.model import Descriptor
from tests.support.builders import lock_wheel, make_host_base, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import USUAL, MemoryTree

EXTRA = (ExtraFile("/etc/team.txt", b"hello"),)
GROUPS = (("one",), ("two",))
MTIME = 315532800
CODEC = Codec()
HOME = "/home/jovyan"


class Target:
    """A place with some blobs, which notes what it is asked for."""

    def __init__(self) -> None:
        self.blobs: set[str] = set()
        self.asked: list[list[str]] = []

    def find_present(self, wanted: Sequence[Descriptor]) -> frozenset[str]:
        self.asked.append([item.digest for item in wanted])
        return frozenset(item.digest for item in wanted if item.digest in self.blobs)

    def take(self, made: TeamLayers) -> None:
        self.blobs |= {layer.digest for layer in made.layers}


def build(
    tmp_path: Path, target: Target, *, two: bytes = b"y = 2\n", extra: Sequence[ExtraFile] = EXTRA, codec: Codec = CODEC, home: str = HOME,
    keep: bool = True,
) -> TeamLayers:  # fmt: skip
    content = {"one": {"one.py": b"x = 1\n", "space/one.py": b"a = 1\n"}, "two": {"two.py": two, "space/two.py": b"b = 2\n"}}
    folder = tmp_path / two.hex()
    folder.mkdir(exist_ok=True)
    wheels = [make_wheel(folder, name, files=files) for name, files in content.items()]
    base = make_host_base(MemoryTree(USUAL), runtime=HostRuntime(), home=home)
    audit = TarEntries(base, extra)
    records = LayerRecords(tmp_path / "cache", base, codec, MTIME, target.find_present)
    made = build_layers(
        [(wheel, lock_wheel(wheel)) for wheel in wheels], base=base, groups=GROUPS, codec=codec, extra=extra, cache=tmp_path / "cache",
        out=tmp_path / "layer", mtime=MTIME, inspector=audit, records=records,
    )  # fmt: skip
    audit.finish()
    if keep:
        records.keep()
    return made


def find_made(made: TeamLayers) -> list[bool]:
    return [layer.blob is not None for layer in made.layers]


@pytest.mark.parametrize("codec", [CODEC, Codec(CHUNKED)])
def test_what_the_target_has_is_described_and_not_made(tmp_path: Path, codec: Codec) -> None:
    target = Target()
    first = build(tmp_path, target, codec=codec)
    assert find_made(first) == [True, True]
    assert target.asked == []  # nothing is known yet
    target.take(first)
    again = build(tmp_path, target, codec=codec)
    assert find_made(again) == [False, False]
    assert [layer.digest for layer in again.layers] == target.asked[0]  # all at once
    for one, other in zip(first.layers, again.layers, strict=True):
        assert (one.digest, one.size, one.diff_id, one.uncompressed) == (other.digest, other.size, other.diff_id, other.uncompressed)
        assert (one.installed, one.media_type, one.packages, one.files) == (other.installed, other.media_type, other.packages, other.files)
        assert (one.members, one.repaired, one.annotations) == (other.members, other.repaired, other.annotations)
        assert bool(one.annotations) is codec.chunked
    with pytest.raises(ValueError, match="was not made here"):
        print(again.layers[0].file)


def test_only_the_layer_that_changed_is_made(tmp_path: Path) -> None:
    target = Target()
    target.take(build(tmp_path, target))
    changed = build(tmp_path, target, two=b"y = 3\n")
    assert find_made(changed) == [False, True]
    assert find_made(build(tmp_path, target, extra=[ExtraFile("/etc/team.txt", b"other")])) == [False, True]
    assert find_made(build(tmp_path, target, extra=[ExtraFile("/etc/other.txt", b"hello")])) == [True, True]  # may replace something else
    assert find_made(build(tmp_path, target, home="/home/other")) == [True, True]
    target.blobs.clear()
    assert find_made(build(tmp_path, target)) == [True, True]


@pytest.mark.parametrize("codec", [Codec(level=4), Codec("gzip", 1)])
def test_another_codec_is_another_layer(tmp_path: Path, codec: Codec) -> None:
    target = Target()
    target.take(build(tmp_path, target))
    assert find_made(build(tmp_path, target, codec=codec)) == [True, True]


def test_a_layer_that_was_not_checked_or_whose_record_rotted_is_made(tmp_path: Path) -> None:
    target = Target()
    target.take(build(tmp_path, target, keep=False))
    assert find_made(build(tmp_path, target)) == [True, True]
    kept = sorted((tmp_path / "cache/layers").iterdir())
    assert len(kept) == 2
    kept[0].write_bytes(kept[0].read_bytes().replace(b"sha256:", b"sha256:0", 1)[:-1])
    kept[1].write_bytes(kept[1].read_bytes().replace(b'"size":', b'"size":1', 1))
    assert find_made(build(tmp_path, target)) == [True, True]


def test_rules_that_look_at_several_layers_see_the_one_that_was_skipped() -> None:
    base = make_host_base(MemoryTree(USUAL), runtime=HostRuntime())
    audit = TarEntries(base)
    audit.skip(0, {"/a": True, "/a/b": False})
    audit.skip(1, {"/a": True, "/a/c": False})
    audit.finish()
    audit.skip(0, {"/a": True, "/a/b": False})
    audit.skip(1, {"/a": True, "/a/b": False})
    with pytest.raises(IntegrityError, match="/a/b: in a layer below as well"):
        audit.finish()
