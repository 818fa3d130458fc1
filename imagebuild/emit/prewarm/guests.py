"""Node pools whose containers run in a guest that pulls images itself: some of those readers stop at a layer's first frame."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from imagebuild.emit.prewarm.pools import Pool
from imagebuild.layer.readers import GUEST_READERS, names_guests
from imagebuild.text import name_some


def warn_of_guests(pools: Sequence[Pool], framed: Collection[str]) -> tuple[str, ...]:
    """A line for each pool that runs Kata or Confidential Containers, by its labels, tolerations or name, and has a team of ``framed``.

    ``framed``: the teams whose layers are many frames.
    """
    warnings = []
    for pool in pools:
        teams = sorted(team for team in framed if pool.teams is None or team in pool.teams)
        labels = [text for key, values in pool.labels.items() for text in (key, *values)]
        tolerated = [text for item in pool.tolerations for text in (item.key, item.value)]
        if teams and names_guests([pool.name, *labels, *tolerated]):
            warnings.append(
                f"pool {pool.name}: {GUEST_READERS}: set single-stream = true in [layer] of {name_some(teams)} "
                "(imagebuild verify --first-frame TEAM checks one)"
            )
    return tuple(warnings)
