"""Pacing: how long a call must wait so that the vendor's rate is used to the full and never exceeded.

The arithmetic is pure: a `Pace` (what an endpoint of an account has used so far) and a call give a new `Pace` and the
moment at which the call may go. `Pacer` keeps the pace in the ledger's database, so that a restart, or another process
of the account, goes on from the same state. It reserves and sleeps; it never polls.

A bucket is kept as one number, the moment at which it would be full again. Calls arrive at the vendor a little later
than they leave, and not equally late; the slack for that is taken from the bucket's size, never from the rate.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from etl.errors import Busy, ConfigError, LedgerError
from etl.ledger.schema import paces
from etl.ledger.store import Ledger
from etl.model import Limits

JITTER_S = 0.05
_MINUTE_JITTER_S = 0.5
_LONGEST_PAUSE_S = 86_400.0
LONGEST_WAIT_S = 900.0
_WINDOW_S = 1.0
_LOWEST_FACTOR = 1 / 16
_RECOVERY = 1.1
# Reservations can stand this many full calls ahead of now; further ahead means that the clock was set back.
_QUEUE_CALLS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What pacing may use of an endpoint's limits; `None` means no such limit. Times in seconds."""

    rows_per_call: int
    per_second: float | None
    capacity: float
    call_gap: float
    window: float | None

    @classmethod
    def of(cls, limits: Limits, headroom: float) -> Allowance:
        """The share of the limits that the account's other callers leave to us; raises ConfigError if that is nothing."""
        share = 1 - headroom
        # Calls that arrive unequally late must not crowd into a minute either; uploads of many megabytes take their time.
        gap = (60 + _MINUTE_JITTER_S) / (limits.calls_per_minute * share) if limits.calls_per_minute else 0.0
        if limits.per_second is None:
            return cls(rows_per_call=limits.rows_per_call, per_second=None, capacity=0, call_gap=gap, window=None)
        rate = limits.per_second * share
        strict = limits.policy == "strict-window"
        capacity = limits.per_second if strict else (limits.burst or limits.per_second) - rate * JITTER_S
        rows = min(limits.rows_per_call, int(capacity))
        if rows < 1:
            raise ConfigError("the connection's limits leave no room for a single row: raise burst or per_second")
        window = _WINDOW_S / share if strict else None
        return cls(rows_per_call=rows, per_second=rate, capacity=capacity, call_gap=gap, window=window)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Where an endpoint of an account stands; moments are seconds since the epoch.

    `full_at`: when the bucket will be full again. `next_call_at`: the earliest next call under a limit of calls.
    `blocked_until`: the vendor's own "wait". `factor`: the part of the rate that is used, halved by each 429 and slowly
    recovering. `recent`: moments and rows of the latest calls, for the strict window.
    """

    full_at: float = 0
    next_call_at: float = 0
    blocked_until: float = 0
    factor: float = 1
    recent: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A place in the queue: `rows` may be sent from the moment `at` on."""

    rows: int
    at: float


def reserve(pace: Pace, allowance: Allowance, rows: int, now: float) -> tuple[Pace, Reservation]:
    """Takes room for a call of `rows`; the call may leave at the reservation's moment, and not before."""
    if rows > allowance.rows_per_call:
        raise ConfigError(f"a call of {rows} rows; the limits allow {allowance.rows_per_call}")
    earliest = max(now, pace.blocked_until, min(pace.next_call_at, now + _QUEUE_CALLS * allowance.call_gap))
    if allowance.per_second is None:
        at = earliest
        return replace(pace, next_call_at=at + allowance.call_gap), Reservation(rows=rows, at=at)
    if allowance.window is not None:
        window = allowance.window / pace.factor
        furthest = earliest + _QUEUE_CALLS * window
        recent = tuple((min(t, furthest), n) for t, n in pace.recent if t + window > now)
        at = _window_start(recent, allowance.capacity - rows, window, earliest)
        pace = replace(pace, recent=(*recent, (at, rows)), next_call_at=at + allowance.call_gap)
        return pace, Reservation(rows=rows, at=at)
    rate = allowance.per_second * pace.factor
    furthest = earliest + (allowance.capacity + _QUEUE_CALLS * allowance.rows_per_call) / rate
    full_at = max(min(pace.full_at, furthest), earliest) + rows / rate
    at = max(earliest, full_at - allowance.capacity / rate)
    return replace(pace, full_at=full_at, next_call_at=at + allowance.call_gap), Reservation(rows=rows, at=at)


def answered(pace: Pace, allowance: Allowance, reservation: Reservation, *, sent: float, answered: float) -> Pace:
    """Corrects the pace by what really happened.

    What a call was late beyond the slack is put on top: a limit of calls counts from then, and a bucket may have been
    full meanwhile, and a full bucket gains nothing; it can have lost no more than the call's own rows. The strict window
    counts from the answer, the latest moment at which the vendor can have counted the call.
    """
    late = max(0.0, sent - reservation.at - JITTER_S)
    lost = min(late, reservation.rows / (allowance.per_second * pace.factor)) if allowance.per_second else 0.0
    recent, entry = list(pace.recent), (reservation.at, reservation.rows)
    if entry in recent:
        recent[recent.index(entry)] = (answered, reservation.rows)
    return replace(
        pace,
        full_at=pace.full_at + lost,
        next_call_at=pace.next_call_at + late,
        factor=min(1.0, pace.factor * _RECOVERY),
        recent=tuple(recent),
    )


def held(pace: Pace, *, wait: float, now: float) -> Pace:
    """Nobody sends for `wait` seconds.

    A vendor may ask for a day at most: more is a mistake of its own, and would shut the account for good.
    """
    return replace(pace, blocked_until=max(pace.blocked_until, now + min(wait, _LONGEST_PAUSE_S)))


def throttled(pace: Pace, allowance: Allowance, *, wait: float, now: float) -> Pace:
    """After a 429: nobody sends for `wait` seconds, the bucket is empty then, and the rate is halved for a while.

    Calls that were under way together are refused together; that halves the rate once.
    """
    factor = pace.factor if now < pace.blocked_until else max(_LOWEST_FACTOR, pace.factor / 2)
    pace = held(pace, wait=wait, now=now)
    full_at = pace.full_at
    if allowance.per_second is not None and allowance.window is None:
        empty = (allowance.capacity - allowance.rows_per_call) / (allowance.per_second * factor)
        full_at = max(full_at, pace.blocked_until + empty)
    return replace(pace, factor=factor, full_at=full_at)


def _window_start(recent: tuple[tuple[float, int], ...], room: float, window: float, earliest: float) -> float:
    """The first moment at which the calls of the window before it hold at most `room` rows."""
    at, used = earliest, 0
    for moment, rows in sorted(recent, reverse=True):
        used += rows
        if used > room:
            return max(at, moment + window)
    return at


class Pacer:
    """The pace of one endpoint of one account, kept in the ledger's database; for one thread.

    `sleep` gets the seconds to wait; it returns False when the wait was cut short because the run is to stop.
    """

    def __init__(
        self, ledger: Ledger, *, account: str, endpoint: str, allowance: Allowance, sleep: Callable[[float], bool]
    ) -> None:
        self._ledger = ledger
        self._key = _key(account, endpoint)
        self._allowance = allowance
        self._sleep = sleep
        self._pace = Pace()
        self._is_open = False
        ledger.ensure(paces, account=account, endpoint=endpoint)

    def wait_for(self, rows: int) -> Reservation | None:
        """Reserves room for a call and sleeps until it may leave; None when the run is to stop.

        A pause that the vendor asks for meanwhile holds for this call too. Raises Busy, with nothing reserved, when
        that pause is longer than a task should sleep.
        """
        while True:
            reservation = self.reserve(rows)
            while (left := reservation.at - self._ledger.now()) > 0:
                if not self._sleep(left):
                    return None
            if self.may_leave(reservation):
                return reservation

    def reserve(self, rows: int) -> Reservation:
        """Room for a call, which may leave at the reservation's moment; raises Busy as `wait_for` does."""
        with self.at_once() as now:
            if (wait := self._pace.blocked_until - now) > LONGEST_WAIT_S:
                raise Busy(f"the vendor asked for a pause; {wait / 60:.0f} minutes are left", wait=wait)
            self._pace, reservation = reserve(self._pace, self._allowance, rows, now)
            return reservation

    def may_leave(self, reservation: Reservation) -> bool:
        """True when the reservation's moment has come, and the vendor has not asked for a pause since it was made."""
        with self.at_once() as now:
            return reservation.at <= now and self._pace.blocked_until <= now

    def answered(self, reservation: Reservation, *, sent: float, answered_at: float) -> None:
        """Tells when the call left and when its answer came."""
        with self.at_once():
            self._pace = answered(self._pace, self._allowance, reservation, sent=sent, answered=answered_at)

    def held(self, wait: float) -> None:
        """Tells that the vendor asked for `wait` seconds, without blaming the rate."""
        with self.at_once() as now:
            self._pace = held(self._pace, wait=wait, now=now)

    def throttled(self, wait: float) -> None:
        """Tells that the vendor answered 429 and asked for `wait` seconds."""
        with self.at_once() as now:
            self._pace = throttled(self._pace, self._allowance, wait=wait, now=now)

    @contextmanager
    def at_once(self) -> Iterator[float]:
        """One transaction for all that is done inside, in which the pace is read and written once; gives the time."""
        if self._is_open:
            yield self._ledger.now()
            return
        with self._ledger.transaction() as db:
            before = self._pace = self._read(db)
            self._is_open = True
            try:
                yield self._ledger.now()
            finally:
                self._is_open = False
            if self._pace != before:
                self._write(db)

    def _read(self, db: sa.Connection) -> Pace:
        return _pace(db.execute(sa.select(paces).where(self._key).with_for_update()).one())

    def _write(self, db: sa.Connection) -> None:
        values = {**asdict(self._pace), "recent": json.dumps(self._pace.recent)}
        db.execute(sa.update(paces).where(self._key).values(values))


def stored_pace(ledger: Ledger, account: str, endpoint: str) -> Pace:
    """Where an endpoint stands now, without touching it."""
    with ledger.reading() as db:
        row = db.execute(sa.select(paces).where(_key(account, endpoint))).one_or_none()
    return Pace() if row is None else _pace(row)


def _key(account: str, endpoint: str) -> sa.ColumnElement[bool]:
    return (paces.c.account == account) & (paces.c.endpoint == endpoint)


def _pace(row: sa.Row[Any]) -> Pace:
    try:
        recent = tuple((float(moment), int(rows)) for moment, rows in json.loads(row.recent))
    except (ValueError, TypeError):
        raise LedgerError(f"the ledger is damaged: the pace of {row.endpoint} is not one. Nothing is sent") from None
    return Pace(
        full_at=row.full_at,
        next_call_at=row.next_call_at,
        blocked_until=row.blocked_until,
        factor=row.factor,
        recent=recent,
    )
