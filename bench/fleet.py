"""Times the quarter of a company: 50 teams built on one empty machine, beside uv in BuildKit: ``python -m bench.fleet``.

Each team asks for some of fleet-packages.txt, drawn by a seed, and its lock has 30 to 60 packages beside the base's. All teams are locked
as of one time, then built by ``image --all`` into a registry on loopback that has the base: with an empty cache, with the wheels alone, and
so with split layers. Then docker builds PEERS of the same teams, one after the other, by uv in the quickest Dockerfiles that people write,
with wheels on disk and uv's own cache warm; their mean counts for each team. One run, one machine: quote ratios. Wants 20 GB of disk.
``--chart FILE`` draws it (docs/fleet.svg in ``make bench``).
BENCH_FOLDER as in :mod:`bench.pipeline`, which prepares the base.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.chart import Bar, Group, render_chart
from bench.docker import Bench, find_missing, make_uv_peer, open_bench, prune_builds
from bench.folder import fresh_folders, hold_folder
from bench.members import make_cache
from bench.pipeline import prepare
from bench.process import run_imagebuild
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.file.model import Lock

FLEET_PACKAGES = tuple((Path(__file__).parent / "fleet-packages.txt").read_text().split())
PEERS = 5
SMALLEST, LARGEST = 30, 60  # packages of a lock
MOST_ROUNDS = 20  # of drawing again for teams whose lock is too small or too large


@dataclass(frozen=True)
class Measured:
    """One run over all teams."""

    name: str
    seconds: float
    cpu: float
    memory: int  # bytes, the largest process
    fetched: int  # bytes of wheels
    stored: int  # bytes that the registry has more than before
    members: int  # made


def measure_folder(folder: Path) -> int:
    """Bytes of all files below a folder; one that is not there has none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def count_members(cache: Path) -> int:
    """Members that a cache holds."""
    return sum(1 for _ in (cache / "members").glob("*/index.json"))


class Fleet:
    """A workspace of teams on the base of ``bench``, locked."""

    def __init__(self, bench: Bench, root: Path, teams: int, seed: int) -> None:
        self.bench = bench
        self.root = root
        self.draw = random.Random(seed)
        self.teams = [f"team{number:02d}" for number in range(1, teams + 1)]
        self.as_of = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(bench.stamp))
        repository, digest = bench.base.split("@")
        (root / "images").mkdir(parents=True)
        (root / "images/catalogue.toml").write_text(
            f'[base.starter]\nreference = "{repository}"\ntag = "1"\ndigest = "{digest}"\nkind = "jupyter"\n'
        )

    def write_team(self, team: str) -> None:
        """A team that asks for packages drawn anew."""
        folder = self.root / "images" / team
        folder.mkdir(exist_ok=True)
        wanted = self.draw.sample(FLEET_PACKAGES, self.draw.randint(8, 18))
        (folder / "requirements.in").write_text("".join(f"{name}\n" for name in sorted(wanted)))
        (folder / "team.toml").write_text('base = "starter"\n\n[budget]\ncompressed = "2 GiB"\ninstalled = "8 GiB"\n')

    def lock(self, cache: Path) -> float:
        """Draw and lock until every lock has the size it is to have; seconds of the first ``lock --all``."""
        drawn, first = self.teams, 0.0
        for round_ in range(MOST_ROUNDS):
            for team in drawn:
                self.write_team(team)
            done = run_imagebuild(
                "lock", *drawn, "--resolver", "uv", "--as-of", self.as_of, "--quiet", "--root", str(self.root), "--cache-dir", str(cache)
            )
            first = first if round_ else done.seconds
            drawn = [team for team in drawn if not SMALLEST <= len(self.read(team).packages) <= LARGEST]
            if not drawn:
                return first
            print(f"{len(drawn)} teams are drawn again", file=sys.stderr, flush=True)
        sys.exit(f"no lock of {SMALLEST} to {LARGEST} packages for {', '.join(drawn)} in {MOST_ROUNDS} rounds")

    def read(self, team: str) -> Lock:
        """A team's lock."""
        return read_lock(self.root / "lockfiles" / f"pylock.{team}.toml")

    def split_layers(self) -> None:
        """Give every team ``[layer] split``."""
        for team in self.teams:
            with (self.root / "images" / team / "team.toml").open("a") as file:
                file.write("\n[layer]\nsplit = true\n")

    def build(self, name: str, cache: Path, namespace: str) -> Measured:
        """``image --all`` into a namespace of its own."""
        storage = self.bench.registry.storage
        wheels, before, there = measure_folder(cache / "wheels"), measure_folder(storage), count_members(cache)
        done = run_imagebuild(
            "image", "--all", "--locked", "--quiet", "--root", str(self.root), "--cache-dir", str(cache),
            "--registry", f"{self.bench.registry.host}/{namespace}",
        )  # fmt: skip
        fetched, stored = measure_folder(cache / "wheels") - wheels, measure_folder(storage) - before
        print(f"  {name}: {done.seconds:.1f} s", file=sys.stderr, flush=True)
        return Measured(name, done.seconds, done.cpu, done.memory, fetched, stored, count_members(cache) - there)


def build_peers(bench: Bench, fleet: Fleet, cache: Path) -> None:
    """Docker builds of the first teams, with uv's cache warm."""
    bench.cache = cache
    peers = [make_uv_peer(bench, bytecode=bytecode) for bytecode in (True, False)]
    for team in fleet.teams[:PEERS]:
        bench.link_wheels(fleet.read(team))
        bench.buildx(peers[1], "", cache=False)
        for peer in peers:
            bench.buildx(peer, "cold", cache=False)


def multiply_peers(bench: Bench, teams: int) -> dict[str, float]:
    """Docker's way to build -> seconds for all teams, one after the other, by the mean of those that were built."""
    return {row.name: (row.get("cold") or 0.0) * teams for row in bench.rows}


def draw_results(fleet: Fleet, rows: Sequence[Measured]) -> str:
    """The chart as SVG."""
    count = len(fleet.teams)
    bars = [Bar(row.name, row.seconds, True) for row in rows if row.members]
    bars += [
        Bar(f"{count} times {name.removeprefix('RUN ')}", seconds, False) for name, seconds in multiply_peers(fleet.bench, count).items()
    ]
    return render_chart(
        f"Build and push the images of {count} teams on one machine: seconds, shorter is better",
        f"One run on {os.cpu_count()} CPUs; Docker's builds by the mean of {min(PEERS, count)}. Made by `python -m bench.fleet --chart`.",
        [Group("Nothing built before", tuple(sorted(bars, key=lambda bar: bar.seconds)))],
    )


def print_results(fleet: Fleet, rows: Iterable[Measured], locking: float) -> None:
    """Everything measured, in ratios to 50 times the quicker Docker build with the same files."""
    locks = [fleet.read(team) for team in fleet.teams]
    wheels = {item.sha256: item.size for lock in locks for item in lock.packages}
    sizes = sorted(len(lock.packages) for lock in locks)
    total = sum(item.size for lock in locks for item in lock.packages)
    print(f"{len(locks)} teams of {sizes[0]} to {sizes[-1]} packages; {len(wheels)} wheels of {sum(wheels.values()) / 1e6:.0f} MB in all,")
    print(f"{sum(sizes)} wheels of {total / 1e6:.0f} MB when each team counts alone; {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(f"lock --all with an empty cache: {locking:.1f} s")
    per_peer = multiply_peers(fleet.bench, len(locks))
    whole = next(iter(per_peer.values()), 0.0)

    def divide(seconds: float) -> str:
        return f"{seconds / whole:.2f}" if whole else ""

    print(f"{'':<58} {'seconds':>8} {'ratio':>6} {'CPU s':>7} {'peak MiB':>9} {'fetched MB':>11} {'stored MB':>10} {'members':>8}")
    for row in rows:
        print(
            f"{row.name:<58} {row.seconds:8.1f} {divide(row.seconds):>6} {row.cpu:7.1f} {row.memory / 2**20:9.0f}"
            f" {row.fetched / 1e6:11.0f} {row.stored / 1e6:10.0f} {row.members:8}"
        )
    for name, seconds in per_peer.items():
        print(f"{f'{len(locks)} times {name}, by the mean of {min(PEERS, len(locks))}':<58} {seconds:8.1f} {divide(seconds):>6}")


def measure_fleet(bench: Bench, caches: Path, options: argparse.Namespace) -> None:
    """Lock and build everything; print, draw and write what :func:`main`'s options ask for."""
    rows: list[Measured] = []
    fleet = Fleet(bench, bench.folder / "fleet", options.teams, options.seed)
    locking = fleet.lock(make_cache(bench.cache, caches / "locking", set()))
    empty = make_cache(bench.cache, caches / "empty", set())
    rows.append(fleet.build("empty cache", empty, "a"))
    rows.append(fleet.build("nothing changed", empty, "a"))
    wheels = make_cache(empty, caches / "wheels", {"wheels", "bases"})
    rows.append(fleet.build("wheels here, nothing made", wheels, "b"))
    fleet.split_layers()
    split = make_cache(empty, caches / "split", {"wheels", "bases"})
    rows.append(fleet.build("wheels here, nothing made, split layers", split, "c"))
    if missing := find_missing():
        print(f"no comparison with docker builds: this machine lacks {missing}", file=sys.stderr)
    else:
        try:
            build_peers(bench, fleet, empty)
        finally:
            prune_builds(bench)
    print_results(fleet, rows, locking)
    if options.chart:
        options.chart.write_text(draw_results(fleet, rows))
    if options.json:
        options.json.write_text(json.dumps({"rows": [vars(row) for row in rows], "peers": [vars(row) for row in bench.rows]}, indent=2))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teams", type=int, default=50, metavar="N", help="how many (50)")
    parser.add_argument("--seed", type=int, default=1, help="of the drawing of packages")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--chart", type=Path, help="also draw them here, as SVG")
    options = parser.parse_args()
    with hold_folder() as root:
        prepare(root)
        caches = root / ".imagebuild" / "bench-caches"
        with fresh_folders(caches), open_bench(root) as bench:
            measure_fleet(bench, caches, options)


if __name__ == "__main__":
    main()
