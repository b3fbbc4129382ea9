"""The sensor of the task `wait`: stays until the vendor has said what became of a run's batches, without a worker."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowException

from etl.airflow.operators import counts, run_context, translated
from etl.airflow.triggers import BatchTrigger, pause

if TYPE_CHECKING:
    from airflow.sdk import Context

    from etl.run import RunContext

# The step itself ends the wait after the connection's `polling.timeout_s`; this is for a triggerer that was away.
_LATE_S = 3600.0


class BatchSensor(BaseSensorOperator):
    """Asks once, then waits in the triggerer; if not `deferrable`, it comes back from time to time.

    What is still open at the vendor when the connection's `polling.timeout_s` is over does not hold it any longer: the
    report tells it. `timeout` is a net below that, and as long as the connection needs at least.
    """

    def __init__(self, *, sync: str, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(mode="poke" if deferrable else "reschedule", **kwargs)
        self.sync = sync
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        """Airflow's way in."""
        if self.deferrable:
            return self.resume(context)
        result: dict[str, Any] = super().execute(context)
        return result

    def resume(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Airflow's way back in from the triggerer. What goes wrong there is met here again, and told in full."""
        ctx, asked = self._ask(context)
        if asked["pending"]:
            if event and event["failed"] and not event["asked"]:
                raise AirflowException(
                    f"{event['failed']} in the triggerer, but not in the worker: the triggerer needs the same package "
                    "and the same PROFILE_ETL_... settings"
                )
            trigger = BatchTrigger(sync=self.sync, day=str(ctx.day), destination=ctx.destination, run_id=ctx.run_id)
            self.defer(trigger=trigger, method_name="resume", timeout=timedelta(seconds=self.timeout))
        return _told(ctx, asked)

    def poke(self, context: Context) -> PokeReturnValue:
        """One look, in reschedule mode."""
        ctx, asked = self._ask(context)
        if asked["pending"]:
            self.poke_interval = pause(asked)
        return PokeReturnValue(is_done=not asked["pending"], xcom_value=_told(ctx, asked))

    def _ask(self, context: Context) -> tuple[RunContext, dict[str, Any]]:
        from etl import pipeline

        with translated(self.log.error):
            ctx = run_context(self.sync, context, self.log.info)
            self.timeout = max(self.timeout, ctx.connection.polling.timeout_s + _LATE_S)
            asked = pipeline.do(ctx, "wait")
        self.log.info("batches that the vendor has not ended yet: %d", asked["pending"])
        return ctx, asked


def _told(ctx: RunContext, asked: dict[str, Any]) -> dict[str, Any]:
    return {"run": ctx.name, **counts(asked)}
