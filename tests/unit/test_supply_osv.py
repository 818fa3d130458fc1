"""Which versions a record affects, how bad it is, and reading records from wherever they lie."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from imagebuild.errors import ConfigurationError, IntegrityError, RemoteError
from imagebuild.supply.osv import Affected, Event, Match, Range, decode_record, list_fixes, match_version
from imagebuild.supply.osvdata import fetch_dataset, read_dataset
from imagebuild.supply.severity import Severity, compute_base_score, read_severity
from tests.support.servers.scripted import Answer, in_turn, serve


def make_affected(*events: dict[str, str], kind: str = "ECOSYSTEM", versions: Sequence[str] | None = None) -> Affected:
    return Affected(
        ranges=(Range(kind, tuple(Event(**event) for event in events)),), versions=tuple(versions) if versions is not None else None
    )


@pytest.mark.parametrize(
    ("events", "affected", "unaffected"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], ["0.1", "1.9", "2.0rc1", "1.9+cu121"], ["2.0", "2.0+cu121", "3"]),
        ([{"introduced": "1.0"}, {"last_affected": "1.5"}], ["1.0", "1.5", "1.5+local"], ["0.9", "1.0rc1", "1.5.1", "1.5.post1"]),
        ([{"introduced": "1.0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.1"}], ["1.1", "2.0.5"], ["1.2", "1.9", "2.1"]),
        ([{"fixed": "2.1"}, {"introduced": "2.0"}, {"fixed": "1.2"}, {"introduced": "1.0"}], ["1.1", "2.0.5"], ["1.2", "1.9", "2.1"]),
        ([{"introduced": "0"}], ["0.dev0", "99"], []),
        ([{"introduced": "1.0"}, {"fixed": "1.0"}, {"introduced": "1.0"}], ["1.0", "2"], ["0.9"]),
        ([{"introduced": "0"}, {"limit": "2.0"}], ["1.0"], ["2.0", "3.0"]),
        ([{"introduced": "0"}, {"fixed": "3"}, {"limit": "*"}], ["1.0"], ["3"]),
    ],
)
def test_ranges_of_versions(events: list[dict[str, str]], affected: list[str], unaffected: list[str]) -> None:
    item = make_affected(*events)
    assert [match_version(item, text) for text in affected] == [Match.AFFECTED] * len(affected)
    assert [match_version(item, text) for text in unaffected] == [Match.UNAFFECTED] * len(unaffected)


def test_enumerated_versions_count_in_any_spelling() -> None:
    item = Affected(versions=("1.0", "1.1.0rc1", "2004d"))
    assert match_version(item, "1.0.0") is Match.AFFECTED
    assert match_version(item, "1.1-rc.1") is Match.AFFECTED
    assert match_version(item, "2004d") is Match.AFFECTED  # no version of PEP 440, and the same text
    assert match_version(item, "1.2") is Match.UNAFFECTED


@pytest.mark.parametrize(
    ("item", "version"),
    [
        (make_affected({"introduced": "0"}, {"fixed": "abc123"}, kind="GIT"), "1.0"),  # commits only
        (make_affected({"introduced": "0"}, {"fixed": "not a version"}), "1.0"),
        (make_affected({"introduced": "0"}, {"fixed": "2"}), "not a version"),
        (make_affected({"fixed": "2"}), "1.0"),  # nothing was ever introduced
        (make_affected({"introduced": "0"}, {"limit": "x y"}), "1.0"),
        (Affected(), "1.0"),
    ],
)
def test_what_cannot_be_compared_is_said(item: Affected, version: str) -> None:
    assert match_version(item, version) is Match.UNKNOWN


versions = st.builds(
    lambda parts, rest: ".".join(map(str, parts)) + rest,
    st.lists(st.integers(0, 9), min_size=1, max_size=3),
    st.sampled_from(["", "rc1", ".post1", ".dev2"]),
)


@given(versions, versions, versions)
def test_a_range_is_an_interval_of_pep_440(introduced: str, fixed: str, version: str) -> None:
    found = match_version(make_affected({"introduced": introduced}, {"fixed": fixed}), version)
    low, high = (Version("0.dev0") if introduced == "0" else Version(introduced)), Version(fixed)
    inside = low <= Version(version) < high or (high <= low <= Version(version))  # fixed before it was introduced: still open
    assert found is (Match.AFFECTED if inside else Match.UNAFFECTED)


def test_fixes_are_those_after_the_version() -> None:
    item = make_affected(
        {"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "2.0"}, {"fixed": "2.10"}, {"introduced": "3"}, {"fixed": "3.1"}
    )
    assert list_fixes(item, "2.1") == ("2.10", "3.1")


@pytest.mark.parametrize(
    ("vector", "score"),
    [  # by the calculator of first.org
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H", 9.8),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:C/C:H/I:H/A:H", 10.0),
        ("CVSS:3.0/AV:N/AC:L/PR:N/UI:R/S:C/C:L/I:L/A:N", 6.1),
        ("CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:N/A:N", 5.5),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:H/I:N/A:N", 5.9),
        ("CVSS:3.1/AV:P/AC:H/PR:H/UI:R/S:U/C:L/I:N/A:N", 1.6),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:N", 0.0),
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H/E:P/RL:O", 9.8),  # temporal metrics are no part of the base score
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N", 9.3),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:H/SI:H/SA:H", 10.0),
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N/E:U", 9.3),  # no threat metric counts: CVSS-B
        ("CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H", None),  # cut short
        ("AV:N/AC:L/Au:N/C:P/I:P/A:P", 7.5),  # from here on version 2, by NVD's calculator
        ("AV:N/AC:L/Au:N/C:C/I:C/A:C", 10.0),
        ("AV:L/AC:H/Au:N/C:N/I:N/A:P", 1.2),
        ("AV:N/AC:L/Au:N/C:P/I:P", None),
        ("medium", None),
        ("CVSS:3.1/AV:X", None),
        ("", None),
    ],
)
def test_base_scores(vector: str, score: float | None) -> None:
    assert compute_base_score(vector) == score


def test_the_worst_that_is_said_counts_and_nothing_said_is_unknown() -> None:
    assert read_severity(["CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"], ["MODERATE"]) is Severity.CRITICAL
    assert read_severity([], ["moderate", "nonsense"]) is Severity.MEDIUM
    assert read_severity(["CVSS:4.0/AV:N/AC:L/AT:N/PR:N/UI:N/VC:H/VI:H/VA:H/SC:N/SI:N/SA:N"], ["LOW"]) is Severity.CRITICAL
    assert read_severity(["AV:N/AC:L/Au:N/C:P/I:P/A:P"], []) is Severity.HIGH
    assert read_severity(["CVSS:4.0/AV:N"], []) is Severity.UNKNOWN > Severity.CRITICAL


# --- records and data sets ----------------------------------------------------------------------------------------------


def make_record(name: str = "demo", identifier: str = "PYSEC-2026-1", **changes: Any) -> dict[str, Any]:
    return {
        "id": identifier,
        "modified": "2026-11-01T00:00:00Z",
        "summary": "A flaw",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": name},
                "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2"}]}],
            }
        ],
        **changes,
    }


def test_nulls_and_unknown_fields_are_no_trouble() -> None:
    record = decode_record(
        json.dumps(
            make_record(aliases=None, severity=None, withdrawn=None, novel=[1], database_specific={"severity": ["x"], "a": 1})
        ).encode()
    )
    assert record.names == {"PYSEC-2026-1"}
    assert record.rate((record.affected or ())[0]) is Severity.UNKNOWN
    rated = decode_record(
        json.dumps(make_record(severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}])).encode()
    )
    assert rated.rate((rated.affected or ())[0]) is Severity.CRITICAL
    for wrong in (b"{}", b"[]", b"\xff", b'{"id": 1, "modified": ""}'):
        with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
            decode_record(wrong)


def write_zip(path: Path, *records: dict[str, Any], **further: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for record in records:
            archive.writestr(f"{record['id']}.json", json.dumps(record))
        for name, data in further.items():
            archive.writestr(f"{name}.json", data)
    return path


@pytest.mark.parametrize("layout", ["bucket", "zip", "zip-in-folder", "files", "files-of-ecosystem"])
def test_every_layout_gives_the_same_records(tmp_path: Path, layout: str) -> None:
    records = [
        make_record("Demo_Pkg"),
        make_record("other", "GHSA-1", modified="2026-11-02T00:00:00Z"),
        make_record("gone", "X", withdrawn="2026-01-01T00:00:00Z"),
    ]
    records.append(make_record("left", "NPM-1", affected=[{"package": {"ecosystem": "npm", "name": "left"}}, {"versions": ["1"]}]))
    path = tmp_path / "osv"
    if layout == "bucket":
        write_zip(path / "PyPI" / "all.zip", *records, broken=b"{")
        write_zip(path / "npm" / "all.zip", make_record("unseen", "NPM-2"))
    elif layout == "zip-in-folder":
        write_zip(path / "all.zip", *records, broken=b"{")
    elif layout == "zip":
        path = write_zip(tmp_path / "some.zip", *records, broken=b"{")
    else:
        folder = path / "PyPI" if layout == "files-of-ecosystem" else path / "2026"
        folder.mkdir(parents=True)
        for record in records:
            (folder / f"{record['id']}.json").write_text(json.dumps(record))
        (folder / "broken.json").write_bytes(b"{")
    dataset = read_dataset(path)
    assert sorted(dataset.by_name) == ["demo-pkg", "other"]
    assert (dataset.records, len(dataset.unreadable), dataset.newest) == (4, 1, "2026-11-02T00:00:00Z")
    assert dataset.find("demo-pkg")[0][0].id == "PYSEC-2026-1"


def test_what_is_no_data_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="there is no OSV data"):
        read_dataset(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="holds no OSV record"):
        read_dataset(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(IntegrityError, match="not a readable zip"):
        read_dataset(tmp_path / "text.zip")
    whole = write_zip(tmp_path / "cut.zip", make_record()).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:40] + b"\0\0\0\0" + whole[44:])
    with pytest.raises(IntegrityError, match=r"damaged at PYSEC-2026-1\.json"):
        read_dataset(tmp_path / "cut.zip")
    monkeypatch.setattr("imagebuild.supply.osvdata.RECORD_LIMIT", 1000)
    with pytest.raises(IntegrityError, match="has more than"):
        read_dataset(write_zip(tmp_path / "bomb.zip", make_record(details="x" * 2000)))
    monkeypatch.setattr("imagebuild.supply.osvdata.TOTAL_LIMIT", 500)
    with pytest.raises(IntegrityError, match="holds more than"):
        read_dataset(write_zip(tmp_path / "many.zip", make_record(), make_record("b", "B"), make_record("c", "C")))


def test_a_mirror_is_asked_again_only_for_what_changed(tmp_path: Path) -> None:
    data = write_zip(tmp_path / "all.zip", make_record()).read_bytes()
    with serve(lambda asked: Answer(304) if asked.headers.get("if-none-match") == '"1"' else Answer(200, {"ETag": '"1"'}, data)) as server:
        url = f"http://{server.host}/osv/"
        first = fetch_dataset(url, tmp_path / "cache", lambda _: None)
        assert fetch_dataset(url, tmp_path / "cache", lambda _: None) == first
        assert server.lines == ["GET /osv/PyPI/all.zip"] * 2
        assert list(read_dataset(first).by_name) == ["demo"]


def test_a_mirror_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    data = write_zip(tmp_path / "all.zip", make_record()).read_bytes()
    naps: list[float] = []
    busy = Answer(429, {"Retry-After": "7"})
    with serve(in_turn(busy, Answer(200, {}, data, sent=10), Answer(200, {"ETag": '"1"'}, data))) as server:
        folder = fetch_dataset(f"http://{server.host}", tmp_path / "cache", lambda _: None, sleep=naps.append)
    assert list(read_dataset(folder).by_name) == ["demo"]
    assert naps[0] == 7.0
    assert len(naps) == 2
    with serve(lambda _: busy) as server, pytest.raises(RemoteError, match="HTTP 429"):
        fetch_dataset(f"http://{server.host}", tmp_path / "other", lambda _: None, sleep=naps.append)
    assert len(server.asked) == 4


def test_a_mirror_that_serves_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []

    def fetch(answer: Answer) -> Path:
        with serve(lambda _: answer) as server:
            return fetch_dataset(f"http://{server.host}", tmp_path, lambda _: None, sleep=naps.append)

    with pytest.raises(RemoteError, match="HTTP 404"):
        fetch(Answer(404))
    with pytest.raises(IntegrityError, match="is not a zip"):
        fetch(Answer(200, {}, b"<html>"))
    with pytest.raises(RemoteError, match="cannot be fetched"):
        fetch(Answer(reset=True))
    assert len(naps) > 1
    with pytest.raises(ConfigurationError, match="not the URL"):
        fetch_dataset("file:///etc", tmp_path, lambda _: None)
    monkeypatch.setattr("imagebuild.supply.osvdata.ARCHIVE_LIMIT", 3)
    with pytest.raises(IntegrityError, match="larger than"):
        fetch(Answer(200, {}, b"PK\3\4...."))
    assert list(tmp_path.rglob("all.zip")) == []
