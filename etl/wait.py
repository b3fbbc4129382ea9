"""Wait: asks the vendor what became of the batches that it took, where it can be asked; one round at a time, never sleeping.

All that is known of a job stands in the ledger: when it is due, how often it was asked about, what was answered. So the
command line, Airflow's triggerer and a second run of the account can take turns, and none of them asks more often than one
alone would. What follows from an answer is decided in one place, `judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from etl.destinations import connect
from etl.destinations.base import AwaitsCompletion
from etl.ends import batch_rows
from etl.errors import DeliveryError, Throttled
from etl.ledger import Job, claim_due, give_back, note_poll, open_jobs
from etl.model import BatchState, BatchStatus, Bucket, Counts, JobState, RowCode
from etl.pacing import Allowance, Pacer
from etl.run import RunContext

# A status may not be there yet right after the batch was taken; so many times in a row it is not there any more.
_GONE_TRIES = 5
# So long nobody else asks the same; an answer that takes longer may be asked for twice, which is paced and does no harm.
_CLAIM_S = 10.0
_A_MOMENT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from an answer: how the batch ended (None: not yet), its counts, and a code for the report."""

    state: BatchState | None = None
    counts: Counts | None = None
    code: str | None = None


def judge(status: BatchStatus, *, rows: int, gone: int) -> Verdict:
    """What an answer says of a batch of `rows`; `gone` is how many answers in a row knew of no such batch, with this one."""
    match status.state:
        case JobState.COMPLETE:
            # Done is not "all taken": the counters say, or nothing does.
            counts = counted(status, rows)
            if counts is None:
                return Verdict(state=BatchState.UNREPORTED, code="counters_unusable")
            return Verdict(state=BatchState.COMPLETE, counts=counts)
        case JobState.STUCK:
            # Parts of it may have been applied, so nothing is sent again by itself.
            return Verdict(state=BatchState.STUCK, code="stuck")
        case JobState.GONE:
            return Verdict(state=BatchState.UNREPORTED if gone >= _GONE_TRIES else None, code="status_gone")
        case JobState.INCOMPLETE:
            return Verdict(code="incomplete")
        case JobState.UNREADABLE:
            # No status at all proves nothing, however often it comes.
            return Verdict(code=status.code or "no_status")


def counted(status: BatchStatus, rows: int) -> Counts | None:
    """The ends of a batch's rows by the vendor's counters; None where one is missing, or they contradict each other.

    What the counters do not cover of the rows that were sent is unreported.
    """
    confirmed, not_found, failed = status.confirmed, status.not_found, status.failed
    if confirmed is None or not_found is None or failed is None:
        return None
    covered = confirmed + not_found + failed
    most = min(known for known in (rows, status.size, status.consumed) if known is not None)
    if covered > most or (status.size or 0) > rows:
        return None
    return Counts(confirmed=confirmed, not_found=not_found, failed=failed, unreported=rows - covered)


def wait(ctx: RunContext) -> dict[str, Any]:
    """Asks once after every batch that is due; `pending` is how many batches of this run the vendor still works on.

    `wait` is the seconds until the next question, None when nothing is pending. A batch that is older than the
    connection's `polling.timeout_s` is not waited for any longer.
    """
    ctx.result("load")
    poll_due(ctx)
    pending = sum(job.run == ctx.name for job in open_in_time(ctx))
    return {"pending": pending, "wait": until_next_poll(ctx) if pending else None}


def open_in_time(ctx: RunContext) -> list[Job]:
    """The account's jobs that have not ended, and are not too old to be waited for."""
    oldest = ctx.ledger.now() - ctx.connection.polling.timeout_s
    return [job for job in open_jobs(ctx.ledger, ctx.connection.account) if job.opened_at > oldest]


def until_next_poll(ctx: RunContext) -> float:
    """Seconds until one of the account's jobs is due to be asked about."""
    now = ctx.ledger.now()
    # Of a job that somebody asks about right now the answer is known in a moment.
    due = (
        job.next_poll_at if job.claimed_until <= now else max(job.next_poll_at, now + _A_MOMENT_S)
        for job in open_jobs(ctx.ledger, ctx.connection.account)
    )
    return max(0.0, min(due, default=0.0) - now)


def poll_due(ctx: RunContext) -> None:
    """One question about each of the account's jobs that are due, whichever run they belong to."""
    account = ctx.connection.account
    with ctx.client() as client:
        claimed = claim_due(ctx.ledger, account, hold_s=_CLAIM_S)
        for number, job in enumerate(claimed):
            destination = connect(job.endpoint, ctx.connection, client)
            if not isinstance(destination, AwaitsCompletion):
                continue
            allowance = Allowance.of(destination.limits, ctx.connection.headroom)
            pacer = Pacer(ctx.ledger, account=account, endpoint=job.endpoint, allowance=allowance, sleep=ctx.sleep)
            reservation = pacer.wait_for(0)
            if reservation is None:
                give_back(ctx.ledger, claimed[number:])
                return
            sent = ctx.ledger.now()
            answer = _ask(destination, job)
            if isinstance(answer, Throttled):
                pacer.throttled(answer.retry_after or ctx.connection.polling.pause(job.polls))
            else:
                pacer.answered(reservation, sent=sent, answered_at=ctx.ledger.now())
            _note(ctx, job, answer)


def _ask(destination: AwaitsCompletion, job: Job) -> BatchStatus | DeliveryError:
    try:
        return destination.poll(job.url)
    except DeliveryError as error:
        return error


def _note(ctx: RunContext, job: Job, answer: BatchStatus | DeliveryError) -> None:
    """Enters an answer in the ledger, and when to ask next."""
    polling, now = ctx.connection.polling, ctx.ledger.now()
    next_poll_at = now + polling.pause(job.polls + 1)
    deadline = job.opened_at + polling.timeout_s
    if isinstance(answer, DeliveryError):  # nothing is known; delivery is not touched by that
        pause = max(next_poll_at, now + (answer.retry_after or 0))
        note_poll(ctx.ledger, job, None, code=answer.code, next_poll_at=_not_past(pause, deadline, now), gone=job.gone)
        return
    gone = job.gone + 1 if answer.state is JobState.GONE else 0
    verdict = judge(answer, rows=job.rows, gone=gone)
    if verdict.state is None and answer.state is JobState.GONE and now >= deadline:
        verdict = replace(verdict, state=BatchState.UNREPORTED)
    note_poll(
        ctx.ledger, job, answer, code=verdict.code, next_poll_at=_not_past(next_poll_at, deadline, now), gone=gone,
        state=verdict.state, counts=verdict.counts, failed=_named(ctx, job, answer, verdict.counts),
    )  # fmt: skip


def _not_past(moment: float, deadline: float, now: float) -> float:
    """The last question before the end of the wait is asked at its end."""
    return min(moment, deadline) if now < deadline else moment


def _named(ctx: RunContext, job: Job, status: BatchStatus, counts: Counts | None) -> Sequence[RowCode]:
    """The failed rows, where the vendor names just as many as it counts and knows of no other loss."""
    if counts is None or not status.failed_ids or counts.not_found or counts.unreported:
        return ()
    keys = batch_rows(ctx.work, job)["key"]
    for ids in (set(status.failed_ids), set(map(unquote, status.failed_ids))):  # as they stand, or percent-encoded
        at = keys.is_in(list(ids)).arg_true().to_list()
        if len(at) == len(ids) == counts.failed:
            return [RowCode(index=index, code=Bucket.FAILED_AT_DESTINATION.value, rejected=True) for index in at]
    return ()
