"""When a run begins, and which day it is of: the wait for the export, clocks that change, assets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl import arrival
from etl.airflow.home import environment
from etl.airflow.identity import run_day
from etl.errors import ConfigError
from etl.syncs import SYNCS, Sync

pytestmark = pytest.mark.airflow

DAY = date(2026, 11, 21)
ASKED = {"date": str(DAY)}
LONG_AGO = {"logical_date": datetime(2026, 11, 22, 2, tzinfo=UTC), "run_after": datetime(2026, 11, 22, 2, tzinfo=UTC)}


@pytest.fixture
def sync(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Adds a sync like another one, and gives its Dag."""
    from etl.airflow.dag import profile_dag

    def make(like: str = "crm_to_batch", *, deferrable: bool = True, **fields: Any) -> Any:
        made = replace(SYNCS[like], name=f"{like}_{uuid.uuid4().hex[:8]}", **fields)
        monkeypatch.setitem(SYNCS, made.name, made)
        return profile_dag(made, "", deferrable=deferrable)

    return make


@pytest.fixture
def landing(sample: Path, tmp_path: Path) -> Path:
    """A copy of the sample that landed an hour ago."""
    root = tmp_path / "landing"
    shutil.copytree(sample, root)
    for file in root.rglob("*.*"):
        os.utime(file, (time.time() - 3600, time.time() - 3600))
    return root


def _hold_back(landing: Path) -> tuple[Path, Path]:
    """Takes the day's CRM export away; gives where it is, and where it belongs."""
    (there,) = (landing / "crm" / str(DAY)).iterdir()
    return there.rename(landing / there.name), there


# --- the wait for the export -------------------------------------------------------------------------------------------


def test_only_a_sync_that_asks_for_it_waits(sync: Callable[..., Any], dags: dict[str, Any]) -> None:
    """The task stands before `extract`, and the run has as much more time."""
    dag, usual = sync(wait_for_export_hours=6), [task.task_id for task in dags["crm_to_batch"].topological_sort()]
    assert "wait_for_export" not in usual
    assert [task.task_id for task in dag.topological_sort()] == ["wait_for_export", *usual]
    assert dag.get_task("extract").upstream_task_ids == {"wait_for_export"}
    assert dag.dagrun_timeout - dags["crm_to_batch"].dagrun_timeout == timedelta(hours=6)
    assert dag.get_task("wait_for_export").timeout > timedelta(hours=6).total_seconds()


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_late_export_is_waited_for_and_taken(
    airflow: Callable[..., Any],
    sync: Callable[..., Any],
    landing: Path,
    monkeypatch: pytest.MonkeyPatch,
    deferrable: bool,
) -> None:
    """In the triggerer, and by coming back where there is none."""
    held, there = _hold_back(landing)
    looks: list[str | None] = []
    really = arrival.missing

    def missing(*arguments: Any, **named: Any) -> str | None:
        looks.append(really(*arguments, **named))
        if len(looks) == 3:
            held.rename(there)
        return looks[-1]

    monkeypatch.setattr(arrival, "missing", missing)
    monkeypatch.setattr(arrival, "LOOK_AGAIN_S", 0.1)
    dag = sync(wait_for_export_hours=1, deferrable=deferrable)
    ran = airflow(landing=landing).run(ASKED, dag=dag)
    assert set(ran.tasks.values()) == {"success"}
    assert [look is None for look in looks] == [False, False, False, *([True] * (len(looks) - 3))]
    assert ran.reports[0].balanced


def test_at_the_deadline_the_run_fails_and_names_the_folder(
    airflow: Callable[..., Any], sync: Callable[..., Any], landing: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No try is left for it, the refusal is on record, and a run of long ago does not wait at all."""
    held, there = _hold_back(landing)
    here, dag = airflow(landing=landing), sync(wait_for_export_hours=6)
    began = time.monotonic()
    ran = here.run(dag=dag, **LONG_AGO)
    (report,) = ran.reports
    assert time.monotonic() - began < 60
    assert (ran.state, ran.tasks["wait_for_export"], ran.tasks["extract"]) == ("failed", "failed", "upstream_failed")
    assert (report.exit_code, report.reasons) == (3, [{"code": "crm_missing", "count": 1}])
    assert f"{landing}/crm/{DAY} by 2026-11-22 08:00 UTC" in "".join(capfd.readouterr())
    held.rename(there)
    assert here.run(dag=dag, **LONG_AGO).state == "success"


def test_a_run_that_has_its_snapshot_does_not_wait_for_the_folder(
    airflow: Callable[..., Any], sync: Callable[..., Any], landing: Path
) -> None:
    """Clearing stays safe after the landing folder was tidied."""
    here, dag = airflow(landing=landing), sync(wait_for_export_hours=6)
    first = here.run(dag=dag, **LONG_AGO)
    _hold_back(landing)
    assert here.run(dag=dag, **LONG_AGO).reports == first.reports


def test_the_trigger_ends_by_itself_at_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows a day and a moment; the folder is the triggerer's own setting."""
    from airflow.sdk.module_loading import import_string

    from etl.airflow.triggers import ExportTrigger

    for name, value in environment(tmp_path, landing=tmp_path, emulator="http://127.0.0.1:9").items():
        if name.startswith("PROFILE_ETL_"):
            monkeypatch.setenv(name, value)
    path, names = json.loads(json.dumps(ExportTrigger(day=str(DAY), until=str(time.time() + 0.3)).serialize()))

    async def event() -> Any:
        return (await anext(import_string(path)(**names).run())).payload

    assert path == "etl.airflow.triggers.ExportTrigger"
    assert asyncio.run(event()) == {"failed": None, "asked": 1}


@pytest.mark.parametrize("hours", [0, -1, 25, float("nan")])
def test_a_wait_that_cannot_be_meant_is_refused_when_the_syncs_are_read(hours: float) -> None:
    """A typo shows in the Dag processor and in every command, and not in the night."""
    with pytest.raises(ConfigError, match="wait_for_export_hours"):
        replace(SYNCS["crm_to_batch"], wait_for_export_hours=hours)


# --- the day -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "0 0 * * *", "15 23 * * *"])
@pytest.mark.parametrize(
    ("timezone", "short", "long"),
    [
        ("Europe/Paris", date(2026, 3, 29), date(2026, 10, 25)),
        ("America/New_York", date(2026, 3, 8), date(2026, 11, 1)),
        ("America/Santiago", date(2026, 9, 6), date(2026, 4, 5)),
        ("Australia/Lord_Howe", date(2026, 10, 4), date(2026, 4, 5)),
    ],
)
def test_every_day_has_one_run_also_when_it_has_23_or_25_hours(
    cron: str, timezone: str, short: date, long: date
) -> None:
    """By the intervals that Airflow itself makes of the schedule, around both changes of the clock."""
    from airflow.serialization.encoders import coerce_to_core_timetable
    from airflow.timetables.base import TimeRestriction

    from etl.airflow.dag import profile_dag

    sync = replace(SYNCS["crm_to_batch"], schedule=cron, timezone=timezone)
    timetable = coerce_to_core_timetable(profile_dag(sync, "").timetable)
    for change in (short, long):
        first = datetime(change.year, change.month, change.day, tzinfo=UTC) - timedelta(days=3)
        restriction = TimeRestriction(earliest=first, latest=first + timedelta(days=7), catchup=True)
        days, last = list[date](), None
        while info := timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction):
            last = info.data_interval
            found = run_day(asked=None, interval_start=last.start, triggered_at=info.run_after, timezone=timezone)
            days.append(found.date)
        assert days == [days[0] + timedelta(days=n) for n in range(len(days))]
        assert {change - timedelta(days=1), change, change + timedelta(days=1)} < set(days)


def test_two_days_in_one_night_are_two_runs_one_after_the_other(
    airflow: Callable[..., Any], dags: dict[str, Any]
) -> None:
    """The late day first or last: each has its account, and the newer one's data stays."""
    here, before = airflow(), str(DAY - timedelta(days=1))
    ran = [here.run({"date": day}) for day in (str(DAY), before, str(DAY))]
    assert [run.state for run in ran] == ["success"] * 3
    older, *newer = sorted(here.reports(), key=lambda report: report.date)
    assert older.date == before
    assert older.rows["superseded"] > 0
    assert sorted(report.rows["accepted"] > 0 for report in newer) == [False, True]
    assert all(report.balanced for report in here.reports())


# --- assets ------------------------------------------------------------------------------------------------------------


def _events(name: str, since: int) -> list[Any]:
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        wanted = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id)
        return list(
            session.scalars(wanted.where(AssetModel.name == name, AssetEvent.id > since).order_by(AssetEvent.id))
        )


def _newest_event() -> int:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    with create_session() as session:
        return int(session.scalar(select(func.max(AssetEvent.id))) or 0)


def test_a_run_says_that_its_export_landed_and_its_profiles_are_delivered(airflow: Callable[..., Any]) -> None:
    """An event each, of the day as its partition, with counts and nothing of a row."""
    here, since = airflow(), _newest_event()
    report = here.run(ASKED).reports[0]
    (landed,), (delivered,) = (_events(f"crm_to_batch.{what}", since) for what in ("landed", "delivered"))
    assert [event.partition_key for event in (landed, delivered)] == [str(DAY)] * 2
    assert landed.extra["files"] > 0
    assert delivered.extra["rows"] == report.rows
    assert (delivered.extra["date"], delivered.extra["exit_code"]) == (str(DAY), report.exit_code)
    texts = {name for event in (landed, delivered) for name, value in event.extra.items() if isinstance(value, str)}
    assert texts == {"date", "run"}


def test_what_is_not_delivered_is_not_announced(airflow: Callable[..., Any]) -> None:
    """A run that fails says that the export landed, and no more; a dry run starts nobody else's run."""
    here, since = airflow({"status": 401}), _newest_event()
    here.run(ASKED)
    assert len(_events("crm_to_batch.landed", since)) == 1
    here.run(ASKED | {"dry_run": True})
    assert [event.partition_key for event in _events("crm_to_batch.landed", since)] == [str(DAY), None]
    assert _events("crm_to_batch.delivered", since) == []


def test_a_sync_that_listens_gets_a_run_of_its_own_for_each_day(
    airflow: Callable[..., Any], sync: Callable[..., Any]
) -> None:
    """Two days that land before the scheduler looks are two runs, each of its day, and not one of both."""
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    listening = sync("crm_to_releva", asset="crm_to_batch.landed").dag_id
    here, days = airflow(), [str(DAY - timedelta(days=1)), str(DAY)]
    for day in days:
        here.run({"date": day})
    with create_session() as session:
        assert SchedulerJobRunner(Job())._create_dagruns_for_partitioned_asset_dags(session) == {listening}
        made = session.scalars(select(DagRun).where(DagRun.dag_id == listening, DagRun.run_type == "asset_triggered"))
        found = [
            run_day(asked=None, partition=run.partition_key, interval_start=run.data_interval_start,
                    triggered_at=run.run_after, timezone="UTC")
            for run in made
        ]  # fmt: skip
    assert sorted(str(day.date) for day in found) == days
    assert {day.why for day in found} == {"the partition key of the asset's event"}


def test_a_partition_that_is_no_day_is_refused_without_showing_it() -> None:
    """The key comes from somebody else's Dag."""
    with pytest.raises(ConfigError, match="partition key") as raised:
        run_day(asked=None, partition="C-00017", interval_start=None, triggered_at=datetime.now(UTC), timezone="UTC")
    assert re.search("C-00017", str(raised.value)) is None


def test_whoever_names_a_day_gets_it_in_a_run_of_an_asset_too() -> None:
    """The param comes first."""
    moment = datetime.now(UTC)
    found = run_day(asked="2026-11-03", partition=str(DAY), interval_start=None, triggered_at=moment, timezone="UTC")
    assert found.date == date(2026, 11, 3)


@pytest.mark.parametrize("asset", ["", " ", "mine.landed", "mine.delivered"])
def test_a_sync_does_not_listen_to_itself(asset: str) -> None:
    """Its own events would start it for ever."""
    with pytest.raises(ConfigError, match="asset"):
        Sync(name="mine", destination="batch", connection="batch_default", asset=asset)


def test_the_page_of_a_listening_dag_names_its_asset(sync: Callable[..., Any]) -> None:
    """And not a cron expression that nobody follows."""
    page = sync("crm_to_releva", asset="crm_to_batch.landed").doc_md
    assert "`crm_to_batch.landed`" in page
    assert f"`{SYNCS['crm_to_releva'].schedule}`" not in page
