"""How many things may keep a CPU busy at once, in one process or in several that share one budget."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import msgspec

from imagebuild.jobs.cpus import count_cpus

Slot = Callable[[], AbstractContextManager[object]]


class Jobs(msgspec.Struct, frozen=True):
    """A run's share of the machine: ``workers`` threads at most, each of which takes ``slot`` around work that keeps a CPU busy.

    Whoever holds a slot waits for nobody else's lock: another process may hold that and wait for a slot.
    """

    workers: int
    slot: Slot = contextlib.nullcontext

    @classmethod
    def here(cls, asked: int = 0) -> Jobs:
        """``asked``, or what this process may use."""
        return cls(asked or count_cpus())


ONE = Jobs(1)
