"""Long-running programs of others, in a process group that ends with us however we end, and that may not be silent for ever.

The group is led by a shell that waits for the end of a pipe of ours: the kernel closes it when this process ends, by SIGKILL too, and the
shell then ends the group. What such a program leaves running when it is done ends with the group as well. Standard library only: the
starter base begins before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from imagebuild.errors import BuildError, ConfigurationError

_GRACE = 30  # seconds to tidy up after SIGTERM: mmdebstrap removes a root file system
_GUARD = f"""trap '' TERM
read -r child; read -r _
kill -s TERM 0
count=0
while kill -s 0 "$child" 2>/dev/null && [ $count -lt {_GRACE} ]; do sleep 1; count=$((count + 1)); done
kill -s KILL 0"""
_PAUSE = 0.25  # seconds between two looks


class Child:
    """A program that was started. What it writes to stdout and stderr goes to the file ``log``."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.name, self.log = Path(command[0]).name, log
        reader, self._writer = os.pipe()
        try:
            self._guard = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD], stdin=reader, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
            )
        except BaseException:
            os.close(self._writer)
            raise
        finally:
            os.close(reader)
        try:
            with log.open("wb") as stream:
                self._process = subprocess.Popen(
                    command,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    process_group=self._guard.pid,
                )
            os.write(self._writer, f"{self._process.pid}\n".encode())
        except BaseException:
            self._end_group()
            raise

    def wait(self, silence: float, watch: Callable[[], None] = lambda: None) -> int:
        """Its exit status. ``watch`` is called several times a second and may raise, which ends the program.

        BuildError when it wrote nothing for ``silence`` seconds.
        """
        size, heard = -1, time.monotonic()
        try:
            while self._process.poll() is None:
                written = self.log.stat().st_size
                if written != size:
                    size, heard = written, time.monotonic()
                if time.monotonic() - heard > silence:
                    raise BuildError(
                        f"{self.name} said nothing for {silence:.0f} seconds and was ended",
                        "check this machine's network, then run it again",
                    )
                watch()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_PAUSE)
        finally:
            self.stop()
        return self._process.returncode

    def stop(self) -> None:
        """End it and all that it started; nothing when that has been done."""
        if self._guard.returncode is not None:
            return
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
        self._end_group()
        self._process.wait()

    def _end_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        self._guard.wait()
        os.close(self._writer)


def require_space(folder: Path, size: int, doing: str) -> None:
    """ConfigurationError when the disk of ``folder`` has less than ``size`` bytes free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ConfigurationError(
            f"no space left while {doing}: {folder} has {free >> 20} MiB free, and {size >> 20} MiB are needed",
            "free some disk, or point TMPDIR or --cache-dir at a larger one",
        )
