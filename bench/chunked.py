"""Counts what a node fetches for one changed package, and what zstd:chunked costs: ``python -m bench.chunked``.

The 50-wheel set of bench/heavy, plain and zstd:chunked, in a registry on loopback whose log says what is fetched. The node is a newer
skopeo with partial pulls enabled, unpacked by .ci/install-parts; it needs root. CPU seconds count the process and all it started; quote
ratios. BENCH_FOLDER as in :mod:`bench.pipeline`, which prepares the set.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from bench.docker import Bench, open_bench
from bench.folder import fresh_folders, hold_folder
from bench.members import BEGUN, Measured, make_cache, run
from bench.pipeline import prepare
from imagebuild.oci.model import Manifest
from tests.support.partialpull import Node


@dataclass(frozen=True)
class Form:
    """One form of the layer. Bytes are of the team's layer."""

    cold: Measured  # nothing made
    warm: Measured  # members here
    changed: Measured  # one package of them is another
    stored: int
    first: int  # fetched by a node with nothing
    second: int  # fetched for the change


def measure_form(bench: Bench, caches: Path, before: str, after: str) -> Form:
    """Build both images of one form, and pull one after the other."""
    target = f"{bench.registry.host}/{before}"
    cache = make_cache(bench.cache, caches / before, BEGUN)
    cold = run(bench.folder / before, cache, target)
    warm = run(bench.folder / before, cache, f"{target}/warm")
    changed = run(bench.folder / after, cache, target)
    node = Node(caches / f"node-{before}")
    fetched, size = [], 0
    for image in (cold, changed):
        raw = bench.store.get_manifest(f"{before}/heavy", str(image.result["tag"]))
        manifest = raw.parse() if raw is not None else None
        assert isinstance(manifest, Manifest)
        layer = manifest.layers[-1]
        start = bench.registry.log.stat().st_size
        node.pull(f"{target}/heavy@{image.result['digest']}")
        fetched.append(count_fetched(bench.registry.log.read_text()[start:], layer.digest))
        size = layer.size
    return Form(cold, warm, changed, size, *fetched)


def count_fetched(log: str, digest: str) -> int:
    """Bytes of a blob that the registry sent."""
    return sum(int(size) for size in re.findall(rf'"GET [^ ]*/blobs/{digest} HTTP/1.1" (?:200|206) (\d+)', log))


def main() -> None:
    """Print the table: plain, zstd:chunked, and the ratio."""
    with hold_folder() as root:
        prepare(root)
        caches = root / "chunked"
        with fresh_folders(caches), open_bench(root) as bench:
            run(bench.folder / "same", bench.cache, f"{bench.registry.host}/prepare")  # the base is read once, outside the clock
            plain = measure_form(bench, caches, "same", "changed")
            chunked = measure_form(bench, caches, "chunked", "chunked-changed")
    rows = [
        ("stored, MB", plain.stored / 1e6, chunked.stored / 1e6),
        ("fetched by a node with nothing, MB", plain.first / 1e6, chunked.first / 1e6),
        ("fetched for one changed package, MB", plain.second / 1e6, chunked.second / 1e6),
        ("CPU s, nothing made", plain.cold.cpu, chunked.cold.cpu),
        ("CPU s, members here", plain.warm.cpu, chunked.warm.cpu),
        ("CPU s, one package changed", plain.changed.cpu, chunked.changed.cpu),
    ]
    print(f"50 wheels; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    print(f"{'':<40} {'plain':>9} {'chunked':>9} {'ratio':>7}")
    for name, one, other in rows:
        print(f"{name:<40} {one:9.2f} {other:9.2f} {other / one:7.3f}")


if __name__ == "__main__":
    main()
