"""The CPUs a process may use: affinity, and quotas of control groups in both versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imagebuild.jobs.cpus import count_cpus


@pytest.fixture(autouse=True)
def _many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def write(system: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    for path, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
        (system / path).parent.mkdir(parents=True, exist_ok=True)
        (system / path).write_text(text)
    return system


V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", 64),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("10000 100000\n", 1),
        ("6400000 100000\n", 64),
        ("9900000 100000\n", 64),
        ("", 64),
        ("nonsense", 64),
        ("0 0", 64),
    ],
)
def test_version_2(tmp_path: Path, text: str, expected: int) -> None:
    assert count_cpus(write(tmp_path, "0::/\n", V2, {"sys/fs/cgroup/cpu.max": text})) == expected


def test_of_version_2_the_tightest_group_above_counts(tmp_path: Path) -> None:
    files = {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "500000 100000"}
    system = write(tmp_path, "0::/a/b/c\n", V2, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    assert count_cpus(system) == 3


@pytest.mark.parametrize(("quota", "expected"), [("-1", 64), ("250000", 3), ("50000", 1)])
def test_version_1(tmp_path: Path, quota: str, expected: int) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/jobs/mine/"
    files = {f"{folder}cpu.cfs_quota_us": quota + "\n", f"{folder}cpu.cfs_period_us": "100000\n"}
    assert count_cpus(write(tmp_path, "4:cpu,cpuacct:/jobs/mine\n3:cpuset:/\n0::/\n", V1, files)) == expected


def test_a_container_that_sees_its_group_as_the_root(tmp_path: Path) -> None:
    mount = "32 31 0:29 /docker/0123 /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu\n"
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    assert count_cpus(write(tmp_path, "4:cpu:/docker/0123\n", mount, files)) == 4
    assert count_cpus(write(tmp_path, "4:cpu:/\n", mount, files)) == 4
    assert count_cpus(write(tmp_path, "4:cpu:/../outside\n", mount, files)) == 4


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    mount = "29 23 0:26 / /sys/fs/my\\040groups rw - cgroup2 cgroup2 rw\n"
    assert count_cpus(write(tmp_path, "0::/\n", mount, {"sys/fs/my groups/cpu.max": "100000 50000"})) == 2


@pytest.mark.parametrize(("cgroup", "mountinfo"), [("", ""), ("x", "y\nz - \n"), ("0::/", "1 2 - cgroup2"), (":::", V2)])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, cgroup: str, mountinfo: str) -> None:
    assert count_cpus(write(tmp_path, cgroup, mountinfo, {})) == 64
    assert count_cpus(tmp_path / "none") == 64


def test_affinity_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    cpu = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{cpu}}}); from imagebuild.jobs.cpus import count_cpus; print(count_cpus())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"1\n"
