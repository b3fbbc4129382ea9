"""Operators: one step of `etl.pipeline` each. They translate: Dag run to run, our errors to Airflow's, waiting to deferring.

What weighs something (polars, pandera, SQLAlchemy) is imported when a task runs, not when Airflow reads the Dag.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from etl import gates
from etl.airflow.hooks import connection
from etl.airflow.identity import run_day, run_id
from etl.errors import Busy, ConfigError, EtlError, ExportError, unforeseen

if TYPE_CHECKING:
    from airflow.sdk import Context

    from etl.run import RunContext

# Reasons to stop that another try cannot mend today; the report names them.
_FINAL = frozenset({"quota", *gates.CODES, "http_401", "http_403", "http_404"})
# Not now, but later: no try is used up, the task comes back after a pause, which is at least so many seconds long.
_SHORTEST_PAUSE_S = {"throttled": 30.0, "http_429": 30.0, "awaiting": 1.0}
# A pause that is over by so much was forgotten: no triggerer runs.
_LATE = timedelta(hours=1)
# So long a vendor that is out of reach is asked again and again; then the run is for a person.
_PATIENCE = timedelta(hours=24)
_PROGRESS_LINES = 10


class StepOperator(BaseOperator):
    """Runs the step that the task is named after. Its XCom is the run's name and counts, never a text from a row."""

    _running: RunContext | None = None

    def __init__(self, *, sync: str, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sync = sync
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        """Airflow's way in."""
        return self.resume(context)

    def resume(self, context: Context, event: object = None) -> dict[str, Any]:
        """Airflow's way back in after a pause; `event` tells nothing."""
        del event
        with translated(self.log.error):
            self._running = ctx = run_context(self.sync, context, self.log.info)
            try:
                result = {"run": ctx.name, **counts(self.work(ctx, context))}
                self.announce(ctx, context, result)
                return result  # noqa: TRY300  (what comes after belongs to the other way out)
            except Busy as busy:
                self.log.info("%s; the worker is free until then", busy)
                self.come_back(timedelta(seconds=busy.wait))

    def work(self, ctx: RunContext, context: Context) -> dict[str, Any]:
        """The step itself; raises Busy when it is worth coming back later."""
        from etl import pipeline

        del context
        return pipeline.do(ctx, self.task_id)

    def announce(self, ctx: RunContext, context: Context, result: dict[str, Any]) -> None:
        """Adds the counts to the events of the task's assets, and the day as their partition.

        A dry run's have no partition: whoever listens would deliver in earnest.
        """
        for asset in self.outlets:
            event = context["outlet_events"][asset]
            event.extra = {"date": str(ctx.day), **result}
            if not ctx.options.dry_run:
                event.add_partitions(str(ctx.day))

    def come_back(self, after: timedelta) -> NoReturn:
        """Gives the worker back for a while: to the triggerer, or to the scheduler where there is no triggerer."""
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

        if not self.deferrable:
            raise AirflowRescheduleException(datetime.now(UTC) + after)  # type: ignore[no-untyped-call]
        self.defer(trigger=TimeDeltaTrigger(after), method_name="resume", timeout=after + _LATE)

    def on_kill(self) -> None:
        """Airflow ends the task: the calls under way are finished, no other one starts."""
        if self._running is not None:
            self._running.stop.set()


class PrepareOperator(StepOperator):
    """A step before the first call. Those before it are made up for where their files are gone."""

    def work(self, ctx: RunContext, context: Context) -> dict[str, Any]:
        from etl import pipeline, plan

        del context
        if not ctx.options.dry_run:
            pipeline.begin(ctx)
        try:
            for step in pipeline.PREPARE[: pipeline.PREPARE.index(self.task_id) + 1]:
                result = pipeline.do(ctx, step)
        except ExportError as error:
            pipeline.refuse(ctx, error)
            raise
        if self.task_id == "plan":
            self.log.info("the plan:\n%s", plan.as_text(result))
        return result


class LoadOperator(StepOperator):
    """Sends. What a passing trouble leaves over is tried again; the report says what remains after that."""

    def work(self, ctx: RunContext, context: Context) -> dict[str, Any]:
        if ctx.options.dry_run:
            raise AirflowSkipException("dry run: the plan is in the log of the task `plan`; nothing is sent")
        result = super().work(ctx, context)
        task, began = context["ti"], ctx.ledger.run(ctx.name)
        age = timedelta(seconds=ctx.ledger.now() - began.started_at) if began else timedelta()
        pause = pause_after(
            result["stopped"],
            result["wait"],
            may_retry=task.try_number <= task.max_tries,
            is_patient=age < _PATIENCE,
        )
        if pause is not None:
            raise Busy(f"load is paused ({result['stopped']}) for {pause:.0f} s", wait=pause)
        return result


class ReportOperator(StepOperator):
    """Writes the report and decides how the Dag run ends; runs whatever happened before (trigger rule all_done)."""

    def work(self, ctx: RunContext, context: Context) -> dict[str, Any]:
        from etl import pipeline
        from etl.report import REPORT, as_text, report

        if failed := _failed_before(context):
            raise AirflowFailException(
                f"no account of {ctx.sync.name} for {ctx.day}: {', '.join(failed)} failed. The log there says why; "
                "when that is put right, clear that task with what follows"
            )
        if ctx.options.dry_run:
            raise AirflowSkipException("dry run: nothing was sent, so there is nothing to account for")
        made = report(ctx)
        pipeline.renew(ctx)
        self.log.info("%s\n%s", as_text(made), f"{ctx.place.root}/{REPORT}")
        if made.exit_code > 1:
            raise AirflowFailException(
                f"{made.sync} of {made.date} is {made.state} (exit code {made.exit_code}): the report is in the log above"
            )
        return {"exit_code": made.exit_code, "balanced": made.balanced, "rows": made.rows, "pos": made.pos}


def run_context(sync: str, context: Context, log: Callable[..., object]) -> RunContext:
    """Our run of a Dag run; raises ConfigError."""
    from etl import pipeline
    from etl.run import Options

    found = pipeline.sync_named(sync)
    params, dag_run = context["params"], context["dag_run"]
    start = context.get("data_interval_start")
    day = run_day(
        asked=params["date"],
        partition=dag_run.partition_key,
        interval_start=start,
        triggered_at=dag_run.run_after,
        timezone=found.timezone,
    )
    log("day %s: %s", day.date, day.why)
    return pipeline.context(
        found,
        day.date,
        run_id=run_id(dag_run.run_id),
        destination=params["destination"],
        options=Options(**{name: params[name] for name in ("full", "limit", "dry_run", "accept_volume")}),
        connection=connection(found.connection),
        patience_s=0,  # an operator that meets another run defers itself: nobody holds a worker only to wait
        progress=_progress(log),
    )


def counts(result: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a step's result, and the lengths of its lists; texts stay behind, so that none of a row gets out."""
    small = {name: counts(value) if isinstance(value, Mapping) else value for name, value in result.items()}
    small = {name: len(value) if isinstance(value, list) else value for name, value in small.items()}
    return {name: value for name, value in small.items() if isinstance(value, dict | int | float)}


def pause_after(stopped: str | None, wait: float | None, *, may_retry: bool, is_patient: bool = True) -> float | None:
    """What follows from how load ended: after None comes the report, after seconds it goes on.

    A vendor that is out of reach is asked again after `wait` seconds while the run `is_patient`. Raises AirflowException,
    which Airflow retries, for another passing trouble while there are tries left.
    """
    if stopped in _SHORTEST_PAUSE_S:
        return max(wait or 0.0, _SHORTEST_PAUSE_S[stopped])
    if wait is not None:
        return wait if is_patient else None
    if stopped and may_retry and stopped not in _FINAL and not stopped.startswith("http_3"):
        raise AirflowException(f"stopped early: {stopped}; nothing is lost, the next try sends what is left")
    return None


def _failed_before(context: Context) -> list[str]:
    dag, run, ti = context["dag"], context["dag_run"].run_id, context["ti"]
    states = ti.get_task_states(dag_id=dag.dag_id, task_ids=dag.task_ids, run_ids=[run])[run]
    return [task_id for task_id in dag.task_ids if states.get(task_id) == "failed" and task_id != ti.task_id]


def _progress(log: Callable[..., object]) -> Callable[[str, int, int], None]:
    """A line in the task's log at the start of a step, and for every tenth of its rows."""
    last: dict[str, int] = {}

    def show(step: str, done: int, total: int) -> None:
        mark = done * _PROGRESS_LINES // total if total else 0
        if last.get(step) != mark:
            last[step] = mark
            log("%s", f"{step}: {done:,} of {total:,} rows" if total else step)

    return show


@contextmanager
def translated(log: Callable[..., object]) -> Iterator[None]:
    """Our errors as Airflow's: what a retry cannot mend fails at once. A foreign error's text may hold a value of a row."""
    try:
        yield
    except (ConfigError, ExportError) as error:
        # A file that is still being written will be whole later; every other such trouble needs a person.
        passing = isinstance(error, ExportError) and error.code == "file_changed"
        raise (AirflowException if passing else AirflowFailException)(str(error)) from None
    except (EtlError, AirflowException):
        raise
    except Exception as error:  # noqa: BLE001  (the outer edge of a task; it raises again)
        log("%s, without its text:\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        raise AirflowException(f"{unforeseen(error)}; nothing is lost") from None
