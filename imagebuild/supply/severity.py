"""How bad a vulnerability is: a word of its database, or the base score of a CVSS vector, version 2, 3 or 4, by the library ``cvss``."""

from __future__ import annotations

import enum
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
_WORDS |= {"IMPORTANT": Severity.HIGH, "NEGLIGIBLE": Severity.LOW, "UNIMPORTANT": Severity.NONE}  # Red Hat's, Ubuntu's and Debian's

_BASE_METRICS_4 = frozenset(("AV", "AC", "AT", "PR", "UI", "VC", "VI", "VA", "SC", "SI", "SA"))


def compute_base_score(vector: str) -> float | None:
    """0.0 to 10.0 of a CVSS vector, of its base metrics alone; None for a malformed one, or another kind."""
    from cvss import CVSS2, CVSS3, CVSS4
    from cvss.exceptions import CVSSError

    text = vector.strip()
    try:
        if text.startswith(("CVSS:3.0/", "CVSS:3.1/")):
            return float(CVSS3(text).base_score)
        if text.startswith("CVSS:4.0/"):
            # Version 4 has one score for all metrics: without the others' (threat, environment) it is CVSS-B.
            base = [part for part in text.split("/")[1:] if part.partition(":")[0] in _BASE_METRICS_4]
            return float(CVSS4("/".join(["CVSS:4.0", *base])).base_score)
        return float(CVSS2(text).base_score)
    except CVSSError:
        return None


def grade_score(score: float) -> Severity:
    """The qualitative scale of CVSS v3 and v4. Of v2, which has none of its own, scores are read in the same way."""
    for limit, grade in ((9.0, Severity.CRITICAL), (7.0, Severity.HIGH), (4.0, Severity.MEDIUM), (0.1, Severity.LOW)):
        if score >= limit:
            return grade
    return Severity.NONE


def read_severity(vectors: Sequence[str], words: Sequence[str]) -> Severity:
    """The worst that is said: words of a database, CVSS vectors; UNKNOWN when nothing is."""
    found = [_WORDS[word.upper()] for word in words if word.upper() in _WORDS]
    found += [grade_score(score) for vector in vectors if (score := compute_base_score(vector)) is not None]
    return max(found, default=Severity.UNKNOWN)
