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


def run_day(*, asked: str | None, interval_start: datetime | None, triggered_at: datetime, timezone: str) -> RunDay:
    """The day of a Dag run (spec section 3): its param `date`, or the start of its data interval, or yesterday.

    `triggered_at` is a moment that a run keeps when it is retried or cleared, so that "yesterday" stays the same day.
    Raises ConfigError for a param that is not a day.
    """
    if asked is not None:
        return RunDay(date=_day(asked), why="the param `date`")
    zone = ZoneInfo(timezone)
    if interval_start is not None:
        return RunDay(date=interval_start.astimezone(zone).date(), why=f"the start of the data interval in {timezone}")
    yesterday = triggered_at.astimezone(zone).date() - timedelta(days=1)
    return RunDay(date=yesterday, why=f"the Dag run was triggered without any date, so it is yesterday in {timezone}")


def run_id(dag_run_id: str) -> str:
    """Our name of a Dag run: safe in paths, and different for different Dag runs."""
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", dag_run_id)[:_READABLE]
    return f"airflow-{readable}-{hashlib.sha256(dag_run_id.encode()).hexdigest()[:8]}"


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    if day is None or str(day) != text:
        raise ConfigError("the param `date` is a day, written YYYY-MM-DD")
    return day
