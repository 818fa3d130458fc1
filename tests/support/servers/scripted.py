"""An HTTP server on loopback that misbehaves as a test tells it to: what real registries and proxies do on a bad day."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from tests.support.servers.threads import run_server


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def authorization(self) -> str:
        return self.headers.get("authorization", "")


@dataclass(frozen=True)
class Answer:
    """``sent`` bytes of the body really go out (None: all) before the connection ends; ``reset`` answers nothing at all;
    ``pace`` seconds lie between a byte of the body and the next; ``stall`` seconds pass before anything is said, or after ``sent`` bytes.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    sent: int | None = None
    reset: bool = False
    pace: float = 0.0
    stall: float = 0.0


Script = Callable[[Asked], Answer]


class Server(ThreadingHTTPServer):
    """Answers with ``script`` and keeps what it was asked."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script = script
        self.asked: list[Asked] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def lines(self) -> list[str]:
        """``METHOD path`` of every request."""
        return [f"{item.method} {item.path}" for item in self.asked]

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.server.asked.append(asked)
        answer = self.server.script(asked)
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if answer.sent is None:
            time.sleep(answer.stall)
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if answer.pace:
            for number in range(len(answer.body)):
                self.wfile.write(answer.body[number : number + 1])
                self.wfile.flush()
                time.sleep(answer.pace)
        elif self.command != "HEAD":
            self.wfile.write(answer.body if answer.sent is None else answer.body[: answer.sent])
        if answer.sent is not None:
            self.wfile.flush()
            time.sleep(answer.stall)
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _answer  # noqa: N815  # the names http.server looks for

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def serve(script: Script) -> Iterator[Server]:
    """Run a :class:`Server` for the length of a test."""
    server = Server(script)
    with run_server(server):
        yield server


def in_turn(*answers: Answer) -> Script:
    """Answer the first request with the first, and so on; the last one stays."""
    remaining = list(answers)

    def script(_: Asked) -> Answer:
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return script
