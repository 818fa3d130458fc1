"""Programs of others: none outlives us, none is waited for without end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imagebuild.children import Child, require_space
from imagebuild.errors import BuildError, ConfigurationError
from imagebuild.starter import debian

TREE = "sleep 300 & echo $! >> {pids}; sh -c 'echo $$ >> {pids}; sleep 300; true' & echo $$ >> {pids}; {then}"
PARENT = """
import os, sys
from pathlib import Path
from imagebuild.children import Child
Child(["sh", "-c", sys.argv[1]], environment=os.environ, log=Path(sys.argv[2])).wait(60)
"""


def read_pids(path: Path, count: int = 3) -> list[int]:
    for _ in range(200):
        if path.is_file() and len(path.read_text().split()) >= count:
            break
        time.sleep(0.05)
    return [int(line) for line in path.read_text().split()]


def wait_until_gone(pids: list[int], seconds: float = 30) -> list[int]:
    def lives(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if lives(pid)]) and time.monotonic() < until:
        time.sleep(0.05)
    return left


def start(script: str, tmp_path: Path) -> Child:
    return Child(["sh", "-c", script], environment=os.environ, log=tmp_path / "log")


def test_what_it_says_and_how_it_ends(tmp_path: Path) -> None:
    assert start("echo out; echo err >&2; exit 3", tmp_path).wait(60) == 3
    assert sorted((tmp_path / "log").read_text().split()) == ["err", "out"]


@pytest.mark.slow
def test_silence_has_an_end(tmp_path: Path) -> None:
    child = start(TREE.format(pids=tmp_path / "pids", then="wait"), tmp_path)
    with pytest.raises(BuildError, match="sh said nothing for 1 seconds"):
        child.wait(1)
    assert wait_until_gone(read_pids(tmp_path / "pids")) == []


@pytest.mark.slow
def test_who_is_heard_may_take_longer(tmp_path: Path) -> None:
    assert start("for i in 1 2 3 4 5 6; do echo $i; sleep 0.3; done", tmp_path).wait(1) == 0


def test_what_it_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    then = f"until [ $(wc -l < {pids}) -eq 3 ]; do sleep 0.05; done"
    assert start(TREE.format(pids=pids, then=then), tmp_path).wait(60) == 0
    assert wait_until_gone(read_pids(pids)) == []


def test_who_watches_may_end_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def watch() -> None:
        if len(read_pids(pids)) >= 3:
            raise ConfigurationError("enough")

    with pytest.raises(ConfigurationError, match="enough"):
        start(TREE.format(pids=pids, then="wait"), tmp_path).wait(60, watch)
    assert wait_until_gone(read_pids(pids)) == []


def test_it_can_be_stopped_twice_and_before_it_is_waited_for(tmp_path: Path) -> None:
    child = start(TREE.format(pids=tmp_path / "pids", then="wait"), tmp_path)
    found = read_pids(tmp_path / "pids")
    child.stop()
    child.stop()
    assert wait_until_gone(found) == []


def test_a_program_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        Child([str(tmp_path / "absent")], environment=os.environ, log=tmp_path / "log")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.slow
def test_it_ends_when_we_are_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", PARENT, TREE.format(pids=pids, then="wait"), str(tmp_path / "log")]
    parent = subprocess.Popen(command, start_new_session=True)
    found = read_pids(pids)
    guards = find_guards(found)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    assert len(guards) == 1
    assert wait_until_gone([*found, *guards]) == []


def find_guards(pids: list[int]) -> list[int]:
    """The leaders of the groups of processes."""
    return sorted({os.getpgid(pid) for pid in pids} - set(pids))


def test_a_full_disk_is_told_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no space left while trying: .* MiB free, and \d+ MiB are needed"):
        require_space(tmp_path / "a" / "b", 1 << 60, "trying")
    require_space(tmp_path / "a" / "b", 1, "trying")


def test_the_starter_base_looks_for_room_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "mmdebstrap"
    tool.write_text("#!/bin/sh\nsleep 300\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked: list[int] = []

    def measure(folder: Path, size: int, doing: str) -> None:  # noqa: ARG001  # as the one it stands for
        asked.append(size)
        if len(asked) > 2:
            raise ConfigurationError("no space left")

    monkeypatch.setattr(debian, "require_space", measure)
    with pytest.raises(ConfigurationError, match="no space left"), debian.make_debian(tmp_path / "cache", 0, lambda _: None) as root:
        root.wait()
    assert min(asked[:2]) >= 600 << 20
