"""Stand-ins for the lock's tests: a package index on loopback, a base without layers, a runtime on this machine's Python."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any
from urllib.parse import unquote

from packaging.markers import default_environment
from packaging.tags import sys_tags

from imagebuild.base.model import Base, Distribution, Entry, Interpreter, Inventory, User, compute_fingerprint
from imagebuild.errors import BuildError
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, Digest, ImageConfig, Manifest, Platform

UPLOADED = "2024-05-01T10:00:00.123456Z"


def make_wheel(
    name: str, version: str, requires: Sequence[str] = (), *, tag: str = "py3-none-any", extra: bytes = b"x = 1\n", python: str = ""
) -> tuple[str, bytes]:
    """(file name, bytes) of a small real wheel."""
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] if python else []
    extras = sorted({line.partition("extra == ")[2].strip("'\" ") for line in requires if "extra ==" in line})
    lines += [f"Provides-Extra: {item}" for item in extras] + [f"Requires-Dist: {line}" for line in requires]
    folder = f"{stem}.dist-info"
    files = {
        f"{name.replace('-', '_')}/__init__.py": extra,
        f"{folder}/METADATA": "\n".join(lines).encode() + b"\n",
        f"{folder}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}"
        for path, data in files.items()
    ]
    files[f"{folder}/RECORD"] = "\n".join([*record, f"{folder}/RECORD,,\n"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), data)
    return f"{stem}-{tag}.whl", buffer.getvalue()


class FakeIndex:
    """A package index on loopback. ``form`` is json or html; the other switches break it in one way each."""

    def __init__(self, form: str = "json") -> None:
        self.form = form
        self.files: dict[str, dict[str, dict[str, Any]]] = {}
        self.bodies: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []  # path, Range
        self.authorizations: list[str] = []
        self.ranges = True
        self.metadata = False  # PEP 658
        self.metadata_missing = False  # advertised and not there
        self.times = True
        self.password = ""
        self.cut = 0  # how many bodies to cut short
        self.refuse: list[int] = []  # status codes to answer next with
        self.headers: dict[str, str] = {}
        self.etags = True  # of pages
        self.unchanged = 0  # how often the answer was 304
        self.moved: dict[str, str] = {}  # path -> the address it redirects to

    def add(self, name: str, version: str, requires: Sequence[str] = (), **options: Any) -> str:
        """Publish a wheel; ``uploaded``, ``yanked``, ``requires_python`` go to the page. Its file name."""
        page = {key: options.pop(key) for key in ("uploaded", "yanked", "requires_python") if key in options}
        filename, data = make_wheel(name, version, requires, **options)
        return self.add_file(name, filename, data, **page)

    def add_file(
        self, name: str, filename: str, data: bytes, *, uploaded: str = UPLOADED, yanked: bool | str = False, requires_python: str = ""
    ) -> str:
        """Publish any file."""
        self.bodies[filename] = data
        self.files.setdefault(name, {})[filename] = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
            "uploaded": uploaded,
            "yanked": yanked,
            "python": requires_python,
        }
        return filename

    def metadata_of(self, filename: str) -> bytes:
        with zipfile.ZipFile(io.BytesIO(self.bodies[filename])) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")))

    def page(self, name: str) -> tuple[str, bytes]:
        entries = self.files[name]
        if self.form == "json":
            files = []
            for filename, fact in entries.items():
                entry: dict[str, Any] = {
                    "filename": filename,
                    "url": f"../../files/{filename}",
                    "hashes": {"sha256": fact["sha256"]},
                    "yanked": fact["yanked"],
                }
                entry["size"] = fact["size"]
                if self.times:
                    entry["upload-time"] = fact["uploaded"]
                if fact["python"]:
                    entry["requires-python"] = fact["python"]
                if self.metadata and filename.endswith(".whl"):
                    entry["core-metadata"] = {"sha256": hashlib.sha256(self.metadata_of(filename)).hexdigest()}
                files.append(entry)
            page = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
            return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()
        anchors = []
        for filename, fact in entries.items():
            more = f' data-requires-python="{fact["python"].replace(">", "&gt;").replace("<", "&lt;")}"' if fact["python"] else ""
            more += f' data-yanked="{fact["yanked"] if isinstance(fact["yanked"], str) else ""}"' if fact["yanked"] else ""
            anchors.append(f'<a href="../../files/{filename}#sha256={fact["sha256"]}"{more}>{filename}</a><br>')
        return "text/html; charset=utf-8", ("<!DOCTYPE html><html><body>" + "\n".join(anchors) + "</body></html>").encode()

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Run it; the address of its simple API."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                fake.answer(self)

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple/"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        span = handler.headers.get("Range", "")
        path = unquote(handler.path)
        self.requests.append((path, span))
        self.authorizations.append(handler.headers.get("Authorization", ""))
        status, content_type, body = 200, "application/octet-stream", b""
        more = dict(self.headers)
        parts = path.strip("/").split("/")
        if self.refuse:
            status = self.refuse.pop(0)
            more["Retry-After"] = "0"
        elif path in self.moved:
            status = 302
            more["Location"] = self.moved[path]
        elif self.password and not handler.headers.get("Authorization"):
            status = 401
        elif parts[0] == "simple" and parts[-1] in self.files:
            content_type, body = self.page(parts[-1])
            if self.etags:
                more["ETag"] = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
                if handler.headers.get("If-None-Match") == more["ETag"]:
                    status, body = 304, b""
                    self.unchanged += 1
        elif parts[0] == "files" and parts[-1] in self.bodies:
            body = self.bodies[parts[-1]]
            if span and self.ranges:
                low, _dash, high = span.removeprefix("bytes=").partition("-")
                start = int(low) if low else max(0, len(body) - int(high))
                end = min(int(high), len(body) - 1) if low and high else len(body) - 1
                more["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
                status, body = 206, body[start : end + 1]
        elif parts[-1].endswith(".metadata") and parts[-1].removesuffix(".metadata") in self.bodies and not self.metadata_missing:
            body = self.metadata_of(parts[-1].removesuffix(".metadata"))
        else:
            status = 404
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(body)))
        for key, value in more.items():
            handler.send_header(key, value)
        handler.end_headers()
        if self.cut and parts[0] == "files" and status == 200:
            self.cut -= 1
            handler.wfile.write(body[: len(body) // 2])
            handler.close_connection = True
            return
        handler.wfile.write(body)


class MachineRuntime:
    """Runs an interpreter of this machine as the base's: isolated, environment scrubbed."""

    def __init__(self, executable: str = sys.executable) -> None:
        self.executable = executable

    def run(
        self,
        code: str,
        *arguments: str,
        input: bytes = b"",
        path: Sequence[Path] = (),
        network: bool = False,
        environment: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> CompletedProcess[bytes]:
        assert network or not path
        start = (
            f"import sys\nsys.path[:0] = {[str(item) for item in path]!r}\nsys.path[:] = [p for p in sys.path if '-packages' not in p]\n"
        )
        scrubbed = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", **(environment or {})}
        command = [self.executable, "-I", "-c", start + code, *arguments]
        try:
            return subprocess.run(command, input=input, env=scrubbed, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise BuildError(f"the base's Python did not finish within {timeout:g} s") from None

    def start(self, code: str, *arguments: str) -> Popen[bytes]:
        raise NotImplementedError


class EmptyTree:
    """A base without files."""

    def get(self, path: str) -> Entry | None:  # noqa: ARG002
        return None

    def resolve(self, path: str) -> str:
        return path

    def read_text(self, path: str) -> bytes | None:  # noqa: ARG002
        return None

    def under(self, folder: str) -> Iterator[Entry]:  # noqa: ARG002
        return iter(())


def make_base(distributions: Sequence[Distribution] = (), *, executable: str = sys.executable, name: str = "plain") -> Base:
    """A base that has this machine's Python (the same minor version as the tests') and these distributions."""
    done = MachineRuntime(executable).run("import platform; print(platform.python_version(), end='')")
    version = done.stdout.decode()
    markers = {key: str(value) for key, value in default_environment().items()}
    markers["python_full_version"] = version
    tags = tuple(str(tag) for tag in sys_tags())
    interpreter = Interpreter(
        path="/usr/bin/python3",
        executable="/usr/bin/python3.11",
        version=version,
        implementation="cpython",
        cache_tag="cpython-311",
        magic="a70d0d0a",
        environment="system",
        prefix="/usr",
        base_prefix="/usr",
        paths={"purelib": "/usr/local/lib/python3/dist-packages"},
        markers=markers,
        tags=tags,
        libc="glibc 2.36",
    )
    digest = Digest.of(b"base")
    inventory = Inventory(
        format=1,
        digest=digest,
        platform=Platform(),
        fingerprint=compute_fingerprint(interpreter, distributions),
        user=User("1000", 1000, 1000),
        path=("/usr/bin",),
        interpreter=interpreter,
        distributions=tuple(distributions),
        layers=(),
    )
    manifest = Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, digest, 2), (), {})
    return Base(
        name=name,
        kind="jupyter",
        reference=f"localhost/bases/{name}",
        registry="",
        repository=f"bases/{name}",
        pinned=digest,
        manifest=manifest,
        config=ImageConfig(),
        config_data=b"{}",
        inventory=inventory,
        tree=EmptyTree(),
        runtime=MachineRuntime(executable),
    )


def make_index(url: str, name: str = "default", names: tuple[str, ...] = ()) -> PackageIndex:
    return PackageIndex(name, url, names, default=not names)


def ignore(_line: str) -> None:
    """A report that nobody reads."""


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextlib.contextmanager
def run_pypiserver(folder: Path, user: str, password: str, *, fallback: str = "") -> Iterator[str]:
    """A real private index (pypiserver) over the wheels in ``folder``, behind htpasswd; the address of its simple API.

    ``fallback``: the index it redirects what it lacks to, as it does by default.
    """
    digest = base64.b64encode(hashlib.sha1(password.encode(), usedforsecurity=False).digest()).decode()
    secrets = folder.parent / "htpasswd"
    secrets.write_text(f"{user}:{{SHA}}{digest}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable, "-W", "ignore", "-m", "pypiserver", "run", "--interface", "127.0.0.1", "--port", str(port),
        "--passwords", str(secrets),
        "--authenticate", "list,download,update", "--hash-algo", "sha256",
        *(["--fallback-url", fallback] if fallback else ["--disable-fallback"]), "--server", "wsgiref", str(folder),
    ]  # fmt: skip
    with (folder.parent / "pypiserver.log").open("wb") as log, Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: _answers(port), 20)
            yield f"http://127.0.0.1:{port}/simple/"
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
