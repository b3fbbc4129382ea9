"""Calls: what is under way at a vendor at the same time, a thread each."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Self, TypeVar

T = TypeVar("T")
_GATHER_S = 0.005


class Calls:
    """At most `at_once` calls under way; leaving the block waits for those that are."""

    def __init__(self, at_once: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=at_once)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def begin(self, call: Callable[[], T]) -> Future[T]:
        """Starts a call."""
        return self._pool.submit(call)

    def wait(self, under_way: Collection[Future[T]], seconds: float | None) -> None:
        """Returns when one has ended, and a moment later, as answers come in flocks; or after some seconds."""
        wait(under_way, timeout=seconds, return_when=FIRST_COMPLETED)
        wait(under_way, timeout=_GATHER_S)

    def wait_for_all(self, under_way: Collection[Future[T]]) -> None:
        """Returns when all have ended."""
        wait(under_way)
