"""A server of the standard library on a thread of its own."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any


@contextlib.contextmanager
def run_server(server: HTTPServer) -> Iterator[str]:
    """Let ``server`` answer for as long as the block lasts; its ``HOST:PORT``."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def serve_gets(answer: Callable[[BaseHTTPRequestHandler], object]) -> Iterator[str]:
    """A server on loopback whose GETs ``answer`` answers, each on a thread of its own; its ``HOST:PORT``."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            answer(self)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that has seen enough
                super().handle_error(request, client_address)

    with run_server(Server(("127.0.0.1", 0), Handler)) as host:
        yield host
