"""The trigger of the task `wait`: in the triggerer, asks what became of a run's batches until nothing is left to ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from etl.airflow.hooks import connection_for_trigger
from etl.syncs import SYNCS, Sync

if TYPE_CHECKING:
    from etl.settings import Connection

_SHORTEST_PAUSE_S, _USUAL_PAUSE_S = 0.5, 30.0


class BatchTrigger(BaseTrigger):
    """Runs the step `wait` of a run until nothing is pending, or until it fails, which is the worker's to tell.

    It knows the run's name only. What was asked, and when to ask again, stands in the ledger, so that a triggerer that
    starts anew goes on where the other one ended.
    """

    def __init__(self, *, sync: str, day: str, destination: str, run_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sync = sync
        self.day = day
        self.destination = destination
        self.run_id = run_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow keeps of it in its database."""
        names = ("sync", "day", "destination", "run_id")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: `failed` is the name of an error's class or None, `asked` how many looks went well before."""
        failed, looks = None, 0
        try:
            while (asked := await self._ask())["pending"]:
                looks += 1
                seconds = pause(asked)
                self.log.info("batches not ended yet: %d; next look in %.0f s", asked["pending"], seconds)
                await asyncio.sleep(seconds)
        except Exception as error:  # noqa: BLE001  (a foreign error's text may hold a value of a row)
            failed = type(error).__name__
            self.log.warning("%s while asking; the worker looks into it", failed)
        yield TriggerEvent({"failed": failed, "asked": looks})  # type: ignore[no-untyped-call]

    async def _ask(self) -> dict[str, Any]:
        sync = SYNCS[self.sync]
        return await asyncio.to_thread(self._step, sync, await connection_for_trigger(sync.connection))

    def _step(self, sync: Sync, connection: Connection) -> dict[str, Any]:
        """The step itself, which imports much and waits for files, the ledger and the vendor: never in the loop."""
        from etl import pipeline

        ctx = pipeline.context(
            sync,
            date.fromisoformat(self.day),
            run_id=self.run_id,
            destination=self.destination,
            connection=connection,
        )
        with closing(ctx.ledger):
            return pipeline.do(ctx, "wait")


def pause(asked: Mapping[str, Any]) -> float:
    """Seconds until the next look, from the result of the step `wait`; never so few that the look never ends."""
    wait = asked["wait"]
    return max(_USUAL_PAUSE_S if wait is None else wait, _SHORTEST_PAUSE_S)
