"""The task `wait`: a look by the worker, the rest in the triggerer, or by coming back where there is no triggerer."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl import pipeline
from etl.airflow.home import environment
from etl.errors import Busy
from etl.run import RunContext
from etl.syncs import SYNCS

pytestmark = pytest.mark.airflow

DAY = "2026-11-21"
ADDRESS = "someone@example.org"
NAME = {"sync": "crm_to_batch", "day": DAY, "destination": "batch", "run_id": "airflow-1"}


@dataclass
class Vendor:
    """The step `wait` of a test: says the next answer of a list, and remembers who asked in which thread."""

    answers: list[int | Exception]
    wait: float | None = 0.0
    asked: list[tuple[str, bool]] = field(default_factory=list)

    def __call__(self, ctx: RunContext) -> dict[str, Any]:
        self.asked.append((ctx.name, threading.current_thread() is threading.main_thread()))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return {"pending": answer, "wait": self.wait if answer else None}


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Vendor]:
    """Puts a vendor's answers in the place of the step."""

    def make(*answers: int | Exception, **fields: Any) -> Vendor:
        made = Vendor(list(answers), **fields)
        monkeypatch.setitem(pipeline.STEPS, "wait", made)
        monkeypatch.setattr("etl.airflow.triggers._SHORTEST_PAUSE_S", 0.01)
        return made

    return make


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings and connections of a test, for what runs without a Dag."""
    for name, value in environment(tmp_path, landing=tmp_path, emulator="http://127.0.0.1:9").items():
        if name.startswith(("PROFILE_ETL_", "AIRFLOW_CONN_")):
            monkeypatch.setenv(name, value)


def _trigger(stored: tuple[str, dict[str, Any]] | None = None) -> Any:
    """A trigger as the triggerer makes it, from what Airflow has stored."""
    from airflow.sdk.module_loading import import_string

    from etl.airflow.triggers import BatchTrigger

    path, fields = json.loads(json.dumps(stored or BatchTrigger(**NAME).serialize()))
    return import_string(path)(**fields)


async def _event(trigger: Any) -> Any:
    return (await anext(trigger.run())).payload


# --- whole Dag runs ----------------------------------------------------------------------------------------------------


def test_a_run_with_nothing_pending_asks_once(airflow: Callable[..., Any], vendor: Callable[..., Vendor]) -> None:
    """No triggerer is troubled."""
    step = vendor(0)
    ran = airflow().run({"date": DAY})
    assert set(ran.tasks.values()) == {"success"}
    assert [in_worker for _, in_worker in step.asked] == [True]


def test_pending_batches_are_asked_after_in_the_triggerer(
    airflow: Callable[..., Any], vendor: Callable[..., Vendor]
) -> None:
    """The worker looks first and last; all looks are of the same run, and the last one is the task's result."""
    step = vendor(3, 3, 2, 0, 0)
    ran = airflow().run({"date": DAY})
    assert set(ran.tasks.values()) == {"success"}
    assert [in_worker for _, in_worker in step.asked] == [True, False, False, False, True]
    assert {name for name, _ in step.asked} == {ran.xcoms["load"]["run"]}
    assert ran.xcoms["wait"] == {"run": ran.xcoms["load"]["run"], "pending": 0}


def test_what_goes_wrong_in_the_triggerer_is_told_by_the_worker(
    airflow: Callable[..., Any], vendor: Callable[..., Vendor], capfd: pytest.CaptureFixture[str]
) -> None:
    """The step runs again there, and the retry that follows is Airflow's own. A foreign error never shows its text."""
    broken = ValueError(f"could not parse {ADDRESS}")
    vendor(1, 1, broken, broken, 0)
    assert set(airflow().run({"date": DAY}).tasks.values()) == {"success"}
    shown = "".join(capfd.readouterr())
    assert "ValueError while asking; the worker looks into it" in shown
    assert "internal error: ValueError at test_wait.py" in shown
    assert ADDRESS not in shown


def test_a_passing_trouble_in_the_triggerer_costs_no_try(
    airflow: Callable[..., Any], vendor: Callable[..., Vendor], capfd: pytest.CaptureFixture[str]
) -> None:
    """It has asked with success before, so it is asked again."""
    vendor(1, 1, OSError("disk"), 1, 1, 0, 0)
    ran = airflow().run({"date": DAY})
    assert set(ran.tasks.values()) == {"success"}
    assert "in the triggerer, but not in the worker" not in "".join(capfd.readouterr())


def test_a_triggerer_that_can_never_ask_is_named(
    airflow: Callable[..., Any], vendor: Callable[..., Vendor], capfd: pytest.CaptureFixture[str]
) -> None:
    """Worker and triggerer do not hand the task to and fro for ever: the try fails, and says what is missing."""
    step = vendor(1, LookupError("load has not run"), 1, 0)
    ran = airflow().run({"date": DAY})
    assert set(ran.tasks.values()) == {"success"}
    assert "LookupError in the triggerer, but not in the worker" in "".join(capfd.readouterr())
    assert [in_worker for _, in_worker in step.asked] == [True, False, True, True]


def test_without_a_triggerer_the_tasks_come_back_by_themselves(
    airflow: Callable[..., Any], vendor: Callable[..., Vendor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In reschedule mode nothing is deferred: neither `wait`, nor `load` when somebody else holds the account."""
    from etl.airflow.dag import profile_dag

    really, tries = pipeline.STEPS["load"], list[float]()

    def busy_once(ctx: RunContext) -> dict[str, Any]:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise Busy("another run is sending", wait=1.5)
        return really(ctx)

    monkeypatch.setitem(pipeline.STEPS, "load", busy_once)
    step = vendor(2, 1, 0)
    ran = airflow().run({"date": DAY}, dag=profile_dag(SYNCS["crm_to_batch"], "", deferrable=False))
    assert set(ran.tasks.values()) == {"success"}
    assert [in_worker for _, in_worker in step.asked] == [True, True, True]
    assert len(tries) == 2
    assert tries[1] - tries[0] >= 1.5


def test_a_vendor_that_confirms_is_waited_for(airflow: Callable[..., Any]) -> None:
    """The real step and the emulator's jobs: what the report calls confirmed was waited for."""
    here = airflow()
    ran = here.run({"date": DAY}, dag=here.dags["crm_to_adobe_target"])
    (report,) = ran.reports
    assert set(ran.tasks.values()) == {"success"}
    assert report.balanced
    assert report.rows["confirmed"] > 0
    assert (report.rows["accepted"], report.rows["processing"]) == (0, 0)


# --- the trigger -------------------------------------------------------------------------------------------------------


def test_what_airflow_stores_of_a_trigger_is_the_name_of_the_run() -> None:
    """Texts, no secret; made anew from them, it is the same trigger."""
    from etl.airflow.triggers import BatchTrigger

    path, fields = BatchTrigger(**NAME).serialize()
    assert (path, fields) == ("etl.airflow.triggers.BatchTrigger", NAME)
    assert _trigger((path, fields)).serialize() == (path, fields)


def test_the_event_says_nothing_of_a_row(installed: None, vendor: Callable[..., Vendor]) -> None:
    """It goes through Airflow's database: the name of an error's class, and a number."""
    vendor(1, ValueError(ADDRESS))
    assert asyncio.run(_event(_trigger())) == {"failed": "ValueError", "asked": 1}
    vendor(0)
    assert asyncio.run(_event(_trigger())) == {"failed": None, "asked": 0}


def test_a_trigger_that_starts_anew_goes_on(installed: None, vendor: Callable[..., Vendor]) -> None:
    """A triggerer that ends in the middle of a pause loses nothing, since it holds nothing."""
    step = vendor(2, 1, 0, wait=60.0)

    async def killed_in_its_pause() -> tuple[str, dict[str, Any]]:
        trigger = _trigger()
        running = asyncio.create_task(_event(trigger))
        while not step.asked:  # noqa: ASYNC110  (the step is in another thread)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return trigger.serialize()

    stored = asyncio.run(killed_in_its_pause())
    step.wait = 0.0
    assert asyncio.run(_event(_trigger(stored))) == {"failed": None, "asked": 1}
    assert step.answers == []
    assert {name for name, _ in step.asked} == {f"crm_to_batch/{DAY}/batch/airflow-1"}


def test_a_slow_look_does_not_hold_the_other_triggers_up(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The triggerer's loop goes on while the step waits for the vendor."""

    def slow(ctx: RunContext) -> dict[str, Any]:
        time.sleep(0.5)
        return {"pending": 0, "wait": None}

    monkeypatch.setitem(pipeline.STEPS, "wait", slow)

    async def steps_of_the_loop() -> int:
        running, steps = asyncio.create_task(_event(_trigger())), 0
        while not running.done():
            await asyncio.sleep(0.01)
            steps += 1
        return steps

    assert asyncio.run(steps_of_the_loop()) > 20


@pytest.mark.parametrize(("wait", "seconds"), [(None, 30.0), (0.0, 0.5), (-1.0, 0.5), (12.5, 12.5)])
def test_the_step_says_when_to_look_again(wait: float | None, seconds: float) -> None:
    """It knows the vendor's pace; only a loop without a pause is not allowed to it."""
    from etl.airflow.triggers import pause

    assert pause({"pending": 1, "wait": wait}) == seconds


# --- the sensor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("polling", "hours"), [({}, 25), ({"timeout_s": 60}, 25), ({"timeout_s": 172_800}, 49)])
def test_the_triggerer_may_take_an_hour_longer_than_the_vendor_is_asked(
    installed: None,
    vendor: Callable[..., Vendor],
    monkeypatch: pytest.MonkeyPatch,
    polling: dict[str, float],
    hours: int,
) -> None:
    """The step ends the wait by the connection's `polling.timeout_s`, and no timeout of Airflow comes before that."""
    from airflow.sdk.exceptions import TaskDeferred

    from etl.airflow import sensors
    from etl.airflow.dag import profile_dag
    from etl.settings import Connection

    def run_context(*_: object) -> RunContext:
        parts = {"conn_type": "batch", "host": "https://example.org", "password": "key"}
        connection = Connection.from_parts("c", parts | {"extra": {"project_key": "p", "polling": polling}})
        return pipeline.context(
            SYNCS["crm_to_batch"], date.fromisoformat(DAY), run_id="airflow-1", connection=connection
        )

    vendor(1)
    monkeypatch.setattr(sensors, "run_context", run_context)
    with pytest.raises(TaskDeferred) as deferred:
        profile_dag(SYNCS["crm_to_batch"], "").get_task("wait").execute({})
    assert deferred.value.timeout == timedelta(hours=hours)
    assert deferred.value.trigger.serialize() == _trigger().serialize()
