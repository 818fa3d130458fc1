"""Known vulnerabilities of an image's packages, and licences of its Python packages, against a data set on disk and a policy.

Fails closed: what nobody rated counts, what could not be checked is counted and, if asked so, fails.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from imagebuild.errors import IntegrityError
from imagebuild.lock.index.statuses import ProjectStatus
from imagebuild.supply.osv import Affected, Match, Parse, Record, list_fixes, match_version, parse_public_version
from imagebuild.supply.osvdata import OsvDataset
from imagebuild.supply.packages import Origin, Package
from imagebuild.supply.policy import Policy, find_ignored, judge_licence
from imagebuild.supply.severity import Severity
from imagebuild.supply.systempackages import CRATES, Ecosystem, ImageSystem
from imagebuild.text import count_things

_CRATE, _PYPI = "pkg:cargo/", "pkg:pypi/"
_PREFERRED = ("MAL-", "GHSA-", "PYSEC-", "CVE-")  # which of several ids names a finding


class Vulnerability(msgspec.Struct, frozen=True):
    """One vulnerability of one package; ``ids`` are all its names."""

    package: str
    version: str
    origin: Origin
    id: str
    ids: tuple[str, ...]
    severity: str  # low medium high critical unknown none
    fixed: tuple[str, ...]  # versions, lowest first
    title: str
    verdict: Literal["counts", "below", "ignored"]
    note: str = ""


class LicenceFinding(msgspec.Struct, frozen=True):
    """A package whose licence is denied, or unknown."""

    package: str
    version: str
    origin: Origin
    licence: str
    verdict: Literal["denied", "unknown"]


class AuditReport(msgspec.Struct, frozen=True):
    """All of it."""

    name: str
    packages: int
    own: int  # the team's own, which no data set knows
    source: str  # of the OSV data; empty: vulnerabilities were not looked for
    records: int
    newest: str
    fail_on: str
    vulnerabilities: tuple[Vulnerability, ...]
    licences: tuple[LicenceFinding, ...]
    unchecked: tuple[str, ...]
    expired: tuple[str, ...]  # entries of the ignore list whose day has passed
    allow_unknown: bool = True
    system: int = 0  # system packages that were looked up; Debian's by source package
    uncovered: tuple[str, ...] = ()  # what no data set has
    projects: tuple[ProjectStatus, ...] = ()  # archived, quarantined, deprecated, as their index said when it was last asked

    @property
    def counting(self) -> tuple[Vulnerability, ...]:
        """Those at or over the threshold, and not ignored."""
        return tuple(item for item in self.vulnerabilities if item.verdict == "counts")

    @property
    def quarantined(self) -> tuple[ProjectStatus, ...]:
        """Projects that their index holds back, as it does with malware."""
        return tuple(item for item in self.projects if item.status == "quarantined")

    @property
    def refused(self) -> tuple[LicenceFinding, ...]:
        """Licences that are not allowed."""
        return tuple(item for item in self.licences if item.verdict == "denied" or not self.allow_unknown)

    def raise_findings(self, *, strict: bool) -> None:
        """IntegrityError when something counts; ``strict``: also when something could not be checked."""
        found = []
        if self.counting:
            worst = ", ".join(sorted({f"{item.package} {item.version}" for item in self.counting})[:5])
            found.append(f"{count_things(len(self.counting), 'known vulnerability', 'known vulnerabilities')} ({worst})")
        if self.refused:
            names = ", ".join(sorted({item.package for item in self.refused})[:5])
            found.append(f"{count_things(len(self.refused), 'licence', 'licences')} that the policy refuses ({names})")
        if self.quarantined:
            found.append(f"quarantined by their index: {', '.join(item.name for item in self.quarantined[:5])}")
        if strict and self.unchecked:
            found.append(f"{count_things(len(self.unchecked), 'thing', 'things')} that could not be checked")
        if found:
            raise IntegrityError(
                f"{self.name}: {'; '.join(found)}",
                "update the packages (imagebuild lock TEAM --upgrade), or ignore a finding in images/policy.toml with a reason and a date",
            )


def audit_packages(
    name: str,
    packages: Sequence[Package],
    dataset: OsvDataset | None,
    policy: Policy,
    *,
    today: datetime.date,
    unchecked: Sequence[str] = (),
    system: ImageSystem | None = None,
    projects: tuple[ProjectStatus, ...] = (),
) -> AuditReport:
    """Look every package up. ``unchecked``: what is known not to be among ``packages``; ``projects``: what indexes say of some."""
    lines = list(unchecked)
    system = system or ImageSystem()
    looked_up = 0
    found: list[Vulnerability] = []
    own = [item for item in packages if item.index == "local"]
    if dataset is not None:
        lines += [f"{item}: no OSV record" for item in dataset.unreadable]
        lines += _check_age(dataset, policy, today)
        for item in packages:
            if item.index != "local" and not item.is_addon:
                found += _audit_package(item, dataset.find(item.name), policy, today, lines)
        looked_up, more = _audit_system(system, dataset, policy, today, lines)
        found += [*more, *_audit_bundled(packages, dataset, policy, today, lines)]
    licences = []
    for item in packages:
        verdict = judge_licence(item.licence, item.name, policy.licences)
        if verdict != "allowed" and not (verdict == "unknown" and item.index == "local"):
            text = item.licence.expression or item.licence.text or "none given"
            licences.append(LicenceFinding(item.name, item.version, item.origin, text, verdict))
    order = {word: number for number, word in enumerate(("counts", "ignored", "below"))}
    return AuditReport(
        name=name,
        packages=len(packages),
        own=len(own),
        source=dataset.source if dataset is not None else "",
        records=dataset.records if dataset is not None else 0,
        newest=dataset.newest if dataset is not None else "",
        fail_on=policy.audit.fail_on,
        vulnerabilities=tuple(
            sorted(found, key=lambda item: (order[item.verdict], -Severity[item.severity.upper()], item.package, item.id))
        ),
        licences=tuple(licences),
        unchecked=tuple(lines),
        expired=tuple(f"{item.id}: ignored until {item.expires}" for item in policy.audit.ignore if today > item.expires),
        allow_unknown=policy.licences.allow_unknown,
        system=looked_up,
        uncovered=(*system.describe_uncovered(), *_describe_uncovered(packages)) if dataset is not None else (),
        projects=projects,
    )


def _check_age(dataset: OsvDataset, policy: Policy, today: datetime.date) -> Iterable[str]:
    limit = policy.audit.max_age_days
    try:
        age = (today - datetime.datetime.fromisoformat(dataset.newest).date()).days
    except ValueError:
        return [f"the OSV data does not say how old it is ({dataset.newest[:40]!r})"] if limit else []
    return [f"the OSV data is {age} days old, the policy allows {limit}"] if limit and age > limit else []


def _audit_system(
    system: ImageSystem, dataset: OsvDataset, policy: Policy, today: datetime.date, lines: list[str]
) -> tuple[int, list[Vulnerability]]:
    """(packages looked up, what was found); what the data set does not cover goes into ``lines``."""
    found: list[Vulnerability] = []
    looked_up = 0
    lines += [f"{path}: this package database cannot be read" for path in system.below.unread]
    for ecosystem, subjects in system.list_subjects().items():
        records = dataset.systems.get(ecosystem)
        if records is None:
            lines.append(
                f"{count_things(len(subjects), 'package', 'packages')} of {ecosystem.release}: the OSV data has none of {ecosystem.folder}"
            )
            continue
        looked_up += len(subjects)
        for item in subjects:
            package = Package(item.name, item.version, item.origin)
            found += _audit_package(package, records.get(item.name, ()), policy, today, lines, ecosystem.parse)
    return looked_up, found


def list_wanted(packages: Sequence[Package], system: ImageSystem) -> dict[Ecosystem, frozenset[str]]:
    """The names to read of a data set, beside PyPI's: of the system's packages, and of crates that wheels bundle."""
    wanted = {key: frozenset(item.name for item in items) for key, items in system.list_subjects().items()}
    crates = frozenset(part.name for item in packages for part in item.bundled.components if part.purl.startswith(_CRATE))
    return {**wanted, CRATES: crates} if crates else wanted


def _audit_bundled(
    packages: Sequence[Package], dataset: OsvDataset, policy: Policy, today: datetime.date, lines: list[str]
) -> list[Vulnerability]:
    """Crates and Python packages inside of others, by the SBOMs that these carry."""
    from packaging.utils import canonicalize_name

    found: list[Vulnerability] = []
    crates = dataset.systems.get(CRATES)
    missing = 0
    for item in packages:
        lines += [f"{item.name}: {name} in its .dist-info is not a readable SBOM" for name in item.bundled.unread]
        for part in item.bundled.components:
            inside = Package(part.name, part.version, item.origin)
            if part.purl.startswith(_CRATE):
                missing += crates is None
                hits = _audit_package(inside, (crates or {}).get(part.name, ()), policy, today, lines, CRATES.parse)
            elif part.purl.startswith(_PYPI):
                hits = _audit_package(inside, dataset.find(canonicalize_name(part.name)), policy, today, lines)
            else:
                continue
            owner = f"bundled in {item.name} {item.version}"
            found += [msgspec.structs.replace(hit, note=f"{owner}; {hit.note}" if hit.note else owner) for hit in hits]
    if missing:
        lines.append(f"{count_things(missing, 'crate', 'crates')} that packages bundle: the OSV data has none of {CRATES.folder}")
    return found


def _describe_uncovered(packages: Sequence[Package]) -> tuple[str, ...]:
    addons = sum(item.is_addon for item in packages)
    lines = (
        [f"{count_things(addons, 'R package or VS Code extension', 'R packages and VS Code extensions')}: not looked up"] if addons else []
    )
    parts = [part for item in packages for part in item.bundled.components if not part.purl.startswith((_CRATE, _PYPI))]
    lines += [f"{count_things(len(parts), 'library', 'libraries')} that packages bundle: not looked up"] if parts else []
    return tuple(lines)


def _audit_package(
    item: Package,
    records: Sequence[tuple[Record, Affected]],
    policy: Policy,
    today: datetime.date,
    lines: list[str],
    parse: Parse = parse_public_version,
) -> list[Vulnerability]:
    hits: list[tuple[Record, Affected]] = []
    unknown: list[Record] = []
    for record, affected in records:
        match = match_version(affected, item.version, parse)
        if match is Match.AFFECTED:
            hits.append((record, affected))
        elif match is Match.UNKNOWN:
            unknown.append(record)
    groups = group_records(hits)
    known = {name for group in groups for record, _ in group for name in record.names}
    strange = parse is parse_public_version and parse(item.version) is None
    what = f"version {item.version}, which is not PEP 440," if strange else f"version {item.version}"
    lines += [f"{item.name}: {what} cannot be compared with {record.id}" for record in unknown if not record.names & known]
    return [_describe_group(item, group, policy, today, parse) for group in groups]


def group_records(hits: Sequence[tuple[Record, Affected]]) -> list[list[tuple[Record, Affected]]]:
    """Records that share an id or an alias are one vulnerability."""
    groups: list[tuple[set[str], list[tuple[Record, Affected]]]] = []
    for hit in hits:
        names, members = set(hit[0].names), [hit]
        rest = []
        for other in groups:
            if other[0] & names:
                names |= other[0]
                members = [*other[1], *members]
            else:
                rest.append(other)
        groups = [*rest, (names, members)]
    return [members for _, members in groups]


def _describe_group(
    item: Package, group: list[tuple[Record, Affected]], policy: Policy, today: datetime.date, parse: Parse
) -> Vulnerability:
    ids = frozenset(name for record, _ in group for name in record.names)
    first = min(ids, key=lambda name: (next((n for n, prefix in enumerate(_PREFERRED) if name.startswith(prefix)), len(_PREFERRED)), name))
    rated = [severity for record, affected in group if (severity := record.rate(affected)) is not Severity.UNKNOWN]
    severity = max(rated, default=Severity.UNKNOWN)
    if any(name.startswith("MAL-") for name in ids):  # not a weakness: the release itself is the attack
        severity = Severity.CRITICAL
    ignored = find_ignored(ids, item.name, policy.audit, today)
    verdict: Literal["counts", "below", "ignored"] = "counts" if severity >= policy.threshold else "below"
    note = "installed by Debian, which may have fixed it in this version" if item.installer == "dpkg" else ""
    if ignored is not None:
        verdict, note = "ignored", f"{ignored.reason} (until {ignored.expires})"
    fixes = {fix: None for _, affected in group for fix in list_fixes(affected, item.version, parse)}
    return Vulnerability(
        package=item.name,
        version=item.version,
        origin=item.origin,
        id=first,
        ids=tuple(sorted(ids)),
        severity=severity.name.lower(),
        fixed=tuple(sorted(fixes, key=lambda text: (parse(text) is None, parse(text) or text))),
        title=next((record.title for record, _ in group if record.title), ""),
        verdict=verdict,
        note=note,
    )


def format_audit(report: AuditReport) -> str:
    """Findings first, then what was looked at."""
    lines = []
    for item in report.vulnerabilities:
        fixed = f", fixed in {', '.join(item.fixed[:3])}" if item.fixed else ", no fix known"
        mark = "" if item.verdict == "counts" else f" [{item.verdict}]"
        lines.append(f"{item.severity:<8}  {item.package} {item.version} ({item.origin}): {item.id}{fixed}{mark}")
        lines += [f"{'':<10}{text}" for text in (item.title, item.note) if text]
    for licence in report.licences:
        if licence.verdict == "denied" or not report.allow_unknown:
            lines.append(f"licence   {licence.package} {licence.version} ({licence.origin}): {licence.licence} is {licence.verdict}")
    lines += [f"project   {item.describe()}; {item.version} is locked" for item in report.projects]
    lines += [f"unchecked {text}" for text in report.unchecked]
    lines += [f"not known {text}" for text in report.uncovered]
    lines += [f"expired   {text}" for text in report.expired]
    unknown = sum(1 for item in report.licences if item.verdict == "unknown")
    counts = [f"{report.packages} packages"]
    if report.system:
        counts.append(f"{report.system} of the system")
    if report.own:
        counts.append(f"{report.own} of the team's own (in no data set)")
    if report.source:
        counts.append(f"{report.records} OSV records of {report.newest[:10]}")
        counts.append(f"{count_things(len(report.counting), 'vulnerability', 'vulnerabilities')} of {report.fail_on} or more")
        others = len(report.vulnerabilities) - len(report.counting)
        if others:
            counts.append(f"{others} below or ignored")
    counts.append(f"{len(report.refused)} licences refused, {unknown} unknown")
    counts.append(f"{len(report.unchecked)} unchecked")
    return "\n".join([report.name, *lines, "; ".join(counts)]) + "\n"


def encode_audit(report: AuditReport, *, strict: bool) -> str:
    """The report as JSON: its fields, and ``ok``."""
    failed = bool(report.counting or report.refused or report.quarantined or (strict and report.unchecked))
    return json.dumps({**msgspec.to_builtins(report), "ok": not failed}, indent=2) + "\n"
