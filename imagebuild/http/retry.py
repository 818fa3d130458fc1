"""Which failures of HTTP pass by themselves, and how long to wait before asking again: registries, package indexes, mirrors of OSV data.

A server's Retry-After counts as far as the policy lets it; without one the pause doubles, with jitter.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable

import msgspec

TIMEOUTS = (10.0, 50.0)  # seconds to connect, seconds between bytes
STALLED = 80.0  # seconds in all that a server may take requests and say nothing: its second time-out in a row is the last
PASSING = frozenset({429, 500, 502, 503, 504})  # statuses that another attempt may change


class RetryPolicy(msgspec.Struct, frozen=True):
    """Times in seconds. ``floor`` is the share of a pause without Retry-After that is waited at least; the rest is jitter.

    ``spread`` is waited, at random, on top of a Retry-After: machines that were told the same time do not all come back then.
    """

    attempts: int  # the first included
    connect_attempts: int  # where nothing answers at all: a wrong address should not take long to say so
    longest_asked: float  # a longer Retry-After is cut to this
    first: float  # doubled each time
    longest: float
    floor: float
    spread: float = 0.0


REGISTRY = RetryPolicy(attempts=5, connect_attempts=3, longest_asked=60.0, first=0.5, longest=32.0, floor=0.2, spread=0.5)
INDEX = RetryPolicy(attempts=4, connect_attempts=3, longest_asked=30.0, first=0.8, longest=30.0, floor=0.5)


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from ``now``, of either form (RFC 9110 section 10.2.3); None when it says nothing usable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, moment - now)


def compute_wait(policy: RetryPolicy, failures: int, retry_after: float | None = None) -> float:
    """Seconds before the next attempt after ``failures`` (1 or more) in a row."""
    if retry_after is not None:
        return min(retry_after, policy.longest_asked) + random.uniform(0, policy.spread)
    pause = min(policy.first * 2.0 ** min(failures - 1, 30), policy.longest)
    return random.uniform(policy.floor * pause, pause)


class Patience:
    """How many seconds a server may keep us waiting for nothing, over all requests of a run. Every good answer gives a hundredth back.

    Without it, a server that takes requests and never answers costs every attempt's whole time-out, one after the other.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._spent, self._clock, self._until = seconds, 0.0, clock, float("-inf")

    def spend(self, seconds: float) -> bool:
        """Count a wait for nothing that ends now; False when there is no more patience. What several waited at once counts once."""
        now = self._clock()
        self._spent += max(0.0, min(seconds, now - self._until))
        self._until = now
        return self._spent < self._limit

    def restore(self) -> None:
        """Count a good answer."""
        self._spent = max(0.0, self._spent - self._limit / 100)


class Attempts:
    """How often one thing was tried, and the pauses between."""

    def __init__(self, policy: RetryPolicy, sleep: Callable[[float], object], attempts: int = 0) -> None:
        self._policy, self._sleep, self._made = policy, sleep, 1
        self._attempts = attempts or policy.attempts

    def wait(self, retry_after: float | None, *, connected: bool = True) -> bool:
        """Pause before the next attempt; False when there is none left."""
        if self._made >= (self._attempts if connected else min(self._attempts, self._policy.connect_attempts)):
            return False
        self._sleep(compute_wait(self._policy, self._made, retry_after))
        self._made += 1
        return True
