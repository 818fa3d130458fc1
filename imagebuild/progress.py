"""Which long step is under way and how far it is, for whoever shows it (imagebuild.commands.display).

Steps are the process's own, as log records are: streams deep below count what passes them without knowing who looks. Of several steps
within each other the innermost one of a unit counts.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from imagebuild.text import format_size

Unit = Literal["bytes", "packages", "teams"]


class Step:
    """One thing that takes long. ``total`` and ``done`` are in ``unit``; a total of 0: nobody knows."""

    __slots__ = ("began", "done", "line", "total", "unit")

    def __init__(self, line: str, total: int, unit: Unit) -> None:
        self.line, self.total, self.unit = line, total, unit
        self.done = 0
        self.began = time.monotonic()

    def describe(self) -> str:
        """How far it is, in plain words, with the rate of bytes: ``12.0 of 79.5 MiB, 15%, 6.1 MiB/s``."""
        done = min(self.done, self.total) if self.total else self.done
        seconds = max(time.monotonic() - self.began, 0.001)
        if self.unit == "bytes":
            whole = f" of {format_size(self.total)}, {100 * done // self.total}%" if self.total else ""
            return f"{format_size(done)}{whole}, {format_size(int(done / seconds))}/s"
        return f"{done} of {self.total} {self.unit}" if self.total else f"{done} {self.unit}"


_steps: list[Step] = []
_lock = threading.Lock()
_ended: list[Callable[[Step], None]] = []


@contextlib.contextmanager
def step(line: str, total: int = 0, unit: Unit = "bytes", report: Callable[[str], object] | None = None) -> Iterator[Step]:
    """The block is a step of its own; ``report``, if given, gets its line first."""
    if report is not None:
        report(line)
    made = Step(line, total, unit)
    with _lock:
        _steps.append(made)
    try:
        yield made
        for tell in _ended:
            tell(made)
    finally:
        with _lock:
            _steps.remove(made)


def advance(amount: int, unit: Unit = "bytes") -> None:
    """So much is done, of the innermost step of that unit; nothing where there is none."""
    if not _steps:
        return
    with _lock:
        for item in reversed(_steps):
            if item.unit == unit:
                item.done += amount
                return


def find_current() -> Step | None:
    """The innermost step, if anything is under way that has one."""
    with _lock:
        return _steps[-1] if _steps else None


@contextlib.contextmanager
def watching(ended: Callable[[Step], None]) -> Iterator[None]:
    """In the block ``ended`` is called with each step that came to a good end."""
    _ended.append(ended)
    try:
        yield
    finally:
        _ended.remove(ended)


def print_line(line: str) -> None:
    """A line on stderr; one that is closed is ignored."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def forget_steps() -> None:
    """For a forked process: what its parent does is not its own."""
    global _lock
    _lock = threading.Lock()
    _steps.clear()
    _ended.clear()
