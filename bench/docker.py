"""Times Docker builds and our engines on the same lock, base and registry: ``make bench``.

One run, one machine, one measurement a figure: quote ratios. Every build finds its wheels on this disk, pushes to a
registry on loopback, and starts with its caches warm but for the one that is meant to be cold; Docker's own builds get
what makes them fast (uv with its cache in a cache mount, zstd, no copy into the image store). Prints Markdown tables and
writes docs/bench.svg. Needs docker with buildx and docker-registry; takes a quarter of an hour.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uv

from bench.chart import Bar, Group, render_chart
from bench.folder import fresh_folders, hold_folder
from bench.pipeline import HERE, prepare, run
from bench.process import start
from imagebuild.dockerfile import render_requirements
from imagebuild.lock.file.lockfile import read_lock, write_lock
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Manifest
from imagebuild.oci.registry import RegistryStore
from tests.support.servers.registry import Registry, run_registry

CHANGED = "toolz"  # a small wheel of pure Python
MARK = "imagebuild-bench"  # in every RUN, to find its build cache again
BASE_REPOSITORY = "base"

_UV = "uv pip install --no-config --no-index --find-links /wheels --no-deps --require-hashes -r /wheels/requirements.txt"
_MOUNTS = (
    "--network=none --mount=type=bind,from=wheels,target=/wheels --mount=type=bind,from=uv,target=/tools "
    f"--mount=type=cache,id={MARK},target=/uv-cache"
)
# HOME stays the base's otherwise, and caches would go into the image.
_SETUP = f": {MARK}; set -e; export HOME=/dev/shm UV_CACHE_DIR=/uv-cache UV_LINK_MODE=copy PATH=/tools:$PATH;"
_PIP = f"""\
USER root
RUN --network=none --mount=type=bind,from=wheels,target=/wheels : {MARK}; HOME=/dev/shm \\
    python3 -m pip install -q --no-cache-dir --break-system-packages --no-index --find-links /wheels --no-deps -r /wheels/requirements.txt
USER 1000
"""
_UV_RUN = f"""\
USER root
RUN {_MOUNTS} {_SETUP} {_UV} --system --break-system-packages OPTIONS
USER 1000
"""
_STAGES = f"""\
FROM BASE AS {MARK}
USER root
RUN {_MOUNTS} {_SETUP} {_UV} --python /usr/bin/python3 --prefix /out --compile-bytecode; \\
    if [ -d /out/lib/python3.11/site-packages ]; then mv /out/lib/python3.11/site-packages /out/lib/python3.11/dist-packages; fi
FROM BASE
COPY --link --from={MARK} /out /usr/local
"""


@dataclass
class Row:
    """One way to build, and its seconds by situation."""

    name: str
    ours: bool = False
    same: bool = True  # gives bytecode too
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: int = 0
    stored: int = 0

    def add(self, situation: str, seconds: float, memory: int) -> None:
        self.seconds.setdefault(situation, []).append(seconds)
        self.memory = max(self.memory, memory)
        print(f"  {self.name}, {situation}: {seconds:.2f} s", file=sys.stderr, flush=True)

    def get(self, situation: str) -> float | None:
        found = self.seconds.get(situation)
        return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class Peer:
    """A Dockerfile as people write it."""

    row: Row
    repository: str
    dockerfile: str
    compression: str


def measure(command: list[str], text: str = "") -> tuple[float, int]:
    """(seconds, peak bytes of its largest process) of a command that must succeed."""
    started = time.perf_counter()
    with start(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stderr is not None
        child.stdin.write(text.encode())
        child.stdin.close()
        complaint = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{complaint.decode(errors='replace')[-3000:]}")
    return seconds, usage.ru_maxrss * 1024


def repack_wheel(wheel: Path, folder: Path, local: str) -> tuple[Path, str]:
    """The same wheel under another version, ``<version>+<local>``, into ``folder``; and that version."""
    name, version, tags = wheel.name.removesuffix(".whl").split("-", 2)
    new = f"{version}+{local}"
    old_info, new_info = f"{name}-{version}.dist-info", f"{name}-{new}.dist-info"
    rows: list[tuple[str, str, str]] = []
    target = folder / f"{name}-{new}-{tags}.whl"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for item in source.infolist():
            data = source.read(item)
            path = item.filename.replace(old_info, new_info)
            if path == f"{new_info}/RECORD":
                continue
            if path == f"{new_info}/METADATA":
                data = data.replace(f"\nVersion: {version}\n".encode(), f"\nVersion: {new}\n".encode(), 1)
            made.writestr(path, data)
            if not item.is_dir():
                digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
                rows.append((path, f"sha256={digest}", str(len(data))))
        record = io.StringIO()
        csv.writer(record).writerows([*rows, (f"{new_info}/RECORD", "", "")])
        made.writestr(f"{new_info}/RECORD", record.getvalue())
    return target, new


def change_package(lock: Lock, cache: Path, local: str) -> Lock:
    """``lock`` with one small package in a version nobody has built before, its wheel in the cache."""

    def change(package: LockedPackage) -> LockedPackage:
        if package.name != CHANGED:
            return package
        wheel, version = repack_wheel(wheel_cache_path(cache, package.sha256, package.filename), cache, local)
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        place = wheel_cache_path(cache, digest, wheel.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        wheel.replace(place)
        return msgspec.structs.replace(package, version=version, filename=wheel.name, sha256=digest, size=place.stat().st_size)

    return msgspec.structs.replace(lock, packages=tuple(map(change, lock.packages)))


class Bench:
    """The folders, the registry, and what was measured."""

    def __init__(self, root: Path, registry: Registry) -> None:
        self.root = root
        self.cache = root / ".imagebuild" / "cache"
        self.registry = registry
        self.store = RegistryStore(registry.host)
        self.folder = root / "docker"
        self.rows: list[Row] = []
        self.base, self.base_layers = self._push_base()
        # A time of its own makes the recipe new: neither engine finds what an earlier benchmark built.
        self.stamp = int(time.time())
        cutoff = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.stamp))
        lock = msgspec.structs.replace(read_lock(HERE / "heavy" / "lockfiles" / "pylock.heavy.toml"), cutoff=cutoff)
        self.locks = {"same": lock, "changed": change_package(lock, self.cache, f"bench{self.stamp}")}
        for name, changed, layer in (
            ("same", "same", 'compression = "zstd"'),
            ("changed", "changed", 'compression = "zstd"'),
            ("gzip", "same", 'compression = "gzip"'),
            ("split", "same", "split = true"),
            ("split-changed", "changed", "split = true"),
            ("chunked", "same", 'format = "zstd:chunked"'),
            ("chunked-changed", "changed", 'format = "zstd:chunked"'),
        ):
            self._write_checkout(name, self.locks[changed], layer)
        self._write_checkout("imported", self.locks["same"], 'compression = "zstd"', 'bytecode = "imported"')
        self.wheels = self.folder / "wheels"
        self.wheels.mkdir()
        self.tools = self.folder / "tools"
        self.tools.mkdir()
        shutil.copy2(uv.find_uv_bin(), self.tools / "uv")
        (self.folder / "empty").mkdir()

    def _push_base(self) -> tuple[str, int]:
        """The starter base into the registry: its reference there and its number of layers."""
        layout = LayoutStore(self.root / ".imagebuild" / "registry")
        raw = layout.get_manifest("bases/starter", "latest")
        assert raw is not None
        manifest = raw.parse()
        assert isinstance(manifest, Manifest)
        for item in (manifest.config, *manifest.layers):
            file = layout.local_file(item.id)
            assert file is not None
            self.store.put_blob(BASE_REPOSITORY, item, file)
        digest = self.store.put_manifest(BASE_REPOSITORY, raw, "1")
        return f"{self.registry.host}/{BASE_REPOSITORY}@{digest}", len(manifest.layers)

    def _write_checkout(self, name: str, lock: Lock, layer: str, first: str = "") -> None:
        """A folder as a team has it, on the base in the registry; ``layer``: a line of ``[layer]``, ``first``: one before all tables."""
        folder = self.folder / name
        shutil.copytree(HERE / "heavy", folder)
        repository, digest = self.base.split("@")
        (folder / "images/catalogue.toml").write_text(
            f'[base.starter]\nreference = "{repository}"\ntag = "1"\ndigest = "{digest}"\nkind = "jupyter"\n'
        )
        team = folder / "images/heavy/team.toml"
        team.write_text(f"{first}\n{team.read_text()}\n[layer]\n{layer}\n")
        write_lock(folder / "lockfiles" / "pylock.heavy.toml", lock)

    def add_row(self, name: str, *, ours: bool = False, same: bool = True) -> Row:
        """A further row of the table."""
        self.rows.append(Row(name, ours, same))
        return self.rows[-1]

    def imagebuild(self, row: Row, situation: str, checkout: str, namespace: str, *options: str, cold: bool = False) -> str:
        """Time ``imagebuild image heavy``; the image's reference."""
        if cold:
            shutil.rmtree(self.cache / "members", ignore_errors=True)
        seconds, memory, results = run(
            self.folder / checkout, "--registry", f"{self.registry.host}/{namespace}", "--cache-dir", str(self.cache), "--quiet", *options
        )
        row.add(situation, seconds, memory)
        tag = str(results[0]["tag"])
        row.stored = self.measure_layers(f"{namespace}/heavy", tag)
        return f"{self.registry.host}/{namespace}/heavy:{tag}"

    def link_wheels(self, lock: Lock) -> None:
        """Make ``wheels/`` hold exactly the wheels of ``lock``, in the same folder as before: only what differs is sent."""
        wanted = {item.filename: wheel_cache_path(self.cache, item.sha256, item.filename) for item in lock.packages}
        for path in self.wheels.glob("*.whl"):
            if path.name not in wanted:
                path.unlink()
        for name, source in wanted.items():
            if not (self.wheels / name).exists():
                os.link(source, self.wheels / name)
        (self.wheels / "requirements.txt").write_text(render_requirements(lock))

    def buildx(self, peer: Peer, situation: str, *, cache: bool) -> None:
        """Time ``docker buildx build`` and push; nothing is recorded for an empty ``situation``."""
        text = peer.dockerfile.replace("BASE", self.base)
        name = f"{self.registry.host}/{peer.repository}/heavy:1"
        output = f"type=image,name={name},push=true,store=false,oci-mediatypes=true,compression={peer.compression}"
        seconds, memory = measure(
            [
                "docker", "buildx", "build", "--progress=plain", "--provenance=false", *([] if cache else ["--no-cache"]),
                "--build-context", f"wheels={self.wheels}", "--build-context", f"uv={self.tools}", "--output", output,
                "--file", "-", str(self.folder / "empty"),
            ],
            text,
        )  # fmt: skip
        if situation:
            peer.row.add(situation, seconds, memory)
            peer.row.stored = self.measure_layers(f"{peer.repository}/heavy", "1")

    def measure_layers(self, repository: str, tag: str) -> int:
        """Stored bytes of the layers that an image in the registry adds to the base."""
        raw = self.store.get_manifest(repository, tag)
        assert raw is not None
        manifest = raw.parse()
        assert isinstance(manifest, Manifest)
        return sum(item.size for item in manifest.layers[self.base_layers :])

    def pull(self, reference: str) -> float:
        """Seconds that docker takes to pull and unpack an image whose base it has; the image is removed again."""
        seconds, _ = measure(["docker", "pull", "--quiet", reference])
        measure(["docker", "image", "rm", reference])
        return seconds


def make_uv_peer(bench: Bench, *, bytecode: bool) -> Peer:
    """The quickest Dockerfiles that people write: uv with its cache, and zstd."""
    name = "RUN uv pip install --compile-bytecode, zstd" if bytecode else "RUN uv pip install without bytecode, zstd"
    text = "FROM BASE\n" + _UV_RUN.replace("OPTIONS", "--compile-bytecode" if bytecode else "")
    return Peer(bench.add_row(name, same=bytecode), "uv" if bytecode else "uv-bare", text, "zstd")


@contextlib.contextmanager
def open_bench(root: Path) -> Iterator[Bench]:
    """The folders and the registry; gone at the end."""
    storage = root / ".imagebuild" / "bench-registry"
    with fresh_folders(storage, root / "docker"), run_registry(storage) as registry:
        yield Bench(root, registry)


def prune_builds(bench: Bench) -> None:
    """Remove the build cache of this benchmark, and nobody else's."""
    for mark in (MARK, str(bench.stamp)):
        subprocess.run(["docker", "buildx", "prune", "--force", "--filter", f"description~={mark}"], capture_output=True, check=False)


def run_all(bench: Bench) -> list[tuple[str, float]]:
    """Every measurement, ours between the others; the pulls are returned, the rest is in ``bench.rows``."""
    direct = bench.add_row("imagebuild, direct engine (zstd)", ours=True)
    direct_gzip = bench.add_row("imagebuild, direct engine (gzip)", ours=True)
    docker = bench.add_row("imagebuild, docker engine (zstd, reproducible)", ours=True)
    from_base = "FROM BASE\n"
    uv_zstd = make_uv_peer(bench, bytecode=True)
    stages = Peer(bench.add_row("builder stage + COPY --link, uv, bytecode, zstd"), "stages", _STAGES, "zstd")
    pip_zstd = Peer(bench.add_row("RUN pip install, zstd"), "pip-zstd", from_base + _PIP, "zstd")
    pip_gzip = Peer(bench.add_row("RUN pip install, gzip"), "pip-gzip", from_base + _PIP, "gzip")
    bare = make_uv_peer(bench, bytecode=False)
    bench.link_wheels(bench.locks["same"])
    print("preparing: uv's cache, the build contexts, and what is read of the base (not timed)", file=sys.stderr, flush=True)
    bench.buildx(bare, "", cache=False)
    bench.imagebuild(Row("not timed"), "preparing", "same", "prepare")

    images = {"zstd": bench.imagebuild(direct, "cold", "same", "direct-1", cold=True)}
    bench.buildx(uv_zstd, "cold", cache=False)
    bench.imagebuild(direct, "warm", "same", "direct-2")
    bench.buildx(stages, "cold", cache=False)
    bench.buildx(bare, "cold", cache=False)
    bench.imagebuild(docker, "cold", "same", "docker", "--engine", "docker")
    bench.buildx(pip_zstd, "cold", cache=False)
    images["gzip"] = bench.imagebuild(direct_gzip, "cold", "gzip", "direct-gzip", cold=True)
    bench.buildx(pip_gzip, "cold", cache=False)
    bench.imagebuild(direct, "cold", "same", "direct-3", cold=True)

    bench.link_wheels(bench.locks["changed"])
    bench.imagebuild(direct, "changed", "changed", "direct-3")
    bench.buildx(uv_zstd, "changed", cache=True)
    bench.buildx(stages, "changed", cache=True)
    bench.imagebuild(docker, "changed", "changed", "docker", "--engine", "docker")

    bench.imagebuild(direct, "nothing", "changed", "direct-3")
    bench.buildx(uv_zstd, "nothing", cache=True)
    bench.buildx(stages, "nothing", cache=True)
    bench.imagebuild(docker, "nothing", "changed", "docker", "--engine", "docker")

    measure(["docker", "pull", "--quiet", bench.base])
    try:
        return [(compression, bench.pull(reference)) for compression, reference in images.items()]
    finally:
        measure(["docker", "image", "rm", bench.base])


def find_fastest(rows: list[Row], situation: str) -> tuple[str, float]:
    """The quickest Docker build with bytecode: its name and seconds."""
    found = [(seconds, row.name) for row in rows if row.same and not row.ours and (seconds := row.get(situation)) is not None]
    seconds, name = min(found)
    return name, seconds


def print_tables(bench: Bench, pulls: list[tuple[str, float]], direct: Row) -> None:
    """Everything measured, as Markdown on stdout."""
    lock = bench.locks["same"]
    size = sum(item.size for item in lock.packages)

    def show(value: float | None, pattern: str = "{:.1f}") -> str:
        return "" if value is None else pattern.format(value)

    def divide(row: Row, situation: str) -> str:
        value, own = row.get(situation), direct.get(situation)
        return "" if value is None or own is None else f"{value / own:.1f}"

    print(f"{len(lock.packages)} wheels, {size / 1e6:.0f} MB of them; {os.cpu_count()} CPUs; one run, seconds, all pushed to loopback\n")
    print(
        "| build | cold | warm | one package changed | nothing changed | peak MiB (client) | layer MB | cold ÷ direct | changed ÷ direct |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in bench.rows:
        cells = [show(row.get("cold")), show(row.get("warm")), show(row.get("changed")), show(row.get("nothing"), "{:.2f}")]
        cells += [f"{row.memory / 2**20:.0f}", f"{row.stored / 1e6:.0f}", divide(row, "cold"), divide(row, "changed")]
        print(f"| {row.name} | {' | '.join(cells)} |")
    print(
        "\nCold: wheels on disk, nothing built before (ours: no members, mean of two runs; docker: --no-cache, uv's own cache warm). "
        "Warm: members there, layer assembled and pushed again. The peak is the largest process on the client's side; what dockerd, "
        "containerd and the programs in the build use is not in it.\n"
    )
    for situation, title in (("cold", "cold members"), ("changed", "one package changed")):
        name, seconds = find_fastest(bench.rows, situation)
        own = direct.get(situation)
        assert own is not None
        print(f"- {title}: direct is {seconds / own:.1f} times as fast as the fastest Docker build with bytecode ({name})")
    print("\n| docker pull on a node that has the base | seconds |\n|---|--:|")
    for compression, seconds in pulls:
        print(f"| direct engine's image, {compression} | {seconds:.1f} |")


def draw_chart(bench: Bench, pulls: list[tuple[str, float]]) -> str:
    """The same as bars."""

    def collect(situation: str) -> tuple[Bar, ...]:
        found = [Bar(row.name, seconds, row.ours) for row in bench.rows if (seconds := row.get(situation)) is not None]
        return tuple(sorted(found, key=lambda bar: bar.seconds))

    wheels = len(bench.locks["same"].packages)
    return render_chart(
        f"Build and push a layer of {wheels} wheels: seconds, shorter is better",
        f"One run on {os.cpu_count()} CPUs; same lock, base and registry; wheels on disk. Made by `make bench`.",
        [
            Group("Nothing built before", collect("cold")),
            Group("One package changed", collect("changed")),
            Group("Nothing changed", collect("nothing")),
            Group(
                "docker pull, on a node that has the base",
                tuple(Bar(f"direct engine's image, {name}", value, True) for name, value in pulls),
            ),
        ],
    )


def find_missing() -> str:
    """What this machine lacks for the benchmark, or nothing."""
    for tool in ("docker", "docker-registry"):
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            return tool
    checks: dict[str, Callable[[], list[str]]] = {
        "a docker engine": lambda: ["docker", "version", "--format", "{{.Server.Version}}"],
        "docker buildx": lambda: ["docker", "buildx", "version"],
    }
    for name, command in checks.items():
        if subprocess.run(command(), capture_output=True, check=False).returncode:
            return name
    return ""


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chart", type=Path, default=HERE.parent / "docs" / "bench.svg", help="where the chart goes")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    with hold_folder() as root:
        if missing := find_missing():
            print(f"no comparison with docker builds: this machine lacks {missing}", file=sys.stderr)
            return
        prepare(root)
        with open_bench(root) as bench:
            try:
                pulls = run_all(bench)
            finally:
                prune_builds(bench)
    print_tables(bench, pulls, bench.rows[0])
    options.chart.write_text(draw_chart(bench, pulls), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps({"rows": [vars(row) for row in bench.rows], "pulls": pulls}, indent=2))


if __name__ == "__main__":
    main()
