"""The sensors: they stay until an export has landed, or a vendor has ended a run's batches, without a worker."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException

from etl.airflow.operators import counts, run_context, translated
from etl.airflow.triggers import BatchTrigger, ExportTrigger, LookingTrigger, pause
from etl.errors import ExportError

if TYPE_CHECKING:
    from airflow.sdk import Context

# Each wait has an end of its own; this is for a triggerer that was away.
_LATE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look came to: seconds until the next one, None when the wait is over; who goes on looking; the task's result."""

    again: float | None
    trigger: LookingTrigger
    result: dict[str, Any]


class LookingSensor(BaseSensorOperator):
    """Looks once, then waits in the triggerer; if not `deferrable`, it comes back from time to time."""

    def __init__(self, *, sync: str, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(mode="poke" if deferrable else "reschedule", **kwargs)
        self.sync = sync
        self.deferrable = deferrable

    @abstractmethod
    def look(self, context: Context) -> Look:
        """One look."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Airflow's way in."""
        if self.deferrable:
            return self.resume(context)
        result: dict[str, Any] = super().execute(context)
        return result

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Airflow's way back in from the triggerer. What goes wrong there is met here again, and told in full."""
        look = self.look(context)
        if look.again is not None:
            if event and event["failed"] and not event["asked"]:
                raise AirflowException(
                    f"{event['failed']} in the triggerer, but not in the worker: the triggerer needs the same package "
                    "and the same PROFILE_ETL_... settings"
                )
            self.defer(trigger=look.trigger, method_name="resume", timeout=timedelta(seconds=self.timeout))
        return look.result

    def poke(self, context: Context) -> PokeReturnValue:
        """One look, in reschedule mode."""
        look = self.look(context)
        if look.again is not None:
            self.poke_interval = look.again
        return PokeReturnValue(is_done=look.again is None, xcom_value=look.result)


class BatchSensor(LookingSensor):
    """Stays until the vendor has said what became of a run's batches.

    What is still open at the vendor when the connection's `polling.timeout_s` is over does not hold it any longer: the
    report tells it. `timeout` is a net below that, and as long as the connection needs at least.
    """

    def look(self, context: Context) -> Look:
        """One round of questions to the vendor."""
        from etl import pipeline

        with translated(self.log.error):
            ctx = run_context(self.sync, context, self.log.info)
            self.timeout = max(self.timeout, ctx.connection.polling.timeout_s + _LATE_S)
            asked = pipeline.do(ctx, "wait")
        self.log.info("batches that the vendor has not ended yet: %d", asked["pending"])
        return Look(
            again=pause(asked) if asked["pending"] else None,
            trigger=BatchTrigger(sync=self.sync, day=str(ctx.day), destination=ctx.destination, run_id=ctx.run_id),
            result={"run": ctx.name, **counts(asked)},
        )


class ExportSensor(LookingSensor):
    """Stays until the day's CRM export has landed whole, or `hours` have gone by since the run was due.

    The hours count from then, not from now: a run of long ago, a backfill's or one that is cleared, looks once.
    """

    def __init__(self, *, sync: str, hours: float, **kwargs: Any) -> None:
        super().__init__(sync=sync, timeout=hours * 3600 + _LATE_S, **kwargs)
        self.hours = hours

    def look(self, context: Context) -> Look:
        """One look into the folder. What the run has taken already is not waited for."""
        from etl import arrival, pipeline

        deadline = context["dag_run"].run_after + timedelta(hours=self.hours)
        until, now = deadline.timestamp(), time.time()
        with translated(self.log.error):
            ctx = run_context(self.sync, context, self.log.info)
            folder = f"{ctx.landing.root}/crm/{ctx.day}"
            lacks = None if ctx.place.exists("extract.json") else arrival.missing(ctx.landing, ctx.day, now=now)
            if lacks and now >= until and ctx.sync.crm_max_age_days:
                lacks = None  # extract knows for how long there may be none
            if lacks and now >= until:
                error = ExportError(
                    f"no whole CRM export in {folder} by {deadline:%Y-%m-%d %H:%M %Z}: {lacks}. When it has landed, clear "
                    "this task with what follows",
                    code="crm_missing",
                )
                if not ctx.options.dry_run:
                    pipeline.begin(ctx)
                pipeline.refuse(ctx, error)
                raise error
        if lacks:
            self.log.info("waiting for the CRM export in %s until %s: %s", folder, f"{deadline:%H:%M %Z}", lacks)
        return Look(
            again=min(arrival.LOOK_AGAIN_S, until - now) if lacks else None,
            trigger=ExportTrigger(day=str(ctx.day), until=str(until)),
            result={"run": ctx.name},
        )
