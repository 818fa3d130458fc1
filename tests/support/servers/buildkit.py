"""A buildx builder that is not docker's own: the engine's BuildKit, reached the way a remote one is."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.tools import need_docker

_UPGRADE = b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _serve(client: socket.socket, engine: Path) -> None:
    """One connection: the engine's API hands its BuildKit over after an HTTP upgrade (Docker Engine API, POST /grpc)."""
    with client, socket.socket(socket.AF_UNIX) as upstream:
        upstream.connect(str(engine))
        upstream.sendall(_UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = upstream.recv(1)
            if not byte:
                return
            head += byte
        back = threading.Thread(target=_carry, args=(upstream, client), daemon=True)
        back.start()
        _carry(client, upstream)
        back.join()


@contextlib.contextmanager
def run_remote_builder(settings: Mapping[str, str]) -> Iterator[str]:
    """The name of a builder of buildx's ``remote`` driver, known to the docker client under ``settings`` (DOCKER_CONFIG, HOME)."""
    docker = need_docker()
    engine = Path("/var/run/docker.sock")
    if not engine.is_socket():
        pytest.skip("missing part: the engine's socket in /var/run")
    name = f"remote-{uuid.uuid4().hex[:8]}"
    environment = {**os.environ, **settings}
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the server is closed: the end
                while True:
                    client, _ = server.accept()
                    threading.Thread(target=_serve, args=(client, engine), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        command = [docker, "buildx", "create", "--name", name, "--driver", "remote", address]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        try:
            yield name
        finally:
            subprocess.run([docker, "buildx", "rm", name], env=environment, check=False, capture_output=True)
            server.shutdown(socket.SHUT_RDWR)
