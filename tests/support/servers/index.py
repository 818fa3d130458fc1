"""Package indexes on loopback: one in memory that breaks as a test tells it to, a slow one, and a real private one (pypiserver)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import socket
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import unquote

from imagebuild.lock.index.routing import PackageIndex
from tests.support.builders import encode_wheel, make_wheel
from tests.support.servers.threads import serve_gets
from tests.support.tools import find_port, wait_for

UPLOADED = "2024-05-01T10:00:00.123456Z"


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
        filename, data = encode_wheel(name, version, requires, **options)
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
        with serve_gets(lambda handler: self.answer(handler)) as host:
            yield f"http://{host}/simple/"

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


def publish(index: FakeIndex, folder: Path, name: str, version: str, requires: Sequence[str] = (), **options: object) -> str:
    """Put a wheel with a true RECORD on the index; ``options`` as :func:`tests.support.builders.make_wheel`. Its file name."""
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {line}\n" for line in requires)]
    path = make_wheel(folder, name.replace("-", "_"), version, metadata="".join(lines), **options)  # type: ignore[arg-type]
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


def make_index(url: str, name: str = "default", names: tuple[str, ...] = ()) -> PackageIndex:
    return PackageIndex(name, url, names, default=not names)


@contextlib.contextmanager
def run_pypiserver(folder: Path, user: str, password: str, *, fallback: str = "") -> Iterator[str]:
    """A real private index (pypiserver) over the wheels in ``folder``, behind htpasswd; the address of its simple API.

    ``fallback``: the index it redirects what it lacks to, as it does by default.
    """
    digest = base64.b64encode(hashlib.sha1(password.encode(), usedforsecurity=False).digest()).decode()
    secrets = folder.parent / "htpasswd"
    secrets.write_text(f"{user}:{{SHA}}{digest}\n")
    port = find_port()
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
