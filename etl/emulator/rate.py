"""Token buckets, and the meter that tells how a caller's pacing looks from here, whether it is enforced or not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

ROUNDING = 0.01  # of a token: seconds since 1970 in a float are that coarse at 10,000 tokens a second
MOST_ARRIVALS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What an endpoint allows: `items_per_call`, refilled `per_second` up to `bucket`."""

    items_per_call: int
    per_second: int
    bucket: int


@dataclass(slots=True)
class Bucket:
    """A token bucket, full at the start. Time is in seconds and does not run backwards."""

    per_second: float
    capacity: float
    level: float = field(init=False)
    at: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.level = self.capacity

    def refill(self, now: float) -> float:
        """Move to `now` and return the free tokens."""
        if self.at is not None:
            self.level = min(self.capacity, self.level + max(0.0, now - self.at) * self.per_second)
        self.at = now
        return self.level

    def take(self, tokens: int, now: float) -> bool:
        """Take all the tokens or none."""
        if tokens > self.refill(now) + ROUNDING:
            return False
        self.level = max(0.0, self.level - tokens)
        return True

    def overdraw(self, tokens: int, now: float) -> float:
        """Take the tokens in any case and return the level, below zero if they were not there."""
        self.level = self.refill(now) - tokens
        return self.level


def lowest_level(arrivals: Iterable[tuple[float, int]], rate: Rate) -> float:
    """The lowest level of a bucket from which each (time, rows) was taken, negative if it was ever overdrawn."""
    bucket = Bucket(rate.per_second, rate.bucket)
    levels = [bucket.overdraw(rows, at) for at, rows in sorted(arrivals)]
    return min(levels, default=float(rate.bucket))


def most_in_a_second(arrivals: Iterable[tuple[float, int]]) -> int:
    """The most rows that arrived in any one second, its end excluded."""
    window: deque[tuple[float, int]] = deque()
    most = inside = 0
    for at, rows in sorted(arrivals):
        window.append((at, rows))
        inside += rows
        while at - window[0][0] >= 1:
            inside -= window.popleft()[1]
        most = max(most, inside)
    return most


@dataclass(slots=True)
class Meter:
    """Counts what arrived at one endpoint for one account.

    A call answered 429 took no tokens; every other call is held against the rate, also one that failed otherwise,
    since its sender cannot know what the vendor counted.
    """

    rate: Rate
    calls: int = 0
    rows: int = 0
    rows_applied: int = 0
    partial_errors: int = 0
    largest_call: int = 0
    largest_body: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MOST_ARRIVALS))
    first_arrival: float | None = None
    last_arrival: float | None = None

    def record(self, *, at: float, rows: int, body_bytes: int, outcome: str) -> None:
        """Enter one call: when it arrived, how much it brought, and its answer's `outcome`."""
        self.calls += 1
        self.rows += rows
        self.largest_call = max(self.largest_call, rows)
        self.largest_body = max(self.largest_body, body_bytes)
        self.statuses[outcome] += 1
        self.first_arrival = at if self.first_arrival is None else min(self.first_arrival, at)
        self.last_arrival = at if self.last_arrival is None else max(self.last_arrival, at)
        if not outcome.startswith("429"):
            self.arrivals.append((at, rows))

    def view(self) -> dict[str, Any]:
        """The meter as JSON; the rate figures look back over the last 100,000 calls."""
        arrivals: Sequence[tuple[float, int]] = tuple(self.arrivals)
        return {
            "calls": self.calls,
            "rows": self.rows,
            "rows_applied": self.rows_applied,
            "partial_errors": self.partial_errors,
            "largest_call": self.largest_call,
            "largest_body": self.largest_body,
            "statuses": dict(self.statuses),
            "first_arrival": self.first_arrival,
            "last_arrival": self.last_arrival,
            "lowest_level": round(lowest_level(arrivals, self.rate), 1) + 0.0,
            "most_rows_in_a_second": most_in_a_second(arrivals),
        }
