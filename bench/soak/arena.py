"""Where attacks take place: a registry, an index, a small base, projects; and what must hold after each of them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from imagebuild.tagforms import IMAGE_TAG
from tests.support import images
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry, run_registry
from tests.support.workspaces import PROJECT
from tests.support.worlds import SmallBase, World, push_small_base

LONGEST = 120.0  # seconds for any run
MEMORY = 400 << 10  # KiB of the largest process
DOCUMENTED = frozenset({0, 2, 3, 4, 5, 6, 7, 8})  # docs/formats.md, exit codes
PARTS = 6  # wheels of a team that takes a while
_MARK = "IMAGEBUILD_SOAK"
_SETTLE = 20.0  # seconds for processes to end after the one that started them was killed
_STORED = {"application/vnd.oci.image.layer.v1.tar+zstd"}


class FaultError(Exception):
    """Something that must hold does not."""


def require(holds: object, what: str) -> None:
    """FaultError that says ``what`` unless it ``holds``."""
    if not holds:
        raise FaultError(what)


@dataclass(frozen=True)
class Finished:
    """A run that has ended. ``memory`` is in KiB, of its largest process."""

    code: int
    out: str
    err: str
    seconds: float
    memory: int


@dataclass
class Arena:
    """The parts, which all attacks share, and a folder for each of them."""

    folder: Path
    registry: Registry
    index: SlowIndex
    index_url: str
    base: SmallBase
    count: int = 0
    digests: dict[str, str] = field(default_factory=dict)  # team's requirements -> the digest that nobody disturbed
    memory: int = 0  # KiB, the most so far

    def make_world(self, *, mirror: str = "", warm: bool = True, name: str = "world", requirements: str = "part0\nalpha\n") -> World:
        """A project of its own, locked."""
        self.count += 1
        folder = self.folder / f"{os.getpid()}-{self.count:05}"  # its name marks its processes, also beside another campaign
        world = World(folder / name, self.base, self.index_url, mirror=mirror, warm=warm)
        world.write("images/blue/requirements.in", requirements)
        for inner in ("home", "tmp"):
            (folder / inner).mkdir()
        lock = self.folder / f"lock-{Digest.of(requirements.encode()).hex[:12]}.toml"
        if lock.is_file():
            world.write("lockfiles/pylock.blue.toml", lock.read_text("utf-8"))
        else:
            self.succeed(world, "lock", "blue")
            lock.write_bytes(world.lockfile.read_bytes())
        return world

    def environment(self, world: World, more: Mapping[str, str | None]) -> dict[str, str]:
        found = world.environment(more)
        outer = world.root.parent
        return found | {"HOME": str(outer / "home"), "TMPDIR": str(outer / "tmp"), _MARK: outer.name}

    @contextlib.contextmanager
    def start(
        self, world: World, *arguments: str, before: Sequence[str] = (), more: Mapping[str, str | None] | None = None, umask: int = -1
    ) -> Iterator[Running]:
        """A run in a session of its own; killed with the block if it has not ended."""
        outer = world.root.parent
        name = f"{time.monotonic_ns()}"
        with (outer / f"{name}.out").open("wb") as out, (outer / f"{name}.err").open("wb") as err:
            process = subprocess.Popen(
                [*before, *world.command(*arguments)], env=self.environment(world, more or {}), cwd="/", stdin=subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True, umask=umask,
            )  # fmt: skip
        running = Running(process, outer / f"{name}.out", outer / f"{name}.err", outer.name, time.monotonic())
        try:
            yield running
        finally:
            running.kill()

    def run(self, world: World, *arguments: str, limit: float = LONGEST, **options: object) -> Finished:
        """One run to its end, judged: in time, in memory, with a documented exit code, in the words of the contract, leaving no process."""
        with self.start(world, *arguments, **options) as running:  # type: ignore[arg-type]
            done = running.wait(limit)
        self.judge(done, world)
        return done

    def judge(self, done: Finished, world: World) -> None:
        """What must hold of any run that was not killed."""
        self.memory = max(self.memory, done.memory)
        shown = f"exit {done.code}: {done.err[-600:]}"
        require(done.code in DOCUMENTED, f"undocumented {shown}")
        require("Traceback" not in done.err and "defect of imagebuild" not in done.err, f"a traceback, {shown}")
        require(done.memory < MEMORY, f"{done.memory >> 10} MiB of memory, {shown}")
        if done.code:
            require(
                re.search(r"^error: ", done.err, re.MULTILINE) and re.search(r"^hint: ", done.err, re.MULTILINE),
                f"no error and hint, {shown}",
            )
        require(not find_processes(world.root.parent.name), f"a process was left, {shown}")
        outer = world.root.parent
        strange = [path for inner in ("home", "tmp") for path in (outer / inner).rglob("*")]
        require(not strange, f"files outside: {strange[:3]}, {shown}")

    def succeed(self, world: World, *arguments: str) -> Finished:
        """A plain run; FaultError when it fails."""
        done = self.run(world, *arguments)
        require(done.code == 0, f"the plain run failed ({' '.join(arguments)}), exit {done.code}: {done.err[-600:]}")
        return done

    def build(self, world: World, *options: str) -> str:
        """``image blue``, which must succeed and give the digest that it gives undisturbed."""
        digest = read_digest(self.succeed(world, "image", "blue", "--json", *options))
        requirements = (world.root / "images/blue/requirements.in").read_text("utf-8")
        expected = self.digests.setdefault(requirements, digest)
        require(digest == expected, f"another digest: {digest} instead of {expected}")
        return digest

    def check_layout(self, folder: Path) -> None:
        """Every image that the layout names is there, but its base's layers."""
        if not (folder / "index.json").is_file():
            return
        store = LayoutStore(folder)
        for item in json.loads((folder / "index.json").read_bytes())["manifests"]:
            raw = store.get_manifest("blue", item["digest"])
            require(raw is not None, f"the layout names {item['digest']}, which is not there")
            assert raw is not None
            document = json.loads(raw.data)
            for part in [document.get("config"), *document.get("layers", [])[-1:]]:
                if part is not None:
                    path = folder / "blobs" / "sha256" / part["digest"].removeprefix("sha256:")
                    require(
                        path.is_file() and Digest.of(path.read_bytes()) == part["digest"], f"{part['digest']} is not whole in the layout"
                    )

    def check_registry(self, repository: str) -> list[str]:
        """Every image tag of a repository has its blobs; the tags."""
        tags = self.ask(f"/v2/{repository}/tags/list").get("tags") or []
        for tag in tags:
            document = self.ask(f"/v2/{repository}/manifests/{tag}")
            for part in [document.get("config"), *document.get("layers", [])]:
                if part is not None:
                    require(
                        self.has(f"/v2/{repository}/blobs/{part['digest']}"),
                        f"{repository}:{tag} names {part['digest']}, which is not there",
                    )
        return [tag for tag in tags if IMAGE_TAG.fullmatch(tag)]

    def ask(self, path: str) -> dict[str, Any]:
        """A document of the registry itself, without any proxy; empty for what is not there."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.registry.port}{path}", headers={"Accept": "*/*"})
        for kind in ("image.manifest.v1", "image.index.v1"):
            request.add_header("Accept", f"application/vnd.oci.{kind}+json")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return {}
            raise

    def has(self, path: str) -> bool:
        """Whether the registry itself answers a HEAD with success."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.registry.port}{path}", method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=30):
                return True
        except urllib.error.HTTPError:
            return False


@dataclass
class Running:
    """A run that goes on."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path
    mark: str
    started: float
    memory: int = 0

    def wait(self, seconds: float) -> Finished:
        """FaultError when it takes longer."""
        end = self.started + seconds
        while self.process.returncode is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.process.returncode, self.memory = os.waitstatus_to_exitcode(status), usage.ru_maxrss
                break
            if time.monotonic() > end:
                self.kill()
                raise FaultError(f"still running after {seconds:.0f} seconds: {self.err.read_text('utf-8', 'replace')[-600:]}")
            time.sleep(0.02)
        return Finished(
            self.process.returncode, self.out.read_text("utf-8", "replace"), self.err.read_text("utf-8", "replace"),
            time.monotonic() - self.started, self.memory,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL to the whole process group; nothing when it has ended."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def read_digest(done: Finished) -> str:
    """Of ``image --json``."""
    return str(json.loads(done.out)[0]["digest"])


def find_processes(mark: str, seconds: float = 3.0) -> list[str]:
    """Command lines of processes of an attack that are still there after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        found = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and f"{_MARK}={mark}\0".encode() in (folder / "environ").read_bytes():
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")[:200])
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def wait_for_processes(mark: str) -> None:
    """FaultError when a killed run's processes stay."""
    left = find_processes(mark, _SETTLE)
    require(not left, f"processes outlive a kill: {left[:3]}")


def age_temporaries(folder: Path) -> None:
    """Make what killed runs left old enough to be swept."""
    moment = time.time() - 60
    for path in folder.rglob(".tmp*"):
        with contextlib.suppress(OSError):
            os.utime(path, (moment, moment), follow_symlinks=False)


@contextlib.contextmanager
def open_arena(folder: Path) -> Iterator[Arena]:
    """Start the parts. Takes Debian from the starter base of this checkout where there is one: else mmdebstrap makes one."""
    index = SlowIndex()
    publish(index, folder / "wheels", "alpha", "1.1")
    for number in range(PARTS):
        noise = random.Random(number).randbytes(300_000)
        publish(
            index,
            folder / "wheels",
            f"part{number}",
            "1.0",
            files={f"part{number}/__init__.py": b"x = 1\n" * 500, f"part{number}/data": noise},
        )
    with run_registry(folder / "registry") as registry, index.serve() as url:
        base = push_small_base(find_debian(folder), folder / "base", registry)
        arena = Arena(folder / "work", registry, index, url, base)
        reader = World(folder / "work" / "reader" / "world", base, url, warm=False)
        for inner in ("home", "tmp"):
            (reader.root.parent / inner).mkdir()
        arena.succeed(reader, "base", "inspect", "tiny", "--cache-dir", str(base.cache))
        yield arena


def find_debian(folder: Path) -> Path:
    """A root file system as a tar."""
    layout = PROJECT / ".imagebuild" / "registry"
    if (layout / "index.json").is_file():
        store = LayoutStore(layout)
        raw = store.get_manifest("bases/starter-root", "latest")
        layers = json.loads(raw.data)["layers"] if raw is not None else []
        if len(layers) == 1 and layers[0]["mediaType"] in _STORED:
            blob, target = layout / "blobs" / "sha256" / layers[0]["digest"].removeprefix("sha256:"), folder / "debian.tar"
            with blob.open("rb") as source, target.open("wb") as out:
                zstandard.ZstdDecompressor().copy_stream(source, out)
            return target
    return images.debian_rootfs(folder / "debian")


def forget(world: World) -> None:
    """Remove an attack's folder."""
    shutil.rmtree(world.root.parent, ignore_errors=True)
