"""A build inside a base: which source archive (of a Python or an R package), and what lies beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import msgspec

_OLDEST = 315532800  # 1980-01-01, the oldest date a zip can hold


class SourceOrder(msgspec.Struct, frozen=True):
    """One build: a source archive, the wheels or binary archives it is built with, and its SOURCE_DATE_EPOCH."""

    name: str
    version: str
    archive: Path
    requires: tuple[Path, ...]
    epoch: int


BuildSource = Callable[[SourceOrder, Path], Path]  # (order, an empty folder) -> the wheel or binary archive, in that folder


def compute_epoch(published: datetime | None) -> int:
    """Seconds of the archive's publication: the same archive is built with the same date, whenever it is locked."""
    return max(_OLDEST, int(published.timestamp())) if published is not None else _OLDEST
