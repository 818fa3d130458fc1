"""The policy on licences and findings: expressions, unknown licences, exceptions, ignored findings that end; and the report."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from imagebuild.config import load_team
from imagebuild.errors import ConfigurationError, IntegrityError
from imagebuild.supply.audit import AuditReport, audit_packages, encode_audit, format_audit
from imagebuild.supply.licences import Licence
from imagebuild.supply.osv import decode_record
from imagebuild.supply.osvdata import OsvDataset
from imagebuild.supply.packages import Package
from imagebuild.supply.policy import AuditRules, Ignored, LicenceRules, Policy, join_policies, judge_licence, read_policy
from tests.unit.test_supply_osv import make_record

TODAY = datetime.date(2026, 11, 24)
CRITICAL = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]
LOW = [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N"}]


@pytest.mark.parametrize(
    ("expression", "verdict"),
    [
        ("MIT", "allowed"),
        ("AGPL-3.0-only", "denied"),
        ("AGPL-3.0-or-later OR MIT", "allowed"),
        ("AGPL-3.0-or-later AND MIT", "denied"),
        ("(AGPL-3.0-only OR SSPL-1.0) AND MIT", "denied"),
        ("MIT AND (AGPL-3.0-only OR Apache-2.0)", "allowed"),
        ("MIT OR AGPL-3.0-only AND BSD-3-Clause", "allowed"),  # AND binds closer
        ("AGPL-3.0-only AND BSD-3-Clause OR AGPL-1.0-only", "denied"),
        ("AGPL-3.0-only WITH GCC-exception-3.1", "denied"),
        ("(MIT", "denied"),
    ],
)
def test_denied_licences_in_expressions(expression: str, verdict: str) -> None:
    assert judge_licence(Licence(expression), "demo", LicenceRules(deny=("AGPL-*", "SSPL-*"))) == verdict


def test_allow_lists_unknown_licences_and_exceptions() -> None:
    only = LicenceRules(allow=("MIT", "BSD-*", "GPL-3.0-only WITH GCC-exception-3.1"))
    assert judge_licence(Licence("BSD-3-Clause"), "demo", only) == "allowed"
    assert judge_licence(Licence("Apache-2.0"), "demo", only) == "denied"
    assert judge_licence(Licence("GPL-3.0-only WITH GCC-exception-3.1"), "demo", only) == "allowed"
    assert judge_licence(Licence("GPL-3.0-only"), "demo", only) == "denied"
    assert judge_licence(Licence("", "Proprietary"), "demo", LicenceRules()) == "unknown"
    assert judge_licence(Licence("", "Proprietary"), "demo", LicenceRules(deny=("propri*",))) == "denied"
    assert judge_licence(Licence("AGPL-3.0-only"), "demo", LicenceRules(deny=("AGPL-*",), except_packages={"demo": "bought"})) == "allowed"


def test_a_team_is_only_stricter() -> None:
    company = Policy(LicenceRules(deny=("AGPL-*",), allow=("MIT", "BSD-*")), AuditRules(osv="osv", fail_on="high", max_age_days=7))
    team = Policy(
        LicenceRules(deny=("GPL-*",), allow=("MIT", "Apache-2.0"), allow_unknown=False, except_packages={"x": "y"}),
        AuditRules(fail_on="critical"),
    )
    joined = join_policies(company, team)
    assert joined.licences == LicenceRules(deny=("AGPL-*", "GPL-*"), allow=("MIT",), allow_unknown=False)
    assert (joined.audit.osv, joined.audit.fail_on, joined.audit.max_age_days) == ("osv", "high", 7)
    nothing = join_policies(company, Policy(LicenceRules(allow=("Apache-2.0",))))
    assert judge_licence(Licence("MIT"), "demo", nothing.licences) == "denied"


def test_the_files_are_read_and_wrong_keys_named(tmp_path: Path) -> None:
    assert read_policy(tmp_path) == Policy()
    (tmp_path / "policy.toml").write_text(
        '[licences]\ndeny = ["AGPL-*"]\nallow-unknown = false\nexcept = { demo = "bought" }\n'
        '[audit]\nosv = "osv"\nfail-on = "high"\n[[audit.ignore]]\nid = "PYSEC-2026-1"\nreason = "not used"\nexpires = 2026-12-31\n'
    )
    policy = read_policy(tmp_path)
    assert policy.licences == LicenceRules(("AGPL-*",), (), False, {"demo": "bought"})
    assert policy.audit.ignore == (Ignored("PYSEC-2026-1", "not used", datetime.date(2026, 12, 31)),)
    for text, message in (
        ('[audit]\nfail-on = "awful"\n', "fail-on"),
        ('[licences]\ndenny = ["X"]\n', "denny"),
        ('[licences]\ndeny = ["A B"]\n', "not a licence pattern"),
        ('[[audit.ignore]]\nid = "X"\nreason = " "\nexpires = 2026-12-31\n', "needs an id and a reason"),
        ('[[audit.ignore]]\nid = "X"\nreason = "y"\n', "expires is missing"),
        ('[[audit.ignore]]\nid = "X"\nreason = "y"\nexpires = "soon"\n', "expires"),
        ("[audit]\nmax-age-days = -1\n", "negative"),
    ):
        (tmp_path / "policy.toml").write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            read_policy(tmp_path)


def test_a_team_says_it_in_team_toml(tmp_path: Path) -> None:
    (tmp_path / "cosml").mkdir()
    (tmp_path / "cosml" / "requirements.in").write_text("")
    (tmp_path / "cosml" / "team.toml").write_text('base = "starter"\n[licences]\ndeny = ["GPL-*"]\n[audit]\nfail-on = "critical"\n')
    assert load_team(tmp_path, "cosml").table.policy == Policy(LicenceRules(deny=("GPL-*",)), AuditRules(fail_on="critical"))
    (tmp_path / "cosml" / "team.toml").write_text('base = "starter"\n[licences]\ndeny = [""]\n')
    with pytest.raises(ConfigurationError, match="not a licence pattern"):
        load_team(tmp_path, "cosml")


# --- the report ---------------------------------------------------------------------------------------------------------


def make_dataset(*records: dict[str, Any], unreadable: tuple[str, ...] = ()) -> OsvDataset:
    found: dict[str, Any] = {}
    for document in records:
        record = decode_record(json.dumps(document).encode())
        for affected in record.affected or ():
            assert affected.package is not None
            found.setdefault(affected.package.name, []).append((record, affected))
    return OsvDataset("osv", len(records), unreadable, "2026-11-01T00:00:00Z", {name: tuple(items) for name, items in found.items()})


def run(
    dataset: OsvDataset | None, *packages: Package, audit: AuditRules | None = None, licences: LicenceRules | None = None
) -> AuditReport:
    return audit_packages("cosml", packages, dataset, Policy(licences or LicenceRules(), audit or AuditRules()), today=TODAY)


DEMO = Package("demo", "1.0", "added", Licence("MIT"))


def test_records_of_one_vulnerability_are_one_finding() -> None:
    dataset = make_dataset(
        make_record("demo", "PYSEC-2026-1", aliases=["CVE-2026-1"]),
        make_record("demo", "GHSA-aaaa", aliases=["CVE-2026-1"], severity=CRITICAL, summary=None, details="Long\ntext"),
        make_record("demo", "PYSEC-2026-2", summary="Another"),
        make_record("other", "PYSEC-2026-3"),
    )
    report = run(dataset, DEMO, Package("fixed", "2", "base"))
    first, second = report.vulnerabilities
    assert (second.id, second.ids, second.severity, second.fixed) == (
        "GHSA-aaaa",
        ("CVE-2026-1", "GHSA-aaaa", "PYSEC-2026-1"),
        "critical",
        ("2",),
    )
    assert (first.id, first.severity, first.verdict) == ("PYSEC-2026-2", "unknown", "counts")  # nobody rated it: it counts
    with pytest.raises(IntegrityError, match=r"cosml: 2 known vulnerabilities \(demo 1.0\)"):
        report.raise_findings(strict=False)
    text = format_audit(report)
    assert "critical  demo 1.0 (added): GHSA-aaaa, fixed in 2" in text
    assert json.loads(encode_audit(report, strict=False))["ok"] is False


def test_the_threshold_and_malicious_releases() -> None:
    dataset = make_dataset(make_record("demo", "PYSEC-1", severity=LOW), make_record("evil", "MAL-2026-1"))
    report = run(dataset, DEMO, audit=AuditRules(fail_on="medium"))
    assert [item.verdict for item in report.vulnerabilities] == ["below"]
    report.raise_findings(strict=True)
    (found,) = run(dataset, Package("evil", "1", "base"), audit=AuditRules(fail_on="critical")).vulnerabilities
    assert (found.severity, found.verdict) == ("critical", "counts")


def test_an_ignored_finding_has_a_reason_and_an_end() -> None:
    dataset = make_dataset(make_record("demo", "PYSEC-1", aliases=["CVE-1"]))
    for entry, verdict in (
        (Ignored("CVE-1", "not reachable", datetime.date(2026, 11, 24)), "ignored"),
        (Ignored("PYSEC-1", "not reachable", TODAY, "demo"), "ignored"),
        (Ignored("PYSEC-1", "not reachable", TODAY, "other"), "counts"),
        (Ignored("PYSEC-1", "not reachable", datetime.date(2026, 11, 23)), "counts"),
    ):
        report = run(dataset, DEMO, audit=AuditRules(ignore=(entry,)))
        assert [item.verdict for item in report.vulnerabilities] == [verdict]
        assert bool(report.expired) is (entry.expires < TODAY)
        assert ("not reachable (until 2026-11-24)" in format_audit(report)) is (verdict == "ignored")


def test_what_could_not_be_checked_is_counted_and_fails_when_asked() -> None:
    dataset = make_dataset(
        make_record("odd", "PYSEC-1"),
        make_record("odd", "PYSEC-2", affected=[{"package": {"ecosystem": "PyPI", "name": "odd"}}]),
        unreadable=("x.json",),
    )
    report = run(dataset, Package("odd", "not-a-version", "base"), DEMO, audit=AuditRules(max_age_days=14))
    assert report.vulnerabilities == ()
    assert len(report.unchecked) == 4
    assert "the OSV data is 23 days old, the policy allows 14" in report.unchecked
    assert "odd: version not-a-version, which is not PEP 440, cannot be compared with PYSEC-1" in report.unchecked
    report.raise_findings(strict=False)
    with pytest.raises(IntegrityError, match="4 things that could not be checked"):
        report.raise_findings(strict=True)
    assert json.loads(encode_audit(report, strict=True))["ok"] is False


def test_a_teams_own_package_is_not_looked_up_under_a_name_of_others() -> None:
    report = run(make_dataset(make_record("demo", "MAL-1")), Package("demo", "1.0", "added", index="local"))
    assert (report.vulnerabilities, report.own, report.licences) == ((), 1, ())


def test_licences_in_the_report() -> None:
    rules = LicenceRules(deny=("AGPL-*",))
    packages = (DEMO, Package("copyleft", "1", "added", Licence("AGPL-3.0-only")), Package("odd", "1", "base", Licence("", "see file")))
    report = run(None, *packages, licences=rules)
    assert [(item.package, item.verdict) for item in report.licences] == [("copyleft", "denied"), ("odd", "unknown")]
    assert [item.package for item in report.refused] == ["copyleft"]
    with pytest.raises(IntegrityError, match="1 licence that the policy refuses"):
        report.raise_findings(strict=False)
    strict = run(None, *packages, licences=LicenceRules(deny=("AGPL-*",), allow_unknown=False))
    assert [item.package for item in strict.refused] == ["copyleft", "odd"]
    assert "licence   odd 1 (base): see file is unknown" in format_audit(strict)
