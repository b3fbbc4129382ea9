"""Identity: which of our runs a Dag run is. Pure; every task of a Dag run, each try and each clear get the same answer."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from etl.errors import ConfigError

_READABLE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDay:
    """The day that a run covers, and the words that say where it comes from."""

    date: date
    why: str


def run_day(
    *,
    asked: str | None,
    interval_start: datetime | None,
    triggered_at: datetime,
    timezone: str,
    partition: str | None = None,
) -> RunDay:
    """The day of a Dag run (spec section 3): its param `date`, or the start of its data interval, or yesterday.

    A run that an asset has started is of the day that the event's partition key says. `triggered_at` is a moment that a
    run keeps when it is retried or cleared, so that "yesterday" stays the same day. Raises ConfigError for a param or a
    key that is not a day.
    """
    if asked is not None:
        return RunDay(date=_day(asked, "the param `date`"), why="the param `date`")
    if partition is not None:
        return RunDay(
            date=_day(partition, "the partition key of an asset's event"), why="the partition key of the asset's event"
        )
    zone = ZoneInfo(timezone)
    if interval_start is not None:
        return RunDay(date=interval_start.astimezone(zone).date(), why=f"the start of the data interval in {timezone}")
    yesterday = triggered_at.astimezone(zone).date() - timedelta(days=1)
    return RunDay(date=yesterday, why=f"the Dag run was triggered without any date, so it is yesterday in {timezone}")


def run_id(dag_run_id: str) -> str:
    """Our name of a Dag run: safe in paths, and different for different Dag runs."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", dag_run_id)[:_READABLE]
    return f"airflow-{readable}-{hashlib.sha256(dag_run_id.encode()).hexdigest()[:8]}"


def _day(text: str, what: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or str(day) != text:
        raise ConfigError(f"{what} is a day, written YYYY-MM-DD")
    return day
