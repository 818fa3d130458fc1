"""The real parts that tests need; a missing one skips by name, and CI fails on any skip. And small things that many tests use."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from imagebuild.errors import ImagebuildError
from imagebuild.lock.index.routing import PackageIndex, default_index
from imagebuild.lock.index.upstream import Upstream

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


def find_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ignore(_line: str) -> None:
    """A report that nobody reads."""


def wait_for(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def need_index(project: str = "pip") -> PackageIndex:
    """The package index that this machine's pip is set up for, or a skip when it does not answer with ``project``."""
    with contextlib.suppress(ImagebuildError), tempfile.TemporaryDirectory() as cache:
        found = default_index()
        with Upstream(found, Path(cache), pause=lambda _seconds: None) as upstream:
            if upstream.read_project(project) is not None:
                return found
    pytest.skip("missing part: package index")


def need_root() -> None:
    """A skip for ordinary users."""
    if os.geteuid() != 0:
        pytest.skip("missing part: root")


def need_no_network() -> list[str]:
    """The command prefix that takes the network away."""
    need_root()
    prefix = [need("unshare"), "--net", "--"]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("missing part: network namespaces")
    return prefix


_NOBODY = 65534


def as_nobody() -> list[str]:
    """The command prefix that runs a program as an ordinary user: root may write anywhere."""
    need_root()
    return [need("setpriv"), f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--"]


def give_to_nobody(folder: Path) -> None:
    """Make the ordinary user the owner of a folder and all in it."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)


def find_ordinary_python(folder: Path) -> str:
    """A Python with this project's dependencies that an ordinary user may start; skips where there is none.

    Our own, unless it lies where only root may look: then the system's of the same version, as a virtual environment
    made by hand in ``folder`` (PEP 405) with our site-packages on its path.
    """
    check = "import subprocess, sys, msgspec, click; subprocess.run([sys.executable, '-c', 'import msgspec'], check=True)"

    def works(python: str) -> bool:
        return subprocess.run([*as_nobody(), python, "-c", check], capture_output=True, check=False, cwd="/").returncode == 0

    if works(sys.executable):
        return sys.executable
    short = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    system = shutil.which(short, path="/usr/bin:/usr/local/bin")
    if system is not None:
        python = folder / "bin" / "python"
        site = folder / "lib" / short / "site-packages"
        site.mkdir(parents=True)
        python.parent.mkdir()
        python.symlink_to(system)
        (folder / "pyvenv.cfg").write_text(f"home = {Path(system).parent}\n")
        (site / "ours.pth").write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
        if works(str(python)):
            return str(python)
    pytest.skip("missing part: a Python that ordinary users may start")


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` at ``folder``; skips where mounting is not permitted."""
    need_root()
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [need("mount"), "-t", "tmpfs", "-o", f"size={size},mode=0755", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("missing part: permission to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run([need("umount"), "--lazy", str(folder)], capture_output=True, check=False)
