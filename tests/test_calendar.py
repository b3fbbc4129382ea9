"""A load that does not fit into the rolling quota goes over days, and the plan says how many rows on which."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from etl import pipeline
from etl.calendar import calendar
from etl.plan import as_text

MONDAY = date(2026, 3, 2)
HOUR, DAY = 3_600, 86_400


@given(
    st.integers(0, 200),
    st.integers(1, 40),
    st.sampled_from([1, 12, 23, 24, 36, 72]),
    st.lists(st.tuples(st.integers(0, 3 * DAY), st.integers(0, 60)), max_size=5),
    st.integers(0, 10 * DAY),
)
def test_all_rows_go_as_early_as_the_quota_lets_them(rows, quota, hours, held, now):
    """No window holds more than the quota beside what it held already, nothing is left, and no day could take one more."""
    sent = list(calendar(rows, quota=quota, quota_hours=hours, held=[(now + s, n) for s, n in held], now=now))
    assert sum(sent) == rows
    for number, today in enumerate(sent):
        at = now + number * DAY
        before = sum(n for s, n in held if now + s > at)
        # A row counts for its hours, and for five to ten minutes more.
        surely = sum(n for back, n in enumerate(reversed(sent[:number]), 1) if back * DAY <= hours * HOUR + 300)
        perhaps = sum(n for back, n in enumerate(reversed(sent[:number]), 1) if back * DAY <= hours * HOUR + 600)
        assert today == 0 or before + surely + today <= quota
        is_last = number == len(sent) - 1
        assert is_last or today == quota - min(quota, before + perhaps)


def test_a_quota_of_nothing_has_no_calendar():
    """No day would ever come."""
    assert list(calendar(5, quota=0, quota_hours=24, held=[], now=0)) == []


def test_the_days_are_those_of_the_plan(install, emulator):
    """What a run of each day delivers is what the first day's plan said, and in the end everybody is as the export says."""
    account = install(emulator.url, extra={"limits": {"batch_update": {"quota": 40, "quota_hours": 23}}})
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
