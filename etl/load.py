"""Load: sends the staged batches, paced, each with its intent in the ledger before and its outcome after.

One process holds the account's lease; a few calls may be under way at once where answers are slow. The threads only
send: all bookkeeping is done between the calls, for all those together that begin or have ended. What follows from a call
that went wrong is for `etl.policy` to say.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from hashlib import sha256
from itertools import groupby, pairwise
from typing import Any

import polars as pl

from etl.calls import Calls
from etl.delta import OPT_INS
from etl.destinations import connect
from etl.destinations.base import AwaitsCompletion, Destination
from etl.ends import batch_rows, plan_folder, rows_of
from etl.errors import Busy, DeliveryError, EtlError, NotSent, Throttled
from etl.ledger import LEASE_S, QUOTA_PATIENCE_S, Ending, LostLeaseError, QuotaSpentError, batch_id, submissions_since
from etl.model import AttemptOutcome, Batch, BatchState, Bucket, Receipt, RowCode
from etl.pacing import Allowance, Pacer, Reservation
from etl.pack import Manifest, batches, current_plan, manifest, stage
from etl.plan import figures
from etl.policy import Budget, judge, outcome_of, throttle_pause
from etl.run import RunContext
from etl.state import absorb, check_ledger, load_state, seen_by
from etl.wait import open_in_time, poll_due, until_next_poll

STOPPED_BY_US = "stopped"
AWAITING = "awaiting"
# A call leaves at once or not at all: later, somebody else may hold the account, and have sent something newer.
_LATEST_S = LEASE_S / 2
# A rejected batch costs quota at every halving; from so many rows on it is first asked whether rows are to blame at all.
_DOUBTED_ROWS, _REFUSALS = 256, 3
# Where so many single rows are rejected, and the vendor has never taken one, it is not the rows that are wrong.
_ALL_REJECTED = 1_000


def load(ctx: RunContext) -> dict[str, Any]:
    """Sends what the plan holds, and what an earlier, dead process of this run left open.

    Returns why it `stopped` early, or None, and for how many seconds to `wait` before another try. It stops as
    AWAITING while the vendor works on batches with the same profiles, or on as many as it may be given: whose job ends
    makes room. What earlier runs left in doubt comes first. Raises Busy when another run of the account holds the lease
    for longer than the context's patience, and LedgerError, with nothing sent, for a ledger that cannot be relied on.
    """
    account, ledger = ctx.connection.account, ctx.ledger
    ledger.check()
    check_ledger(ctx.work, ledger, account)
    with ctx.lease() as fence:
        ledger.recover(account, fence)
        poll_due(ctx)
        generation = _learned(ctx, fence)
        staged = _adopted(ctx, fence, generation)
        if staged is None:
            return _stopped(None)
        if refused := _refused(ctx, staged):
            return _stopped(refused)
        own = ledger.batches(ctx.name)
        waiting = [b for b in own if not b.state.is_settled]
        with ctx.client() as client:
            for endpoint, doubtful in groupby(_left_in_doubt(ctx, own), key=lambda batch: batch.endpoint):
                again = list(doubtful)
                ended = _Sender(ctx, connect(endpoint, ctx.connection, client), fence, calls=len(again)).run(again)
                if ended["stopped"]:
                    return ended
            if _is_in_the_way(ctx, waiting, is_waiting=Bucket.PROCESSING in staged.kept):
                return _stopped(AWAITING, until_next_poll(ctx))
            destination = connect(staged.endpoint, ctx.connection, client)
            return _Sender(ctx, destination, fence, calls=staged.calls.height, rows=staged.rows).run(waiting)


def _learned(ctx: RunContext, fence: int) -> int:
    """Brings the account up to date; returns the generation of its state.

    What a run of a later day has found to be as it should, and tells only at its end, counts already.
    """
    account = ctx.connection.account
    seen = [
        seen_by(ctx.work, run.run, run.plan, date.fromisoformat(run.day))
        for run in ctx.ledger.runs_of(account)
        if run.day > str(ctx.day) and run.plan and run.finished_at is None
    ]
    return absorb(ctx.work, ctx.ledger, account, fence=fence, besides=ctx.name, seen=seen)


def _adopted(ctx: RunContext, fence: int, generation: int) -> Manifest | None:
    """The plan that counts, with its batches in the ledger; None when nothing of the run is left to send.

    Where the account has learned something since the plan was made, it is made anew.
    """
    own = ctx.ledger.batches(ctx.name)
    staged = current_plan(ctx)
    # Rows that stood as under way in another run have to be looked at again.
    if own and all(batch.state.is_settled for batch in own) and Bucket.PROCESSING not in staged.kept:
        return None
    if staged.generation != generation:
        staged = manifest(ctx, stage(ctx, plan=fence + 1)["plan"])  # a number that no other process gives
    account = ctx.connection.account
    ctx.ledger.adopt_plan(ctx.name, plan=staged.plan, account=account, fence=fence, planned=batches(ctx, staged))
    return staged


def _refused(ctx: RunContext, staged: Manifest) -> str | None:
    """Why nothing of a plan may be sent, if that is so."""
    planned = ctx.result("plan")
    if planned["plan"] != staged.plan:
        planned = figures(ctx, staged)
        ctx.place.write_json("plan.json", planned)
    refused: str | None = planned["refused"]
    return refused


def _stopped(why: str | None, wait: float | None = None) -> dict[str, Any]:
    return {"stopped": why, "wait": wait}


def _left_in_doubt(ctx: RunContext, own: Sequence[Batch]) -> list[Batch]:
    """Batches of earlier runs that may or may not have arrived, and are to be sent once more before anything newer.

    Only as they were, and only where nothing newer was sent for any of their rows, by a process of this run neither. Where
    this run speaks of all of them itself, that is what is sent; nor is anything sent before an opt-out that might not get
    through then.
    """
    doubtful = ctx.ledger.in_doubt(ctx.connection.account, besides=ctx.name)
    if not doubtful:
        return []
    state = load_state(ctx.work, ctx.ledger, ctx.connection.account)
    mine = rows_of(ctx.work, ctx.name, [batch for batch in own if not batch.state.is_settled])
    over = rows_of(ctx.work, ctx.name, [batch for batch in own if batch.state.is_settled and batch.attempts])["key"]
    opt_outs = mine.filter(~pl.all_horizontal(pl.col(OPT_INS).fill_null(value=True)))["key"]
    found = []
    for batch in doubtful:
        rows = batch_rows(ctx.work, batch)
        keys, day = rows["key"], date.fromisoformat(batch.run.split("/")[1])
        known = state.find(keys)
        is_last_word = (known["outcome"] == Bucket.UNKNOWN.value) & (known["as_of"] <= rows["said_on"].fill_null(day))
        if (
            is_last_word.fill_null(value=False).all()
            and not keys.is_in(mine["key"].implode()).all()
            and not keys.is_in(pl.concat([opt_outs, over]).implode()).any()
            and ctx.work.exists(batch.file)
        ):
            found.append(batch)
    return found


def _is_in_the_way(ctx: RunContext, batches: Sequence[Batch], *, is_waiting: bool) -> bool:
    """True when the vendor still works on a profile that an earlier run sent, and this run speaks of it, too.

    A vendor that works on two batches at once promises no order, and what the first one comes to decides whether the
    second one is needed at all.
    """
    others = [job for job in open_in_time(ctx) if job.run != ctx.name]
    if not others or is_waiting:
        return bool(others)
    mine = rows_of(ctx.work, ctx.name, batches)["key"].hash().implode()
    return any(batch_rows(ctx.work, job)["key"].hash().is_in(mine).any() for job in others)


@dataclass(frozen=True, slots=True)
class _Stop:
    """Why nothing more is sent, and for how many seconds to stay away if the vendor said so."""

    why: str | None
    wait: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A call under way: attempt `n` of a batch."""

    batch: Batch
    n: int
    payload: bytes
    reservation: Reservation
    intended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How a call ended, and when it left and ended."""

    result: Receipt | DeliveryError
    sent: float
    answered: float


_Due = tuple[float, int, int, int, str, Batch]  # the moment from which a batch may be sent, its order, itself


class _Sender:
    """Keeps calls going: reserves, sleeps, notes the intents, sends, notes the outcomes."""

    def __init__(self, ctx: RunContext, destination: Destination, fence: int, *, calls: int, rows: int = 0) -> None:
        self._ctx = ctx
        self._ledger = ctx.ledger
        self._account = ctx.connection.account
        self._destination = destination
        self._fence = fence
        limits = destination.limits
        self._quota = limits.our_quota(ctx.connection.headroom)
        allowance = Allowance.of(limits, ctx.connection.headroom)
        # The strict window counts from answers, so the next call cannot leave before the last one's answer.
        self._slots = 1 if allowance.window is not None else limits.calls_at_once
        self._pacer = Pacer(
            ctx.ledger, account=self._account, endpoint=destination.name, allowance=allowance, sleep=ctx.sleep
        )
        earlier = ctx.ledger.attempts(ctx.name)
        self._budget = Budget.after(calls, earlier)
        self._is_probing = not self._budget.allows
        self._tries: dict[tuple[str, AttemptOutcome], int] = {}
        for attempt in earlier:
            self._count(attempt.batch, attempt.outcome)
        self._sent, self._planned = 0, rows
        self._queue: list[_Due] = []
        self._reserved: tuple[Batch, Reservation] | None = None
        self._under_way: dict[Future[_Ended], _Call] = {}
        self._stopped: _Stop | None = None
        # After a rejection that may not be about rows at all, everything else waits for the answers about single rows:
        # the rest of the rejected batch, pieces of it that were cut off, single rows that were refused, other batches.
        self._some_taken = any(attempt.outcome is AttemptOutcome.ACCEPTED for attempt in earlier)
        self._rejected = 0
        self._doubted: Batch | None = None
        self._set_aside: list[Batch] = []
        self._suspects: list[tuple[Batch, str]] = []
        self._waiting: list[_Due] = []

    def run(self, batches: Sequence[Batch]) -> dict[str, Any]:
        """Sends the batches; returns why it stopped early (`stopped`, or None) and for how long to stay away (`wait`)."""
        for batch in batches:
            self._enqueue(batch, 0.0)
        with self._ctx.calls(self._slots) as calls:
            try:
                while self._under_way or (self._stopped is None and (self._queue or self._reserved)):
                    sent, begun = self._sent, self._keep_books()
                    for call in begun:
                        self._under_way[calls.begin(partial(self._send, call))] = call
                    if self._sent > sent:
                        self._ctx.progress("load", self._sent, self._planned)
                    if not begun:
                        self._pause(calls)
            finally:
                calls.wait_for_all(self._under_way)
                with self._stopping(), self._pacer.at_once():
                    self._settle_done()
        return _stopped(self._stopped.why, self._stopped.wait) if self._stopped else _stopped(None)

    def _enqueue(self, batch: Batch, pause: float) -> None:
        due = (self._ledger.now() + pause, batch.plan, batch.ordinal, batch.first, batch.id, batch)
        heapq.heappush(self._queue, due)

    def _keep_books(self) -> list[_Call]:
        """In one transaction, the outcomes of the calls that have ended, and the intents of those that begin now."""
        with self._stopping(), self._pacer.at_once():
            self._settle_done()
            if self._ctx.stop.is_set():
                self._stop(STOPPED_BY_US)
            with self._stopping():
                return self._begin(self._room()) if self._stopped is None else []
        return []

    def _room(self) -> int:
        """How many more calls may begin; stops where that hangs on the vendor alone."""
        if not (self._queue or self._reserved):
            return 0
        # After an outage a single call asks whether the vendor is back.
        slots = 1 if self._is_probing else self._slots
        limit, free = self._destination.limits.open_batches, slots - len(self._under_way)
        if limit is None:
            return free
        # The vendor keeps the newest statuses only: what counts is every batch since the oldest that is still open.
        opened = [job.opened_at for job in open_in_time(self._ctx) if job.endpoint == self._destination.name]
        since = (
            1 + submissions_since(self._ledger, self._account, self._destination.name, min(opened))
            if opened
            else len(self._under_way)
        )
        left = limit - since
        if left <= 0 and not self._under_way:
            self._stop(AWAITING, until_next_poll(self._ctx))
        return min(free, left)

    def _begin(self, most: int) -> list[_Call]:
        """Commits the intents of the batches that may leave now."""
        ready = self._ready(most)
        payloads = [self._payload(batch) for batch, _ in ready]
        now = self._ledger.now()
        numbers = self._intend([batch for batch, _ in ready]) if ready else []
        for batch, _ in ready[len(numbers) :]:
            self._enqueue(batch, 0.0)
        return [
            _Call(batch=batch, n=n, payload=payload, reservation=reservation, intended=now)
            for (batch, reservation), payload, n in zip(ready, payloads, numbers, strict=False)
        ]

    def _ready(self, most: int) -> list[tuple[Batch, Reservation]]:
        """The batches that may leave now; the first one that may not keeps its reservation."""
        ready: list[tuple[Batch, Reservation]] = []
        while len(ready) < most:
            if self._reserved is None:
                if not self._queue or self._queue[0][0] > self._ledger.now():
                    break
                reservation = self._pacer.reserve(self._queue[0][-1].rows)
                self._reserved = heapq.heappop(self._queue)[-1], reservation
            batch, reservation = self._reserved
            if reservation.at > self._ledger.now():
                break
            self._reserved = None
            if self._pacer.may_leave(reservation):
                ready.append((batch, reservation))
            else:
                self._enqueue(batch, 0.0)
        return ready

    def _pause(self, calls: Calls) -> None:
        """Waits until the next batch may leave, or for an answer, whichever is first."""
        seconds = None
        if self._stopped is None and (self._queue or self._reserved) and len(self._under_way) < self._slots:
            moment = self._reserved[1].at if self._reserved else self._queue[0][0]
            seconds = max(0.0, moment - self._ledger.now())
        if self._under_way:
            calls.wait(self._under_way, seconds or None)
        elif seconds is not None and not self._ctx.sleep(seconds):
            self._stop(STOPPED_BY_US)

    def _intend(self, batches: Sequence[Batch]) -> list[int]:
        """Commits the intents; of as many as the quota has room for, but at least of one."""
        try:
            return self._ledger.intend(
                batches, account=self._account, fence=self._fence, quota=self._quota,
                quota_hours=self._destination.limits.quota_hours,
            )  # fmt: skip
        except QuotaSpentError:
            if len(batches) == 1:
                raise
            return self._intend(batches[:-1])

    def _send(self, call: _Call) -> _Ended:
        """One call; runs in a thread of its own, and touches nothing that others change."""
        sent = self._ledger.now()
        try:
            if sent > call.intended + _LATEST_S:
                raise NotSent("this machine stood still for too long", code="too_late")
            result: Receipt | DeliveryError = self._destination.submit(call.payload)
        except DeliveryError as error:
            result = error
        return _Ended(result=result, sent=sent, answered=self._ledger.now())

    def _settle_done(self) -> None:
        """Notes the outcomes of all calls that have ended."""
        ended = [future for future in self._under_way if future.done()]
        if not ended:
            return
        calls = [(self._under_way.pop(future), future.result()) for future in ended]
        self._ledger.settle(
            *(
                self._failed(call, end, end.result)
                if isinstance(end.result, DeliveryError)
                else self._accepted(call, end, end.result)
                for call, end in calls
            )
        )

    def _accepted(self, call: _Call, end: _Ended, receipt: Receipt) -> Ending:
        state, first_poll = BatchState.ACCEPTED, 0.0
        if isinstance(self._destination, AwaitsCompletion):
            state = BatchState.PROCESSING if receipt.job else BatchState.UNREPORTED
            first_poll = end.answered + self._ctx.connection.polling.pause(0)
        self._pacer.answered(call.reservation, sent=end.sent, answered_at=end.answered)
        self._budget.count(AttemptOutcome.ACCEPTED, end.sent)
        self._is_probing = False
        self._sent += call.batch.rows
        self._some_taken = True
        self._release()
        return Ending(
            batch=call.batch, n=call.n, outcome=AttemptOutcome.ACCEPTED, state=state, code=receipt.code,
            request_id=receipt.request_id, codes=_of_this_call(receipt, call.batch), job=receipt.job,
            first_poll=first_poll,
        )  # fmt: skip

    def _failed(self, call: _Call, end: _Ended, error: DeliveryError) -> Ending:
        """What follows from a call that went wrong: who waits, what is sent again."""
        batch, outcome = call.batch, outcome_of(error)
        jitter = self._ctx.chance()
        tries = self._count(batch.id, outcome)
        self._budget.count(outcome, end.sent)
        verdict = judge(error, rows=batch.rows, tries=tries, budget=self._budget, jitter=jitter)
        if verdict.stops:
            self._stop(error.code, verdict.away)
        if isinstance(error, Throttled):
            self._pacer.throttled(throttle_pause(error, tries=tries, jitter=jitter))
        else:  # the vendor may have counted the call all the same
            self._pacer.answered(call.reservation, sent=end.sent, answered_at=end.answered)
            if error.retry_after:
                self._pacer.held(error.retry_after)
        pieces: list[Batch] = []
        if verdict.splits:
            is_doubted = not self._some_taken and self._quota is not None and batch.rows >= _DOUBTED_ROWS
            pieces = self._pieces(batch, call.payload, (1,) if is_doubted else (batch.rows // 2,))
            if is_doubted:
                self._doubt(pieces[1])
            else:
                self._enqueue(pieces[1], 0.0)
            self._enqueue(pieces[0], 0.0)
        elif verdict.state is BatchState.REJECTED and self._doubted is not None:
            verdict = replace(verdict, state=BatchState.PLANNED)  # not blamed until the vendor has taken another row
            self._suspects.append((batch, error.code))
            self._doubt_more(self._doubted, error.code)
        rejected = [RowCode(index=0, code=error.code, rejected=True)] if verdict.state is BatchState.REJECTED else []
        self._rejected += len(rejected)
        if self._rejected >= _ALL_REJECTED and not self._some_taken:
            self._stop(error.code)
        if verdict.retry_in is not None:
            self._enqueue(batch, verdict.retry_in)
        return Ending(
            batch=batch, n=call.n, outcome=outcome, state=verdict.state, code=error.code, status=error.status,
            request_id=error.request_id, codes=rejected, children=pieces,
        )  # fmt: skip

    def _stop(self, why: str, wait: float | None = None) -> None:
        """Nothing more is started; the first reason counts."""
        self._stopped = self._stopped or _Stop(why, wait)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """These errors end the run in good order: what is under way is brought to its end."""
        try:
            yield
        except LostLeaseError:
            self._stop("lease_lost")
        except Busy as error:
            self._stop("throttled", error.wait)
        except QuotaSpentError as error:
            self._stop("quota", error.wait if error.wait <= QUOTA_PATIENCE_S else None)

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

    def _doubt(self, rest: Batch) -> None:
        """A batch was rejected whole before the vendor took anything: before it costs more, a single row of it is asked."""
        if self._reserved is not None:
            self._enqueue(self._reserved[0], 0.0)
        self._reserved, self._waiting, self._queue = None, self._queue, []
        self._doubted = rest

    def _doubt_more(self, doubted: Batch, code: str) -> None:
        """A single row of a batch that was rejected whole is rejected, too: three of them, and the rows are not to blame."""
        if len(self._suspects) >= _REFUSALS:
            self._stop(code)
            return
        middle = doubted.rows // 2
        before, single, after = self._pieces(doubted, self._payload(doubted), (middle, middle + 1))
        self._ledger.split(doubted, [before, single, after], account=self._account)
        self._enqueue(single, 0.0)
        self._set_aside.append(before)
        self._doubted = after

    def _release(self) -> None:
        """The vendor takes some rows, so that it is others that are guilty: what was set aside is halved and sent."""
        for batch, code in self._suspects:
            self._ledger.reject(batch, code)
        for batch in [*self._set_aside, *([self._doubted] if self._doubted else [])]:
            halves = self._pieces(batch, self._payload(batch), (batch.rows // 2,))
            self._ledger.split(batch, halves, account=self._account)
            for half in halves:
                self._enqueue(half, 0.0)
        for *_, batch in self._waiting:
            self._enqueue(batch, 0.0)
        self._suspects, self._set_aside, self._doubted, self._waiting = [], [], None, []

    def _pieces(self, batch: Batch, payload: bytes, cuts: Sequence[int]) -> list[Batch]:
        """Batches of another one's rows, cut before some of them, staged like it."""
        sizes = batch_rows(self._ctx.work, batch)["size"].to_list()
        envelope = self._destination.envelope.of(payload, sizes)
        records = envelope.split(payload, sizes)
        pieces = []
        for first, stop in pairwise(sorted({0, *cuts, batch.rows})):
            piece = envelope.frame(records[first:stop])
            digest = sha256(piece).hexdigest()
            identity = batch_id(batch.run, batch.plan, f"{batch.id}:{first}", digest)
            file = f"{plan_folder(batch.run, batch.plan)}/pieces/{identity}"
            self._ctx.work.write_bytes(file, piece)
            pieces.append(
                replace(
                    batch, id=identity, file=file, offset=0, size=len(piece), sha256=digest,
                    first=batch.first + first, rows=stop - first, state=BatchState.PLANNED, attempts=0, parent=batch.id,
                )
            )  # fmt: skip
        return pieces


def _of_this_call(receipt: Receipt, batch: Batch) -> list[RowCode]:
    """The vendor's words about rows; words about a row that the call does not have still count as a refused field."""
    last = batch.rows - 1
    return [
        code if code.index <= last else RowCode(index=last, code="field_refused_unplaced", rejected=False)
        for code in receipt.rows
    ]
