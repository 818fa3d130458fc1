"""Times ``imagebuild verify`` on the heavy set, beside reading and hashing its layer once: ``python -m bench.verify``.

One run, one machine: quote ratios, not seconds. The floor reads the stored layer, unpacks it, and takes SHA-256 of the stored
and of the unpacked bytes, in one thread; no file is looked at. The base has been read before, as on any machine that builds on it.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.pipeline import CHUNK, prepare
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Manifest

ROUNDS = 3


def measure_floor(blob: Path) -> tuple[float, int]:
    """(seconds, unpacked bytes) of one pass over a zstd layer."""
    started = time.perf_counter()
    stored, unpacked, size = hashlib.sha256(), hashlib.sha256(), 0
    with blob.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            stored.update(chunk)
        stream.seek(0)
        content = open_decompressed(stream, "zstd")
        while chunk := content.read(CHUNK):
            unpacked.update(chunk)
            size += len(chunk)
    return time.perf_counter() - started, size


def run(root: Path, *arguments: str) -> tuple[float, int]:
    """(seconds, peak bytes) of one whole process; a failure ends the benchmark."""
    command = [sys.executable, "-m", "imagebuild.cli", *arguments, "--quiet", "--root", str(root)]
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(child.returncode)
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def main() -> None:
    """Print the table; medians of interleaved rounds."""
    root = Path(os.environ.get("BENCH_FOLDER", ".imagebuild/bench")).resolve()
    tag = str(prepare(root)["tag"])
    store = LayoutStore(root / ".imagebuild/registry")
    raw = store.get_manifest("heavy", tag)
    manifest = raw.parse() if raw is not None else None
    assert isinstance(manifest, Manifest)
    blob = store.blob_file(manifest.layers[-1].id)
    assert blob is not None
    floors, plain, rebuilt, memory, size = [], [], [], 0, 0
    for _ in range(ROUNDS):
        seconds, size = measure_floor(blob)
        floors.append(seconds)
        seconds, peak = run(root, "verify", f"heavy:{tag}")
        plain.append(seconds)
        memory = max(memory, peak)
        rebuilt.append(run(root, "verify", f"heavy:{tag}", "--rebuild")[0])
    floor = statistics.median(floors)
    print(f"{blob.stat().st_size / 1e6:.0f} MB stored, {size / 1e6:.0f} MB of tar, medians of {ROUNDS}")
    for name, values in (("read and hash the layer once", floors), ("verify", plain), ("verify --rebuild", rebuilt)):
        middle = statistics.median(values)
        print(f"{name:<30} {middle:7.2f} s {middle / floor:7.2f}")
    print(f"verify: peak {memory / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
