"""Node pools whose containers run in a guest that pulls images itself: some of those readers stop at a layer's first frame."""

from __future__ import annotations

import re
from collections.abc import Sequence

from imagebuild.emit.prewarm.pools import Pool

_GUEST = re.compile(r"(?:^|[^a-z])(?:kata|coco|confidential|peer-?pods?|sev-snp|tdx)", re.IGNORECASE)


def warn_of_guests(pools: Sequence[Pool]) -> tuple[str, ...]:
    """A line for each pool whose labels, tolerations or name tell of Kata or Confidential Containers."""
    warnings = []
    for pool in pools:
        labels = [text for key, values in pool.labels.items() for text in (key, *values)]
        tolerated = [text for item in pool.tolerations for text in (item.key, item.value)]
        if any(_GUEST.search(text) for text in (pool.name, *labels, *tolerated)):
            warnings.append(
                f"pool {pool.name}: Kata and Confidential Containers pull images inside the guest, where a reader may stop at a layer's "
                "first frame: set single-stream = true in [layer] of these teams (imagebuild verify --first-frame TEAM checks one)"
            )
    return tuple(warnings)
