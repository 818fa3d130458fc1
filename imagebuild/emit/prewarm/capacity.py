"""Whether a pool's images fit on its nodes' disks, and how long a node takes to have them: arithmetic on layers.

A node keeps what it pulled (the layers as stored) and what it unpacked; layers that images share are there once. Unpacked
sizes are those measured when a layer was read or built; of a layer nobody has read here it is an estimate, and said so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from imagebuild.emit.prewarm.pools import Pool
from imagebuild.text import format_size

ESTIMATED_RATIO = 3  # unpacked over stored, of a layer that was never read


class NodeLayer(msgspec.Struct, frozen=True):
    """One layer on a node. ``unpacked`` is -1 where it is not known."""

    digest: str
    stored: int
    unpacked: int = -1

    @property
    def on_disk(self) -> int:
        """Bytes of a node's disk: containerd and CRI-O's store keep the stored form beside the unpacked one."""
        return self.stored + (self.unpacked if self.unpacked >= 0 else self.stored * ESTIMATED_RATIO)


class NodeImage(msgspec.Struct, frozen=True):
    """One image as a node has it."""

    team: str
    tag: str
    layers: tuple[NodeLayer, ...]


class PoolPlan(msgspec.Struct, frozen=True):
    """What one pool's set costs. Sizes in bytes, times in seconds."""

    pool: str
    images: int
    before: int  # of those, how many have an image of a quarter before
    stored: int  # what an empty node pulls
    on_disk: int  # stored and unpacked, of the set alone
    peak: int  # the same while an update rolls out: with the images of the quarter before, where the pool surges
    estimated: int  # of ``peak``: bytes of layers nobody has read
    missing: int  # what a node pulls that has the set of the quarter before
    disk: int | None  # of a node
    limit: int | None  # where the kubelet begins to remove images
    seconds_empty: float
    seconds_missing: float
    drop: tuple[tuple[str, int], ...] = ()  # (team, bytes that go with its image), until the rest fits

    @property
    def fits(self) -> bool:
        """Whether the peak stays under the limit; True where the disk is not said."""
        return self.limit is None or self.peak <= self.limit


def merge_layers(images: Sequence[NodeImage]) -> dict[str, NodeLayer]:
    """Digest -> layer, each once."""
    return {layer.digest: layer for image in images for layer in image.layers}


def plan_pool(pool: Pool, current: Sequence[NodeImage], before: Sequence[NodeImage], *, rate: int, threshold: int) -> PoolPlan:
    """The plan of one pool. ``before``: the images of the quarter before; ``rate``: bytes a second; ``threshold``: percent."""
    now = merge_layers(current)
    old = merge_layers(before)
    held = {**old, **now} if pool.surges else now
    stored = sum(layer.stored for layer in now.values())
    missing = sum(layer.stored for digest, layer in now.items() if digest not in old)
    peak = sum(layer.on_disk for layer in held.values())
    limit = pool.disk * threshold // 100 if pool.disk is not None else None
    return PoolPlan(
        pool=pool.name,
        images=len(current),
        before=len(before),
        stored=stored,
        on_disk=sum(layer.on_disk for layer in now.values()),
        peak=peak,
        estimated=sum(layer.on_disk for layer in held.values() if layer.unpacked < 0),
        missing=missing,
        disk=pool.disk,
        limit=limit,
        seconds_empty=stored / rate,
        seconds_missing=missing / rate,
        drop=_choose_drops(current, before if pool.surges else (), limit) if limit is not None and peak > limit else (),
    )


def _choose_drops(current: Sequence[NodeImage], before: Sequence[NodeImage], limit: int) -> tuple[tuple[str, int], ...]:
    """Teams to leave out, those first whose leaving frees most, until the rest fits or nothing is left."""
    left = list(current)
    drops: list[tuple[str, int]] = []

    def measure(teams: Sequence[NodeImage]) -> int:
        kept = {image.team for image in teams}
        return sum(layer.on_disk for layer in merge_layers([*(old for old in before if old.team in kept), *teams]).values())

    size = measure(left)
    while left and size > limit:
        freed, _, image = max((size - measure([other for other in left if other is not one]), one.team, one) for one in left)
        left = [other for other in left if other is not image]
        drops.append((image.team, freed))
        size -= freed
    return tuple(drops)


def format_plan(plan: PoolPlan, rate: int) -> list[str]:
    """The plan for people: one line for the disk, one for the time."""
    known = f", {format_size(plan.estimated)} of it estimated" if plan.estimated else ""
    room = "disk not said" if plan.limit is None or plan.disk is None else f"of {format_size(plan.limit)} ({format_size(plan.disk)} disk)"
    surge = "" if plan.peak == plan.on_disk else f", {format_size(plan.peak)} while an update rolls out"
    return [
        f"pool {plan.pool}: {plan.images} image{'s' * (plan.images != 1)}, {format_size(plan.on_disk)} on disk{surge}{known}; {room}"
        + ("" if plan.fits else ": too much"),
        f"  an empty node pulls {format_size(plan.stored)} in {_format_time(plan.seconds_empty)} at {format_size(rate)}/s"
        + (
            f", one with the quarter before {format_size(plan.missing)} in {_format_time(plan.seconds_missing)}"
            if plan.before
            else "; no image of a quarter before"
        ),
    ]


def _format_time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
