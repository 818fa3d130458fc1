"""Readers of layers that stop at the first zstd frame or gzip member, and how to tell that one of them will pull (docs/formats.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_GUEST = re.compile(r"(?:^|[^a-z])(?:kata|coco|confidential|peer-?pods?|sev-snp|tdx)", re.IGNORECASE)

GUEST_READERS = "Kata and Confidential Containers pull images inside the guest, where a reader may stop at a layer's first frame"


def names_guests(texts: Iterable[str]) -> bool:
    """Whether one of these names or labels tells of Kata or Confidential Containers."""
    return any(_GUEST.search(text) for text in texts)
