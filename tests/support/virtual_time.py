"""A clock in the test's hand, and runs whose sleeps take no time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from etl.ledger import Ledger
from etl.run import RunContext


@dataclass
class Clock:
    """Seconds since the epoch; they pass only when somebody sleeps."""

    now: float = 1_772_438_400.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class VirtualRun(RunContext):
    """A run whose sleeps take no time."""

    clock: Clock

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger, clock=self.clock)

    def sleep(self, seconds: float) -> bool:
        self.clock.now += seconds
        return not self.stop.is_set()
