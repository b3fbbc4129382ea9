"""The token bucket and the meter, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.emulator.rate import (
    INSTANT,
    ROUNDING,
    Bucket,
    Meter,
    Rate,
    Window,
    lowest_level,
    most_in_a_second,
    most_within,
)

RATE = Rate(items_per_call=200, per_second=300, bucket=1_000)
steps = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 200)), max_size=60)


def at_times(gaps_and_rows: list[tuple[float, int]]) -> list[tuple[float, int]]:
    now, calls = 0.0, []
    for gap, rows in gaps_and_rows:
        now += gap
        calls.append((now, rows))
    return calls


@given(steps)
def test_an_enforced_bucket_is_never_overdrawn(gaps_and_rows):
    """No call takes more than there is, and a refused call takes nothing."""
    bucket = Bucket(RATE.per_second, RATE.bucket)
    for now, rows in at_times(gaps_and_rows):
        free = bucket.refill(now)
        taken = bucket.take(rows, now)
        assert taken == (rows <= free + ROUNDING)
        assert 0 <= bucket.level <= RATE.bucket
        assert bucket.level == (max(0, free - rows) if taken else free)


@given(steps)
def test_no_more_gets_through_than_rate_and_burst_allow(gaps_and_rows):
    """Over any stretch of time the bucket lets at most bucket + rate x time through."""
    bucket = Bucket(RATE.per_second, RATE.bucket)
    taken = [(now, rows) for now, rows in at_times(gaps_and_rows) if bucket.take(rows, now)]
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = RATE.bucket + RATE.per_second * (taken[last][0] - taken[first][0])
            assert sum(rows for _, rows in taken[first : last + 1]) <= allowed + ROUNDING * len(taken)


@given(steps)
def test_the_meter_sees_an_overdraft_exactly_where_enforcement_would_refuse(gaps_and_rows):
    """The lowest level is below zero if and only if an enforced bucket would have refused a call."""
    calls = at_times(gaps_and_rows)
    bucket = Bucket(RATE.per_second, RATE.bucket)
    refused = not all(bucket.take(rows, now) for now, rows in calls)
    assert (lowest_level(calls, RATE) < -ROUNDING) == refused


@given(steps)
def test_the_busiest_second_is_the_busiest(gaps_and_rows):
    """It agrees with looking at the second that begins with each call."""
    calls = at_times(gaps_and_rows)
    slow = max((sum(rows for at, rows in calls if 0 <= at - start < 1 - INSTANT) for start, _ in calls), default=0)
    assert most_in_a_second(calls) == slow


@given(steps, st.integers(100, 400))
def test_a_window_lets_no_more_through_than_it_holds(gaps_and_rows, most):
    """In any three seconds; and it refuses only what would be too much."""
    window, taken = Window(3), []
    for now, rows in at_times(gaps_and_rows):
        inside = sum(items for at, items in taken if now - at < 3 - INSTANT)
        assert window.used(now) == inside
        if window.take(rows, now, at_most=most):
            taken.append((now, rows))
            assert inside + rows <= most
        else:
            assert inside + rows > most
    assert most_within(3, taken) <= most


def test_five_full_calls_are_a_burst_and_the_sixth_waits():
    """1,000 tokens are five calls of 200; 300 a second refill one in two thirds of a second."""
    bucket = Bucket(RATE.per_second, RATE.bucket)
    assert [bucket.take(200, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(200, 0.6)
    assert bucket.take(200, 0.667)


def test_the_meter_does_not_hold_refused_calls_against_the_rate():
    """A call answered 429 took nothing."""
    meter = Meter(RATE)
    for outcome in ("202", "429", "503", "429 cut"):
        meter.record(at=1.0, rows=200, body_bytes=10, outcome=outcome)
    assert meter.view() == {
        "calls": 4,
        "rows": 800,
        "rows_applied": 0,
        "largest_call": 200,
        "largest_body": 10,
        "statuses": {"202": 1, "429": 1, "503": 1, "429 cut": 1},
        "first_arrival": 1.0,
        "last_arrival": 1.0,
        "lowest_level": pytest.approx(600),
        "most_rows_in_a_second": 400,
        "most_calls_in_a_minute": 2,
    }
