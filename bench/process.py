"""One run of imagebuild as a whole process, measured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """A run that succeeded. CPU seconds count the process and all it started."""

    seconds: float
    cpu: float
    memory: int  # bytes, the largest process
    output: bytes  # of stdout


def run_imagebuild(*arguments: str) -> Finished:
    """``imagebuild`` with these arguments; a failure ends the benchmark."""
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "imagebuild.cli", *arguments], stdout=subprocess.PIPE)
    assert child.stdout is not None
    output = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - started
    child.stdout.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"imagebuild {arguments[0]} ended with {child.returncode}")
    return Finished(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)
