"""The base's own Python on this machine: no container, no root, and nothing of this machine's Python.

The cut-out interpreter is started through the base's own loader with the base's own libraries. The environment is
scrubbed and states everything that shapes bytecode. ``-I`` is not used, because it would ignore PYTHONHASHSEED, on
which the order inside a frozenset constant and so the bytes of a ``.pyc`` depend; ``-s -S -B`` and a ``sys.path`` set
from the command line give the same isolation.
"""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild.errors import BuildError
from imagebuild.oci.model import Platform

WRAPPER = "python"  # beside rootfs/: starts the interpreter for children that go by sys.executable

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64", "armv7l": "arm"}
_PREAMBLE = """\
import sys
sys.executable = {wrapper!r}
sys.path[:] = {path!r} + [entry for entry in sys.path if entry]
exec(compile(sys.argv.pop(1), "<string>", "exec"))
"""
_UNSHARE = ("/usr/bin/unshare", "/bin/unshare")


class Launch(msgspec.Struct, frozen=True):
    """How to start what was cut out. All paths are relative to the folder ``rootfs``."""

    executable: str
    home: str  # PYTHONHOME: the prefix
    version: tuple[int, int]
    loader: str = ""  # empty for a static executable
    libraries: tuple[str, ...] = ()  # folders

    def command(self, rootfs: str) -> list[str]:
        """The words that stand for ``python`` on a command line."""
        executable = f"{rootfs}/{self.executable}"
        if not self.loader:
            return [executable]
        folders = ":".join(f"{rootfs}/{folder}" for folder in self.libraries)
        # musl's loader has no cache to inhibit.
        glibc = [] if "ld-musl" in self.loader else ["--inhibit-cache"]
        return [f"{rootfs}/{self.loader}", *glibc, "--library-path", folders, executable]


def runs_here(platform: Platform) -> bool:
    """Whether this machine can start programs of ``platform``."""
    system = os.uname()
    return platform.os == system.sysname.lower() == "linux" and platform.architecture == _MACHINES.get(system.machine)


@functools.cache
def find_network_isolation() -> tuple[str, ...]:
    """The command prefix that takes the network away, or nothing where this machine does not allow it."""
    tool = next((path for path in _UNSHARE if os.access(path, os.X_OK)), None)
    if tool is None:
        return ()
    user: tuple[tuple[str, ...], ...] = (("--user", "--map-current-user"), ("--user", "--map-root-user"))
    for options in ((), *user) if os.geteuid() == 0 else user:
        prefix = (tool, *options, "--net", "--")
        try:
            done = subprocess.run([*prefix, tool, "--version"], capture_output=True, timeout=10, env={}, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return prefix
    return ()


def write_wrapper(path: Path, launch: Launch) -> None:
    """A script that starts the interpreter wherever its folder lies, for children started by ``sys.executable``."""

    def quote(text: str) -> str:
        return "'" + text.replace("'", "'\\''") + "'"

    words = " ".join(quote(word).replace("@ROOTFS@", "'\"$rootfs\"'") for word in launch.command("@ROOTFS@"))
    path.write_text(
        "#!/bin/sh\n"
        'rootfs="$(dirname "$(readlink -f "$0")")/rootfs"\n'
        f'PYTHONHOME="$rootfs"/{quote(launch.home)} exec {words} "$@"\n',
        encoding="utf-8", errors="surrogateescape",
    )  # fmt: skip
    path.chmod(0o755)


class CutRuntime:
    """:class:`imagebuild.base.model.Runtime` in ``folder``, which holds ``rootfs/`` and the wrapper script."""

    def __init__(self, folder: Path, launch: Launch) -> None:
        self.folder = folder.absolute()
        self.launch = launch

    def _command(self, code: str, arguments: Sequence[str], path: Sequence[Path]) -> list[str]:
        preamble = _PREAMBLE.format(wrapper=str(self.folder / WRAPPER), path=[str(entry) for entry in path])
        flags = ["-s", "-S", "-B", "-X", "utf8"]
        if self.launch.version >= (3, 11):
            flags.append("-P")
        return [*self.launch.command(str(self.folder / "rootfs")), *flags, "-c", preamble, code, *arguments]

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {
            "PATH": "/usr/bin:/bin",
            "HOME": "/nonexistent",
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "PYTHONNOUSERSITE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHOME": str(self.folder / "rootfs" / self.launch.home),
            **(more or {}),
        }

    def run(
        self, code: str, *arguments: str, input: bytes = b"", path: Sequence[Path] = (), network: bool = False,
        environment: Mapping[str, str] | None = None, timeout: float = 300,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        """See :class:`imagebuild.base.model.Runtime`. Not starting, or not ending in ``timeout`` s, is a BuildError."""
        prefix = () if network else find_network_isolation()
        command = [*prefix, *self._command(code, arguments, path)]
        try:
            return subprocess.run(
                command, input=input, capture_output=True, env=self._environment(environment), cwd="/", timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"the base's Python did not finish within {timeout:g} s", "try again on a less busy machine") from None
        except OSError as error:
            raise self._refused(error) from error

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        """See :class:`imagebuild.base.model.Runtime`. The caller closes the pipes and waits."""
        command = [*find_network_isolation(), *self._command(code, arguments, ())]
        pipe = subprocess.PIPE
        try:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment(None), cwd="/")
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> BuildError:
        return BuildError(
            f"the base's Python does not start: {error.strerror or error}",
            f"check that {self.folder} is readable and not on a file system mounted noexec, or point --cache-dir elsewhere",
        )
