"""Jobs: batches that the vendor works on after it took them, and every question about them.

A poller claims what is due, so that any number of them, and restarted ones, ask no more often than one alone would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from etl.ledger.schema import attempts, batches, jobs, polls, row_codes
from etl.ledger.store import Ledger, chunks, insert_rows
from etl.model import AttemptOutcome, BatchState, BatchStatus, Counts, RowCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A batch's job; moments in seconds since the epoch. `gone` counts the newest answers that knew of no such batch."""

    batch: str
    run: str
    endpoint: str
    plan: int
    first: int
    rows: int
    url: str = field(repr=False)
    opened_at: float
    next_poll_at: float
    claimed_until: float
    polls: int
    gone: int
    code: str | None


def open_jobs(ledger: Ledger, account: str) -> list[Job]:
    """The jobs of an account that have not ended, the oldest first."""
    with ledger.reading() as db:
        return _open(db, account)


def claim_due(ledger: Ledger, account: str, *, hold_s: float) -> list[Job]:
    """The open jobs that are due to be asked about; until they are answered, at most for `hold_s`, nobody else gets them."""
    with ledger.transaction() as db:
        now = ledger.now()
        # The account's row is the lock: PostgreSQL would let two pollers read the same jobs.
        ledger.lock_account(db, account)
        due = [job for job in _open(db, account) if max(job.next_poll_at, job.claimed_until) <= now]
        _claim(db, due, until=now + hold_s)
        return due


def give_back(ledger: Ledger, claimed: Sequence[Job]) -> None:
    """Leaves jobs to others that were claimed and not asked about."""
    with ledger.transaction() as db:
        _claim(db, claimed, until=0)


def submissions_since(ledger: Ledger, account: str, endpoint: str, moment: float) -> int:
    """Calls that the vendor may have taken since then, those under way included."""
    taken = (AttemptOutcome.SENDING, AttemptOutcome.ACCEPTED, AttemptOutcome.UNKNOWN, AttemptOutcome.CRASHED)
    query = sa.select(sa.func.count()).select_from(attempts).join(batches, batches.c.id == attempts.c.batch)
    mine = (batches.c.account == account) & (batches.c.endpoint == endpoint)
    with ledger.reading() as db:
        found: int = db.execute(
            query.where(mine, attempts.c.started_at > moment, attempts.c.outcome.in_(taken))
        ).scalar_one()
        return found


def note_poll(
    ledger: Ledger,
    job: Job,
    status: BatchStatus | None,
    *,
    code: str | None,
    next_poll_at: float,
    gone: int,
    state: BatchState | None = None,
    counts: Counts | None = None,
    failed: Sequence[RowCode] = (),
) -> None:
    """Commits an answer, or that none came (`status` None), and how the batch ended if `state` says so."""
    now = ledger.now()
    said = {} if status is None else {
        "state": status.state, "size": status.size, "consumed": status.consumed, "confirmed": status.confirmed,
        "not_found": status.not_found, "failed": status.failed,
    }  # fmt: skip
    ended: dict[str, Any] = {} if counts is None else {
        "confirmed": counts.confirmed, "not_found": counts.not_found, "failed": counts.failed,
        "unreported": counts.unreported,
    }  # fmt: skip
    with ledger.transaction() as db:
        mine = jobs.c.batch == job.batch
        n = db.execute(
            sa.update(jobs).where(mine)
            .values(polls=jobs.c.polls + 1, next_poll_at=next_poll_at, claimed_until=0, gone=gone, code=code, **ended)
            .returning(jobs.c.polls)
        ).scalar_one()  # fmt: skip
        db.execute(sa.insert(polls).values(batch=job.batch, n=n, at=now, code=code, **said))
        still_open = (batches.c.id == job.batch) & (batches.c.state == BatchState.PROCESSING)
        if state is not None and db.execute(
            sa.update(batches).where(still_open).values(state=state, absorbed=False)
        ).rowcount:  # fmt: skip
            said_of = [
                {"batch": job.batch, "row_index": c.index, "code": c.code, "rejected": c.rejected} for c in failed
            ]
            insert_rows(db, row_codes, said_of)


def counts_of(ledger: Ledger, batch_ids: Sequence[str]) -> dict[str, Counts]:
    """The counts of those batches that are complete."""
    columns = (jobs.c.batch, jobs.c.confirmed, jobs.c.not_found, jobs.c.failed, jobs.c.unreported)
    found: dict[str, Counts] = {}
    with ledger.reading() as db:
        for chunk in chunks(batch_ids):
            query = sa.select(*columns).where(jobs.c.batch.in_(chunk), jobs.c.confirmed.is_not(None))
            for row in db.execute(query):
                found[row.batch] = Counts(
                    confirmed=row.confirmed, not_found=row.not_found, failed=row.failed, unreported=row.unreported
                )
    return found


def codes_of(ledger: Ledger, run: str) -> dict[str, str]:
    """Why the newest answer about each batch of a run settled nothing, where there was a reason."""
    query = sa.select(jobs.c.batch, jobs.c.code).join(batches, batches.c.id == jobs.c.batch)
    with ledger.reading() as db:
        rows = db.execute(query.where(batches.c.run == run, jobs.c.code.is_not(None)))
        return {row.batch: row.code for row in rows}


def _claim(db: sa.Connection, claimed: Sequence[Job], *, until: float) -> None:
    mine = jobs.c.batch.in_([job.batch for job in claimed])
    db.execute(sa.update(jobs).where(mine).values(claimed_until=until))


def _open(db: sa.Connection, account: str) -> list[Job]:
    names = ("url", "opened_at", "next_poll_at", "claimed_until", "polls", "gone", "code")
    query = (
        sa.select(jobs, batches.c.run, batches.c.endpoint, batches.c.plan, batches.c.first, batches.c.rows)
        .join(batches, batches.c.id == jobs.c.batch)
        .where(jobs.c.account == account, batches.c.state == BatchState.PROCESSING)
        .order_by(jobs.c.opened_at, jobs.c.batch)
    )
    return [
        Job(
            batch=row.batch, run=row.run, endpoint=row.endpoint, plan=row.plan, first=row.first, rows=row.rows,
            **{name: getattr(row, name) for name in names},
        )
        for row in db.execute(query)
    ]  # fmt: skip
