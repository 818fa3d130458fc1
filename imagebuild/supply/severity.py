"""How bad a vulnerability is: a word of its database, or the base score of a CVSS v3 vector (first.org, CVSS v3.1 specification)."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence


class Severity(enum.IntEnum):
    """In order. UNKNOWN is above everything: what nobody rated passes no threshold."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4
    UNKNOWN = 5


_WORDS = {"LOW": Severity.LOW, "MODERATE": Severity.MEDIUM, "MEDIUM": Severity.MEDIUM, "HIGH": Severity.HIGH, "CRITICAL": Severity.CRITICAL}
_METRICS: dict[str, dict[str, float]] = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {False: {"N": 0.85, "L": 0.62, "H": 0.27}, True: {"N": 0.85, "L": 0.68, "H": 0.5}}


def compute_base_score(vector: str) -> float | None:
    """0.0 to 10.0 of a ``CVSS:3.x/...`` vector; None for another kind or a malformed one."""
    head, *parts = vector.strip().split("/")
    if head not in ("CVSS:3.0", "CVSS:3.1"):
        return None
    chosen = dict(part.partition(":")[::2] for part in parts)
    try:
        changed = {"U": False, "C": True}[chosen["S"]]
        values = {name: table[chosen[name]] for name, table in _METRICS.items()}
        privileges = _PRIVILEGES[changed][chosen["PR"]]
    except KeyError:
        return None
    lost = 1 - (1 - values["C"]) * (1 - values["I"]) * (1 - values["A"])
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    total = impact + 8.22 * values["AV"] * values["AC"] * privileges * values["UI"]
    return _round_up(min(1.08 * total if changed else total, 10.0))


def _round_up(value: float) -> float:
    """To one decimal, as appendix A of the specification says (floats are not exact)."""
    whole = round(value * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (math.floor(whole / 10_000) + 1) / 10


def grade_score(score: float) -> Severity:
    """The qualitative scale of CVSS v3."""
    for limit, grade in ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM), (0.1, Severity.LOW)):
        if score >= limit:
            return grade
    return Severity.NONE


def read_severity(vectors: Sequence[str], words: Sequence[str]) -> Severity:
    """The worst that is said: words of a database, v3 vectors; UNKNOWN when nothing is."""
    found = [_WORDS[word.upper()] for word in words if word.upper() in _WORDS]
    found += [grade_score(score) for vector in vectors if (score := compute_base_score(vector)) is not None]
    return max(found, default=Severity.UNKNOWN)
