"""A run: one sync, one day, one destination, the folder that its steps write to, and its doors to the world outside."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from etl.calls import Calls
from etl.client import Client
from etl.ledger import Ledger, lease
from etl.settings import Connection, Settings
from etl.storage import Place

if TYPE_CHECKING:  # whose file may be wrong, which is to be said by a command, and not where it begins
    from etl.syncs import Sync

# In the folder of a run whose files are removed, wholly or in part: no step of it can be done again.
PURGED = "purged.json"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run can be asked for besides its day.

    `full` sends unchanged profiles too, `retry` those that the vendor did not take or lost, `limit` delivers the first
    changed profiles only, `dry_run` sends nothing, `wait` stays until the vendor confirms, `accept_volume` lets an
    export pass that looks wrong as a whole (`etl.gates`).
    """

    full: bool = False
    retry: bool = False
    limit: int | None = None
    dry_run: bool = False
    wait: bool = True
    accept_volume: bool = False


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """Everything that a step needs to know; the steps hand each other files in `place`, and nothing else.

    `patience_s` is how long load waits for another run of the account before it gives up as Busy.
    """

    sync: Sync
    day: date
    destination: str
    run_id: str
    settings: Settings
    connection: Connection
    options: Options = field(default_factory=Options)
    patience_s: float = 600.0
    stop: threading.Event = field(default_factory=threading.Event)
    progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None

    @property
    def name(self) -> str:
        """The run's folder in the work place, and its name in the ledger."""
        return f"{self.sync.name}/{self.day}/{self.destination}/{self.run_id}"

    @property
    def work(self) -> Place:
        """The work folder."""
        return Place(self.settings.work)

    @property
    def landing(self) -> Place:
        """The landing folder."""
        return Place(self.settings.landing)

    @property
    def place(self) -> Place:
        """The folder of this run."""
        return self.work / self.name

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, opened at the first use."""
        return Ledger(self.settings.ledger)

    def result(self, step: str) -> dict[str, Any]:
        """What an earlier step wrote down; raises LookupError when it has not run."""
        found: dict[str, Any] | None = self.place.read_json(f"{step}.json")
        if found is None:
            raise LookupError(f"{self.name}: the step '{step}' has not run yet")
        return found

    def sleep(self, seconds: float) -> bool:
        """Sleeps; False, at once, when the run is asked to stop."""
        return not self.stop.wait(seconds)

    def chance(self) -> float:
        """A random number from 0 to under 1."""
        return random.random()  # noqa: S311  (spreads retries; not a secret)

    def client(self) -> Client:
        """The way to the vendor."""
        return Client(timeout_s=self.connection.timeout_s)

    def calls(self, at_once: int) -> Calls:
        """Calls under way at the same time."""
        return Calls(at_once)

    def lease(self) -> AbstractContextManager[int]:
        """Holds the account, and gives the fence; raises Busy after `patience_s`."""
        return lease(self.ledger, self.connection.account, patience_s=self.patience_s, sleep=self.sleep)
