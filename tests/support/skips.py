"""A pytest plugin: with IMAGEBUILD_NO_SKIPS=1 a skipped test or file is a failure, since .ci/run installs every part.

Under pytest-xdist tests run in other processes, and what is reported there is reported again in the first one, which decides.
"""

from __future__ import annotations

import os

import pytest

_skipped: dict[str, None] = {}  # node ids, each once, in order


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped[report.nodeid] = None


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped[report.nodeid] = None


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    passed = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    first = not hasattr(session.config, "workerinput")
    if _skipped and passed and first and os.environ.get("IMAGEBUILD_NO_SKIPS") == "1":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nIMAGEBUILD_NO_SKIPS: {len(_skipped)} skipped tests count as failures: {', '.join(list(_skipped)[:5])}")
