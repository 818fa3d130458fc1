"""Both sides of every boundary: severities, pauses, budgets, sizes, quarters, ages."""

from __future__ import annotations

import datetime
import email.utils
import time
from typing import Any

import pytest

from imagebuild.base.layers import choose_keeping
from imagebuild.commands.options import print_error
from imagebuild.config import Budget, BudgetRules, LayerOptions, parse_size
from imagebuild.emit.prewarm.capacity import NodeImage, NodeLayer, plan_pool
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.errors import (
    BudgetError,
    BuildError,
    ConfigurationError,
    ImagebuildError,
    IntegrityError,
    LockError,
    RemoteError,
    UsageError,
)
from imagebuild.lock.index.client import compute_pause
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.resolve.candidates import Choice, select_wheels
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.transport import Transport
from imagebuild.pipeline.pushing import describe_large_layer
from imagebuild.size.budget import LastImage, compute_limits, require_budget, require_prediction
from imagebuild.size.model import Limit, PackageSize, SizeReport
from imagebuild.supply.policy import AuditRules, Ignored, find_ignored
from imagebuild.supply.severity import Severity, compute_base_score, grade_score
from imagebuild.tagforms import count_quarters
from imagebuild.text import format_size, suggest
from tests.support.builders import make_base, make_lock

MIB = 1 << 20


# --- severities (CVSS v3.1 specification, section 5, and its examples) --------------------------------------------------


@pytest.mark.parametrize(
    ("score", "grade"),
    [
        (10.0, Severity.CRITICAL), (9.0, Severity.CRITICAL), (8.9, Severity.HIGH), (7.0, Severity.HIGH), (6.9, Severity.MEDIUM),
        (4.0, Severity.MEDIUM), (3.9, Severity.LOW), (0.1, Severity.LOW), (0.0, Severity.NONE),
    ],
)  # fmt: skip
def test_a_score_is_graded_by_the_scale_of_the_specification(score: float, grade: Severity) -> None:
    assert grade_score(score) is grade


@pytest.mark.parametrize(
    ("vector", "score"),
    [
        ("CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:L", 9.4),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:C/C:H/I:H/A:H", 9.0),
        ("CVSS:3.1/AV:N/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H", 8.8),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:U/C:H/I:H/A:L", 7.1),
        ("CVSS:3.1/AV:L/AC:H/PR:L/UI:N/S:U/C:H/I:H/A:H", 7.0),
        ("CVSS:3.1/AV:N/AC:L/PR:H/UI:R/S:U/C:L/I:L/A:L", 4.3),
        ("CVSS:3.1/AV:L/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:L", 4.0),
        ("CVSS:3.1/AV:N/AC:H/PR:N/UI:N/S:U/C:N/I:N/A:L", 3.7),
    ],
)
def test_vectors_at_the_boundaries(vector: str, score: float) -> None:
    assert compute_base_score(vector) == score


# --- pauses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "seconds"), [("0", 0.0), ("29", 29.0), ("30", 30.0), ("31", 30.0), ("86400", 30.0)])
def test_an_index_is_waited_for_as_long_as_it_says_and_thirty_seconds_at_most(after: str, seconds: float) -> None:
    assert compute_pause(1, after) == seconds


def test_an_index_may_say_it_with_a_date() -> None:
    assert compute_pause(1, email.utils.formatdate(time.time() + 3600, usegmt=True)) == 30.0
    assert 8 < compute_pause(1, email.utils.formatdate(time.time() + 10, usegmt=True)) <= 10
    assert compute_pause(1, email.utils.formatdate(time.time() - 10, usegmt=True)) == 0.0


@pytest.mark.parametrize(("attempt", "longest"), [(1, 0.8), (2, 1.6), (3, 3.2), (20, 30.0)])
def test_without_a_word_the_pause_doubles(attempt: int, longest: float) -> None:
    assert longest / 2 <= compute_pause(attempt, "") <= longest


@pytest.mark.parametrize(("after", "seconds"), [(0.0, 0.0), (59.0, 59.0), (60.0, 60.0), (61.0, 60.0), (86400.0, 60.0)])
def test_a_registry_is_waited_for_a_minute_at_most(after: float, seconds: float) -> None:
    naps: list[float] = []
    transport = Transport("registry.example", sleep=naps.append)
    transport.pause(0, RegistryError("busy", retry_after=after))
    assert seconds <= naps[0] <= seconds + 0.5


# --- budgets ------------------------------------------------------------------------------------------------------------


def list_over(rules: BudgetRules, **sizes: Any) -> list[str]:
    options: dict[str, Any] = {"compressed": 0, "installed": 0, "packages": {}, **sizes}
    return [limit.what for limit in compute_limits(rules, **options) if limit.over]


def test_a_budget_is_kept_by_its_last_byte() -> None:
    rules = BudgetRules(1000, 5000, packages={"demo": 70})
    assert list_over(rules, compressed=1000, installed=5000, packages={"demo": 70}) == []
    assert list_over(rules, compressed=1001, installed=5000, packages={"demo": 70}) == ["stored"]
    assert list_over(rules, compressed=1000, installed=5001, packages={"demo": 70}) == ["unpacked"]
    assert list_over(rules, compressed=1000, installed=5000, packages={"demo": 71}) == ["unpacked"]


def test_growth_is_kept_by_its_last_byte() -> None:
    rules = BudgetRules(MIB, MIB, growth=0.5)
    last = LastImage("2026q3-0123456789ab", 1000, 2000)
    assert list_over(rules, compressed=1500, installed=3000, last=last) == []
    assert list_over(rules, compressed=1501, installed=3000, last=last) == ["stored after 2026q3-0123456789ab"]
    assert list_over(rules, compressed=1500, installed=3001, last=last) == ["unpacked after 2026q3-0123456789ab"]
    assert Budget(growth="0%").rules.growth == 0.0  # no growth at all, which is not "no limit"


@pytest.mark.parametrize(("coarse", "most"), [(False, 1100), (True, 1500)])
def test_a_prediction_refuses_what_is_over_by_more_than_it_can_be_wrong(coarse: bool, most: int) -> None:
    def predict(size: int) -> SizeReport:
        package = PackageSize("demo", "1.0", size, size, chain=("requirements.in", "demo"), coarse=coarse)
        return SizeReport("x", "predicted", "base", "lock", size, size, (package,), {}, limits=(Limit("stored", size, 1000),))

    require_prediction(predict(most))
    with pytest.raises(BudgetError, match="nothing was downloaded or built"):
        require_prediction(predict(most + 1))
    with pytest.raises(BudgetError):
        require_budget(predict(1001))


@pytest.mark.parametrize(("on_disk", "fits"), [(850, True), (851, False)])
def test_a_pool_is_full_where_the_kubelet_begins_to_remove_images(on_disk: int, fits: bool) -> None:
    pool = Pool("a100", {"pool": ("a100",)}, None, (), 0, 1, 1000)
    image = NodeImage("cosml", "2026q4-a", (NodeLayer("sha256:a", 0, on_disk),))
    plan = plan_pool(pool, [image], [], rate=1, threshold=85)
    assert (plan.limit, plan.fits, bool(plan.drop)) == (850, fits, not fits)


# --- sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "warned"), [(8 * 10**9, False), (8 * 10**9 + 1, True)])
def test_a_layer_over_eight_gigabytes_is_warned_of(size: int, warned: bool) -> None:
    assert bool(describe_large_layer(size)) is warned


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (MIB - 1, "1024.0 KiB"), (MIB, "1.0 MiB"),
        (1024 * MIB - 1, "1024.0 MiB"), (1024 * MIB, "1.00 GiB"), (2000 * 1024 * MIB, "2000.00 GiB"), (-1024, "-1.0 KiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1), ("1 B", 1), ("1 kB", 1000), ("1 KiB", 1024), ("1MB", 10**6), ("1 mib", MIB), ("1.5 GB", 1_500_000_000),
        ("2 GiB", 2 << 30), ("0.1 KiB", 102), (7, 7),
    ],
)  # fmt: skip
def test_sizes_that_people_write(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("name", "first", "last", "usual"),
    [("zstd", 1, 19, 3), ("gzip", 0, 3, 2)],
)
def test_the_levels_of_a_codec(name: Any, first: int, last: int, usual: int) -> None:
    assert LayerOptions(name).codec.level == usual
    for level in (first, last):
        assert LayerOptions(name, level).codec.level == level
    for level in (first - 1, last + 1):
        with pytest.raises(ConfigurationError, match=f"{name} has no level {level}"):
            _ = LayerOptions(name, level).codec


# --- time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("month", range(1, 13))
def test_every_month_has_its_quarter(month: int) -> None:
    lock = make_lock(make_base(), cutoff=f"2026-{month:02}-01T00:00:00Z")
    assert lock.quarter == ["2026q1", "2026q2", "2026q3", "2026q4"][(month - 1) // 3]


def test_quarters_are_counted_over_the_years_end() -> None:
    counted = [count_quarters(quarter) for quarter in ("2025q3", "2025q4", "2026q1", "2026q2", "2026q3", "2026q4", "2027q1")]
    assert counted == list(range(counted[0] or 0, (counted[0] or 0) + 7))
    assert [count_quarters(text) for text in ("2026q0", "2026q5", "2026", "26q1", "")] == [None] * 5


@pytest.mark.parametrize(
    ("uploaded", "taken"), [("2025-12-31T23:59:59Z", True), ("2026-01-01T00:00:00Z", True), ("2026-01-01T00:00:01Z", False)]
)
def test_what_was_uploaded_in_the_cutoffs_own_second_is_taken(uploaded: str, taken: bool) -> None:
    file = ProjectFile("demo-1.0-py3-none-any.whl", "https://index.example/demo-1.0-py3-none-any.whl", upload_time=uploaded)
    found = select_wheels(ProjectPage("demo", (file,)), "default", Choice(("py3-none-any",), "3.11.2", "2026-01-01T00:00:00Z", True))
    assert (list(found.wheels), found.too_new) == ((["1.0"], ()) if taken else ([], ("1.0",)))


@pytest.mark.parametrize(("day", "ignored"), [(30, True), (31, True), (32, False)])
def test_a_finding_is_ignored_until_its_day_is_over(day: int, ignored: bool) -> None:
    rules = AuditRules(ignore=(Ignored("CVE-1", "not reachable", datetime.date(2026, 12, 31)),))
    today = datetime.date(2026, 12, 1) + datetime.timedelta(days=day - 1)
    assert (find_ignored(frozenset({"CVE-1"}), "demo", rules, today) is not None) is ignored


# --- what is kept of a base's Python --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    [
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "unittest/test",
        "idlelib",
        "tkinter",
        "turtledemo",
        "ensurepip",
        "json/__pycache__",
    ],
)
def test_a_folder_of_the_standard_library_that_nothing_needs_is_not_kept(folder: str) -> None:
    assert choose_keeping(f"/usr/lib/python3.11/{folder}/x.py".encode(), 9) == ""


@pytest.mark.parametrize("folder", ["json", "lib-dynload", "encodings", "importlib/metadata", "testing", "unittest", "multiprocessing"])
def test_all_other_folders_of_the_standard_library_are(folder: str) -> None:
    assert choose_keeping(f"/usr/lib/python3.11/{folder}/x.py".encode(), 9) == "spool"


@pytest.mark.parametrize(
    ("path", "largest"),
    [("/usr/lib/libz.so", 64 << 20), ("/usr/bin/python3.11", 512 << 20), ("/usr/lib/python3.11/os.py", 64 << 20)],
)
def test_what_is_kept_has_a_largest_size(path: str, largest: int) -> None:
    assert [choose_keeping(path.encode(), size) for size in (largest, largest + 1)] == ["spool", ""]


# --- how a command ends -----------------------------------------------------------------------------------------------------


def test_every_error_has_its_exit_code() -> None:
    kinds = (ImagebuildError, UsageError, ConfigurationError, LockError, BudgetError, RemoteError, BuildError, IntegrityError)
    assert [kind.exit_code for kind in kinds] == list(range(1, 9))


def test_an_error_is_what_is_wrong_the_details_and_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(LockError("the lock of cosml is stale: requirements.in changed", "run: imagebuild lock cosml", ("  a detail",)))
    print_error(BuildError("it did not work"))
    assert capsys.readouterr().err == (
        "error: the lock of cosml is stale: requirements.in changed\n  a detail\nhint: run: imagebuild lock cosml\nerror: it did not work\n"
    )


def test_what_a_hint_suggests() -> None:
    assert suggest("cosm", ["cosml", "fraud"]) == "did you mean 'cosml'?"
