"""Versions of R packages: numbers between dots or hyphens, compared number by number (R's ``?numeric_version``)."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable

import msgspec

_VERSION = re.compile(r"[0-9]+(?:[.-][0-9]+)*")
_LONGEST = 64  # characters; 20250101.1.12 has 13
_COMPARISONS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
OPERATORS = tuple(_COMPARISONS)  # as in a DESCRIPTION; the longer ones first


def parse_version(text: str) -> tuple[int, ...]:
    """``1.0-10`` -> (1, 0, 10). ``1.0`` is lower than ``1.0.0`` and ``1.0-1`` equals ``1.0.1``, as for R. ValueError for anything else."""
    if len(text) > _LONGEST or not _VERSION.fullmatch(text):
        raise ValueError(f"not a version of an R package: {text[:_LONGEST]!r}")
    return tuple(int(part) for part in re.split("[.-]", text))


class Bound(msgspec.Struct, frozen=True):
    """``>= 1.0.4``; without an operator any version will do."""

    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        return f" {self.operator} {self.version}" if self.operator else ""

    def allows(self, version: str) -> bool:
        """Whether a version is within it; ValueError where either is not one."""
        return not self.operator or _COMPARISONS[self.operator](parse_version(version), parse_version(self.version))
