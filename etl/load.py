"""Load: sends the staged batches, paced, each with its intent in the ledger before and its outcome after.

One process holds the account's lease; a few calls may be under way at once where answers are slow. What follows from a
call that went wrong is decided in one place, `judge`.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from etl.client import Client
from etl.destinations import connect
from etl.destinations.base import Destination
from etl.errors import (
    Busy,
    DeliveryError,
    EtlError,
    NotSent,
    OutcomeUnknown,
    Redirected,
    Refused,
    Rejected,
    Throttled,
)
from etl.ledger import Attempt, LostLeaseError, QuotaSpentError, batch_id, lease
from etl.model import AttemptOutcome, Batch, BatchState, Receipt, RowCode
from etl.pacing import LONGEST_WAIT_S, Allowance, Pacer, Reservation
from etl.pack import Manifest, manifest
from etl.plan import replan
from etl.run import RunContext
from etl.state import absorb, plan_folder, references

CALLS_UNDER_WAY = 4
STOPPED_BY_US = "stopped"
_UNKNOWN_TRIES = 3
_BUDGET, _RETRY_COST, _RETRY_FLOOR, _RETRY_SHARE = 500, 14, 10, 0.1
_NOT_SENT_BACKOFF_S, _UNKNOWN_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 5.0, 60.0
_THROTTLE_BACKOFF_S = 1.0
_THROTTLE_TRIES = 20

_Again = tuple[float, Batch]  # a batch, and the seconds until it may be sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from a call: what the ledger notes, when it is tried again (seconds; None: not), who else stops."""

    outcome: AttemptOutcome
    state: BatchState
    retry_in: float | None = None
    splits: bool = False
    stops: bool = False


def judge(error: DeliveryError, *, rows: int, tries: int, may_retry: bool, jitter: float) -> Verdict:
    """The retry policy. `tries` counts this batch's failed attempts of the kind, `jitter` is random in [0, 1)."""
    pause = min(_LONGEST_BACKOFF_S, 2.0**tries * _NOT_SENT_BACKOFF_S) * jitter
    match error:
        case NotSent():
            # Nothing left: as often as the budget allows. Without one the vendor is out of reach for all batches.
            again = pause if may_retry else None
            return Verdict(
                outcome=AttemptOutcome.NOT_SENT, state=BatchState.PLANNED, retry_in=again, stops=not may_retry
            )
        case Throttled():
            # Not a failure, and the pacer keeps everyone waiting. A pause too long to sleep through ends the run, and
            # so does a vendor that never lets a batch pass.
            long = (error.retry_after or 0) > LONGEST_WAIT_S or tries >= _THROTTLE_TRIES
            return Verdict(
                outcome=AttemptOutcome.THROTTLED,
                state=BatchState.PLANNED,
                retry_in=None if long else 0.0,
                stops=long,
            )
        case Rejected():
            # Halved until the guilty rows stand alone.
            state = BatchState.SPLIT if rows > 1 else BatchState.REJECTED
            return Verdict(outcome=AttemptOutcome.REJECTED, state=state, splits=rows > 1)
        case Refused():
            # The next call would be refused in the same way.
            return Verdict(outcome=AttemptOutcome.REFUSED, state=BatchState.PLANNED, stops=True)
        case Redirected():
            # Whoever redirects may have taken the body, and will redirect the next one too.
            return Verdict(outcome=AttemptOutcome.UNKNOWN, state=BatchState.UNKNOWN, stops=True)
        case _:
            # The same bytes again, a little later: the first try may still be running.
            pause = max(
                error.retry_after or 0, min(_LONGEST_BACKOFF_S, 2.0 ** (tries - 1) * _UNKNOWN_BACKOFF_S) * jitter
            )
            again = pause if may_retry and tries < _UNKNOWN_TRIES and pause <= LONGEST_WAIT_S else None
            return Verdict(
                outcome=AttemptOutcome.UNKNOWN, state=BatchState.UNKNOWN, retry_in=again, stops=not may_retry
            )


@dataclass(slots=True)
class Budget:
    """How many retries a run may still make: a bucket that successes refill slowly, and a share of its calls."""

    calls: int
    tokens: int = _BUDGET
    retries: int = 0

    @classmethod
    def after(cls, calls: int, attempts: Sequence[Attempt]) -> Budget:
        """What earlier attempts of the run have left of it."""
        budget = cls(calls)
        for attempt in attempts:
            budget.count(attempt.outcome)
        return budget

    def count(self, outcome: AttemptOutcome) -> None:
        """Takes an attempt's outcome into account."""
        if outcome is AttemptOutcome.ACCEPTED:
            self.tokens = min(_BUDGET, self.tokens + 1)
        elif outcome in {AttemptOutcome.NOT_SENT, AttemptOutcome.UNKNOWN}:
            self.tokens -= _RETRY_COST
            self.retries += 1

    @property
    def allows(self) -> bool:
        """True while another retry may be made."""
        return self.tokens >= _RETRY_COST and self.retries < max(_RETRY_FLOOR, self.calls * _RETRY_SHARE)


def load(ctx: RunContext, *, calls_under_way: int = CALLS_UNDER_WAY) -> dict[str, Any]:
    """Sends what the plan holds, and what an earlier, dead process of this run left open.

    Raises Busy when another run of the account holds the lease for longer than the context's patience; nothing was
    sent then.
    """
    account, ledger = ctx.connection.account, ctx.ledger
    with lease(ledger, account, patience_s=ctx.patience_s, sleep=ctx.sleep) as fence:
        ledger.recover(account, fence)
        generation = absorb(ctx.work, ledger, account, fence=fence, besides=ctx.name)
        own = ledger.batches(ctx.name)
        is_through = bool(own) and all(batch.state.is_settled for batch in own)
        if ctx.result("pack")["generation"] != generation and not is_through:
            replan(ctx)
        refused = ctx.result("plan")["refused"]
        staged = manifest(ctx, ctx.result("pack")["plan"])
        ledger.adopt_plan(ctx.name, plan=staged.plan, account=account, planned=staged.batches)
        if refused:
            return {"stopped": refused, "wait": None}
        with Client(timeout_s=ctx.connection.timeout_s) as client:
            sender = _Sender(ctx, connect(staged.endpoint, ctx.connection, client), staged, fence, calls_under_way)
            return sender.run([b for b in ledger.batches(ctx.name) if not b.state.is_settled])


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why nothing more is sent, and for how many seconds to stay away if the vendor said so."""

    why: str | None
    wait: float | None = None


class _Sender:
    """Keeps calls going: reserves, sleeps, notes the intent, sends, notes the outcome."""

    def __init__(
        self, ctx: RunContext, destination: Destination, staged: Manifest, fence: int, calls_under_way: int
    ) -> None:
        self._ctx = ctx
        self._ledger = ctx.ledger
        self._account = ctx.connection.account
        self._destination = destination
        self._fence = fence
        limits = destination.limits
        self._quota = None if limits.quota is None else int(limits.quota * (1 - ctx.connection.headroom))
        allowance = Allowance.of(limits, ctx.connection.headroom)
        # The strict window counts from answers, so the next call cannot leave before the last one's answer.
        self._slots = 1 if allowance.window is not None else calls_under_way
        self._pacer = Pacer(
            ctx.ledger, account=self._account, endpoint=destination.name, allowance=allowance, sleep=ctx.sleep
        )
        earlier = ctx.ledger.attempts(ctx.name)
        self._budget = Budget.after(len(staged.batches), earlier)
        self._tries: dict[tuple[str, AttemptOutcome], int] = {}
        for attempt in earlier:
            self._count(attempt.batch, attempt.outcome)
        self._sent, self._planned = 0, staged.rows
        self._stopped: _Stop | None = None
        self._lock = threading.Lock()  # for everything above that changes: the calls under way share it

    def run(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Sends the batches; returns why it stopped early (`stopped`, or None) and for how long to stay away (`wait`)."""
        queue = [(0.0, batch.plan, batch.ordinal, batch.first, batch) for batch in batches]
        heapq.heapify(queue)
        under_way: set[Future[list[_Again]]] = set()
        with ThreadPoolExecutor(max_workers=self._slots) as pool:
            while under_way or (queue and self._stopped is None):
                with self._stopping():
                    if self._stopped is None and queue and len(under_way) < self._slots:
                        self._start(pool, queue, under_way)
                    else:
                        wait(under_way, return_when=FIRST_COMPLETED)
                    for future in [f for f in under_way if f.done()]:
                        under_way.remove(future)
                        for pause, batch in future.result():
                            entry = (self._ledger.now() + pause, batch.plan, batch.ordinal, batch.first, batch)
                            heapq.heappush(queue, entry)
        stop = self._stopped or _Stop(None)
        return {"stopped": stop.why, "wait": stop.wait}

    def _start(self, pool: ThreadPoolExecutor, queue: list[Any], under_way: set[Future[list[_Again]]]) -> None:
        """Sends the next batch when its time has come; waits for that time, or for an answer, whichever is first."""
        pause = queue[0][0] - self._ledger.now()
        if pause > 0:
            if under_way:
                wait(under_way, timeout=pause, return_when=FIRST_COMPLETED)
            elif not self._ctx.sleep(pause):
                self._stop(STOPPED_BY_US)
            return
        batch: Batch = heapq.heappop(queue)[-1]
        payload = self._payload(batch)
        reservation = self._pacer.wait_for(batch.rows)
        if reservation is None or self._ctx.stop.is_set():
            self._stop(STOPPED_BY_US)
        elif self._stopped is None:  # an answer may have said meanwhile that no more is to be sent
            n = self._ledger.intend(
                batch, account=self._account, fence=self._fence, quota=self._quota,
                quota_hours=self._destination.limits.quota_hours,
            )  # fmt: skip
            under_way.add(pool.submit(self._deliver, batch, n, payload, reservation, self._ledger.now()))

    def _deliver(self, batch: Batch, n: int, payload: bytes, reservation: Reservation, sent: float) -> list[_Again]:
        """Sends one batch, which leaves at the moment `sent`, and returns what of it is to be sent again."""
        try:
            receipt = self._destination.submit(payload)
        except DeliveryError as error:
            answered = self._ledger.now()
            again = self._failed(batch, n, payload, error)  # first, as it may stop the others
            if not isinstance(error, Throttled):  # the vendor may have counted the call all the same
                self._pacer.answered(reservation, sent=sent, answered_at=answered)
            return again
        answered = self._ledger.now()
        self._ledger.settle(
            batch, n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED,
            request_id=receipt.request_id, codes=_of_this_call(receipt, batch),
        )  # fmt: skip
        self._pacer.answered(reservation, sent=sent, answered_at=answered)
        with self._lock:
            self._budget.count(AttemptOutcome.ACCEPTED)
            self._sent += batch.rows
            self._ctx.progress("load", self._sent, self._planned)
        return []

    def _failed(self, batch: Batch, n: int, payload: bytes, error: DeliveryError) -> list[_Again]:
        outcome = _OUTCOMES[type(error)]
        jitter = random.random()  # noqa: S311  (spreads retries; not a secret)
        with self._lock:
            tries = self._count(batch.id, outcome)
            self._budget.count(outcome)
            verdict = judge(error, rows=batch.rows, tries=tries, may_retry=self._budget.allows, jitter=jitter)
        if verdict.stops:
            self._stop(error.code, error.retry_after)
        if isinstance(error, Throttled):
            asked = error.retry_after
            backoff = min(_LONGEST_BACKOFF_S, _THROTTLE_BACKOFF_S * 2.0**tries) * (0.5 + jitter / 2)
            self._pacer.throttled(backoff if asked is None else asked)
        halves = self._halves(batch, payload) if verdict.splits else []
        rejected = [RowCode(index=0, code=error.code, rejected=True)] if verdict.state is BatchState.REJECTED else []
        self._ledger.settle(
            batch, n, outcome=verdict.outcome, state=verdict.state, code=error.code, status=error.status,
            request_id=error.request_id, codes=rejected, children=halves,
        )  # fmt: skip
        if verdict.retry_in is not None:
            return [(verdict.retry_in, batch)]
        return [(0.0, half) for half in halves]

    def _stop(self, why: str, wait: float | None = None) -> None:
        """Nothing more is started; the first reason counts."""
        with self._lock:
            self._stopped = self._stopped or _Stop(why, wait)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """These errors end the run in good order: what is under way is brought to its end."""
        try:
            yield
        except (Busy, QuotaSpentError, LostLeaseError) as error:
            self._stop(_STOPS[type(error)], error.wait if isinstance(error, Busy) else None)

    def _count(self, batch: str, outcome: AttemptOutcome) -> int:
        self._tries[batch, outcome] = self._tries.get((batch, outcome), 0) + 1
        return self._tries[batch, outcome]

    def _payload(self, batch: Batch) -> bytes:
        """The staged bytes, and only those: what the ledger promised is what is sent."""
        with self._ctx.work.fetch(batch.file).open("rb") as file:
            file.seek(batch.offset)
            payload = file.read(batch.size)
        if sha256(payload).hexdigest() != batch.sha256:
            raise EtlError(f"the staged payload of batch {batch.id} is not what was planned: remove the run's folder")
        return payload

    def _halves(self, batch: Batch, payload: bytes) -> list[Batch]:
        """Two batches of a rejected one's rows, staged like it."""
        sizes = (
            references(self._ctx.work, batch.run, batch.plan).slice(batch.first, batch.rows).select("size").collect()
        )
        middle = batch.rows // 2
        records = self._destination.envelope.split(payload, sizes.to_series().to_list())
        halves = []
        for name, first, stop in (("a", 0, middle), ("b", middle, batch.rows)):
            half = self._destination.envelope.frame(records[first:stop])
            digest = sha256(half).hexdigest()
            identity = batch_id(batch.run, batch.plan, f"{batch.id}{name}", digest)
            file = f"{plan_folder(batch.run, batch.plan)}/halves/{identity}"
            self._ctx.work.write_bytes(file, half)
            halves.append(
                replace(
                    batch, id=identity, file=file, offset=0, size=len(half), sha256=digest,
                    first=batch.first + first, rows=stop - first, state=BatchState.PLANNED, attempts=0, parent=batch.id,
                )
            )  # fmt: skip
        return halves


_OUTCOMES: dict[type[DeliveryError], AttemptOutcome] = {
    NotSent: AttemptOutcome.NOT_SENT,
    Throttled: AttemptOutcome.THROTTLED,
    Rejected: AttemptOutcome.REJECTED,
    Refused: AttemptOutcome.REFUSED,
    OutcomeUnknown: AttemptOutcome.UNKNOWN,
    Redirected: AttemptOutcome.UNKNOWN,
}
_STOPS: dict[type[EtlError], str] = {Busy: "throttled", QuotaSpentError: "quota", LostLeaseError: "lease_lost"}


def _of_this_call(receipt: Receipt, batch: Batch) -> list[RowCode]:
    """The vendor's words about rows; words about a row that the call does not have still count as a refused field."""
    last = batch.rows - 1
    return [
        code if code.index <= last else RowCode(index=last, code="field_refused_unplaced", rejected=False)
        for code in receipt.rows
    ]
