"""Tasks side by side: in order, within the budget, and each alone in its failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imagebuild.errors import BuildError, ImagebuildError, LockError, RemoteError
from imagebuild.jobs.sidebyside import Task, run_side_by_side
from imagebuild.jobs.slots import Jobs
from imagebuild.oci.failures import RegistryError


def run(tasks: dict[str, Task], jobs: int = 2) -> tuple[dict[str, Any], list[str], list[str]]:
    lines: list[str] = []
    ended: list[str] = []
    results = dict(run_side_by_side(tasks, jobs, lines.append, lambda name, _: ended.append(name)))
    return results, lines, ended


def give(value: Any, seconds: float = 0.0) -> Task:
    def task(_jobs: Jobs, say: Callable[[str], object]) -> Any:
        time.sleep(seconds)
        say(f"line of {value}")
        return value

    return task


def fail(error: BaseException) -> Task:
    def task(_jobs: Jobs, _say: Callable[[str], object]) -> Any:
        raise error

    return task


def test_results_come_in_the_order_of_the_tasks() -> None:
    results, lines, ended = run({"slow": give("a", 1.5), "quick": give({"b": [1, None]})})
    assert list(results.items()) == [("slow", "a"), ("quick", {"b": [1, None]})]
    assert sorted(lines) == ["line of a", "line of {'b': [1, None]}"]
    assert ended == ["quick", "slow"]


def test_a_large_result_and_many_lines_arrive_whole() -> None:
    def task(_jobs: Jobs, say: Callable[[str], object]) -> str:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: say(f"{number}:" + "x" * 10_000), range(200)))
        return "y" * 3_000_000

    results, lines, _ = run({"one": task})
    assert results == {"one": "y" * 3_000_000}
    assert sorted(lines) == sorted(f"{number}:" + "x" * 10_000 for number in range(200))


def test_one_that_fails_stops_no_other() -> None:
    results, _, _ = run({"bad": fail(LockError("stale", "lock again", ("a", "b"))), "good": give(1), "odd": fail(ValueError("x"))})
    error = results["bad"]
    assert (type(error), error.message, error.hint, error.details) == (LockError, "stale", "lock again", ("a", "b"))
    assert error.origin == __name__
    assert results["good"] == 1
    assert isinstance(results["odd"], BuildError)
    assert results["odd"].message == "its process ended with status 1"


def test_an_error_of_a_narrower_class_keeps_its_exit_code() -> None:
    results, _, _ = run({"one": fail(RegistryError("refused", status=403)), "two": give(1)})
    assert (results["one"].message, results["one"].exit_code) == ("refused", RemoteError.exit_code)


@pytest.mark.slow
def test_one_that_is_killed_gives_its_slots_back() -> None:
    def die(jobs: Jobs, _say: Callable[[str], object]) -> None:
        with jobs.slot():
            os.kill(os.getpid(), signal.SIGKILL)

    def live(jobs: Jobs, _say: Callable[[str], object]) -> int:
        time.sleep(0.2)
        with jobs.slot():
            return 5

    results, _, _ = run({"dead": die, "alive": live, "later": live}, jobs=1)
    assert results["dead"].message == "its process was ended by SIGKILL"
    assert "--jobs 1" in results["dead"].hint
    assert (results["alive"], results["later"]) == (5, 5)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_never_more_at_work_than_there_are_slots(tmp_path: Path, jobs: int) -> None:
    def task(mine: Jobs, _say: Callable[[str], object]) -> int:
        assert mine.workers == jobs

        def work(number: int) -> int:
            with mine.slot():
                busy = tmp_path / f"{os.getpid()}-{number}"
                busy.touch()
                seen = len(list(tmp_path.iterdir()))
                time.sleep(0.005)
                busy.unlink()
            return seen

        with ThreadPoolExecutor(6) as pool:
            return max(pool.map(work, range(12)))

    results, _, _ = run({f"team{number}": task for number in range(5)}, jobs=jobs)
    assert not [item for item in results.values() if isinstance(item, ImagebuildError)]
    assert 1 <= max(results.values()) <= jobs
    assert jobs == 1 or max(results.values()) > 1


def test_no_more_processes_than_jobs(tmp_path: Path) -> None:
    def task(_jobs: Jobs, _say: Callable[[str], object]) -> int:
        busy = tmp_path / str(os.getpid())
        busy.touch()
        time.sleep(0.05)
        seen = len(list(tmp_path.iterdir()))
        busy.unlink()
        return seen

    results, _, _ = run({str(number): task for number in range(7)}, jobs=3)
    assert 1 < max(results.values()) <= 3


def test_who_stops_listening_ends_what_runs(tmp_path: Path) -> None:
    def forever(_jobs: Jobs, _say: Callable[[str], object]) -> None:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)

    running = run_side_by_side({"first": give(1, 0.3), "second": forever}, 2, print, lambda *_: None)
    assert next(running) == ("first", 1)
    running.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert threading.active_count() == 1 or all(item.daemon for item in threading.enumerate() if item is not threading.main_thread())


INTERRUPTED = """
import os, signal, sys, time
from imagebuild.jobs.sidebyside import run_side_by_side

def task(jobs, say):
    try:
        say(str(os.getpid()))
        time.sleep(600)
    finally:
        open(sys.argv[1] + "/" + str(os.getpid()), "w").close()

signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))  # as the command line does, it raises
list(run_side_by_side({"a": task, "b": task}, 2, lambda line: print(line, flush=True), print))
"""


WAITING = """
import os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from imagebuild.jobs.sidebyside import run_side_by_side

def task(jobs, say):
    def work(_number):
        with jobs.slot():
            time.sleep(1)

    try:
        with ThreadPoolExecutor(3) as pool:
            works = [pool.submit(work, number) for number in range(30)]
            say(str(os.getpid()))
            for future in works:
                future.result()
    finally:
        open(sys.argv[1] + "/" + str(os.getpid()), "w").close()

signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
list(run_side_by_side({"a": task, "b": task}, 2, lambda line: print(line, flush=True), print))
"""


@pytest.mark.slow
def test_threads_that_wait_for_a_slot_do_not_hold_up_the_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        children = {process.stdout.readline().strip() for _ in range(2)}
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 9
    assert {path.name for path in tmp_path.iterdir()} == children  # both ended by themselves


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 9), (signal.SIGINT, -signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)])
def test_when_the_parent_ends_its_children_end(tmp_path: Path, number: int, code: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    children = [int(process.stdout.readline()) for _ in range(2)]
    process.send_signal(number)
    assert process.wait(20) == code
    process.stdout.close()
    if number == signal.SIGKILL:  # nobody tells them: they see it when they have something to say
        for child in children:
            os.kill(child, signal.SIGTERM)
    limit = time.monotonic() + 10
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < limit, "a child did not clean up"
        time.sleep(0.05)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, children))
