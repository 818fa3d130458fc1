"""One answer of a check, whatever was checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from imagebuild.text import first_lines

Status = Literal["passed", "failed", "skipped"]

SHOWN = 10  # of a list of culprits


class Finding(msgspec.Struct, frozen=True):
    """One answer. ``details`` are further lines: culprits, the container's last words."""

    status: Status
    text: str
    details: tuple[str, ...] = ()


def judge_culprits(culprits: Sequence[str], passed: str, failed: str) -> Finding:
    """Passed without culprits; else failed, with the first of them as details."""
    if not culprits:
        return Finding("passed", passed)
    return Finding("failed", failed.format(count=len(culprits)), first_lines(sorted(culprits), SHOWN))
