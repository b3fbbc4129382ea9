"""House rules for Dags."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from typing import Any

import pytest

from etl.settings import ROOT, Polling
from etl.syncs import SYNCS

pytestmark = pytest.mark.airflow

STEPS = ["extract", "validate", "transform", "pack", "plan", "load", "wait", "reconcile", "report"]


@pytest.fixture(params=sorted(SYNCS))
def dag(request: pytest.FixtureRequest, dags: dict[str, Any]) -> Any:
    return dags[request.param]


def test_every_sync_is_a_dag_and_nothing_else_is(dags: dict[str, Any]) -> None:
    """A sync's name is its Dag's id."""
    assert set(dags) == set(SYNCS)


def test_the_tasks_are_the_steps_in_their_order(dag: Any) -> None:
    """A chain: what a step reads was written by the one before."""
    assert [task.task_id for task in dag.topological_sort()] == STEPS
    assert [sorted(task.upstream_task_ids) for task in dag.topological_sort()] == [[], *([step] for step in STEPS[:-1])]


def test_each_run_covers_one_day_and_none_is_made_up_for_unasked(dag: Any) -> None:
    """A bare @daily would have empty intervals in Airflow 3."""
    from airflow.sdk import CronDataIntervalTimetable

    assert isinstance(dag.timetable, CronDataIntervalTimetable)
    assert not dag.catchup
    assert dag.max_active_runs == 1


def test_a_dag_says_what_it_is_and_whose(dag: Any) -> None:
    """The page has the remedy for a failure, and the sync's own connection and pool."""
    sync = SYNCS[dag.dag_id]
    assert {"profile-etl", sync.destination} == dag.tags
    assert {task.owner for task in dag.tasks} == {sync.owner}
    for word in ("When it fails", sync.connection, sync.destination, f"profile_api_{sync.connection}"):
        assert word in dag.doc_md


def test_nothing_runs_without_a_limit_of_time(dag: Any) -> None:
    """Every task and the whole run end by themselves; what may pass is retried, farther and farther apart."""
    assert dag.dagrun_timeout is not None
    for task in dag.tasks:
        assert task.execution_timeout is not None
        assert task.execution_timeout < dag.dagrun_timeout
        assert task.retries == 3
        assert task.retry_exponential_backoff
        assert task.max_retry_delay is not None
    load, wait = dag.get_task("load"), dag.get_task("wait")
    assert load.execution_timeout + timedelta(seconds=wait.timeout) < dag.dagrun_timeout


def test_the_wait_is_longer_than_the_vendors_are_asked_by_default(dag: Any) -> None:
    """So the step ends it, and not a sensor's timeout, which would leave the run without its account."""
    assert dag.get_task("wait").timeout > Polling().timeout_s


def test_where_no_triggerer_runs_every_task_that_waits_is_rescheduled() -> None:
    """One word in the Dag file; the scheduler brings the task back."""
    from etl.airflow.dag import profile_dag

    dag = profile_dag(SYNCS["crm_to_batch"], "", deferrable=False)
    assert {task.deferrable for task in dag.tasks} == {False}
    assert dag.get_task("wait").mode == "reschedule"


def test_what_sends_or_holds_the_account_is_in_its_pool(dag: Any) -> None:
    """A second run of an account queues for the pool's slot and holds no worker meanwhile."""
    pool = f"profile_api_{SYNCS[dag.dag_id].connection}"
    assert {task.task_id for task in dag.tasks if task.pool == pool} == {"load", "reconcile"}


def test_the_report_runs_whatever_happened(dag: Any) -> None:
    """It is the last task, so it decides how the Dag run ends."""
    assert dag.get_task("report").trigger_rule == "all_done"
    assert [task.task_id for task in dag.leaves] == ["report"]


@pytest.mark.parametrize(
    ("param", "bad"),
    [
        ("date", "21.11.2026"), ("date", 20261121), ("destination", 1), ("destination", ""), ("full", "yes"),
        ("limit", -1), ("limit", 1.5), ("dry_run", None), ("accept_volume", 1),
    ],
)  # fmt: skip
def test_params_are_typed(dag: Any, param: str, bad: object) -> None:
    """What cannot be meant is refused when the run is triggered."""
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        dag.params.get_param(param).resolve(bad)


def test_reading_the_dags_imports_nothing_heavy() -> None:
    """The Dag processor reads the file again and again."""
    code = (
        "import runpy, sys; runpy.run_path('dags/profile_syncs.py');"
        "heavy = {'polars', 'pandera', 'pandas', 'etl.pipeline'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=60)
