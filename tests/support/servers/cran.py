"""A CRAN-like repository on loopback, which breaks as a test tells it to."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from imagebuild.lock.index.routing import PackageIndex
from tests.support.servers.threads import serve_gets

_LISTED = ("Package", "Version", "Depends", "Imports", "LinkingTo", "License", "NeedsCompilation", "Built")


class FakeCran:
    """Files below ``src/contrib``; ``root`` is what stands before that in the URL, such as ``cran/__linux__/bookworm/latest/``."""

    def __init__(self, root: str = "") -> None:
        self.root = root
        self.files: dict[str, bytes] = {}  # by path below the server's root
        self.listed: dict[str, str] = {}  # name -> stanza
        self.requests: list[tuple[str, str]] = []  # path, User-Agent
        self.moved: dict[str, str] = {}  # path -> where it redirects to
        self.cut = 0  # how many archives to cut short
        self.packages: bytes | None = None  # in place of PACKAGES.gz

    def add(self, name: str, version: str, data: bytes, *, older: bool = False, md5: str = "") -> str:
        """Publish an archive, listed in PACKAGES unless it is an older one; its path."""
        file = f"{name}_{version}.tar.gz"
        path = f"{self.root}src/contrib/{f'Archive/{name}/' if older else ''}{file}"
        self.files[path] = data
        if not older:
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                stream = archive.extractfile(f"{name}/DESCRIPTION")
                assert stream is not None
                fields = [line for line in stream.read().decode().splitlines() if line.partition(":")[0] in _LISTED]
            fields.append(f"MD5sum: {md5 or hashlib.md5(data, usedforsecurity=False).hexdigest()}")
            self.listed[name] = "\n".join(fields) + "\n"
        return path

    def copy(self, root: str) -> None:
        """The same files below another root, as a snapshot of a date."""
        self.files |= {root + path.removeprefix(self.root): data for path, data in self.files.items() if path.startswith(self.root)}
        self.files[f"{root}src/contrib/PACKAGES.gz"] = self._list()

    def _list(self) -> bytes:
        return self.packages if self.packages is not None else gzip.compress("\n".join(self.listed.values()).encode(), mtime=0)

    @contextlib.contextmanager
    def serve(self) -> Iterator[PackageIndex]:
        """Run it; the index ``cran`` for every name."""
        with serve_gets(lambda handler: self.answer(handler)) as host:
            yield PackageIndex("cran", f"http://{host}/{self.root}", default=True)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.lstrip("/")
        self.requests.append((path, handler.headers.get("User-Agent", "")))
        body = self._list() if path == f"{self.root}src/contrib/PACKAGES.gz" else self.files.get(path)
        if path in self.moved:
            handler.send_response(302)
            handler.send_header("Location", self.moved[path])
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(404 if body is None else 200)
        handler.send_header("Content-Length", str(len(body or b"")))
        handler.end_headers()
        if body is not None and self.cut and "/contrib/PACKAGES" not in path:
            self.cut -= 1
            handler.wfile.write(body[: len(body) // 2])
            handler.close_connection = True
            return
        handler.wfile.write(body or b"")
