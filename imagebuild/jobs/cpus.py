"""How many CPUs this process may use: its affinity, and the time that its control groups grant it.

A container with two CPUs on a machine of 64 sees 64 by ``os.cpu_count``; its limit is a quota of its control group, in either version
(Documentation/admin-guide/cgroup-v2.rst, ``cpu.max``; Documentation/scheduler/sched-bwc.rst, ``cpu.cfs_quota_us``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

_Reader = Callable[[Path], float | None]  # CPUs that the group in a folder grants


def count_cpus(system: Path = Path("/")) -> int:
    """At least 1; part of a CPU counts as one. ``system``: where /proc and the control groups are looked for."""
    allowed = len(os.sched_getaffinity(0))
    quota = min(_read_quotas(system), default=math.inf)
    return max(1, min(allowed, math.ceil(quota) if math.isfinite(quota) else allowed))


def _read_quotas(system: Path) -> Iterator[float]:
    """CPUs that each group this process is in grants it, from its own up to the topmost that can be seen."""
    try:
        memberships = (system / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
        mounts = (system / "proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    paths = {}  # "" for version 2, "cpu" for version 1 -> path of this process's group
    for line in memberships:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths[""] = path
        elif "cpu" in controllers.split(","):
            paths["cpu"] = path
    for line in mounts:
        fields, _, behind = line.partition(" - ")
        words, kind = fields.split(" "), behind.split(" ")
        if len(words) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2" and "" in paths:
            yield from _climb(system, words[3], words[4], paths[""], _read_v2)
        elif kind[0] == "cgroup" and "cpu" in paths and "cpu" in kind[2].split(","):
            yield from _climb(system, words[3], words[4], paths["cpu"], _read_v1)


def _climb(system: Path, root: str, mount: str, path: str, read: _Reader) -> Iterator[float]:
    """The group at ``path`` of a hierarchy, of which ``root`` is mounted at ``mount``, and all above it."""
    top = system / _unescape(mount).lstrip("/")
    group = PurePosixPath(path)
    try:
        below = group.relative_to(_unescape(root))
    except ValueError:  # a container that sees its own group as the root
        below = PurePosixPath()
    parts = () if ".." in below.parts else below.parts
    for depth in range(len(parts), -1, -1):
        quota = read(top.joinpath(*parts[:depth]))
        if quota is not None:
            yield quota


def _read_v2(folder: Path) -> float | None:
    words = _read_words(folder / "cpu.max")
    return _divide(words[0], words[1]) if len(words) == 2 else None


def _read_v1(folder: Path) -> float | None:
    quota, period = _read_words(folder / "cpu.cfs_quota_us"), _read_words(folder / "cpu.cfs_period_us")
    return _divide(quota[0], period[0]) if quota and period else None


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def _divide(quota: str, period: str) -> float | None:
    """None for no limit: ``max`` in version 2, -1 in version 1."""
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(quota) and int(period) else None


def _unescape(text: str) -> str:
    """A path of mountinfo: space, tab, newline and backslash are octal there (proc(5))."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text
