"""Worlds to break: a small base with a real Python, a package index and a registry that misbehave, and the command line.

A :class:`World` is a folder as a user has it (images/, lockfiles/, .imagebuild/) with one team on a base of about 30 MB.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from imagebuild.oci.referrers import REFERRERS_TAG
from tests import bases, layer_parts
from tests.lock_parts import FakeIndex
from tests.parts import need
from tests.registries import Registry

PROJECT = Path(__file__).parents[1]
NOTHING: Mapping[str, str | None] = MappingProxyType({})
BASE_REPOSITORY = bases.REPOSITORY
_KEPT = re.compile(
    r"\.?/?(?:bin|sbin|lib|lib64|usr/lib64(?:/.*)?|usr/bin|usr/bin/python3[^/]*|usr/lib|usr/lib/python3/dist-packages(?:/six.*)?|etc/(?:passwd|group)"
    r"|usr|usr/local(?:/.*)?|home|tmp|etc|usr/lib/python3(?:\.[0-9]+)?(?:/.*)?|usr/lib/[^/]+-linux-gnu(?:/[^/]*\.so[^/]*)?|etc/ld\.so\.conf.*)"
)
_LEFT_OUT = re.compile(r".*/(?:test|tests|idlelib|tkinter|lib2to3|pydoc_data|ensurepip|__pycache__)(?:/.*)?|.*/lib(?:icu|perl|db-5)[^/]*")


# --- the base -------------------------------------------------------------------------------------------------------


def make_small_layer(rootfs: Path) -> bytes:
    """Of a Debian root file system what its Python needs, and one installed distribution, ``basekit 1.5``."""
    found = []
    with tarfile.open(rootfs) as archive:
        for info in archive:
            if not _KEPT.fullmatch(info.name) or _LEFT_OUT.fullmatch(info.name) or info.size > 8 << 20:
                continue
            stream = archive.extractfile(info) if info.isreg() else None
            found.append((info, stream.read() if stream is not None else b""))
    folder = "usr/lib/python3/dist-packages/basekit-1.5.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: basekit\nVersion: 1.5\n"
    record = f"{folder}/METADATA,,\n{folder}/INSTALLER,,\n{folder}/RECORD,,\n".replace("usr/lib/python3/dist-packages/", "").encode()
    for name, data in (("METADATA", metadata), ("INSTALLER", b"pip\n"), ("RECORD", record)):
        found.append(bases.entry(f"{folder}/{name}", data))
    return bases.make_layer(found)


@dataclass(frozen=True)
class SmallBase:
    """Where the base lies."""

    registry: Registry
    digest: Digest
    layer: Digest  # of its one layer, as stored
    folder: Path  # of the layout it was made in
    cache: Path  # a cache folder in which it has been read

    @property
    def host(self) -> str:
        return self.registry.host


def push_small_base(rootfs: Path, folder: Path, registry: Registry) -> SmallBase:
    """Make the base and push it to ``registry`` with skopeo."""
    store = LayoutStore(folder / "layout")
    raw = bases.push_image(
        store,
        [make_small_layer(rootfs)],
        {"User": "1000", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/jovyan"], "Cmd": ["python3"]},
        compression="zstd",
    )
    subprocess.run(
        [need("skopeo"), "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
         f"oci:{folder / 'layout'}:{BASE_REPOSITORY}:1", f"docker://{registry.host}/{BASE_REPOSITORY}:1"],
        check=True, capture_output=True,
    )  # fmt: skip
    manifest = raw.parse()
    return SmallBase(registry, raw.digest, manifest.layers[0].id, folder / "layout", folder / "cache")  # type: ignore[union-attr]


# --- the index ------------------------------------------------------------------------------------------------------


def publish(index: FakeIndex, folder: Path, name: str, version: str, requires: Sequence[str] = (), **options: object) -> str:
    """Put a wheel with a true RECORD on the index; ``options`` as :func:`tests.layer_parts.make_wheel`. Its file name."""
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {line}\n" for line in requires)]
    path = layer_parts.make_wheel(folder, name.replace("-", "_"), version, metadata="".join(lines), **options)  # type: ignore[arg-type]
    return index.add_file(name, path.name, path.read_bytes())


class SlowIndex(FakeIndex):
    """A package index whose answers take ``delay`` seconds each; a client that hangs up is no news to it."""

    def __init__(self) -> None:
        super().__init__()
        self.delay = 0.0

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        time.sleep(self.delay)
        with contextlib.suppress(ConnectionError):
            super().answer(handler)


# --- the registry ---------------------------------------------------------------------------------------------------


@dataclass
class Fault:
    """What to do to requests whose ``METHOD path`` matches ``pattern``, ``times`` times (-1: always)."""

    pattern: str
    status: int = 0  # answer with this instead of asking the registry
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"TEST","message":"a test"}]}'
    cut: bool = False  # send half of the registry's body, then hang up
    flip: bool = False  # change one byte in the middle of the registry's body
    times: int = -1
    seen: int = 0


class FaultyRegistry:
    """A proxy before a real registry that breaks chosen answers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.host = ""

    def find_fault(self, line: str) -> Fault | None:
        self.requests.append(line)
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, line):
                fault.times -= 1
                fault.seen += 1
                return fault
        return None

    @contextlib.contextmanager
    def serve(self) -> Iterator[FaultyRegistry]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def log_message(self, format: str, *args: object) -> None:
                pass

            def __getattr__(self, name: str) -> Callable[[], None]:
                if name.startswith("do_"):  # any method
                    return lambda: proxy.answer(self)
                raise AttributeError(name)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up is no news
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        self.host = f"localhost:{server.server_address[1]}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self.find_fault(f"{handler.command} {handler.path}")
        if fault is not None and fault.status:
            self._send(handler, fault.status, {**fault.headers}, fault.body, fault)
            return
        connection = http.client.HTTPConnection("127.0.0.1", self._registry.port, timeout=20)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
            answer = connection.getresponse()
            data = answer.read()
            headers = {key: value for key, value in answer.getheaders() if key.lower() not in ("connection", "transfer-encoding", "date")}
            self._send(handler, answer.status, headers, data, fault)
        finally:
            connection.close()

    def _send(self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, fault: Fault | None) -> None:
        handler.send_response(status)
        if "Content-Length" not in headers:
            headers["Content-Length"] = str(len(data))
        for key, value in headers.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "HEAD" or not data:
            return
        if fault is not None and fault.flip:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if fault is not None and fault.cut:
            data = data[: len(data) // 2]
            handler.close_connection = True
        handler.wfile.write(data)


# --- the command line -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A finished run."""

    code: int
    out: str
    err: str
    seconds: float

    def lines(self, start: str) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith(start)]

    @property
    def error(self) -> str:
        return " ".join(self.lines("error: "))

    @property
    def hint(self) -> str:
        return " ".join(self.lines("hint: "))

    def refused(self, code: int, error: str, hint: str = "") -> Done:
        """The contract of every failure: its exit code, one error line and one hint that hold these patterns, no traceback."""
        assert self.code == code, f"exit {self.code}, not {code}\n{self.err}"
        assert len(self.lines("error: ")) == 1, self.err
        assert len(self.lines("hint: ")) == 1, self.err
        assert "Traceback" not in self.err + self.out, self.err
        assert "defect of imagebuild" not in self.err, self.err
        assert self.err.rstrip("\n").splitlines()[-1].startswith("hint: "), self.err  # nothing is said after it
        assert re.search(error, self.error), self.error
        assert re.search(hint, self.hint), self.hint
        return self

    def succeeded(self) -> Done:
        assert self.code == 0, self.err
        assert not self.lines("error: "), self.err
        return self

    @property
    def digest(self) -> str:
        """Of the image, from the summary on stdout."""
        match = re.search(r"^  digest +(sha256:[0-9a-f]{64})$", self.out, re.MULTILINE)
        assert match is not None, self.out + self.err
        return match[1]


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, target, follow_symlinks=False)


class World:
    """A folder with one team, ``blue``, that asks for ``alpha``."""

    def __init__(self, root: Path, base: SmallBase, index_url: str, *, mirror: str = "", warm: bool = True) -> None:
        self.python = sys.executable
        self.root = root
        self.base = base
        self.index_url = index_url
        root.mkdir(parents=True)
        (root / "images").mkdir()
        mirrors = f'\n[mirrors]\n"{base.host}" = "{mirror}"\n' if mirror else ""
        self.write(
            "images/catalogue.toml",
            f'[base.tiny]\nreference = "{base.host}/{BASE_REPOSITORY}"\ntag = "1"\ndigest = "{base.digest}"\n{mirrors}',
        )
        self.add_team("blue", "alpha\n")
        self.state = root / ".imagebuild"
        self.cache = self.state / "cache"
        if warm:  # the base has been read before; a test may replace these files, but must not write into them
            self.cache.mkdir(parents=True)
            shutil.copytree(base.cache / "bases", self.cache / "bases", symlinks=True, copy_function=_link_or_copy)

    @property
    def lockfile(self) -> Path:
        return self.root / "lockfiles" / "pylock.blue.toml"

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

    def add_team(self, team: str, requirements: str, settings: str = "") -> None:
        index = f'[[index]]\nname = "fake"\nurl = "{self.index_url}"\ndefault = true\n'
        self.write(f"images/{team}/team.toml", f'base = "tiny"\n{settings}{index}')
        self.write(f"images/{team}/requirements.in", requirements)

    def add_package(self, team: str = "blue", name: str = "own_kit", body: str = "x = 1\n") -> Path:
        """An internal package as a source tree; its folder."""
        folder = f"images/{team}/packages/{name}"
        self.write(
            f"{folder}/pyproject.toml",
            '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\ndescription = "a test"\n',
        )
        self.write(f"{folder}/{name}.py", f'"""A test."""\n{body}')
        return self.root / folder

    def command(self, *arguments: str) -> list[str]:
        root = [] if "--root" in arguments else ["--root", str(self.root)]
        return [self.python, "-m", "imagebuild.cli", *arguments, *root]

    def environment(self, more: Mapping[str, str | None] = NOTHING) -> dict[str, str]:
        """This process's, without what would change the program's ways; a value of None removes."""
        found = {key: value for key, value in os.environ.items() if not key.startswith(("IMAGEBUILD_", "PIP_"))}
        found["PYTHONPATH"] = str(PROJECT)
        found["DOCKER_CONFIG"] = str(self.root / "no-docker-config")
        for key, value in more.items():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return found

    def start(self, *arguments: str, before: Sequence[str] = (), environment: Mapping[str, str | None] = NOTHING) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, *self.command(*arguments)], env=self.environment(environment), cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape", start_new_session=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], started: float, timeout: float = 60) -> Done:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"still running after {timeout} s:\n{out}{err}") from None
        return Done(process.returncode, out, err, time.monotonic() - started)

    def run(
        self, *arguments: str, before: Sequence[str] = (), timeout: float = 60, environment: Mapping[str, str | None] = NOTHING
    ) -> Done:
        started = time.monotonic()
        return self.finish(self.start(*arguments, before=before, environment=environment), started, timeout)

    # -- what is on the disk

    def leftovers(self) -> list[str]:
        """Temporary files anywhere in the folder: none after a run that ended by itself."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.name.startswith(".tmp"))

    def tags(self, team: str = "blue") -> list[str]:
        """The images that the layout folder's index names; not the lists of what refers to one."""
        return [tag for tag in LayoutStore(self.state / "registry").list_tags(team) if not REFERRERS_TAG.fullmatch(tag)]

    def nothing_made(self) -> None:
        """No image, no half-written file."""
        assert self.tags() == []
        assert self.leftovers() == []

    def forget_image(self, *, members: bool = False) -> None:
        """Remove what was pushed, and the members it was made of, so that the next run makes it again."""
        shutil.rmtree(self.state / "registry", ignore_errors=True)
        if members:
            shutil.rmtree(self.cache / "members", ignore_errors=True)
            shutil.rmtree(self.cache / "local", ignore_errors=True)

    def kept_wheels(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "wheels").rglob("*.whl")) if self.cache.is_dir() else []


def need_root() -> None:
    """A skip for ordinary users."""
    if os.geteuid() != 0:
        pytest.skip("missing part: root")


def need_no_network() -> list[str]:
    """The command prefix that takes the network away."""
    need_root()
    prefix = [need("unshare"), "--net", "--"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("missing part: network namespaces")
    return prefix


_NOBODY = 65534


def as_nobody() -> list[str]:
    """The command prefix that runs a program as an ordinary user: root may write anywhere."""
    need_root()
    return [need("setpriv"), f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]


def give_to_nobody(folder: Path) -> None:
    """Make the ordinary user the owner of a folder and all in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)


def find_ordinary_python(folder: Path) -> str:
    """A Python with this project's dependencies that an ordinary user may start; skips where there is none.

    Our own, unless it lies where only root may look: then the system's of the same version, as a virtual environment
    made by hand in ``folder`` (PEP 405) with our site-packages on its path.
    """
    check = "import subprocess, sys, msgspec, click; subprocess.run([sys.executable, '-c', 'import msgspec'], check=True)"

    def works(python: str) -> bool:
        return subprocess.run([*as_nobody(), python, "-c", check], capture_output=True, check=False, cwd="/").returncode == 0

    if works(sys.executable):
        return sys.executable
    short = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    system = shutil.which(short, path="/usr/bin:/usr/local/bin")
    if system is not None:
        python = folder / "bin" / "python"
        site = folder / "lib" / short / "site-packages"
        site.mkdir(parents=True)
        python.parent.mkdir()
        python.symlink_to(system)
        (folder / "pyvenv.cfg").write_text(f"home = {Path(system).parent}\n")
        (site / "ours.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
        if works(str(python)):
            return str(python)
    pytest.skip("missing part: a Python that ordinary users may start")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` at ``folder``; skips where mounting is not permitted."""
    need_root()
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [need("mount"), "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("missing part: permission to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run([need("umount"), "--lazy", str(folder)], capture_output=True, check=False)
