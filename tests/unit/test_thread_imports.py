"""The watch under which the tests run the command line (tests/support/watched.py) sees what it is for."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.watched import LOADED_IN_A_THREAD, ThreadImports

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ThreadImports:
    for name in ("watched_one", "watched_two"):
        (tmp_path / f"{name}.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = ThreadImports()
    monkeypatch.setattr(sys, "meta_path", [found, *sys.meta_path])
    return found


def load_in_thread(name: str) -> None:
    thread = threading.Thread(target=importlib.import_module, args=(name,), name="worker")
    thread.start()
    thread.join()


def test_a_module_first_loaded_in_a_thread_is_seen_and_one_that_is_there_is_not(watch: ThreadImports) -> None:
    importlib.import_module("watched_one")
    load_in_thread("watched_one")
    assert watch.seen == []
    load_in_thread("watched_two")
    assert watch.seen == ["watched_two in thread worker"]


def test_the_standard_librarys_own_late_imports_do_not_count(watch: ThreadImports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    load_in_thread("colorsys")
    assert "colorsys" in sys.modules
    assert watch.seen == []


def test_a_late_import_changes_the_exit_code_of_the_run(tmp_path: Path) -> None:
    """Also where the run itself ends with another one."""
    (tmp_path / "late_module.py").write_text("x = 1\n", encoding="utf-8")
    code = (
        "import importlib, sys, threading\n"
        "import imagebuild.cli, tests.support.watched as watched\n"
        "def run():\n"
        "    thread = threading.Thread(target=importlib.import_module, args=('late_module',))\n"
        "    thread.start(); thread.join(); sys.exit(8)\n"
        "imagebuild.cli.main = run\n"
        "watched.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": f"{PROJECT}:{tmp_path}"}, cwd="/", capture_output=True, text=True, check=False
    )
    assert done.returncode == LOADED_IN_A_THREAD, done.stderr
    assert "loaded in a thread: late_module in thread" in done.stderr
