"""Whole Dag runs on real Airflow against the emulator, by `dag.test()`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from etl import pipeline
from etl.errors import Busy

pytestmark = pytest.mark.airflow

DAY = date(2026, 11, 21)
ASKED = {"date": str(DAY)}
NEXT_NIGHT = datetime(2026, 11, 22, 2, tzinfo=UTC)
SCHEDULED = {"logical_date": NEXT_NIGHT, "run_after": NEXT_NIGHT}
STEPS = ("extract", "validate", "transform", "pack", "plan", "load", "wait", "reconcile", "report")
PERSONAL = re.compile(r"@example|\+\d{6}|demo-rest-key|\bC0\d{6}\b|\b000\d{5}\b")


def _arrived(emulator: str) -> int:
    with urlopen(f"{emulator}/_control/requests") as answer:  # noqa: S310  (loopback)
        return sum(request["rows"] for request in json.load(answer)["requests"] if request["status"] == 202)


def _states(**changed: str) -> dict[str, str]:
    return dict.fromkeys(STEPS, "success") | changed


def _from(step: str, state: str) -> dict[str, str]:
    return dict.fromkeys(STEPS[STEPS.index(step) :], state)


def test_a_dag_run_delivers_the_day_and_accounts_for_every_row(
    airflow: Callable[..., Any], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """All tasks succeed, the report balances, and what it calls accepted is what arrived. No log or XCom is personal."""
    here = airflow()
    ran = here.run(ASKED)
    (report,) = ran.reports
    assert ran.tasks == _states()
    assert ran.state == "success"
    assert report.balanced
    assert report.rows["accepted"] + report.optouts_sent == _arrived(here.emulator) > 0
    assert set(ran.xcoms) == set(STEPS)
    shown = caplog.text + "".join(capfd.readouterr()) + json.dumps(list(ran.xcoms.values()), default=str)
    assert "accepted" in shown
    assert PERSONAL.search(shown) is None


def test_a_finished_dag_run_that_is_cleared_sends_nothing_and_reports_the_same(airflow: Callable[..., Any]) -> None:
    """Clearing is always safe. (`dag.test` clears what it finds for the same dates.)"""
    here = airflow()
    first = here.run(**SCHEDULED)
    sent = _arrived(here.emulator)
    again = here.run(**SCHEDULED)
    assert (first.state, again.state) == ("success", "success")
    assert again.reports == first.reports
    assert _arrived(here.emulator) == sent > 0


def test_a_limited_dag_run_that_is_cleared_stays_limited(airflow: Callable[..., Any]) -> None:
    """The limit is the run's, not the try's."""
    here = airflow()
    here.run({"limit": 7}, **SCHEDULED)
    [report] = here.run({"limit": 7}, **SCHEDULED).reports
    assert (report.rows["accepted"], _arrived(here.emulator)) == (7, 7 + report.optouts_sent)


def test_another_dag_run_of_a_finished_day_sends_nothing(airflow: Callable[..., Any]) -> None:
    """Different Dag runs are different runs of ours; what was delivered is unchanged in the second."""
    here = airflow()
    here.run(ASKED)
    ran = here.run(ASKED)
    assert sorted((report.rows["accepted"] > 0, report.rows["unchanged"] > 0) for report in ran.reports) == [
        (False, True),
        (True, False),
    ]
    assert all(report.balanced for report in ran.reports)


@pytest.mark.parametrize(
    ("when", "day"),
    [
        (SCHEDULED, DAY),
        ({"run_after": datetime(2026, 11, 22, 1, tzinfo=UTC)}, DAY),
    ],
)
def test_a_run_without_a_param_takes_its_interval_or_yesterday(
    airflow: Callable[..., Any], when: dict[str, Any], day: date
) -> None:
    """The start of the data interval where there is one, else the day before the run was triggered."""
    (report,) = airflow().run(**when).reports
    assert report.date == str(day)


def test_a_dry_run_shows_the_plan_and_sends_nothing(airflow: Callable[..., Any]) -> None:
    """It ends well, without a report and without a trace in the ledger."""
    here = airflow()
    ran = here.run(ASKED | {"dry_run": True})
    assert ran.tasks == _states(**_from("load", "skipped"))
    assert ran.state == "success"
    assert ran.xcoms["plan"]["calls"] > 0
    assert ran.reports == []
    assert _arrived(here.emulator) == 0


def test_a_missing_export_fails_at_once_and_is_taken_when_the_dag_run_is_cleared(
    airflow: Callable[..., Any], sample: Path, tmp_path: Path
) -> None:
    """The refusal is on record with exit code 3, and leaves nothing behind that the next try could trip over."""
    landing = tmp_path / "landing"
    shutil.copytree(sample, landing)
    (late,) = (landing / "crm" / str(DAY)).iterdir()
    late.rename(tmp_path / late.name)
    here = airflow(landing=landing)
    ran = here.run(**SCHEDULED)
    (report,) = ran.reports
    assert ran.state == "failed"
    assert ran.tasks == _from("extract", "upstream_failed") | {"extract": "failed", "report": "failed"}
    assert (report.exit_code, report.reasons) == (3, [{"code": "crm_missing", "count": 1}])
    (tmp_path / late.name).rename(late)
    ran = here.run(**SCHEDULED)
    (report,) = ran.reports
    assert ran.state == "success"
    assert (report.exit_code, report.balanced) == (1, True)


def test_refused_credentials_fail_the_dag_run_after_the_account(airflow: Callable[..., Any]) -> None:
    """Load does not fail, so that reconcile and report tell that nothing was sent."""
    ran = airflow({"status": 401}).run(ASKED)
    (report,) = ran.reports
    assert ran.tasks == _states(report="failed")
    assert ran.state == "failed"
    assert (report.exit_code, report.balanced) == (3, True)
    assert report.rows["not_sent"] > 0


@pytest.mark.parametrize("step", ["load", "reconcile"])
def test_a_busy_account_is_waited_for_without_a_worker(
    airflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The task defers itself, comes back, and the run goes on."""
    really, calls = pipeline.STEPS[step], []

    def busy_once(ctx: Any) -> dict[str, Any]:
        calls.append(ctx.run_id)
        if len(calls) == 1:
            raise Busy("another run is sending", wait=0.1)
        return really(ctx)

    monkeypatch.setitem(pipeline.STEPS, step, busy_once)
    ran = airflow().run(ASKED)
    assert ran.tasks == _states()
    assert len(calls) == 2


def test_a_foreign_error_shows_its_place_and_not_its_text(
    airflow: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A library's message may hold a value of a row; the retry that follows is Airflow's own."""
    address, tries = "someone@example.org", list[int]()

    def broken(ctx: Any) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError(f"could not parse {address}")
        return {"pending": 0}

    here = airflow()
    monkeypatch.setitem(pipeline.STEPS, "wait", broken)
    assert here.run(ASKED).tasks == _states()
    shown = "".join(capfd.readouterr())
    assert "internal error: ValueError at test_dag_runs.py" in shown
    assert address not in shown
