"""Which run of ours a Dag run is."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.airflow.identity import run_day, run_id
from etl.errors import ConfigError

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_the_param_date_comes_first() -> None:
    """Whoever names a day gets it, whatever the data interval says."""
    assert run_day(asked="2026-11-03", interval_start=NOON, triggered_at=NOON, timezone="UTC").date == date(2026, 11, 3)


@pytest.mark.parametrize("asked", ["20261121", "2026-11-31", "2026-1-2", "2026-W47-6", "yesterday", ""])
def test_what_is_not_a_day_is_refused(asked: str) -> None:
    """A date is written YYYY-MM-DD and nothing else, as on the command line."""
    with pytest.raises(ConfigError):
        run_day(asked=asked, interval_start=None, triggered_at=NOON, timezone="UTC")


@pytest.mark.parametrize(
    ("start", "timezone", "day"),
    [
        (datetime(2026, 11, 21, 2, tzinfo=UTC), "UTC", date(2026, 11, 21)),
        # 02:00 in Auckland is the day before in UTC, 02:00 in Los Angeles is the same one.
        (datetime(2026, 11, 20, 13, tzinfo=UTC), "Pacific/Auckland", date(2026, 11, 21)),
        (datetime(2026, 11, 21, 10, tzinfo=UTC), "America/Los_Angeles", date(2026, 11, 21)),
        # Midnight in Paris on the days on which the clocks change.
        (datetime(2026, 3, 28, 23, tzinfo=UTC), "Europe/Paris", date(2026, 3, 29)),
        (datetime(2026, 3, 29, 22, tzinfo=UTC), "Europe/Paris", date(2026, 3, 30)),
        (datetime(2026, 10, 24, 22, tzinfo=UTC), "Europe/Paris", date(2026, 10, 25)),
        (datetime(2026, 10, 25, 23, tzinfo=UTC), "Europe/Paris", date(2026, 10, 26)),
    ],
)
def test_a_data_interval_is_read_in_the_timezone_of_the_sync(start: datetime, timezone: str, day: date) -> None:
    """The day is the one on the wall where the sync lives, also when the clocks change."""
    found = run_day(asked=None, interval_start=start, triggered_at=NOON, timezone=timezone)
    assert found.date == day


def test_without_any_date_it_is_yesterday_there_and_said() -> None:
    """At half past midnight in Paris yesterday is another day than in UTC."""
    triggered = datetime(2026, 11, 21, 23, 30, tzinfo=UTC)
    found = run_day(asked=None, interval_start=None, triggered_at=triggered, timezone="Europe/Paris")
    assert found.date == date(2026, 11, 21)
    assert "yesterday in Europe/Paris" in found.why


@given(st.integers(0, 3000))
def test_daily_intervals_never_share_or_leave_out_a_day(n: int) -> None:
    """One day each for consecutive intervals that begin at 02:30 on the wall in Paris, which does not always exist."""
    from zoneinfo import ZoneInfo

    first = datetime(2020, 1, 1, 2, 30, tzinfo=ZoneInfo("Europe/Paris")) + timedelta(days=n)
    days = [
        run_day(asked=None, interval_start=start.astimezone(UTC), triggered_at=NOON, timezone="Europe/Paris").date
        for start in (first, first + timedelta(days=1))
    ]
    assert days[1] - days[0] == timedelta(days=1)


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_run_id_is_safe_and_belongs_to_one_dag_run(one: str, other: str) -> None:
    """Different Dag runs never share a folder, the same one always does, and no name leads out of the folder."""
    assert re.fullmatch(r"airflow-[A-Za-z0-9_-]{0,60}-[0-9a-f]{8}", run_id(one))
    assert (run_id(one) == run_id(other)) == (one == other)
