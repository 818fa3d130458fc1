"""Programs as whole processes, measured. One that is running ends with the benchmark."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """A run that succeeded. CPU seconds count the process and all it started."""

    seconds: float
    cpu: float
    memory: int  # bytes, the largest process
    output: bytes  # of stdout


@contextlib.contextmanager
def start(command: Sequence[str], *, stdin: int | None = None, stdout: int, stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program that Ctrl-C does not reach; what ends the block by an exception ends the program (SIGTERM), and is waited for."""
    child = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        yield child
    except BaseException:
        child.terminate()  # nothing where it has ended
        child.wait()
        raise


def run_imagebuild(*arguments: str) -> Finished:
    """``imagebuild`` with these arguments; a failure ends the benchmark."""
    started = time.perf_counter()
    try:
        with start([sys.executable, "-m", "imagebuild.cli", *arguments], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            output = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
            seconds = time.perf_counter() - started
            child.stdout.close()
            child.returncode = os.waitstatus_to_exitcode(status)
    except KeyboardInterrupt:
        if child.returncode < 0:
            raise
        sys.exit(130)  # it has said that it was stopped
    if child.returncode:
        sys.exit(f"imagebuild {arguments[0]} ended with {child.returncode}")
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)
