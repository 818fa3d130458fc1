"""Times what members in a registry save, what more workers do, and what split layers do for a change: ``python -m bench.members``.

The 50-wheel set of bench/heavy, its wheels on disk, the base known, a registry on loopback. Each run pushes to a namespace of its own,
where the base's layers are mounted. CPU seconds count the process and all it started, and hold on a busy machine too; of seconds
quote ratios alone. With docker, the fastest Docker builds run beside them, and a node pulls the change: docker, which has the image before
it. BENCH_FOLDER as in :mod:`bench.pipeline`, which prepares the set.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.docker import Bench, find_missing, make_uv_peer, measure, open_bench, prune_builds
from bench.folder import fresh_folders, hold_folder, remove_folder
from bench.pipeline import prepare
from bench.process import run_imagebuild
from imagebuild.oci.model import Manifest

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
    done = run_imagebuild(
        "image", "heavy", "--json", "--quiet", "--root", str(root), "--cache-dir", str(cache), "--registry", target, *options
    )
    (result,) = json.loads(done.output)
    return Measured(done.seconds, done.cpu, done.memory, result)


def make_cache(source: Path, folder: Path, parts: set[str]) -> Path:
    """A cache that holds these parts of another, by hard links."""
    remove_folder(folder)
    folder.mkdir(parents=True)
    for part in sorted(parts):
        shutil.copytree(source / part, folder / part, symlinks=True, copy_function=os.link)
    return folder


@dataclass(frozen=True)
class Pull:
    """What a node does that has the image of before the change. Bytes are of the layers it lacks."""

    name: str
    seconds: float
    size: int


Rows = list[tuple[str, Measured]]


@dataclass(frozen=True)
class Change:
    """One package of an image changed."""

    name: str
    repository: str
    before: Measured
    after: Measured


def run_ours(bench: Bench, caches: Path, place: str) -> tuple[Rows, list[Change]]:
    """Every situation; the runs of one lock must end with one image."""
    host, checkout = bench.registry.host, bench.folder / "same"
    # The base is read from this registry once, outside the clock, and the members given to it.
    filled = make_cache(bench.cache, caches / "filled", {"wheels"})
    run(checkout, filled, f"{host}/fill", "--cache-to", place)
    before = run(bench.folder / "split", filled, f"{host}/split")
    rows: Rows = []
    for workers in sorted({1, os.cpu_count() or 1}):
        cache = make_cache(filled, caches / "empty", BEGUN)
        rows.append((f"nothing made, {workers} workers", run(checkout, cache, f"{host}/a{workers}", "--jobs", str(workers))))
    cache = make_cache(filled, caches / "taking", {"bases"})
    rows.append(("members in the registry, no wheel here", run(checkout, cache, f"{host}/b", "--cache-from", place)))
    rows.append(("members here", run(checkout, filled, f"{host}/single")))
    rows.append(("nothing changed", run(checkout, filled, f"{host}/single")))
    if len({item.result["digest"] for _, item in rows}) != 1:
        sys.exit("the runs made different images")
    cache = make_cache(filled, caches / "empty", BEGUN)
    rows.append(('nothing made, bytecode = "imported"', run(bench.folder / "imported", cache, f"{host}/imported")))
    single = run(bench.folder / "changed", filled, f"{host}/single")
    split = run(bench.folder / "split-changed", filled, f"{host}/split")
    rows += [("one package changed, one layer", single), ("one package changed, split", split)]
    return rows, [Change("one layer", "single/heavy", rows[0][1], single), Change("split", "split/heavy", before, split)]


def pull_change(bench: Bench, change: Change) -> Pull:
    """Pull the image before the change, outside the clock, and then the one after it."""
    there: set[str] = set()
    size = 0
    for image in (change.before, change.after):
        raw = bench.store.get_manifest(change.repository, str(image.result["tag"]))
        manifest = raw.parse() if raw is not None else None
        assert isinstance(manifest, Manifest)
        size = sum(item.size for item in manifest.layers if item.digest not in there)
        there |= {item.digest for item in manifest.layers}
    references = [f"{bench.registry.host}/{change.repository}:{image.result['tag']}" for image in (change.before, change.after)]
    measure(["docker", "pull", "--quiet", references[0]])
    seconds, _ = measure(["docker", "pull", "--quiet", references[1]])
    measure(["docker", "image", "rm", *references])
    return Pull(change.name, seconds, size)


def print_rows(rows: Rows, bench: Bench, pulls: list[Pull]) -> None:
    """Seconds beside those of the run that makes everything on all CPUs."""
    first = next(item for name, item in rows if name == f"nothing made, {os.cpu_count() or 1} workers")
    print(f"50 wheels; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"{'':<50} {'seconds':>8} {'ratio':>6} {'CPU s':>7} {'ratio':>6} {'peak MiB':>9}")
    for name, item in rows:
        print(
            f"{name:<50} {item.seconds:8.2f} {item.seconds / first.seconds:6.2f} {item.cpu:7.2f} {item.cpu / first.cpu:6.2f}"
            f" {item.memory / 2**20:9.0f}"
        )
    for row in bench.rows:
        for situation, values in row.seconds.items():
            print(f"{row.name + ', ' + situation:<50} {values[0]:8.2f} {values[0] / first.seconds:6.2f}")
    for pull in pulls:
        print(f"{'node pulls the change, ' + pull.name:<50} {pull.seconds:8.2f} {'':>6} {pull.size / 1e6:7.1f} MB")


def main() -> None:
    """Measure and print."""
    with hold_folder() as root:
        prepare(root)
        caches = root / ".imagebuild" / "bench-caches"
        pulls: list[Pull] = []
        with fresh_folders(caches), open_bench(root) as bench:
            rows, changes = run_ours(bench, caches, f"{bench.registry.host}/members")
            if missing := find_missing():
                print(f"no comparison with docker builds: this machine lacks {missing}", file=sys.stderr)
            else:
                try:
                    peers = [make_uv_peer(bench, bytecode=bytecode) for bytecode in (True, False)]
                    bench.link_wheels(bench.locks["same"])
                    bench.buildx(peers[1], "", cache=False)  # fills uv's own cache
                    for peer in peers:
                        bench.buildx(peer, "cold", cache=False)
                    bench.link_wheels(bench.locks["changed"])
                    for situation in ("changed", "nothing"):
                        for peer in peers:
                            bench.buildx(peer, situation, cache=True)
                    pulls = [pull_change(bench, change) for change in changes]
                finally:
                    prune_builds(bench)
    print_rows(rows, bench, pulls)


if __name__ == "__main__":
    main()
