"""The real parts an integration test needs; a missing one skips by name, and CI fails on any skip."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def need(tool: str) -> str:
    """The path of a command-line tool, or a skip that names it."""
    search = os.pathsep.join([os.environ.get("PATH", ""), *_SYSTEM_FOLDERS])
    found = shutil.which(tool, path=search)
    if found is None:
        pytest.skip(f"missing part: {tool}")
    return found


def need_docker() -> str:
    """The docker client's path, or a skip when there is no engine that answers."""
    client = need("docker")
    socket = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if socket.startswith("unix://") and not Path(socket[len("unix://") :]).is_socket():
        pytest.skip("missing part: docker engine")
    return client
