"""The Dag of a sync: nine tasks in a row, each one step of `etl.pipeline`, and before them the wait for the export, where
a sync asks for it; built without importing polars or pandera.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param, PartitionedAssetTimetable, TriggerRule
from airflow.sdk.bases.operator import chain

from etl.airflow.operators import LoadOperator, PrepareOperator, ReportOperator, StepOperator
from etl.airflow.sensors import BatchSensor, ExportSensor
from etl.syncs import Sync

# Backfills reach back to here.
_FIRST_DAY = datetime(2020, 1, 1, tzinfo=UTC)
_STEP_TIME = timedelta(hours=2)
# Ten million profiles at the slowest allowed rate, 300 a second, take under ten hours.
_LOAD_TIME = timedelta(hours=24)
# A vendor is asked about a batch for 24 hours; a connection that says longer gets longer.
_WAIT_TIME = timedelta(hours=25)


def pool_name(connection: str) -> str:
    """The pool of an account's sending tasks. It has one slot: a second run of the account queues for it."""
    return f"profile_api_{connection}"


def profile_dag(sync: Sync, doc_md: str, *, deferrable: bool = True) -> DAG:
    """The Dag of a sync, for a file in the Dag folder; `doc_md` is the operator's page.

    If not `deferrable`, tasks that wait are rescheduled, for an Airflow that runs no triggerer.
    """
    pool = pool_name(sync.connection)
    with DAG(
        sync.name,
        description=f"CRM and POS exports of a day to {sync.destination}",
        schedule=_schedule(sync),
        start_date=_FIRST_DAY,
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=timedelta(hours=60) + _wait(sync),
        doc_md=doc_md + _particulars(sync),
        tags=["profile-etl", sync.destination],
        params=_params(),
        default_args={
            "owner": sync.owner,
            "deferrable": deferrable,
            "retries": 3,
            "retry_delay": timedelta(minutes=1),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=15),
            "execution_timeout": _STEP_TIME,
        },
    ) as dag:
        chain(
            *_first(sync),
            PrepareOperator(task_id="extract", sync=sync.name, outlets=[Asset(sync.landed)]),
            *(PrepareOperator(task_id=step, sync=sync.name) for step in ("validate", "transform", "pack", "plan")),
            LoadOperator(task_id="load", sync=sync.name, pool=pool, execution_timeout=_LOAD_TIME),
            BatchSensor(task_id="wait", sync=sync.name, timeout=_WAIT_TIME),
            StepOperator(task_id="reconcile", sync=sync.name, pool=pool),
            ReportOperator(
                task_id="report", sync=sync.name, trigger_rule=TriggerRule.ALL_DONE, outlets=[Asset(sync.delivered)]
            ),
        )
    return dag


def _schedule(sync: Sync) -> CronDataIntervalTimetable | PartitionedAssetTimetable:
    if sync.asset is None:
        return CronDataIntervalTimetable(sync.schedule, timezone=sync.timezone)
    # A run for each partition, and so for each day; of plain events Airflow makes one run for all that came meanwhile.
    return PartitionedAssetTimetable(assets=Asset(sync.asset))


def _wait(sync: Sync) -> timedelta:
    return timedelta(hours=sync.wait_for_export_hours or 0)


def _first(sync: Sync) -> list[ExportSensor]:
    """The task that waits for the export, for a sync that asks for it."""
    if sync.wait_for_export_hours is None:
        return []
    return [ExportSensor(task_id="wait_for_export", sync=sync.name, hours=sync.wait_for_export_hours)]


def _params() -> dict[str, Param]:
    return {
        "date": Param(
            None,
            type=["null", "string"],
            format="date",
            description="The day that the exports cover; empty: the start of the run's data interval, or its partition key",
        ),
        "destination": Param(
            None, type=["null", "string"], minLength=1, description="Another destination than the sync's, for this run"
        ),
        "full": Param(False, type="boolean", description="Send unchanged profiles too"),
        "limit": Param(
            None, type=["null", "integer"], minimum=0, description="Deliver the first N changed profiles only"
        ),
        "dry_run": Param(
            False, type="boolean", description="Stage the payloads and show the plan in the task `plan`; send nothing"
        ),
        "accept_volume": Param(False, type="boolean", description="Let an export pass that looks wrong as a whole"),
    }


def _particulars(sync: Sync) -> str:
    when = (
        f"`{sync.schedule}` in {sync.timezone}" if sync.asset is None else f"each partition of the asset `{sync.asset}`"
    )
    return (
        f"\n### This sync\n\n| | |\n|---|---|\n| destination | `{sync.destination}` |\n"
        f"| connection | `{sync.connection}` |\n| pool | `{pool_name(sync.connection)}`, one slot |\n"
        f"| schedule | {when} |\n| assets | `{sync.landed}`, `{sync.delivered}` |\n| owner | {sync.owner} |\n"
    )
