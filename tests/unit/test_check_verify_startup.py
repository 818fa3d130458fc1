"""What runs at every start of Python, by each Python's own rule."""

from __future__ import annotations

import pytest

from imagebuild.check.verify.startup import judge_startup_files

SITE = "/usr/local/lib/python3/dist-packages"
CODE = b"import startup; startup.run()\n"
START = b"# comes with the agent\n\nstartup:run\n"


@pytest.mark.parametrize(
    ("python", "pth", "start", "both"),
    [
        ("3.11.2", "failed", "passed", "failed"),
        ("3.14.0", "failed", "passed", "failed"),
        ("3.15.0", "failed", "failed", "failed"),
        ("3.17.4", "failed", "failed", "failed"),
        ("3.18.0", "passed", "failed", "failed"),
        ("3.20.1", "passed", "failed", "failed"),
        ("", "failed", "failed", "failed"),  # not known: whatever may run counts
    ],
)
def test_each_python_has_its_own_rule(python: str, pth: str, start: str, both: str) -> None:
    one, other = {f"{SITE}/a.pth": CODE}, {f"{SITE}/a.start": START}
    assert judge_startup_files(one, python, ()).status == pth
    assert judge_startup_files(other, python, ()).status == start
    assert judge_startup_files({**one, **other}, python, ()).status == both


def test_from_3_15_on_a_start_file_replaces_the_imports_of_its_pth() -> None:
    files = {f"{SITE}/a.pth": CODE, f"{SITE}/a.start": b"# nothing\n", f"{SITE}/b.pth": CODE}
    assert judge_startup_files(files, "3.15.0", ()).details == (f"{SITE}/b.pth: runs code: import startup; startup.run()",)
    assert len(judge_startup_files(files, "3.14.0", ()).details) == 2


def test_what_does_not_run_is_told() -> None:
    found = judge_startup_files({f"{SITE}/startup.start": START}, "3.11.2", ())
    assert (found.status, found.text) == ("passed", "1 such files, none with unexpected code")
    assert found.details == (f"{SITE}/startup.start: names startup:run, which Python 3.11 does not call",)


def test_a_file_that_policy_allows_is_told_and_passes() -> None:
    files = {f"{SITE}/startup.start": START, f"{SITE}/coverage.pth": CODE}
    assert judge_startup_files(files, "3.15.1", {"startup.start", "coverage.pth"}).status == "passed"
    assert judge_startup_files(files, "3.15.1", {"coverage.pth"}).details == (f"{SITE}/startup.start: calls startup:run",)


@pytest.mark.parametrize("line", [b"/home/jovyan/site\n", b"../elsewhere\n", b"\xef\xbb\xbf/opt/x\n"])
def test_a_folder_from_elsewhere_counts_with_every_python(line: bytes) -> None:
    for python in ("3.11.2", "3.18.0"):
        assert judge_startup_files({f"{SITE}/a.pth": line}, python, ()).status == "failed"
    assert judge_startup_files({f"{SITE}/a.pth": b"inside\n"}, "3.11.2", ()).status == "passed"
