"""Whole runs of the command line: a folder as a user has it, built once for a session, and its result read without our code."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import pytest
import zstandard

from tests.support.servers.registry import Registry, run_registry
from tests.support.tools import need

PROJECT = Path(__file__).parents[2]
_SHARED_CACHE = ("wheels", "metadata")  # what came over the network and is verified again; never what a build makes
_REQUEST = re.compile(r'"(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+) HTTP/')
_AGENT = re.compile(r'"(GET|HEAD|PUT|POST|PATCH|DELETE) (\S+) HTTP/[0-9.]+" 2\d\d \d+ "[^"]*" "([^"/]*)')


@dataclass(frozen=True)
class Done:
    """A finished run."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    def lines(self, start: str) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith(start)]

    @property
    def error(self) -> str:
        return " ".join(self.lines("error: "))

    @property
    def hint(self) -> str:
        return " ".join(self.lines("hint: "))

    def succeeded(self) -> Done:
        assert self.code == 0, f"exit {self.code}\n{self.err}"
        assert not self.lines("error: "), self.err
        return self

    def refused(self, code: int, *patterns: str, hint: str = "") -> Done:
        """Exit code ``code``; the error line, with the lines that explain it, matches every pattern; no traceback."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.out}{self.err}"
        assert "Traceback" not in self.err
        text = self.err[self.err.index("error: ") :]
        for pattern in patterns:
            assert re.search(pattern, text), f"{pattern!r} is not in:\n{text}"
        assert re.search(hint, text.partition("hint: ")[2]), text
        return self

    def failed(self, code: int, error: str, hint: str = "") -> Done:
        """The whole contract of a failure: its exit code, one error line and one hint that hold these patterns, nothing after them."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.err}"
        assert len(self.lines("error: ")) == 1, self.err
        assert len(self.lines("hint: ")) == 1, self.err
        assert "Traceback" not in self.err + self.out, self.err
        assert "defect of imagebuild" not in self.err, self.err
        assert self.err.rstrip("\n").splitlines()[-1].startswith("hint: "), self.err
        assert re.search(error, self.error), self.error
        assert re.search(hint, self.hint), self.hint
        return self

    @property
    def digest(self) -> str:
        """Of the image, from the summary on stdout."""
        match = re.search(r"^  digest +(sha256:[0-9a-f]{64})$", self.out, re.MULTILINE)
        assert match is not None, self.out + self.err
        return match[1]

    @property
    def result(self) -> dict[str, Any]:
        """The one image of ``image --json``."""
        (found,) = json.loads(self.out)
        return cast("dict[str, Any]", found)


class ProjectFolder:
    """A folder as a user has it, to write in."""

    root: Path

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text, (old, text)
        path.write_text(text.replace(old, new), encoding="utf-8")


@dataclass(frozen=True)
class Checkout(ProjectFolder):
    """A folder with images/ and lockfiles/, and the cache its runs use."""

    root: Path
    cache: Path
    settings: dict[str, str] = field(default_factory=dict)  # of the environment, for every run

    @property
    def layout(self) -> Path:
        return self.root / ".imagebuild" / "registry"

    @property
    def places(self) -> tuple[str, ...]:
        """The options of every run."""
        return ("--root", str(self.root), "--cache-dir", str(self.cache))

    @property
    def environment(self) -> dict[str, str]:
        """Of every run: this process's without settings of the program's own, and without credentials."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("IMAGEBUILD_")}
        return plain | {"PYTHONPATH": str(PROJECT), "DOCKER_CONFIG": str(self.root / "no-docker-config"), **self.settings}

    def run(self, *arguments: str, umask: int = -1, timeout: float = 600) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.watched", *arguments, *self.places],
            env=self.environment,
            cwd="/",
            umask=umask,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def image(self, team: str, *options: str, umask: int = -1) -> dict[str, Any]:
        """Build ``team``'s image: what the run says of it."""
        return self.run("image", team, "--json", *options, umask=umask).succeeded().result

    def fork(self, folder: Path) -> Checkout:
        """A copy to change: its own inputs and layout folder (blobs as hard links, which are never written to), the same cache."""
        fork = Checkout(folder, self.cache, self.settings)
        for name in ("images", "lockfiles"):
            shutil.copytree(self.root / name, folder / name, symlinks=True)
        if self.layout.is_dir():
            shutil.copytree(self.layout / "blobs", fork.layout / "blobs", copy_function=os.link)
            for name in ("index.json", "oci-layout"):
                shutil.copyfile(self.layout / name, fork.layout / name)
        return fork

    def use_base(self, name: str, reference: str, digest: str, *, tag: str = "1") -> None:
        """A catalogue with this one base; unpinned without a digest."""
        pin = f'digest = "{digest}"\n' if digest else ""
        self.write("images/catalogue.toml", f'[base.{name}]\nreference = "{reference}"\ntag = "{tag}"\n{pin}kind = "jupyter"\n')


@dataclass(frozen=True)
class Built:
    """A checkout in which ``imagebuild image cosml`` was run once, and what it said."""

    checkout: Checkout
    result: dict[str, Any]

    @property
    def tag(self) -> str:
        return str(self.result["tag"])

    @property
    def image(self) -> LayoutImage:
        return LayoutImage.named(self.checkout.layout, f"cosml:{self.tag}")

    @property
    def base(self) -> LayoutImage:
        return LayoutImage.named(self.checkout.layout, "bases/starter:latest")


def copy_project(folder: Path, cache: Path | None = None) -> Checkout:
    """The repository's own teams, catalogue and locks in an empty folder."""
    checkout = Checkout(folder.resolve(), (cache or folder / ".imagebuild" / "cache").resolve())
    for name in ("images", "lockfiles"):
        shutil.copytree(PROJECT / name, folder / name)
    return checkout


def build_program(folder: Path) -> Path:
    """The program's wheel as the release workflow builds it, from what git has (a build leaves folders beside the sources)."""
    sources = ["imagebuild", "pyproject.toml", "README.md", "LICENSE"]
    names = run_tool("git", "-C", str(PROJECT), "ls-files", "-z", *sources).decode().split("\0")
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PROJECT / name, folder / name)
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", "dist", "-q"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = (folder / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program's wheel."""
    return build_program(tmp_path_factory.mktemp("program"))


def _share_downloads(cache: Path, store: Path, *, back: bool) -> None:
    for name in _SHARED_CACHE:
        source, target = (cache / name, store / name) if back else (store / name, cache / name)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The main job, once: starter base by mmdebstrap, lock, layer, image, into the layout folder.

    IMAGEBUILD_TEST_CACHE names a folder where downloads are kept between sessions; the rest is always made anew.
    """
    need("mmdebstrap")
    checkout = copy_project(tmp_path_factory.mktemp("workspace"))
    kept = os.environ.get("IMAGEBUILD_TEST_CACHE")
    with contextlib.ExitStack() as stack:
        if kept:
            store = Path(kept) / "downloads"
            store.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context((store / "lock").open("w")), fcntl.LOCK_EX)
            _share_downloads(checkout.cache, store, back=False)
        result = checkout.image("cosml")
        if kept:
            _share_downloads(checkout.cache, store, back=True)
    return Built(checkout, result)


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for whole runs; each test uses a namespace of its own."""
    with run_registry(tmp_path_factory.mktemp("hub")) as found:
        yield found


# --- reading, without our own code ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayoutImage:
    """One image manifest of a layout folder, as JSON."""

    layout: Path
    digest: str

    @classmethod
    def named(cls, layout: Path, name: str = "") -> LayoutImage:
        """The image an index entry names; without a name, the only one (through an index, the only one of that)."""
        entries = json.loads((layout / "index.json").read_bytes())["manifests"]
        if name:
            entries = [item for item in entries if item.get("annotations", {}).get("org.opencontainers.image.ref.name") == name]
        (entry,) = entries
        found = cls(layout, entry["digest"])
        if "manifests" in found.manifest:
            (entry,) = found.manifest["manifests"]
            found = cls(layout, entry["digest"])
        return found

    def path(self, digest: str) -> Path:
        return self.layout / "blobs" / Path(*digest.split(":"))

    @property
    def raw(self) -> bytes:
        return self.path(self.digest).read_bytes()

    @property
    def manifest(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.raw))

    @property
    def config(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(self.path(self.manifest["config"]["digest"]).read_bytes()))

    @property
    def diff_ids(self) -> list[str]:
        return list(self.config["rootfs"]["diff_ids"])

    @property
    def layers(self) -> list[dict[str, Any]]:
        return list(self.manifest["layers"])

    def open_layer(self, index: int = -1) -> IO[bytes]:
        """The layer's tar stream."""
        layer = self.layers[index]
        return open_plain(self.path(layer["digest"]), layer["mediaType"])

    def read_layer(self, index: int = -1) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        """Path -> (header, content; of a link its target). Fails on a path that comes twice."""
        found: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
        with self.open_layer(index) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for item in archive:
                content = archive.extractfile(item) if item.isreg() else None
                name = item.name.removeprefix("./").rstrip("/")
                assert name not in found, name
                found[name] = (item, content.read() if content else item.linkname.encode())
        return found

    def read_headers(self, index: int = -1) -> dict[str, tarfile.TarInfo]:
        """Path -> header."""
        with self.open_layer(index) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            return {item.name.removeprefix("./").rstrip("/"): item for item in archive}


def open_plain(path: Path, media_type: str) -> IO[bytes]:
    """A stored layer, decompressed."""
    if media_type.endswith("+zstd"):
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True, closefd=True)
        return cast("IO[bytes]", reader)
    return cast("IO[bytes]", gzip.open(path) if media_type.endswith("gzip") else path.open("rb"))


def hash_stream(stream: IO[bytes]) -> str:
    """``sha256:`` and the hex digest of what is left of a stream."""
    with stream:
        digest = hashlib.sha256()
        while piece := stream.read(1 << 20):
            digest.update(piece)
        return "sha256:" + digest.hexdigest()


def run_tool(tool: str, *arguments: str) -> bytes:
    """A tool's stdout; skips without the tool, fails with its own words."""
    done = subprocess.run([need(tool), *arguments], capture_output=True, check=False)
    assert done.returncode == 0, f"{tool} {' '.join(arguments)}: {done.stderr.decode(errors='replace')}"
    return done.stdout


def read_companions(registry: Registry, repository: str, digest: str) -> list[dict[str, Any]]:
    """The manifests that refer to an image, as crane finds them under the fallback tag."""
    name = f"{registry.host}/{repository}"
    index = json.loads(run_tool("crane", "manifest", "--insecure", f"{name}:{digest.replace(':', '-')}"))
    return [json.loads(run_tool("crane", "manifest", "--insecure", f"{name}@{item['digest']}")) for item in index["manifests"]]


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """``skopeo copy`` over plain HTTP."""
    run_tool("skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", *options, source, target)


def unpack(source: str, folder: Path) -> Path:
    """Unpack an image with umoci, which knows gzip only: skopeo recompresses first. The root file system."""
    umoci = need("umoci")
    folder.mkdir(exist_ok=True)
    skopeo_copy(source, f"oci:{folder}/copy:image", "--dest-compress", "--dest-compress-format=gzip", "--dest-compress-level=1")
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    run_tool(umoci, "raw", "unpack", *rootless, "--image", f"{folder}/copy:image", f"{folder}/rootfs")
    shutil.rmtree(folder / "copy")
    return folder / "rootfs"


def run_inside(rootfs: Path, *command: str) -> str:
    """Run a program of an unpacked image as its own root; needs root here. Its stdout."""
    if os.geteuid() != 0:
        pytest.skip("missing part: root (for chroot)")
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    done = subprocess.run([need("chroot"), str(rootfs), *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class RequestLog:
    """What a registry was asked since this was made."""

    registry: Registry
    offset: int = 0

    def __post_init__(self) -> None:
        self.offset = self.registry.log.stat().st_size

    def read(self) -> list[tuple[str, str]]:
        """(method, path with query), without the ``/v2/`` greeting."""
        return [(method, path) for method, path in _REQUEST.findall(self._read_text()) if path != "/v2/"]

    def read_agents(self) -> list[tuple[str, str, str]]:
        """(method, path with query, user agent)."""
        return _AGENT.findall(self._read_text())

    def _read_text(self) -> str:
        with self.registry.log.open("rb") as log:
            log.seek(self.offset)
            return log.read().decode(errors="replace")


def path_of(command: Sequence[tuple[str, str]], method: str) -> list[str]:
    """The paths asked for with one method."""
    return [path for used, path in command if used == method]
