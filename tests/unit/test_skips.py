"""A skip is a failure where IMAGEBUILD_NO_SKIPS says so, in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPS = {
    "test": "import pytest\ndef test_a(): pass\ndef test_b(): pytest.skip('missing part: x')\n",
    "file": "import pytest\npytest.skip('missing part: x', allow_module_level=True)\n",
    "mark": "import pytest\n@pytest.mark.skipif(True, reason='missing part: x')\ndef test_a(): pass\n",
}


def run(folder: Path, *options: str, strict: bool) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.skips", "-p", "xdist", "-c", os.devnull, *options]
    return subprocess.run(
        [*command, "--rootdir", str(folder), str(folder)], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "IMAGEBUILD_NO_SKIPS": "1" if strict else "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_a_skip_is_a_failure_when_asked_for(options: tuple[str, ...], tmp_path: Path) -> None:
    for name, text in SKIPS.items():
        (tmp_path / f"test_{name}.py").write_text(text)
    done = run(tmp_path, *options, strict=True)
    assert done.returncode == 1, done.stdout + done.stderr
    count, _, listed = done.stdout.partition("IMAGEBUILD_NO_SKIPS: ")[2].partition(" skipped tests count as failures: ")
    assert count == "3"
    assert sorted(name.partition("::")[0].rpartition("/")[2] for name in listed.split("\n")[0].split(", ")) == [
        "test_file.py",
        "test_mark.py",
        "test_test.py",
    ]


def test_a_file_that_is_skipped_alone_is_one_too(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SKIPS["file"])
    assert run(tmp_path, strict=True).returncode == 1


def test_nothing_skipped_and_nothing_asked_for_pass(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass\n")
    assert run(tmp_path, strict=True).returncode == 0
    (tmp_path / "test_it.py").write_text(SKIPS["test"])
    assert run(tmp_path, strict=False).returncode == 0
