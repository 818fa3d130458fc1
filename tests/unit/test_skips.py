"""A skip is a failure where IMAGEBUILD_NO_SKIPS says so, in one process and in several."""

from __future__ import annotations

import pytest

from tests.support import skips
from tests.support.sources import ROOT

pytest_plugins = ("pytester",)

TESTS = {
    "test_test": "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('missing part: x')\n",
    "test_file": "import pytest\npytest.skip('missing part: x', allow_module_level=True)\n",
    "test_mark": "import pytest\n@pytest.mark.skipif(True, reason='missing part: x')\ndef test_a(): pass\n",
}
OPTIONS = ("-p", "tests.support.skips", "-p", "no:cacheprovider")


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not this run may skip; and what the runs below skip is not skipped here."""
    monkeypatch.setenv("IMAGEBUILD_NO_SKIPS", "1")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setattr(skips, "_skipped", {})


def check_three(result: pytest.RunResult) -> None:
    assert result.ret == 1
    count, _, listed = result.stdout.str().partition("IMAGEBUILD_NO_SKIPS: ")[2].partition(" skipped tests count as failures: ")
    assert count == "3"
    names = [name.partition("::")[0] for name in listed.split("\n")[0].split(", ")]
    assert sorted(names) == ["test_file.py", "test_mark.py", "test_test.py"]


def test_a_skip_is_a_failure_when_asked_for(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**TESTS)
    check_three(pytester.runpytest_inprocess(*OPTIONS))


@pytest.mark.slow
def test_skips_of_other_processes_count_too(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(**TESTS)
    check_three(pytester.runpytest_subprocess(*OPTIONS, "-p", "xdist.plugin", "-n", "2"))


def test_a_file_that_is_skipped_alone_is_one_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TESTS["test_file"])
    assert pytester.runpytest_inprocess(*OPTIONS).ret == 1


def test_nothing_skipped_passes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_a(): pass")
    assert pytester.runpytest_inprocess(*OPTIONS).ret == 0


def test_skips_pass_where_nothing_is_asked_for(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEBUILD_NO_SKIPS", "")
    pytester.makepyfile(test_it=TESTS["test_test"])
    assert pytester.runpytest_inprocess(*OPTIONS).ret == 0
