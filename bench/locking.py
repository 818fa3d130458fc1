"""Locking against the machine's own index: seconds and bytes, cold and warm, beside plain pip-compile and plain uv.

The base is Debian's Python with nothing on it, so nothing is left out of the lock. Seconds are taken without anything in between; bytes in
runs of their own, through a proxy on loopback that counts what the index sends. No wheel body is fetched by a resolver here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import requests

from imagebuild.base.model import Base
from imagebuild.lock.compiling import compile_lock
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.routing import PackageIndex, default_index
from imagebuild.lock.proving import check_listing
from imagebuild.lock.request import LockRequest
from imagebuild.lock.resolve.uv import find_uv
from imagebuild.oci.model import Platform
from imagebuild.starter.build import open_root
from imagebuild.workspace import Workspace

REQUIREMENTS = "pandas==2.2.*\nscikit-learn==1.5.*\nxgboost\nmlflow\njupyterlab\n"
CUTOFF = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
_FORWARDED = ("Accept", "Range", "If-None-Match", "User-Agent")
_PASSED_BACK = ("Accept-Ranges", "Content-Type", "Content-Range", "ETag", "Last-Modified", "Cache-Control")


class CountingProxy:
    """The index on loopback, file addresses rewritten to come through here too. ``bodies``: bytes of pages, of all else."""

    def __init__(self, index: PackageIndex) -> None:
        self.index = index
        self.requests = 0
        self.pages = 0
        self.others = 0
        self._guard = threading.Lock()
        self._session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_connections=16, pool_maxsize=64)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._session.verify = index.certificate or True

    def answer(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        path = handler.path
        page = not path.startswith("/at/")
        if page:
            url = self.index.address.rstrip("/") + path.removeprefix("/simple")
        else:
            scheme, host, rest = path.removeprefix("/at/").split("/", 2)
            url = f"{scheme}://{host}/{rest}"
        headers = {name: handler.headers[name] for name in _FORWARDED if name in handler.headers}
        with self._session.request(
            handler.command, url, headers={"Accept-Encoding": "identity", **headers}, timeout=60, auth=self.index.credentials, stream=True
        ) as answer:
            with self._guard:
                self.requests += 1
            handler.send_response(answer.status_code)
            for name in _PASSED_BACK:
                if name in answer.headers:
                    handler.send_header(name, answer.headers[name])
            if page:
                body = re.sub(rb"(https?)://([A-Za-z0-9.:-]+)/", rb"http://127.0.0.1:%d/at/\1/\2/" % port, answer.content)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                self.count(len(answer.content), page=True)
                handler.wfile.write(body)
                return
            handler.send_header("Content-Length", answer.headers.get("Content-Length", "0"))
            handler.end_headers()
            if handler.command == "HEAD":
                return
            for piece in answer.iter_content(16 << 10):  # as far as the client wants it
                self.count(len(piece), page=False)
                handler.wfile.write(piece)

    def count(self, size: int, *, page: bool) -> None:
        with self._guard:
            if page:
                self.pages += size
            else:
                self.others += size

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                try:
                    proxy.answer(self, int(self.headers["Host"].rpartition(":")[2]))
                except ConnectionError:  # a client that has seen enough
                    self.close_connection = True

            def do_HEAD(self) -> None:
                self.do_GET()

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
        finally:
            server.shutdown()
            server.server_close()


def open_base() -> Base:
    """Debian's Python, as the starter base begins; made on the first run."""
    workspace = Workspace(Path(), quiet=True)
    workspace.prepare()
    return open_root(workspace.layout, workspace.cache, Platform.parse("linux/amd64"), workspace.report)


def lock_here(base: Base, index: PackageIndex, resolver: str, cache: Path) -> Lock:
    """imagebuild's lock: hashes, sizes and installed sizes included."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "requirements.in").write_text(REQUIREMENTS)
        return compile_lock(
            LockRequest(
                team="bench",
                base=base,
                requirements=root / "requirements.in",
                local_packages=(),
                indexes=(index,),
                cutoff=CUTOFF,
                explicit_cutoff=False,
                root=root,
                cache=cache,
                report=lambda _line: None,
                resolver=resolver,
            )
        )


def run_plain(command: list[str], index: PackageIndex) -> int:
    """A tool by itself, with none of this machine's configuration; how many pins it gave."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "requirements.in").write_text(REQUIREMENTS)
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
        if index.certificate:
            environment |= {"PIP_CERT": index.certificate, "SSL_CERT_FILE": index.certificate, "REQUESTS_CA_BUNDLE": index.certificate}
        done = subprocess.run([*command, "requirements.in"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{command[0]} failed: {done.stderr[-600:]}")
        return sum(1 for line in Path(folder, "out.txt").read_text().splitlines() if re.match(r"[A-Za-z0-9]", line))


def plain_pip_compile(index: PackageIndex, cache: Path) -> int:
    """pip-compile alone, without hashes."""
    return run_plain(
        [sys.executable, "-m", "piptools", "compile", "--quiet", "--no-config", "--strip-extras", "--allow-unsafe",
         "--cache-dir", str(cache), "--index-url", index.url, "--pip-args", "--only-binary :all:", "--output-file", "out.txt"],
        index,
    )  # fmt: skip


def plain_uv(index: PackageIndex, cache: Path) -> int:
    """``uv pip compile`` alone, with hashes."""
    return run_plain(
        [str(find_uv()), "pip", "compile", "--quiet", "--no-config", "--no-build", "--generate-hashes", "--cache-dir", str(cache),
         "--python", sys.executable, "--no-python-downloads", "--default-index", index.url, "--output-file", "out.txt"],
        index,
    )  # fmt: skip


def measure(name: str, work: Callable[[PackageIndex, Path], int], index: PackageIndex, rounds: int) -> None:
    """One line: the best of ``rounds`` cold and warm runs, and the bytes of one more of each."""
    cold: list[float] = []
    warm: list[float] = []
    pins = 0
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for found in (cold, warm):
                started = time.monotonic()
                pins = work(index, Path(cache))
                found.append(time.monotonic() - started)
    fetched = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            proxy = CountingProxy(index)
            with proxy.serve() as url:
                work(msgspec.structs.replace(index, url=url, certificate=""), Path(cache))
            fetched.append(f"{proxy.requests:5d} {proxy.pages / 1e6:7.1f} {proxy.others / 1e6:7.1f}")
    print(f"{name:28s} {pins:5d} {min(cold):7.1f} {min(warm):7.1f}   {fetched[0]}   {fetched[1]}", flush=True)


def measure_check(base: Base, index: PackageIndex, rounds: int) -> None:
    """``lock --check``'s questions to the index, the second time on."""
    with tempfile.TemporaryDirectory() as cache:
        lock = lock_here(base, index, "uv", Path(cache))
        seconds = []
        for _ in range(rounds + 1):
            started = time.monotonic()
            check_listing(lock, [index], Path(cache))
            seconds.append(time.monotonic() - started)
    print(
        f"lock --check, {len(lock.packages)} files: first {seconds[0]:.2f} s, then {min(seconds[1:]):.2f} s; every page asked for each time"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="", help="a part of a row's name")
    arguments = parser.parse_args()
    base, index = open_base(), default_index()
    tools = f"pip-tools {importlib.metadata.version('pip-tools')}, uv {importlib.metadata.version('uv')}"
    print(f"{' '.join(REQUIREMENTS.split())}; {tools}; {os.cpu_count()} cores; seconds: best of {arguments.rounds}")
    print(f"{'':28s} {'pins':>5s} {'cold s':>7s} {'warm s':>7s}   cold: requests, MB of pages, MB else   warm: the same", flush=True)
    rows: dict[str, Callable[[PackageIndex, Path], int]] = {
        "imagebuild, pip-tools": lambda index, cache: len(lock_here(base, index, "pip-tools", cache).packages),
        "pip-compile alone": plain_pip_compile,
        "imagebuild, uv": lambda index, cache: len(lock_here(base, index, "uv", cache).packages),
        "uv pip compile alone": plain_uv,
    }
    for name, work in rows.items():
        if arguments.only in name:
            measure(name, work, index, arguments.rounds)
    measure_check(base, index, arguments.rounds)


if __name__ == "__main__":
    main()
