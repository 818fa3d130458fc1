"""Times the main job on the heavy set, beside the floor of its bytes: ``make bench``.

One run, one machine: quote ratios, not seconds. Everything happens in a folder of its own (BENCH_FOLDER, default
.imagebuild/bench); the starter base and the wheels are fetched first, outside the clock.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from pathlib import Path

from bench.folder import hold_folder
from bench.process import run_imagebuild
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Manifest

HERE = Path(__file__).parent
CHUNK = 1 << 20


def run(root: Path, *arguments: str) -> tuple[float, int, list[dict[str, object]]]:
    """(seconds, peak bytes of the process, its JSON) of one ``imagebuild image`` run; a failure ends the benchmark."""
    done = run_imagebuild("image", "heavy", "--json", "--root", str(root), *arguments)
    return done.seconds, done.memory, json.loads(done.output)


def forget_image(root: Path, layer: str) -> None:
    """Take the image out of the layout folder, so that the next run assembles and pushes it again; members stay cached."""
    index = root / ".imagebuild/registry/index.json"
    document = json.loads(index.read_bytes())
    document["manifests"] = [
        item for item in document["manifests"] if not item["annotations"]["org.opencontainers.image.ref.name"].startswith("heavy:")
    ]
    index.write_text(json.dumps(document))
    (root / ".imagebuild/registry/blobs/sha256" / layer).unlink()


def measure_floor(blob: Path, scratch: Path) -> tuple[float, float, int]:
    """(seconds strict, seconds wide, uncompressed bytes). Strict: hash the stored and the unpacked bytes once each and copy
    the stored ones. Wide: hash the unpacked bytes twice and copy them."""
    tar = scratch / "layer.tar"
    with blob.open("rb") as stream, tar.open("wb") as target:
        shutil.copyfileobj(open_decompressed(stream, "zstd"), target, CHUNK)

    def digest(path: Path) -> None:
        hasher = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                hasher.update(chunk)

    def timed(*steps: tuple[str, Path]) -> float:
        started = time.perf_counter()
        for step, path in steps:
            if step == "hash":
                digest(path)
            else:
                with path.open("rb") as source, (scratch / "copy").open("wb") as target:
                    while chunk := source.read(CHUNK):
                        target.write(chunk)
        return time.perf_counter() - started

    strict = timed(("hash", blob), ("hash", tar), ("copy", blob))
    wide = timed(("hash", tar), ("hash", tar), ("copy", tar))
    size = tar.stat().st_size
    shutil.rmtree(scratch)
    return strict, wide, size


def prepare(root: Path) -> dict[str, object]:
    """The heavy team's folder at ``root``, its base and wheels fetched, its image built; what the run said."""
    shutil.rmtree(root / "images", ignore_errors=True)
    shutil.copytree(HERE / "heavy", root, dirs_exist_ok=True)
    print("preparing: starter base and wheels (not timed)", file=sys.stderr)
    return run(root)[2][0]


def measure_all(root: Path) -> None:
    """Print the table."""
    result = prepare(root)
    raw = LayoutStore(root / ".imagebuild/registry").get_manifest("heavy", str(result["tag"]))
    assert raw is not None
    manifest = raw.parse()
    assert isinstance(manifest, Manifest)
    layer = manifest.layers[-1].id.hex
    cache = root / ".imagebuild/cache"
    rows: list[tuple[str, float, int]] = []
    forget_image(root, layer)
    shutil.rmtree(cache / "members")
    rows.append(("cold members: wheels there, nothing else", *run(root)[:2]))
    forget_image(root, layer)
    rows.append(("warm members: assemble, check, push", *run(root)[:2]))
    seconds, memory, _ = run(root)
    rows.append(("nothing changed", seconds, memory))
    blob = root / ".imagebuild/registry/blobs/sha256" / layer
    scratch = root / ".imagebuild/floor"
    scratch.mkdir(exist_ok=True)
    strict, wide, size = measure_floor(blob, scratch)
    wheels = (root / "lockfiles/pylock.heavy.toml").read_text().count("[[packages]]")
    print(f"{wheels} wheels, {blob.stat().st_size / 1e6:.0f} MB stored, {size / 1e6:.0f} MB of tar")
    print(f"{'':<45} {'seconds':>8} {'/ floor':>8} {'peak MiB':>9}")
    for name, seconds, memory in rows:
        print(f"{name:<45} {seconds:8.2f} {seconds / strict:8.2f} {memory / 2**20:9.0f}")
    print(f"{'floor: SHA-256 of stored and tar, copy of stored':<48} {strict:5.2f} {1:8.2f}")
    print(f"{'floor, wide: SHA-256 of tar twice, copy of tar':<48} {wide:5.2f} {wide / strict:8.2f}")


def main() -> None:
    """Measure and print."""
    with hold_folder() as root:
        measure_all(root)


if __name__ == "__main__":
    main()
