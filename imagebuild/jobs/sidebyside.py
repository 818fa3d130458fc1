"""Named tasks side by side, each in a forked process, within one budget of slots.

Processes, not threads: a task that crashes, or is stopped, takes no other with it, and Python's one lock does not make them
wait for each other. What a task prints as progress goes through its parent, so that lines stay whole.

A child writes lines of JSON: ``["say", text]``, ``["take"]`` and ``["give"]`` (a slot wanted, a slot free again), and at the end
``["done", value]`` or ``["failed", class name, message, hint, details, origin]``. It reads a byte for every slot it is granted.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from imagebuild import errors
from imagebuild.errors import BuildError, ImagebuildError
from imagebuild.jobs.slots import Jobs

_PIECE = 1 << 16
_PATIENCE = 20.0  # seconds that a child asked to stop has for putting things away

Say = Callable[[str], object]
Task = Callable[[Jobs, Say], Any]  # gives what JSON can hold


class _ParentGoneError(BaseException):
    """Nobody waits for this task any more."""


class _Link:
    """A child's end; its threads share it."""

    def __init__(self, up: int, down: int) -> None:
        self._up, self._down = up, down
        self._lock = threading.Lock()

    def send(self, *message: object) -> None:
        data = memoryview(msgspec.json.encode(message) + b"\n")
        with self._lock:
            while data:
                try:
                    data = data[os.write(self._up, data) :]
                except BrokenPipeError:
                    raise _ParentGoneError from None

    def say(self, line: str) -> None:
        self.send("say", line)

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        self.send("take")
        if not os.read(self._down, 1):
            raise _ParentGoneError
        try:
            yield
        finally:
            self.send("give")


class _Child:
    """A parent's end."""

    up: int
    down: int

    def __init__(self, name: str, task: Task, workers: int, others: Sequence[_Child]) -> None:
        self.name = name
        self.wanted = self.held = 0  # slots
        self.outcome: list[Any] | None = None
        self._received = b""
        up, upper = os.pipe()
        lower, down = os.pipe()
        for stream in (sys.stdout, sys.stderr):  # what waits there would be written twice
            with contextlib.suppress(OSError):
                stream.flush()
        self.pid = os.fork()
        if not self.pid:
            for number in (up, down, *(item for other in others for item in (other.up, other.down))):
                os.close(number)
            _work(task, _Link(upper, lower), workers)
        os.close(upper)
        os.close(lower)
        self.up, self.down = up, down

    def receive(self) -> list[list[Any]] | None:
        """Messages that came; None when there will be no more."""
        data = os.read(self.up, _PIECE)
        if not data:
            return None
        *lines, self._received = (self._received + data).split(b"\n")
        return [msgspec.json.decode(line) for line in lines]

    def grant(self) -> None:
        self.wanted -= 1
        self.held += 1
        with contextlib.suppress(BrokenPipeError):  # it died; its end is seen next
            os.write(self.down, b".")

    def end(self) -> Any:
        """What the task gave, or the error it ended with; the process is gone afterwards."""
        os.close(self.up)
        self._close_down()
        _, status = os.waitpid(self.pid, 0)
        if self.outcome is not None:
            kind, *rest = self.outcome
            return rest[0] if kind == "done" else _revive(*rest)
        number = -os.waitstatus_to_exitcode(status)
        how = f"was ended by {signal.Signals(number).name}" if number > 0 else f"ended with status {-number}"
        hint = "usually the kernel does so when memory runs out: run it again with --jobs 1" if number == signal.SIGKILL else ""
        return BuildError(f"its process {how}", hint or "run it again; if it fails again, run this one alone with --debug")

    def dismiss(self) -> None:
        """Ask it to put things away and end; those of its threads that wait for a slot learn that there will be none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        self._close_down()

    def _close_down(self) -> None:
        if self.down >= 0:
            os.close(self.down)
            self.down = -1


def _work(task: Task, link: _Link, workers: int) -> None:
    """A child's whole life. Signals of the terminal go to the parent, which then stops its children."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        link.send("done", task(Jobs(workers, link.slot), link.say))
        status = 0
    except ImagebuildError as error:
        kind = next(kind.__name__ for kind in type(error).__mro__ if vars(errors).get(kind.__name__) is kind)
        link.send("failed", kind, error.message, error.hint, error.details, error.origin)
        status = 0
    finally:  # also of a signal, which says nothing; the parent's own clean-up is not to run here
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


def _revive(kind: str, message: str, hint: str, details: Sequence[str], origin: str) -> ImagebuildError:
    made: ImagebuildError = getattr(errors, kind)(message, hint, tuple(details))
    made.origin = origin
    return made


def run_side_by_side(tasks: Mapping[str, Task], jobs: int, say: Say, ended: Callable[[str, Any], object]) -> Iterator[tuple[str, Any]]:
    """(name, what its task gave or the ImagebuildError it ended with), in the order of ``tasks``; ``jobs`` at once, with as many slots.

    ``say`` gets their lines as they come, ``ended`` each (name, result) at once. The caller must run no threads. When it stops
    early, or is interrupted, what still runs is ended.
    """
    run = _Run(list(tasks.items()), max(1, jobs), say, ended)
    try:
        for name in tasks:
            while name not in run.results:
                run.turn()
            yield name, run.results[name]
    finally:
        run.stop()


class _Run:
    """The processes of one run, the earliest first in everything."""

    def __init__(self, waiting: list[tuple[str, Task]], jobs: int, say: Say, ended: Callable[[str, Any], object]) -> None:
        self.results: dict[str, Any] = {}
        self._waiting = waiting
        self._free = self._jobs = jobs
        self._children: list[_Child] = []
        self._say = say
        self._ended = ended
        self._selector = selectors.DefaultSelector()

    def turn(self) -> None:
        """Start what there is room for, and wait for the next messages."""
        while self._waiting and len(self._children) < self._jobs:
            child = _Child(*self._waiting.pop(0), self._jobs, self._children)
            self._children.append(child)
            self._selector.register(child.up, selectors.EVENT_READ, child)
        for key, _ in self._selector.select():
            self._serve(key.data)
        for child in self._children:
            while child.wanted and self._free:
                self._free -= 1
                child.grant()

    def _serve(self, child: _Child) -> None:
        messages = child.receive()
        if messages is None:
            self._selector.unregister(child.up)
            self._children.remove(child)
            self._free += child.held
            self.results[child.name] = result = child.end()
            self._ended(child.name, result)
            return
        for kind, *rest in messages:
            if kind == "say":
                self._say(rest[0])
            elif kind == "take":
                child.wanted += 1
            elif kind == "give":
                child.held -= 1
                self._free += 1
            else:
                child.outcome = [kind, *rest]

    def stop(self) -> None:
        """End what still runs: asked first, and after a while made to."""
        self._selector.close()
        for child in self._children:
            child.dismiss()
        end = time.monotonic() + _PATIENCE
        for child in self._children:
            alarm = threading.Timer(max(0.0, end - time.monotonic()), os.kill, (child.pid, signal.SIGKILL))
            alarm.daemon = True
            alarm.start()
            try:
                with contextlib.suppress(OSError):
                    while os.read(child.up, _PIECE):  # or it would wait for a reader
                        pass
                child.end()
            finally:
                alarm.cancel()
        self._children.clear()
