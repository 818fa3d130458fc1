"""System packages against OSV's data: the releases' names, their versions, and what is said of those nobody has data of."""

from __future__ import annotations

import datetime
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagebuild.base.model import OperatingSystem, SystemInventory, SystemPackage
from imagebuild.supply.audit import AuditReport, audit_packages, encode_audit, format_audit
from imagebuild.supply.osvdata import fetch_dataset, read_dataset
from imagebuild.supply.policy import Policy
from imagebuild.supply.systempackages import Ecosystem, ImageSystem, find_ecosystem
from imagebuild.supply.versions import make_debian_key, make_r_key, make_rpm_key
from tests.support.servers.scripted import Answer, serve

TODAY = datetime.date(2026, 11, 26)
DEBIAN = OperatingSystem("debian", "12")
LIBSSL = SystemPackage("deb", "libssl3", "3.0.11-1~deb12u2", "amd64", "openssl")
OPENSSL = SystemPackage("deb", "openssl", "3.0.11-1~deb12u2", "amd64")
LOGIN = SystemPackage("deb", "login", "1:4.13+dfsg1-1+b1", "amd64", "shadow", "1:4.13+dfsg1-1")
NUMPY = SystemPackage("conda", "numpy", "1.26.4", "linux-64")


@pytest.mark.parametrize(
    ("key", "ordered"),
    [  # dpkg --compare-versions and rpm.vercmp say the same
        (make_debian_key, ["1.0~rc1-1", "1.0-1~bpo1", "1.0-1", "1.0-1+b1", "1.0-1.1", "1.0a-1", "1.0+dfsg-1", "1.10-1", "1:0.1"]),
        (make_rpm_key, ["1.0~rc1-1", "1.0-1.el9", "1.0-1.el9_2", "1.0^git1-1", "1.0a-1", "1.0.1-1", "1.10-1", "1:0.1-1"]),
        (make_r_key, ["1.2", "1.2-1", "1.2.2", "1.10"]),
    ],
)
def test_versions_in_their_packager_s_order(key: Callable[[str], Any], ordered: list[str]) -> None:
    assert sorted(ordered, key=key) == ordered
    assert len({key(text) for text in ordered}) == len(ordered)
    assert key("not a version") is None


def test_equal_versions_are_equal() -> None:
    assert make_debian_key("1.0-0") == make_debian_key("0:1.00") == make_debian_key("1.-0")
    assert make_rpm_key("0:1.0-1.el9") == make_rpm_key("1_0-1.el9")


@pytest.mark.parametrize(
    ("item", "os", "folder", "mine", "others"),
    [
        (LIBSSL, DEBIAN, "Debian", ["Debian:12"], ["Debian:11", "Debian:120", "Debian"]),
        (
            LIBSSL,
            OperatingSystem("ubuntu", "22.04"),
            "Ubuntu",
            ["Ubuntu:22.04:LTS"],
            ["Ubuntu:Pro:22.04:LTS", "Ubuntu:22.04:LTS:for:NVIDIA:BlueField"],
        ),
        (
            SystemPackage("rpm", "bash", "5-1"),
            OperatingSystem("rhel", "9.5"),
            "Red Hat",
            ["Red Hat:enterprise_linux:9::baseos", "Red Hat:enterprise_linux:9::appstream"],
            ["Red Hat:enterprise_linux:8::baseos", "Red Hat:rhel_eus:9.4::baseos"],
        ),
        (SystemPackage("cran", "MASS", "7.3-58.2"), DEBIAN, "CRAN", ["CRAN"], ["PyPI"]),
    ],
)
def test_the_release_s_own_records_count(item: SystemPackage, os: OperatingSystem, folder: str, mine: list[str], others: list[str]) -> None:
    found = find_ecosystem(item, os)
    assert found is not None
    assert found.folder == folder
    assert all(found.holds(name) for name in mine)
    assert not any(found.holds(name) for name in others)


def test_what_osv_has_nothing_of_is_named() -> None:
    assert find_ecosystem(LIBSSL, OperatingSystem("debian", "")) is None
    system = ImageSystem(SystemInventory(OperatingSystem("opensuse-leap", "15.6"), (NUMPY, SystemPackage("rpm", "bash", "5-1"))))
    assert system.list_subjects() == {}
    assert system.describe_uncovered() == (
        "1 packages of conda: OSV has no such data",
        "1 packages of rpm (opensuse-leap 15.6): OSV has no such data",
    )


def make_record(identifier: str, ecosystem: str, name: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    affected = {"package": {"ecosystem": ecosystem, "name": name}, "ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}
    return {"id": identifier, "modified": "2026-11-01T00:00:00Z", "affected": [affected], **more}


PYPI = make_record("PYSEC-1", "PyPI", "demo", {"introduced": "0"})
FIXED = make_record(
    "DEBIAN-CVE-2024-1", "Debian:12", "openssl", {"introduced": "0"}, {"fixed": "3.0.13-1~deb12u1"}, upstream=["CVE-2024-1"],
    severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}],
)  # fmt: skip
ADVISORY = make_record("DSA-1", "Debian:12", "openssl", {"introduced": "0"}, {"fixed": "3.0.13-1~deb12u1"}, aliases=["CVE-2024-1"])
PAST = make_record("DEBIAN-CVE-2023-1", "Debian:12", "openssl", {"introduced": "0"}, {"fixed": "3.0.11-1~deb12u2"})
OTHER = make_record("DEBIAN-CVE-2024-2", "Debian:11", "openssl", {"introduced": "0"})
UNRATED = make_record("DEBIAN-CVE-2024-3", "Debian:12", "shadow", {"introduced": "0"})
UNIMPORTANT = make_record("DEBIAN-CVE-2024-4", "Debian:12", "shadow", {"introduced": "0"})
UNIMPORTANT["affected"][0]["ecosystem_specific"] = {"urgency": "unimportant"}


def write_bucket(folder: Path, **records: list[dict[str, Any]]) -> Path:
    for name, items in records.items():
        path = folder / name.replace("_", " ") / "all.zip"
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as archive:
            for item in items:
                archive.writestr(f"{item['id']}.json", json.dumps(item))
    return folder


def audit(folder: Path, system: ImageSystem) -> AuditReport:
    wanted = {key: {item.name for item in items} for key, items in system.list_subjects().items()}
    return audit_packages("cosml", (), read_dataset(folder, wanted), Policy(), today=TODAY, system=system)


def test_a_source_package_is_looked_up_once_by_its_release(tmp_path: Path) -> None:
    folder = write_bucket(tmp_path, PyPI=[PYPI], Debian=[FIXED, ADVISORY, PAST, OTHER, UNRATED, UNIMPORTANT])
    system = ImageSystem(SystemInventory(DEBIAN, (LIBSSL, OPENSSL, LOGIN, NUMPY)))
    report = audit(folder, system)
    assert [(item.package, item.version, item.id, item.severity, item.fixed, item.verdict) for item in report.vulnerabilities] == [
        ("shadow", "1:4.13+dfsg1-1", "DEBIAN-CVE-2024-3", "unknown", (), "counts"),
        ("openssl", "3.0.11-1~deb12u2", "CVE-2024-1", "critical", ("3.0.13-1~deb12u1",), "counts"),
        ("shadow", "1:4.13+dfsg1-1", "DEBIAN-CVE-2024-4", "none", (), "below"),
    ]
    assert (report.system, report.unchecked, report.uncovered) == (2, (), ("1 packages of conda: OSV has no such data",))
    assert "2 of the system" in format_audit(report)
    assert json.loads(encode_audit(report, strict=False))["ok"] is False
    # What apt put in place of the base's is looked up instead of it.
    newer = SystemPackage("deb", "libssl3", "3.0.13-1~deb12u1", "amd64", "openssl")
    newest = SystemPackage("deb", "openssl", "3.0.13-1~deb12u1", "amd64")
    report = audit(folder, ImageSystem(SystemInventory(DEBIAN, (LIBSSL, OPENSSL)), (newer, newest)))
    assert report.vulnerabilities == ()


def test_red_hat_by_binary_package(tmp_path: Path) -> None:
    record = make_record(
        "RHSA-1", "Red Hat:enterprise_linux:9::baseos", "openssl-libs", {"introduced": "0"}, {"fixed": "1:3.2.2-6.el9_5.1"}
    )
    folder = write_bucket(tmp_path, PyPI=[PYPI], Red_Hat=[record])
    item = SystemPackage("rpm", "openssl-libs", "1:3.2.2-6.el9_5", "x86_64", "openssl")
    report = audit(folder, ImageSystem(SystemInventory(OperatingSystem("rhel", "9.5"), (item,))))
    assert [(item.package, item.id, item.fixed) for item in report.vulnerabilities] == [("openssl-libs", "RHSA-1", ("1:3.2.2-6.el9_5.1",))]


def test_data_that_is_not_there_is_unchecked(tmp_path: Path) -> None:
    system = ImageSystem(SystemInventory(DEBIAN, (LIBSSL, LOGIN), ("/var/lib/rpm/Packages",)))
    report = audit(write_bucket(tmp_path, PyPI=[PYPI], Debian=[OTHER]), system)
    assert report.unchecked == (
        "/var/lib/rpm/Packages: this package database cannot be read",
        "2 packages of Debian:12: the OSV data has none of Debian",
    )
    report.raise_findings(strict=False)


def test_files_of_every_ecosystem_in_one_folder(tmp_path: Path) -> None:
    (tmp_path / "Debian").mkdir()
    for place, record in (("pypi.json", PYPI), ("Debian/one.json", FIXED)):
        (tmp_path / place).write_text(json.dumps(record))
    dataset = read_dataset(tmp_path, {Ecosystem("Debian", "Debian:12"): {"openssl"}})
    assert dataset.records == 2
    assert list(dataset.systems[Ecosystem("Debian", "Debian:12")]) == ["openssl"]
    assert read_dataset(tmp_path).systems == {}


def test_a_mirror_without_the_system_s_data(tmp_path: Path) -> None:
    data = {}
    for name, record in (("PyPI", PYPI), ("Red Hat", FIXED)):
        data[f"/osv/{name.replace(' ', '%20')}/all.zip"] = (write_bucket(tmp_path / name, one=[record]) / "one" / "all.zip").read_bytes()
    lines: list[str] = []
    with serve(lambda asked: Answer(200, {}, data[asked.path]) if asked.path in data else Answer(404)) as server:
        folder = fetch_dataset(f"http://{server.host}/osv", tmp_path / "cache", lines.append, ("Red Hat", "Debian"))
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("all.zip")) == ["PyPI/all.zip", "Red Hat/all.zip"]
    assert any("Debian/all.zip: missing" in line for line in lines)
