"""The triggers of the tasks that wait: in the triggerer, they look again and again until there is nothing to wait for."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
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


class LookingTrigger(BaseTrigger):
    """Looks until the wait is over, or until a look fails, which is the worker's to tell.

    It holds names only, so that a triggerer that starts anew goes on where the other one ended.
    """

    def __init__(self, **names: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = names

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What Airflow keeps of it in its database."""
        return f"{type(self).__module__}.{type(self).__name__}", dict(self.names)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event: `failed` is the name of an error's class or None, `asked` how many looks went well before."""
        failed, looks = None, 0
        try:
            while (seconds := await self.look()) is not None:
                looks += 1
                self.log.info("next look in %.0f s", seconds)
                await asyncio.sleep(seconds)
        except Exception as error:  # noqa: BLE001  (a foreign error's text may hold a value of a row)
            failed = type(error).__name__
            self.log.warning("%s while asking; the worker looks into it", failed)
        yield TriggerEvent({"failed": failed, "asked": looks})  # type: ignore[no-untyped-call]

    @abstractmethod
    async def look(self) -> float | None:
        """One look: seconds until the next one, None when the wait is over. What takes its time does so in a thread."""


class BatchTrigger(LookingTrigger):
    """Runs the step `wait` of a run, whose name it knows. What was asked, and when to ask again, stands in the ledger."""

    def __init__(self, *, sync: str, day: str, destination: str, run_id: str) -> None:
        super().__init__(sync=sync, day=day, destination=destination, run_id=run_id)

    async def look(self) -> float | None:
        """One round of questions to the vendor."""
        sync = SYNCS[self.names["sync"]]
        asked = await asyncio.to_thread(self._step, sync, await connection_for_trigger(sync.connection))
        if not asked["pending"]:
            return None
        self.log.info("batches not ended yet: %d", asked["pending"])
        return pause(asked)

    def _step(self, sync: Sync, connection: Connection) -> dict[str, Any]:
        """The step itself, which imports much and waits for files, the ledger and the vendor: never in the loop."""
        from etl import pipeline

        ctx = pipeline.context(
            sync,
            date.fromisoformat(self.names["day"]),
            run_id=self.names["run_id"],
            destination=self.names["destination"],
            connection=connection,
        )
        with closing(ctx.ledger):
            return pipeline.do(ctx, "wait")


class ExportTrigger(LookingTrigger):
    """Looks into the landing folder for the CRM export of a day, at most until a moment, in seconds since the epoch."""

    def __init__(self, *, day: str, until: str) -> None:
        super().__init__(day=day, until=until)

    async def look(self) -> float | None:
        """One look into the folder."""
        return await asyncio.to_thread(self._pause)

    def _pause(self) -> float | None:
        from etl import arrival
        from etl.settings import Settings
        from etl.storage import Place

        landing, day = Place(Settings.from_environment().landing), date.fromisoformat(self.names["day"])
        return arrival.pause(landing, day, until=float(self.names["until"]), now=time.time())


def pause(asked: Mapping[str, Any]) -> float:
    """Seconds until the next look, from the result of the step `wait`; never so few that the look never ends."""
    wait = asked["wait"]
    return max(_USUAL_PAUSE_S if wait is None else wait, _SHORTEST_PAUSE_S)
