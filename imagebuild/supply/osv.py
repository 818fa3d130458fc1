"""Records of the OSV schema (ossf.github.io/osv-schema), and which versions of a package one affects.

Versions are compared as PEP 440 orders them; of a local version (``2.5.1+cu121``) the public part counts. Other packagers' versions
are compared by the ``parse`` that is given (:mod:`imagebuild.supply.versions`). What cannot be compared is said, never taken for
unaffected.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild.decoding import make_decoder
from imagebuild.supply.severity import Severity, read_severity

if TYPE_CHECKING:
    from packaging.version import Version

ECOSYSTEM = "PyPI"
Parse = Callable[[str], Any]  # a text to a value that sorts, or None


class Event(msgspec.Struct, frozen=True):
    """One border of a range; exactly one field is set."""

    introduced: str = ""
    fixed: str = ""
    last_affected: str = ""
    limit: str = ""


class Range(msgspec.Struct, frozen=True):
    """``type`` is ECOSYSTEM, SEMVER or GIT."""

    type: str
    events: tuple[Event, ...] = ()


class AffectedPackage(msgspec.Struct, frozen=True):
    """Whose versions are meant."""

    ecosystem: str
    name: str


class Rating(msgspec.Struct, frozen=True):
    """A score of some kind: ``CVSS_V3`` and its vector."""

    type: str
    score: str


class _Specific(msgspec.Struct, frozen=True):
    severity: object = None
    urgency: object = None  # Debian's word


class Affected(msgspec.Struct, frozen=True):
    """What one package has of it. Lists may be null in the wild."""

    package: AffectedPackage | None = None
    ranges: tuple[Range, ...] | None = None
    versions: tuple[str, ...] | None = None
    severity: tuple[Rating, ...] | None = None
    ecosystem_specific: _Specific | None = None
    database_specific: _Specific | None = None


class Record(msgspec.Struct, frozen=True):
    """One vulnerability, or one malicious release, as a database describes it."""

    id: str
    modified: str
    withdrawn: str | None = None
    aliases: tuple[str, ...] | None = None
    upstream: tuple[str, ...] | None = None  # what a distributor's record is about: several of an advisory
    summary: str | None = None
    details: str | None = None
    severity: tuple[Rating, ...] | None = None
    affected: tuple[Affected, ...] | None = None
    database_specific: _Specific | None = None

    @property
    def names(self) -> frozenset[str]:
        """Its id and the ids of the same vulnerability elsewhere."""
        upstream = self.upstream or ()
        return frozenset({self.id, *(self.aliases or ()), *(upstream if len(upstream) == 1 else ())})

    @property
    def title(self) -> str:
        """One line."""
        lines = (self.summary or self.details or "").strip().splitlines()
        return " ".join(lines[0].split())[:160] if lines else ""

    def rate(self, affected: Affected) -> Severity:
        """How bad, as the record says for this package, else in general."""
        specific = [item for item in (affected.ecosystem_specific, affected.database_specific, self.database_specific) if item is not None]
        words = [word for item in specific for word in (item.severity, item.urgency) if isinstance(word, str)]
        scores = [item.score for item in (*(affected.severity or ()), *(self.severity or ()))]
        return read_severity(scores, [*words, *scores])  # a score may be a word: Ubuntu's


_RECORD = make_decoder(Record)


class Match(enum.Enum):
    """Whether a version is affected; UNKNOWN when the record's own versions cannot be compared."""

    AFFECTED = "affected"
    UNAFFECTED = "unaffected"
    UNKNOWN = "unknown"


def decode_record(data: bytes) -> Record:
    """msgspec.MsgspecError for what is not an OSV record."""
    return _RECORD.decode(data)


def parse_public_version(text: str) -> Version | None:
    """As PEP 440 reads it, without the local part; None for anything else."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(Version(text).public)
    except InvalidVersion:
        return None


def match_version(affected: Affected, text: str, parse: Parse = parse_public_version) -> Match:
    """Whether ``text`` is affected: it is enumerated, or a range holds it (osv-schema, Evaluation)."""
    version = parse(text)
    listed = affected.versions or ()
    if text in listed:
        return Match.AFFECTED
    if version is None:
        return Match.UNKNOWN
    if any(parse(item) == version for item in listed):
        return Match.AFFECTED
    unknown = False
    comparable = bool(listed)
    for item in affected.ranges or ():
        if item.type == "GIT":
            continue  # commits; the versions they are in are enumerated, or the record has a range of versions as well
        comparable = True
        found = _match_range(item, version, parse)
        if found is Match.AFFECTED:
            return found
        unknown = unknown or found is Match.UNKNOWN
    return Match.UNAFFECTED if comparable and not unknown else Match.UNKNOWN


def _match_range(item: Range, version: Any, parse: Parse) -> Match:
    borders: list[tuple[Any, int, Event]] = []
    limits: list[Any] = []
    for event in item.events:
        if event.limit and not event.introduced:
            if event.limit == "*":
                continue
            limit = parse(event.limit)
            if limit is None:
                return Match.UNKNOWN
            limits.append(limit)
            continue
        text = event.introduced or event.fixed or event.last_affected
        border = None if text == "0" and event.introduced else parse(text)
        if border is None and text != "0":
            return Match.UNKNOWN
        # At one version, what ends a range ends it before the next begins.
        borders.append((border, 1 if event.introduced else 0, event))
    if not any(event.introduced for _, _, event in borders):
        return Match.UNKNOWN
    if limits and not any(version < limit for limit in limits):
        return Match.UNAFFECTED
    affected = False
    # A border that is None is before every version; what stands in its place is never compared with another's.
    for border, _, event in sorted(borders, key=lambda item: (item[0] is not None, item[0] if item[0] is not None else version, item[1])):
        if event.introduced:
            affected = affected or border is None or version >= border
        elif event.fixed:
            affected = affected and not (border is not None and version >= border)
        else:
            affected = affected and not (border is not None and version > border)
    return Match.AFFECTED if affected else Match.UNAFFECTED


def list_fixes(affected: Affected, text: str, parse: Parse = parse_public_version) -> tuple[str, ...]:
    """The versions after ``text`` in which it is fixed, lowest first."""
    version = parse(text)
    found = {}
    for item in affected.ranges or ():
        for event in item.events if item.type != "GIT" else ():
            fixed = parse(event.fixed) if event.fixed else None
            if fixed is not None and (version is None or fixed > version):
                found[fixed] = event.fixed
    return tuple(found[key] for key in sorted(found))
