"""Shared by all tests: in CI a skipped test is a failure, since .ci/run installs every part."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

pytest_plugins = ("tests.workspaces",)  # one build of the main job for all modules

# How long one example takes is the machine's business: a timing is a benchmark, not a test.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _skipped and exitstatus == 0 and os.environ.get("IMAGEBUILD_NO_SKIPS") == "1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nIMAGEBUILD_NO_SKIPS: {len(_skipped)} skipped tests count as failures: {', '.join(_skipped[:5])}")
