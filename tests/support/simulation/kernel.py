"""Virtual time, and processes that crash and freeze in it: one thread, in which one greenlet runs at a time.

A process gives way only where a real one could be interrupted with a difference: around transactions, files and calls,
and when it sleeps. Who goes on then is decided by the schedule's seed alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, Self
from weakref import WeakKeyDictionary

from greenlet import getcurrent, greenlet

MIDNIGHT = 1_772_438_400.0


class Crashed(BaseException):
    """The process is dead; nothing that it does from here on happens."""


class Hub:
    """The clock, and what is to happen when."""

    def __init__(self, seed: int) -> None:
        self.now = MIDNIGHT
        self.random = Random(seed)  # noqa: S311  (a schedule, not a secret)
        self.crashes = 0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self.root = getcurrent()

    def at(self, delay: float, action: Callable[[], object]) -> None:
        """Has something happen after so many seconds."""
        heapq.heappush(self._events, (self.now + max(0.0, delay), next(self._numbers), action))

    def run(self, until: float) -> None:
        """Lets everything happen up to a moment, or until nothing is left to happen."""
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()

    def give_way(self) -> None:
        """Back to the hub, from inside a process."""
        self.root.switch()


_of_thread: WeakKeyDictionary[greenlet, Process] = WeakKeyDictionary()


def running() -> Process | None:
    """The process that runs now."""
    return _of_thread.get(getcurrent())


@dataclass(eq=False)
class Process:
    """A process, and its threads; `danger` is the chance to crash or freeze each time it gives way."""

    hub: Hub
    danger: Callable[[], float]
    alive: bool = True
    frozen_until: float = 0.0
    is_in_transaction: bool = False  # where nothing of it is visible to others yet, so that it need not give way
    _threads: list[greenlet] = field(default_factory=list)
    _parked: dict[greenlet, Callable[[], None]] = field(default_factory=dict)

    def start(self, action: Callable[[], object]) -> None:
        """Runs something as a thread of this process."""

        def run() -> None:
            with suppress(Crashed):
                action()

        thread = greenlet(run, self.hub.root)
        self._threads.append(thread)
        _of_thread[thread] = self
        self.hub.at(0, lambda: self._resume(thread))

    def sleep(self, seconds: float) -> None:
        """Gives way for so many seconds."""
        self.check()
        thread = getcurrent()
        self.hub.at(seconds, lambda: self._resume(thread))
        self.hub.give_way()
        self.check()

    def park(self, seconds: float | None) -> None:
        """Gives way until something of this process has ended, or for so many seconds."""
        self.check()
        thread = getcurrent()

        def wake() -> None:
            if self._parked.get(thread) is wake:
                del self._parked[thread]
                self._resume(thread)

        self._parked[thread] = wake
        if seconds is not None:
            self.hub.at(seconds, wake)
        self.hub.give_way()
        self.check()

    def nudge(self) -> None:
        """Something of this process has ended."""
        for wake in self._parked.values():
            self.hub.at(0, wake)

    def breathe(self, *, may_freeze: bool = True) -> None:
        """Gives way for a moment, in which the process may die or stand still."""
        self.check()
        if self.is_in_transaction:
            return
        fate = self.hub.random.random()
        if fate < self.danger() / 2:
            self.kill()
        elif fate < self.danger() and may_freeze:
            self.frozen_until = self.hub.now + self.hub.random.uniform(1, 200)
        self.sleep(self.hub.random.expovariate(500))

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.hub.crashes += 1

    def check(self) -> None:
        """Raises Crashed in a dead process, so that what it would do while its threads are swept up has no effect."""
        if not self.alive:
            raise Crashed

    def sweep(self) -> None:
        """Ends the threads of a process that is over."""
        self.alive = False
        for thread in self._threads:
            if thread and not thread.dead:
                thread.throw(Crashed)

    def _resume(self, thread: greenlet) -> None:
        if not self.alive:
            return
        if self.frozen_until > self.hub.now:
            self.hub.at(self.frozen_until - self.hub.now, lambda: self._resume(thread))
            return
        thread.switch()


class Future:
    """The end of a call, once it has come."""

    def __init__(self) -> None:
        self._end: tuple[Any, Exception | None] | None = None

    def done(self) -> bool:
        return self._end is not None

    def result(self) -> Any:
        assert self._end is not None
        value, error = self._end
        if error is not None:
            raise error
        return value

    def finish(self, value: Any, error: Exception | None) -> None:
        self._end = (value, error)


class Calls:
    """Calls under way in threads of a process, with the methods of `etl.calls.Calls`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def begin(self, call: Callable[[], Any]) -> Future:
        future: Future = Future()

        def run() -> None:
            try:
                future.finish(call(), None)
            except Exception as error:  # noqa: BLE001  (as a pool does)
                future.finish(None, error)
            self._process.nudge()

        self._process.start(run)
        return future

    def wait(self, under_way: Any, seconds: float | None) -> None:
        if not any(future.done() for future in under_way):
            self._process.park(seconds)

    def wait_for_all(self, under_way: Any) -> None:
        while not all(future.done() for future in under_way):
            self._process.park(None)


@contextmanager
def beating(process: Process, action: Callable[[], bool], seconds: float) -> Iterator[None]:
    """`etl.ledger.lease.beating` in virtual time."""
    is_over = False

    def beat() -> None:
        while True:
            process.sleep(seconds)
            if is_over or not action():
                return

    process.start(beat)
    try:
        yield
    finally:
        is_over = True
