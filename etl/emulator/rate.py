"""Token buckets and rolling windows, and the meter that tells how a caller's pacing looks from here, whether it is enforced or not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

ROUNDING = 0.01  # of a token: seconds since 1970 in a float are that coarse at 10,000 tokens a second
INSTANT = 0.001  # of a second: what lies a whole window apart is apart, whatever rounding says
MINUTE = 60
DAY = 86_400
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


@dataclass(slots=True)
class Window:
    """What was taken in the last so many seconds. Time does not run backwards."""

    seconds: float
    taken: deque[tuple[float, int]] = field(default_factory=deque)
    total: int = 0

    def used(self, now: float) -> int:
        """Move to `now` and return what is still in the window."""
        while self.taken and now - self.taken[0][0] >= self.seconds - INSTANT:
            self.total -= self.taken.popleft()[1]
        return self.total

    def take(self, items: int, now: float, *, at_most: int | None) -> bool:
        """Take all the items or, if the window would then hold more than allowed, none."""
        used = self.used(now)
        if at_most is not None and used + items > at_most:
            return False
        self.taken.append((now, items))
        self.total += items
        return True


def lowest_level(arrivals: Iterable[tuple[float, int]], rate: Rate) -> float:
    """The lowest level of a bucket from which each (time, rows) was taken, negative if it was ever overdrawn."""
    bucket = Bucket(rate.per_second, rate.bucket)
    levels = [bucket.overdraw(rows, at) for at, rows in sorted(arrivals)]
    return min(levels, default=float(rate.bucket))


def most_within(seconds: float, arrivals: Iterable[tuple[float, int]]) -> int:
    """The most that arrived in any so many seconds, their end excluded."""
    window = Window(seconds)
    most = 0
    for at, rows in sorted(arrivals):
        window.take(rows, at, at_most=None)
        most = max(most, window.total)
    return most


def most_in_a_second(arrivals: Iterable[tuple[float, int]]) -> int:
    """The most rows that arrived in any one second, its end excluded."""
    return most_within(1, arrivals)


def most_calls_in_a_minute(arrivals: Iterable[tuple[float, int]]) -> int:
    """The most calls that arrived in any sixty seconds, whatever their rows."""
    return most_within(MINUTE, ((at, 1) for at, _ in arrivals))


@dataclass(slots=True)
class Meter:
    """Counts what arrived at one endpoint for one account.

    A call answered 429 took no tokens; every other call is held against the rate, also one that failed otherwise,
    since its sender cannot know what the vendor counted. `counts` are the vendor's own.
    """

    rate: Rate | None = None
    calls: int = 0
    rows: int = 0
    rows_applied: int = 0
    counts: Counter[str] = field(default_factory=Counter)
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
            "largest_call": self.largest_call,
            "largest_body": self.largest_body,
            "statuses": dict(self.statuses),
            "first_arrival": self.first_arrival,
            "last_arrival": self.last_arrival,
            "most_rows_in_a_second": most_in_a_second(arrivals),
            "most_calls_in_a_minute": most_calls_in_a_minute(arrivals),
            **({"lowest_level": round(lowest_level(arrivals, self.rate), 1) + 0.0} if self.rate else {}),
            **self.counts,
        }
