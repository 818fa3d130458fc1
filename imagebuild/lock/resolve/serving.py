"""The loopback server under the routed index: PEP 691 JSON pages, METADATA and wheels, behind a path nobody can guess."""

from __future__ import annotations

import contextlib
import secrets
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec
from packaging.utils import canonicalize_name

from imagebuild.errors import ImagebuildError
from imagebuild.lock.index.pages import JSON_TYPE

_HOST = "127.0.0.1"


class Site(Protocol):
    """What is served. ``reached``: whether any request came at all."""

    reached: bool

    def page_of(self, name: str) -> list[dict[str, Any]] | None:
        """The file entries of a project page, None for 404."""

    def metadata_of(self, name: str, filename: str) -> bytes | None:
        """METADATA of a wheel, None for 404."""

    def body_of(self, name: str, filename: str) -> bytes | Path | None:
        """A wheel's bytes, or the verified file that holds them; None for 404."""

    def record_failure(self, error: Exception) -> None:
        """Keep what went wrong: the client sees only a status code."""


class LoopbackServer:
    """Serves a site until it is stopped."""

    def __init__(self, site: Site) -> None:
        secret = secrets.token_urlsafe(24)
        handler = type("Handler", (_Handler,), {"site": site, "secret": secret})
        self._server = _Server((_HOST, 0), handler)
        self.url = f"http://{_HOST}:{self._server.server_address[1]}/{secret}/simple/"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the server and all its threads."""
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # joined by server_close: no thread outlives the lock
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End kept-alive connections, whose threads would wait for a next request otherwise."""
        for request in list(self._open):
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A resolver that hangs up is not an error."""


class _Handler(BaseHTTPRequestHandler):
    site: Site
    secret: str
    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = -1  # head and body in one packet: two would wait for each other 40 ms (Nagle, delayed acknowledgement)
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet: the resolver logs its own requests."""

    def _answer(self, *, body: bool) -> None:
        site = self.site
        site.reached = True
        parts = [unquote(part) for part in self.path.partition("?")[0].split("/")[1:]]
        try:
            if len(parts) < 2 or not secrets.compare_digest(parts[0].encode(), self.secret.encode()):
                self._send(404, b"", "text/plain", body)
            elif parts[1] == "simple" and len(parts) in (3, 4) and parts[2]:
                name = canonicalize_name(parts[2])
                entries = site.page_of(name)
                if entries is None:
                    self._send(404, b"", "text/plain", body)
                else:
                    page = {"meta": {"api-version": "1.0"}, "name": name, "files": entries}
                    self._send(200, msgspec.json.encode(page), JSON_TYPE, body)
            elif parts[1] == "files" and len(parts) == 4:
                self._send_file(parts[2], parts[3], body)
            else:
                self._send(404, b"", "text/plain", body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        except Exception as error:  # reported by raise_failure; the resolver gets a plain refusal
            site.record_failure(error)
            status = 404 if isinstance(error, ImagebuildError) else 500
            self._send(status, b"imagebuild knows why", "text/plain", body)

    def _send_file(self, name: str, filename: str, body: bool) -> None:
        if filename.endswith(".metadata"):
            data: bytes | Path | None = self.site.metadata_of(name, filename.removesuffix(".metadata"))
        else:
            data = self.site.body_of(name, filename)
        if data is None:
            self._send(404, b"", "text/plain", body)
        else:
            self._send(200, data.read_bytes() if isinstance(data, Path) else data, "application/octet-stream", body)

    def _send(self, status: int, data: bytes, content_type: str, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if body:
            self.wfile.write(data)
        self.wfile.flush()
