"""Disk and time of a pool: layers counted once, estimates said, and what is dropped makes the rest fit."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.emit.prewarm.baking import format_baked_images, list_baked_images
from imagebuild.emit.prewarm.capacity import NodeImage, NodeLayer, format_plan, merge_layers, plan_pool
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.oci.model import Digest, Reference

MIB = 1 << 20
BASE = NodeLayer("sha256:base", 100 * MIB, 350 * MIB)


def make_pool(disk: int | None = None, *, surge: bool = True) -> Pool:
    return Pool("a100", {"pool": ("a100",)}, None, (), "10%" if surge else 0, 0 if surge else 1, disk)


def make_image(team: str, *layers: NodeLayer, tag: str = "2026q4-a") -> NodeImage:
    return NodeImage(team, tag, layers)


def own(name: str, stored: int, unpacked: int = -1) -> NodeLayer:
    return NodeLayer(f"sha256:{name}", stored * MIB, unpacked * MIB if unpacked >= 0 else -1)


def test_a_layer_that_images_share_counts_once() -> None:
    images = [make_image("cosml", BASE, own("c", 10, 30)), make_image("risk", BASE, own("r", 20, 50))]
    plan = plan_pool(make_pool(), images, [], rate=10 * MIB, threshold=85)
    assert plan.stored == 130 * MIB
    assert plan.on_disk == (450 + 40 + 70) * MIB
    assert (plan.estimated, plan.missing, plan.seconds_empty) == (0, 130 * MIB, 13.0)
    assert plan.fits
    assert plan.limit is None


def test_images_for_a_node_image_are_listed_with_their_sizes() -> None:
    """Layers that images share are counted where they come first, and what nobody has read is marked."""
    images = [make_image("cosml", BASE, own("c", 10, 30)), make_image("risk", BASE, own("r", 20))]
    digests = [Digest.of(b"cosml"), Digest.of(b"risk")]
    references = [
        Reference("registry.example", f"ml/{team}", "2026q4-a", digest) for team, digest in zip(("cosml", "risk"), digests, strict=True)
    ]
    cosml, risk = list_baked_images("a100", list(zip(images, references, strict=True)))
    assert (cosml.reference, cosml.digest) == (f"registry.example/ml/cosml@{digests[0]}", str(digests[0]))
    assert (cosml.stored, cosml.on_disk, cosml.added, cosml.estimated) == (110 * MIB, 490 * MIB, 490 * MIB, False)
    assert (risk.stored, risk.on_disk, risk.added, risk.estimated) == (120 * MIB, (450 + 80) * MIB, 80 * MIB, True)
    _, one, other = format_baked_images([cosml, risk])
    assert one.split()[-6:] == ["110.0", "MiB", "490.0", "MiB", "490.0", "MiB"]
    assert other.split()[-4:] == ["~530.0", "MiB", "~80.0", "MiB"]


def test_a_node_of_the_quarter_before_pulls_what_is_new() -> None:
    before = [make_image("cosml", BASE, own("old", 9, 28), tag="2026q3-a")]
    plan = plan_pool(make_pool(1 << 40), [make_image("cosml", BASE, own("new", 10, 30))], before, rate=MIB, threshold=85)
    assert (plan.missing, plan.seconds_missing) == (10 * MIB, 10.0)
    assert plan.peak == plan.on_disk + 37 * MIB  # both are there while it rolls out
    first = plan_pool(make_pool(1 << 40, surge=False), [make_image("cosml", BASE, own("new", 10, 30))], before, rate=MIB, threshold=85)
    assert first.peak == first.on_disk


def test_what_nobody_read_is_an_estimate_and_said_so() -> None:
    plan = plan_pool(make_pool(1 << 40), [make_image("cosml", own("foreign", 100))], [], rate=MIB, threshold=85)
    assert (plan.on_disk, plan.estimated) == (400 * MIB, 400 * MIB)
    assert "400.0 MiB of it estimated" in format_plan(plan, MIB)[0]


def test_the_image_that_frees_most_is_dropped_first() -> None:
    images = [
        make_image("small", BASE, own("s", 1, 1)),
        make_image("large", BASE, own("l", 300, 900)),
        make_image("mid", own("m", 100, 300)),
    ]
    plan = plan_pool(make_pool(1000 * MIB), images, [], rate=MIB, threshold=90)
    assert not plan.fits
    assert plan.drop == (("large", 1200 * MIB),)
    assert "too much" in format_plan(plan, MIB)[0]
    nothing = plan_pool(make_pool(MIB), images, [], rate=MIB, threshold=100)
    assert [team for team, _ in nothing.drop] == ["large", "small", "mid"]


@pytest.mark.parametrize(("seconds", "said"), [(10, "10 s"), (119, "119 s"), (600, "10 min")])
def test_times_are_for_people(seconds: int, said: str) -> None:
    plan = plan_pool(make_pool(), [make_image("cosml", own("c", seconds, 1))], [], rate=MIB, threshold=85)
    assert f"in {said} at 1.0 MiB/s" in format_plan(plan, MIB)[1]


layers = st.builds(NodeLayer, st.sampled_from([f"sha256:{name}" for name in "abcdef"]), st.just(5), st.just(7))
images = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.lists(layers, max_size=4)), max_size=5, unique_by=lambda item: item[0]).map(
    lambda items: [NodeImage(team, "t", tuple(found)) for team, found in items]
)


@pytest.mark.slow
@given(images, images, st.integers(0, 80), st.booleans())
def test_what_is_left_after_the_drops_fits(current: list[NodeImage], before: list[NodeImage], disk: int, surge: bool) -> None:
    pool = make_pool(disk, surge=surge)
    teams = {image.team for image in current}
    before = [image for image in before if image.team in teams]
    plan = plan_pool(pool, current, before, rate=1, threshold=100)
    assert plan.fits is (plan.peak <= disk)
    dropped = {team for team, _ in plan.drop}
    left = [image for image in current if image.team not in dropped]
    rest = plan_pool(pool, left, [image for image in before if image.team not in dropped], rate=1, threshold=100)
    assert rest.fits
    assert plan.missing <= plan.stored
    assert plan.peak == sum(layer.on_disk for layer in merge_layers([*(before if surge else []), *current]).values())
    assert msgspec.json.decode(msgspec.json.encode(plan))["pool"] == "a100"
