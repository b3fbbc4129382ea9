"""A load that does not fit into the rolling quota goes over days, and the plan says how many rows on which."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from etl import pipeline
from etl.calendar import calendar
from etl.plan import as_text

MONDAY = date(2026, 3, 2)
SLICE, HOUR, DAY = 300, 3_600, 86_400


@given(
    st.integers(0, 200),
    st.integers(1, 40),
    st.sampled_from([1, 12, 23, 24, 36, 72]),
    st.lists(st.tuples(st.integers(0, 3 * 24 * 12).map(lambda slice_: slice_ * SLICE), st.integers(0, 60)), max_size=5),
    st.integers(0, 10 * 24 * 12).map(lambda slot: slot * SLICE),
)
def test_all_rows_go_as_early_as_the_quota_lets_them(rows, quota, hours, held, now):
    """Each day gives what a run would send that looks every five minutes of its first hour, and nothing is left."""
    held = [(now + s, n) for s, n in held]
    told = list(calendar(rows, quota=quota, quota_hours=hours, held=held, now=now))
    assert sum(told) == rows
    for sent in told:
        before = rows
        for at in range(now, now + HOUR + 1, SLICE):
            some = min(rows, max(0, quota - sum(n for until, n in held if until > at)))
            rows -= some
            # A row counts for its hours, and for the rest of its slice of five minutes and one more.
            held.append(((at // SLICE + 2) * SLICE + hours * HOUR, some))
        assert sent == before - rows
        now += DAY


def test_a_quota_of_nothing_has_no_calendar():
    """No day would ever come."""
    assert list(calendar(5, quota=0, quota_hours=24, held=[], now=0)) == []


def test_the_days_are_those_of_the_plan(install, emulator):
    """What a run of each day delivers is what the first day's plan said, and in the end everybody is as the export says."""
    account = install(emulator.url, extra={"limits": {"batch_update": {"quota": 40}}})
    account.land(100)
    told = pipeline.prepare(account.context(run_id="plan-1", dry_run=True))
    assert told["days"] == [40, 40, 20]
    assert "rows by day: 40, 40, 20" in as_text(told)
    delivered = []
    for number in range(3):
        day = MONDAY + timedelta(days=number)
        account.land(100, day)
        delivered.append(account.run(day).rows["accepted"])
        account.clock.now += DAY
    assert delivered == told["days"]
    cities = emulator.cities()
    assert set(cities.values()) == {"Lyon"}
    assert len(cities) == 100
    assert emulator.duplicates() == 0


def test_a_load_that_fits_has_no_calendar(installation):
    """One day is no calendar."""
    installation.land(5)
    told = pipeline.prepare(installation.context(run_id="plan-1", dry_run=True))
    assert told["days"] == []
    assert "calendar" not in as_text(told)
