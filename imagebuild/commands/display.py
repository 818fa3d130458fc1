"""Progress on stderr: live bars on a terminal, elsewhere a plain line every few seconds, and never a silence of ten.

A thread of its own looks at imagebuild.progress. It loads no module: what draws bars (rich) is loaded by the main thread when the first
line of progress is printed on a terminal, and has drawn once before the thread uses it. So a run with nothing to do loads none of it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from imagebuild import progress
from imagebuild.commands.troubleshooting import add_reference
from imagebuild.progress import print_line

if TYPE_CHECKING:
    from imagebuild.commands.bars import Bars

SILENCE = 5.0  # seconds without a line, after which there is one
_TICK = 0.2
_WORTH_A_SUMMARY = 5.0  # seconds; a step that took longer says at its end how long, and how fast


def is_live(environment: dict[str, str], terminal: bool) -> bool:
    """Whether lines can be drawn over: a terminal that knows how, and no CI log."""
    return terminal and environment.get("TERM", "dumb") not in ("", "dumb", "unknown") and not environment.get("CI")


class Display:
    """What one command says on stderr of its progress; nothing when ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._live = is_live(dict(os.environ), sys.stderr.isatty())
        self._bars: Bars | None = None
        self._line = ""
        self._last = self._said = time.monotonic()  # the last line of any kind, and the last that the work itself had to say
        self._stopping = threading.Event()
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._watching = contextlib.ExitStack()

    def __enter__(self) -> Display:
        global _current
        if not self._quiet:
            _current = self
            self._watching.enter_context(progress.watching(self._summarise))
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        global _current
        if _current is self:
            _current = None
            self._stopping.set()
            self._watching.close()
            with self._lock:
                self._hide()
            self._thread.join(1)

    def print_line(self, line: str) -> None:
        """One line, above what is drawn. A closed stderr is ignored."""
        if self._live and self._bars is None and threading.current_thread() is threading.main_thread():
            from imagebuild.commands.bars import Bars

            self._bars = Bars()
        with self.paused():
            print_line(line)
            self._line = line
            self._last = self._said = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is drawn in the block."""
        with self._lock:
            self._hide()
            yield

    def _hide(self) -> None:
        if self._bars is not None:
            self._bars.hide()

    def _run(self) -> None:
        while not self._stopping.wait(_TICK):
            with self._lock:
                if self._stopping.is_set():
                    return
                self._tick(time.monotonic())

    def _tick(self, now: float) -> None:
        step = progress.find_current()
        if self._bars is not None:
            if step is not None or now - self._last > 1:
                self._bars.draw(step, self._line or "working", now - self._said)
        elif now - self._last >= SILENCE:
            if step is not None and step.total:
                print_line(f"{step.line}: {step.describe()}")
            else:
                doing, began = (step.line, step.began) if step is not None else (self._line or "working", self._said)
                print_line(f"{doing}: {now - began:.0f} s")
            self._last = now

    def _summarise(self, step: progress.Step) -> None:
        seconds = time.monotonic() - step.began
        if seconds >= _WORTH_A_SUMMARY and step.total and step.unit == "bytes":
            self.print_line(f"{step.line}: {step.describe()}, {seconds:.0f} s")
            self._line = ""  # that is over: a later line says that something else goes on

    # A fork copies whatever lock somebody holds: nobody may then.
    def before_fork(self) -> None:
        self._lock.acquire()

    def after_fork(self) -> None:
        self._lock.release()


_current: Display | None = None


def print_progress(line: str) -> None:
    """One line of progress on stderr, through the display of the command that runs."""
    for text in add_reference(line):
        if _current is not None:
            _current.print_line(text)
        else:
            print_line(text)


@contextlib.contextmanager
def paused_display() -> Iterator[None]:
    """Whoever prints something else does it here."""
    with _current.paused() if _current is not None else contextlib.nullcontext():
        yield


def _before_fork() -> None:
    if _current is not None:
        _current.before_fork()


def _after_fork_in_parent() -> None:
    if _current is not None:
        _current.after_fork()


def _after_fork_in_child() -> None:
    global _current
    _current = None  # its thread is not here, and what is drawn is the parent's
    progress.forget_steps()


_hooks: tuple[Callable[[], None], ...] = (_before_fork, _after_fork_in_parent, _after_fork_in_child)
os.register_at_fork(before=_hooks[0], after_in_parent=_hooks[1], after_in_child=_hooks[2])
