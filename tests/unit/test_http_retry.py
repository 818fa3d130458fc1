"""The one rule of trying again: how often, and how long between."""

from __future__ import annotations

import email.utils

import pytest

from imagebuild.http.retry import INDEX, PASSING, REGISTRY, Attempts, RetryPolicy, compute_wait, parse_retry_after

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),  # a digit, and not one of HTTP's
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 400, 999_999_999.0),
        (email.utils.formatdate(NOW + 90, usegmt=True), 90.0),
        (email.utils.formatdate(NOW - 90, usegmt=True), 0.0),
    ],
)
def test_retry_after_in_both_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(("policy", "low", "high"), [(REGISTRY, 0.1, 0.5), (INDEX, 0.4, 0.8)])
def test_the_pause_doubles_up_to_its_limit(policy: RetryPolicy, low: float, high: float) -> None:
    for failures in (1, 2, 3, 4):
        factor = 2.0 ** (failures - 1)
        assert all(low * factor <= compute_wait(policy, failures) <= high * factor for _ in range(50))
    assert all(compute_wait(policy, 5000) <= policy.longest for _ in range(50))


@pytest.mark.parametrize(("policy", "longest", "spread"), [(REGISTRY, 60.0, 0.5), (INDEX, 30.0, 0.0)])
def test_what_the_server_asks_counts_up_to_a_limit(policy: RetryPolicy, longest: float, spread: float) -> None:
    assert 7.0 <= compute_wait(policy, 1, 7.0) <= 7.0 + spread
    assert longest <= compute_wait(policy, 1, longest + 1) <= longest + spread
    assert 0.0 <= compute_wait(policy, 4, 0.0) <= spread


@pytest.mark.parametrize(("policy", "attempts"), [(REGISTRY, 5), (INDEX, 4)])
def test_attempts_end(policy: RetryPolicy, attempts: int) -> None:
    naps: list[float] = []
    tries = Attempts(policy, naps.append)
    assert [tries.wait(None) for _ in range(attempts)] == [True] * (attempts - 1) + [False]
    assert len(naps) == attempts - 1
    silent = Attempts(policy, naps.append)
    assert [silent.wait(None, connected=False) for _ in range(3)] == [True, True, False]
    assert not Attempts(policy, naps.append, 1).wait(None)


def test_what_passes_by_itself() -> None:
    assert frozenset({429, 500, 502, 503, 504}) == PASSING
