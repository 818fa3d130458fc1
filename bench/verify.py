"""Times ``imagebuild verify`` on the heavy set, beside reading and hashing its layer once: ``python -m bench.verify``.

One run, one machine: quote ratios, not seconds. The floor reads the stored layer, unpacks it, and takes SHA-256 of the stored
and of the unpacked bytes, in one thread; no file is looked at. The base has been read before, as on any machine that builds on it.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from pathlib import Path

from bench.folder import hold_folder
from bench.pipeline import CHUNK, prepare
from bench.process import run_imagebuild
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Manifest

ROUNDS = 3


Times = tuple[float, float]  # seconds by the clock, and of processor


def measure_floor(blob: Path) -> tuple[Times, int]:
    """(seconds, unpacked bytes) of one pass over a zstd layer."""
    started, worked = time.perf_counter(), time.process_time()
    stored, unpacked, size = hashlib.sha256(), hashlib.sha256(), 0
    with blob.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            stored.update(chunk)
        stream.seek(0)
        content = open_decompressed(stream, "zstd")
        while chunk := content.read(CHUNK):
            unpacked.update(chunk)
            size += len(chunk)
    return (time.perf_counter() - started, time.process_time() - worked), size


def run(root: Path, *arguments: str) -> tuple[Times, int]:
    """(seconds, peak bytes) of one whole process; a failure ends the benchmark."""
    done = run_imagebuild(*arguments, "--quiet", "--root", str(root))
    return (done.seconds, done.cpu), done.memory


def measure_all(root: Path) -> None:
    """Print the table; medians of interleaved rounds."""
    tag = str(prepare(root)["tag"])
    store = LayoutStore(root / ".imagebuild/registry")
    raw = store.get_manifest("heavy", tag)
    manifest = raw.parse() if raw is not None else None
    assert isinstance(manifest, Manifest)
    blob = store.local_file(manifest.layers[-1].id)
    assert blob is not None
    rows: dict[str, list[Times]] = {"read and hash the layer once": [], "verify": [], "verify --rebuild": []}
    memory = size = 0
    for _ in range(ROUNDS):
        seconds, size = measure_floor(blob)
        rows["read and hash the layer once"].append(seconds)
        for name, options in (("verify", ()), ("verify --rebuild", ("--rebuild",))):
            seconds, peak = run(root, "verify", f"heavy:{tag}", *options)
            rows[name].append(seconds)
            memory = max(memory, peak) if not options else memory
    print(
        f"{blob.stat().st_size / 1e6:.0f} MB stored, {size / 1e6:.0f} MB of tar, medians of {ROUNDS}; a busy machine: take the processor's"
    )
    print(f"{'':<30} {'seconds':>8} {'/ floor':>8} {'of CPU':>8} {'/ floor':>8}")
    floor = [statistics.median(times) for times in zip(*rows["read and hash the layer once"], strict=True)]
    for name, taken in rows.items():
        clock, work = (statistics.median(times) for times in zip(*taken, strict=True))
        print(f"{name:<30} {clock:8.2f} {clock / floor[0]:8.2f} {work:8.2f} {work / floor[1]:8.2f}")
    print(f"verify: peak {memory / 2**20:.0f} MiB")


def main() -> None:
    """Measure and print."""
    with hold_folder() as root:
        measure_all(root)


if __name__ == "__main__":
    main()
