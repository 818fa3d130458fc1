"""Times what members in a registry save, and what more workers do: ``python -m bench.members``.

The 50-wheel set of bench/heavy, its wheels on disk, the base known, a registry on loopback. Each run pushes to a namespace of its own,
where the base's layers are mounted. CPU seconds count the process and all it started, and hold on a busy machine too; of seconds
quote ratios alone. BENCH_FOLDER as in :mod:`bench.pipeline`, which prepares the set.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.docker import Bench
from bench.pipeline import prepare
from tests.support.servers.registry import run_registry

BEGUN = {"wheels", "bases"}  # of the cache, where nothing else is to be there


@dataclass(frozen=True)
class Measured:
    """One run."""

    seconds: float
    cpu: float
    memory: int  # bytes, the largest process
    result: dict[str, object]


def run(root: Path, cache: Path, target: str, *options: str) -> Measured:
    """``imagebuild image heavy``; a failure ends the benchmark."""
    command = [
        sys.executable, "-m", "imagebuild.cli", "image", "heavy", "--json", "--quiet", "--root", str(root), "--cache-dir", str(cache),
        "--registry", target, *options,
    ]  # fmt: skip
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(child.returncode)
    (result,) = json.loads(output)
    return Measured(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, result)


def make_cache(source: Path, folder: Path, parts: set[str]) -> Path:
    """A cache that holds these parts of another, by hard links."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part in sorted(parts):
        shutil.copytree(source / part, folder / part, symlinks=True, copy_function=os.link)
    return folder


def main() -> None:
    """Measure and print."""
    root = Path(os.environ.get("BENCH_FOLDER", ".imagebuild/bench")).resolve()
    prepare(root)
    storage = root / ".imagebuild" / "bench-registry"
    shutil.rmtree(storage, ignore_errors=True)
    caches = root / ".imagebuild" / "bench-caches"
    with run_registry(storage) as registry:
        bench = Bench(root, registry)
        checkout, place = bench.folder / "same", f"{registry.host}/members"
        # The base is read from this registry once, outside the clock, and the members given to it.
        filled = make_cache(bench.cache, caches / "filled", {"wheels"})
        run(checkout, filled, f"{registry.host}/fill", "--cache-to", place)
        rows: list[tuple[str, Measured]] = []
        for workers in sorted({1, os.cpu_count() or 1}):
            cache = make_cache(filled, caches / "empty", BEGUN)
            rows.append((f"nothing made, {workers} workers", run(checkout, cache, f"{registry.host}/a{workers}", "--jobs", str(workers))))
        cache = make_cache(filled, caches / "taking", {"bases"})
        rows.append(("members in the registry, no wheel here", run(checkout, cache, f"{registry.host}/b", "--cache-from", place)))
        rows.append(("members here", run(checkout, filled, f"{registry.host}/c")))
        rows.append(("nothing changed", run(checkout, filled, f"{registry.host}/c")))
    for folder in (storage, caches, bench.folder):
        shutil.rmtree(folder)
    if len({item.result["digest"] for _, item in rows}) != 1:
        sys.exit("the runs made different images")
    first = next(item for name, item in rows if name == f"nothing made, {os.cpu_count() or 1} workers")
    print(f"50 wheels; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"{'':<42} {'seconds':>8} {'ratio':>6} {'CPU s':>7} {'ratio':>6} {'peak MiB':>9}")
    for name, item in rows:
        print(
            f"{name:<42} {item.seconds:8.2f} {item.seconds / first.seconds:6.2f} {item.cpu:7.2f} {item.cpu / first.cpu:6.2f}"
            f" {item.memory / 2**20:9.0f}"
        )


if __name__ == "__main__":
    main()
