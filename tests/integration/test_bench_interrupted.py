"""Ctrl-C in the programs that measure and attack: one line, exit 130, and nothing of theirs is left, neither processes nor folders."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from imagebuild.files import exclusive
from tests.support.tools import need
from tests.support.workspaces import PROJECT

pytestmark = pytest.mark.integration


def start(folder: Path, *arguments: str, more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "TMPDIR": str(folder), **(more or {})}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=PROJECT, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def interrupt(process: subprocess.Popen[str], folder: Path, sign: str) -> tuple[int, str, str]:
    """As Ctrl-C on a terminal, once a file of the name ``sign`` is there; exit code, stdout and stderr."""
    end = time.monotonic() + 120
    while sign and not list(folder.glob(sign)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {sign}"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def find_left(folder: Path) -> list[str]:
    """Command lines of processes that have something to do with a folder, this one excepted."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line, variables = (place / "cmdline").read_bytes(), (place / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in line + variables and place.name != str(os.getpid()):
            found.append(line.replace(b"\0", b" ").decode("utf-8", "replace"))
    return found


@pytest.mark.parametrize(
    "sign",
    [
        pytest.param("imagebuild-soak-*/registry/config.yml", id="set-up"),
        pytest.param(str(Path("imagebuild-soak-*", "work", "[0-9]*-00001", "*.out")), id="attacks"),
    ],
)
def test_an_interrupted_soak_ends_with_all_it_started(tmp_path: Path, sign: str) -> None:
    need("docker-registry")
    process = start(tmp_path, "bench.soak", "5", "--only", "places")
    code, out, err = interrupt(process, tmp_path, sign)
    assert code == 130, err
    if "work" in sign:
        assert re.search(r"^[0-9]+ attacks, 0 faults", out, re.MULTILINE)
        assert err == ""
    else:
        assert err == "soak: interrupted\n"
    assert find_left(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


BENCHMARKS = ("pipeline", "docker", "members", "verify", "cost", "chunked", "fleet")


def test_two_benchmarks_do_not_work_in_one_folder(tmp_path: Path) -> None:
    where = {"BENCH_FOLDER": str(tmp_path / "bench")}
    with exclusive(tmp_path / "bench" / "bench.lock"):
        processes = [start(tmp_path, f"bench.{name}", more=where) for name in BENCHMARKS]
        ends = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    line = f"another benchmark uses {tmp_path}/bench: wait for its end, or name another folder in BENCH_FOLDER\n"
    assert ends == [(line, 1)] * len(BENCHMARKS)
    assert [path.name for path in (tmp_path / "bench").iterdir()] == ["bench.lock"]


def test_an_interrupted_benchmark_ends_with_what_it_started(tmp_path: Path) -> None:
    process = start(tmp_path, "bench.fleet", more={"BENCH_FOLDER": str(tmp_path / "bench")})
    code, out, err = interrupt(process, tmp_path, "bench/.imagebuild/image-heavy.lock")  # imagebuild is at work
    lines = err.splitlines()
    assert (code, out, lines[-1]) == (130, "", "stopped by SIGTERM; nothing half-written was kept"), err
    assert "Traceback" not in err
    assert "interrupted" not in lines
    assert find_left(tmp_path) == []
