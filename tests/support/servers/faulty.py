"""A proxy before a real registry that breaks chosen answers."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.servers.registry import Registry
from tests.support.servers.threads import run_server


@dataclass
class Fault:
    """What to do to requests whose ``METHOD path`` matches ``pattern``, ``times`` times (-1: always)."""

    pattern: str
    status: int = 0  # answer with this instead of asking the registry
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"TEST","message":"a test"}]}'
    cut: bool = False  # send half of the registry's body, then hang up
    flip: bool = False  # change one byte in the middle of the registry's body
    reset: bool = False  # close the connection for good, unanswered
    stall: float = 0.0  # seconds before anything is done
    times: int = -1
    seen: int = 0


class FaultyRegistry:
    """The proxy. ``faults`` are tried in order; ``requests``: the ``METHOD path`` of each that came."""

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
        self.host = f"localhost:{server.server_address[1]}"
        with run_server(server):
            yield self

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self.find_fault(f"{handler.command} {handler.path}")
        if fault is not None:
            time.sleep(fault.stall)
        if fault is not None and fault.reset:
            handler.close_connection = True
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            return
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
