"""Runs, batches and attempts in a database: the intent before each POST, the outcome after it.

SQLite (write-ahead log, full sync, so that a committed intent survives a power cut) or PostgreSQL. Every method is one
transaction; what must be true together is written together.
"""

from __future__ import annotations

import hashlib
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from etl.errors import ConfigError, EtlError
from etl.ledger.migrate import migrate
from etl.ledger.schema import accounts, attempts, batches, jobs, quota_slices, row_codes, runs
from etl.ledger.trouble import mount_table, network_file_system, trouble
from etl.model import AttemptOutcome, Batch, BatchState, RowCode

QUOTA_SLICE_S = 300
# A daily run begins just before yesterday's rows fall out of a window of 24 hours: it waits for that.
QUOTA_PATIENCE_S = 3_600.0
_MANY = 10_000
# Some attempt of a batch may have arrived, whatever became of the others.
_IN_DOUBT = sa.exists().where(
    attempts.c.batch == batches.c.id, attempts.c.outcome.in_([AttemptOutcome.UNKNOWN, AttemptOutcome.CRASHED])
)
_END_ATTEMPT = sa.update(attempts).where(
    attempts.c.batch == sa.bindparam("of_batch"), attempts.c.n == sa.bindparam("of_n")
)


class LostLeaseError(EtlError):
    """Another process took the account over; nothing more may be sent by this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account's state file (a name in the work folder, None before the first), its generation, and its newest fence."""

    fence: int
    generation: int
    state_path: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the ledger knows it; `run` is also its folder in the work place. Times in seconds since the epoch."""

    run: str
    sync: str
    day: str
    destination: str
    run_id: str
    account: str
    started_at: float
    finished_at: float | None = None
    exit_code: int | None = None
    records_in: int | None = None
    plan: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One POST of a batch, from intent to outcome."""

    batch: str
    n: int
    started_at: float
    outcome: AttemptOutcome
    code: str | None = None
    status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How attempt `n` of a batch ended, and the state that the batch is in after it.

    `codes` is what the vendor said of its rows, `job` where to ask about it from the moment `first_poll` on, `children`
    the halves that it was split into.
    """

    batch: Batch
    n: int
    outcome: AttemptOutcome
    state: BatchState
    code: str | None = None
    status: int | None = None
    request_id: str | None = None
    codes: Sequence[RowCode] = ()
    job: str | None = field(default=None, repr=False)
    first_poll: float = 0
    children: Sequence[Batch] = ()

    def values(self, now: float) -> dict[str, Any]:
        """The columns of the attempt that say so."""
        return {
            "ended_at": now, "outcome": self.outcome, "code": self.code, "status": self.status,
            "request_id": self.request_id,
        }  # fmt: skip


class Ledger:
    """The ledger at a database URL, migrated to the newest schema when it is opened.

    Whatever is asked of it raises LedgerError when the database does not work.

    `clock` gives seconds since the epoch; without one it is the database's at opening, and from there on this machine's
    monotonic one, so that nobody's clock change moves a rate or a quota.
    """

    def __init__(self, url: str, clock: Callable[[], float] | None = None) -> None:
        self.url = url
        self.engine = _engine(url)
        weakref.finalize(self, _let_go, self.engine, os.getpid())
        self._open = threading.local()
        try:
            with self.transaction() as db:
                migrate(db)
        except BaseException:
            self.close()
            raise
        offset = self._database_clock() - time.monotonic()
        self.now = clock or (lambda: offset + time.monotonic())

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A write transaction; nobody else writes meanwhile (SQLite), or to the rows read `for update` (PostgreSQL).

        One inside another of the same thread is part of it, so that what belongs together is committed together.
        """
        outer: sa.Connection | None = getattr(self._open, "transaction", None)
        if outer is not None:
            yield outer
            return
        with self._guarded(), self.engine.begin() as db:
            self._open.transaction = db
            try:
                yield db
            finally:
                self._open.transaction = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection to read from; inside a transaction of the same thread, that one's."""
        outer: sa.Connection | None = getattr(self._open, "transaction", None)
        if outer is not None:
            yield outer
            return
        with self._guarded(), self.engine.connect() as db:
            yield db

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """The database's own troubles as a LedgerError; what is a mistake of ours goes its way."""
        try:
            yield
        except (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError):
            raise
        except sa.exc.DBAPIError as error:
            raise trouble(self.engine.url, error.orig) from None
        except sqlite3.Error as error:
            raise trouble(self.engine.url, error) from None
        except UnicodeDecodeError:  # the driver stumbles over its own message, which repeats what is damaged
            raise trouble(self.engine.url, None) from None

    def check(self) -> None:
        """Raises LedgerError for a file that is damaged, as far as SQLite can tell, or takes no write.

        PostgreSQL keeps watch by itself.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with self._guarded(), closing(self.engine.raw_connection()) as connection:
            # Outside of a transaction, so that others may write meanwhile.
            if connection.cursor().execute("PRAGMA integrity_check(1)").fetchone() != ("ok",):
                raise trouble(self.engine.url, None)
            connection.cursor().execute("PRAGMA user_version = 0")  # means nothing, and is written all the same

    def close(self) -> None:
        """Gives the database connections back."""
        self.engine.dispose()

    def ensure(self, table: sa.Table, **key: str) -> None:
        """Makes the row of a key if it is not there."""
        with self.transaction() as db:
            self._ensure(db, table, key)

    # Runs

    def open_run(self, run: Run) -> None:
        """Notes that a run began; a run that is known already goes on."""
        with self.transaction() as db:
            self._ensure(db, accounts, {"account": run.account})
            self._ensure(db, runs, asdict(run))

    def finish_run(self, run: str, *, exit_code: int, records_in: int) -> None:
        """Notes how a run ended."""
        with self.transaction() as db:
            values = {"finished_at": self.now(), "exit_code": exit_code, "records_in": records_in}
            db.execute(sa.update(runs).where(runs.c.run == run).values(values))

    def run(self, run: str) -> Run | None:
        """One run, or None."""
        return next(iter(self._runs(runs.c.run == run, limit=1)), None)

    def runs(
        self, *, sync: str | None = None, day: str | None = None, destination: str | None = None, limit: int = 50
    ) -> list[Run]:
        """The newest runs first."""
        return self._runs(*_equal(sync=sync, day=day, destination=destination), limit=limit)

    def runs_with_batches(self, *states: BatchState, **wanted: object) -> list[Run]:
        """The runs that have a batch in one of the states, and these values in their columns; the oldest first."""
        has_one = sa.exists().where(batches.c.run == runs.c.run, batches.c.state.in_(states))
        return self._runs(has_one, *_equal(**wanted), limit=_MANY)[::-1]

    def runs_of(self, account: str) -> list[Run]:
        """All runs to an account, the oldest day first, and of a day the one that began first."""
        return sorted(self._runs(runs.c.account == account, limit=_MANY), key=lambda run: (run.day, run.started_at))

    def runs_of_days(
        self, sync: str, *, account: str | None = None, since: str = "", before: str = "9999"
    ) -> list[Run]:
        """The runs of a sync for days in a range, the newest day first, and of a day the one that began last."""
        where = [runs.c.sync == sync, *_equal(account=account), runs.c.day >= since, runs.c.day < before]
        found = self._runs(*where, limit=_MANY)
        return sorted(found, key=lambda run: run.day, reverse=True)

    def usual_records(self, *, sync: str, destination: str, before: str, days: int) -> list[int]:
        """Records of the newest finished run of each of the last days before `before` that had one."""
        where = (runs.c.sync == sync, runs.c.destination == destination, runs.c.day < before)
        finished = (runs.c.records_in > 0, runs.c.exit_code.in_((0, 1)))
        newest = sa.func.row_number().over(partition_by=runs.c.day, order_by=runs.c.started_at.desc()).label("newest")
        each = sa.select(runs.c.day, runs.c.records_in, newest).where(*where, *finished).subquery()
        query = sa.select(each.c.records_in).where(each.c.newest == 1).order_by(each.c.day.desc()).limit(days)
        with self.reading() as db:
            return list(db.execute(query).scalars())

    def _runs(self, *where: sa.ColumnElement[bool], limit: int) -> list[Run]:
        query = sa.select(runs).where(*where).order_by(runs.c.started_at.desc(), runs.c.run.desc()).limit(limit)
        with self.reading() as db:
            return [Run(**row._mapping) for row in db.execute(query)]  # noqa: SLF001  (SQLAlchemy's public name)

    # Plans and batches

    def adopt_plan(self, run: str, *, plan: int, account: str, fence: int, planned: Iterable[Batch]) -> None:
        """Makes the batches of a plan the run's batches; those of an earlier plan that are not settled are replaced.

        A plan with a lower number than the run's is left alone. Raises LostLeaseError when another holder has the account.
        """
        rows = [_columns(batch, account) for batch in planned]
        with self.transaction() as db:
            self._check_fence(db, account, fence)
            current = db.execute(sa.select(runs.c.plan).where(runs.c.run == run).with_for_update()).scalar_one()
            if current >= plan:
                return
            open_states = [s for s in BatchState if not s.is_settled]
            stale = (batches.c.run == run) & batches.c.state.in_(open_states)
            db.execute(sa.update(batches).where(stale).values(state=BatchState.REPLACED))
            insert_rows(db, batches, rows)
            db.execute(sa.update(runs).where(runs.c.run == run).values(plan=plan))

    def batches(self, run: str) -> list[Batch]:
        """All batches of a run, in the order of plan and ordinal."""
        query = sa.select(batches).where(batches.c.run == run).order_by(batches.c.plan, batches.c.ordinal, batches.c.id)
        with self.reading() as db:
            return [_batch(row) for row in db.execute(query)]

    def attempts(self, run: str) -> list[Attempt]:
        """All attempts of a run's batches, oldest first."""
        query = (
            sa.select(attempts).join(batches, batches.c.id == attempts.c.batch)
            .where(batches.c.run == run).order_by(attempts.c.started_at, attempts.c.n)
        )  # fmt: skip
        with self.reading() as db:
            return [
                Attempt(
                    batch=row.batch, n=row.n, started_at=row.started_at,
                    outcome=AttemptOutcome(row.outcome), code=row.code, status=row.status,
                )
                for row in db.execute(query)
            ]  # fmt: skip

    def row_codes(self, run: str) -> list[tuple[str, RowCode]]:
        """What the vendor said about single rows: batch id and code."""
        query = (
            sa.select(row_codes).join(batches, batches.c.id == row_codes.c.batch)
            .where(batches.c.run == run).order_by(row_codes.c.batch, row_codes.c.row_index, row_codes.c.code)
        )  # fmt: skip
        with self.reading() as db:
            return [
                (row.batch, RowCode(index=row.row_index, code=row.code, rejected=row.rejected))
                for row in db.execute(query)
            ]

    def intend(
        self, wanted: Sequence[Batch], *, account: str, fence: int, quota: int | None, quota_hours: float
    ) -> list[int]:
        """Commits the intent to POST some batches of one endpoint; returns the numbers of their attempts.

        Raises LostLeaseError when another holder has the account, and QuotaSpentError when the rows do not all fit into
        the rolling quota; nothing has been written then.
        """
        rows, endpoint = sum(batch.rows for batch in wanted), wanted[0].endpoint
        ids = [batch.id for batch in wanted]
        with self.transaction() as db:
            now = self.now()
            self._check_fence(db, account, fence)
            slot = int(now // QUOTA_SLICE_S)
            if quota is not None and self._used(db, account, endpoint, quota_hours, now) + rows > quota:
                free_at = room_at(self.held(account, endpoint, quota_hours), quota - rows)
                message = f"the quota of {quota:,} rows in {quota_hours:g} hours is used up"
                raise QuotaSpentError(message, wait=free_at - now)
            waiting = batches.c.id.in_(ids) & batches.c.state.in_([BatchState.PLANNED, BatchState.UNKNOWN])
            numbers = {
                row.id: row.attempts + 1
                for row in db.execute(sa.select(batches.c.id, batches.c.attempts).where(waiting))
            }
            if len(numbers) != len(ids):
                raise LostLeaseError("a batch is no longer waiting to be sent")
            self._ensure(db, quota_slices, {"account": account, "endpoint": endpoint, "slot": slot, "used": 0})
            self._debit(db, account, endpoint, slot, rows)
            sending = {"state": BatchState.SENDING, "attempts": batches.c.attempts + 1, "absorbed": False}
            db.execute(sa.update(batches).where(batches.c.id.in_(ids)).values(sending))
            common = {"fence": fence, "slot": slot, "started_at": now, "outcome": AttemptOutcome.SENDING}
            db.execute(
                sa.insert(attempts),
                [{"batch": b.id, "n": numbers[b.id], "rows": b.rows, "bytes": b.size, **common} for b in wanted],
            )
            return [numbers[id_] for id_ in ids]

    def settle(self, *endings: Ending) -> None:
        """Commits how some attempts ended, what the vendor said of their rows, their jobs, the halves of split batches.

        A batch in doubt does not become planned again: that one attempt left nothing says nothing of the one before.
        Raises LostLeaseError, with nothing written, when another process has recovered one of the attempts already.
        """
        by_id = {ending.batch.id: ending for ending in endings}
        with self.transaction() as db:
            now = self.now()
            mine = attempts.c.batch.in_(by_id) & (attempts.c.outcome == AttemptOutcome.SENDING)
            under_way = {
                (row.batch, row.n): row
                for row in db.execute(
                    sa.select(attempts.c.batch, attempts.c.n, attempts.c.slot, batches.c.account)
                    .join(batches, batches.c.id == attempts.c.batch).where(mine)
                )
            }  # fmt: skip
            if missing := [e.batch.id for e in endings if (e.batch.id, e.n) not in under_way]:
                raise LostLeaseError(f"another process took batch {missing[0]} over")
            account = next(iter(under_way.values())).account
            db.execute(_END_ATTEMPT, [{"of_batch": e.batch.id, "of_n": e.n, **e.values(now)} for e in endings])
            for state in {e.state for e in endings}:
                ids = [e.batch.id for e in endings if e.state is state]
                left = sa.case((_IN_DOUBT, BatchState.UNKNOWN), else_=state) if state is BatchState.PLANNED else state
                db.execute(sa.update(batches).where(batches.c.id.in_(ids)).values(state=left))
            for e in endings:
                if e.outcome is AttemptOutcome.NOT_SENT:
                    slot = under_way[e.batch.id, e.n].slot
                    self._debit(db, account, e.batch.endpoint, slot, -e.batch.rows)
            said = {(e.batch.id, c.index, c.code): c.rejected for e in endings for c in e.codes}
            names = ("batch", "row_index", "code", "rejected")
            insert_rows(
                db, row_codes, [dict(zip(names, (*key, rejected), strict=True)) for key, rejected in said.items()]
            )
            insert_rows(
                db,
                jobs,
                [
                    {
                        "batch": e.batch.id,
                        "account": account,
                        "url": e.job,
                        "opened_at": now,
                        "next_poll_at": e.first_poll,
                    }
                    for e in endings
                    if e.job is not None
                ],
            )
            halves = [_columns(child, account) | {"parent": e.batch.id} for e in endings for child in e.children]
            insert_rows(db, batches, halves)

    def split(self, batch: Batch, children: Sequence[Batch], *, account: str) -> None:
        """Hands the rows of a batch that waits on to others, without a call."""
        with self.transaction() as db:
            db.execute(sa.update(batches).where(batches.c.id == batch.id).values(state=BatchState.SPLIT))
            insert_rows(db, batches, [_columns(child, account) | {"parent": batch.id} for child in children])

    def reject(self, batch: Batch, code: str) -> None:
        """Blames a single row for a rejection that was noted before without a verdict."""
        with self.transaction() as db:
            db.execute(sa.update(batches).where(batches.c.id == batch.id).values(state=BatchState.REJECTED))
            db.execute(sa.insert(row_codes).values(batch=batch.id, row_index=0, code=code, rejected=True))

    def in_doubt(self, account: str, *, besides: str) -> list[Batch]:
        """The batches of all runs but one whose outcome nobody knows, in the order in which they were first sent."""
        mine = (batches.c.account == account) & (batches.c.run != besides) & (batches.c.state == BatchState.UNKNOWN)
        query = (
            sa.select(batches).join(runs, runs.c.run == batches.c.run).where(mine)
            .order_by(runs.c.day, runs.c.started_at, batches.c.plan, batches.c.ordinal, batches.c.first)
        )  # fmt: skip
        with self.reading() as db:
            return [_batch(row) for row in db.execute(query)]

    def supersede(self, doubted: Sequence[Batch]) -> None:
        """Ends batches in doubt about whose rows something newer has got through."""
        with self.transaction() as db:
            for chunk in chunks([batch.id for batch in doubted]):
                still = batches.c.id.in_(chunk) & (batches.c.state == BatchState.UNKNOWN)
                db.execute(sa.update(batches).where(still).values(state=BatchState.SUPERSEDED))

    def recover(self, account: str, fence: int) -> int:
        """Marks what a dead process left in `sending` as unknown, and returns how many batches that were."""
        with self.transaction() as db:
            self._check_fence(db, account, fence)
            lost = (batches.c.account == account) & (batches.c.state == BatchState.SENDING)
            ids = list(db.execute(sa.select(batches.c.id).where(lost)).scalars())
            for chunk in chunks(ids):
                open_attempt = attempts.c.batch.in_(chunk) & (attempts.c.outcome == AttemptOutcome.SENDING)
                values = {"outcome": AttemptOutcome.CRASHED, "code": "crashed", "ended_at": self.now()}
                db.execute(sa.update(attempts).where(open_attempt).values(values))
                db.execute(sa.update(batches).where(batches.c.id.in_(chunk)).values(state=BatchState.UNKNOWN))
            return len(ids)

    def used(self, account: str, endpoint: str, hours: float) -> int:
        """Rows debited in the rolling window; unknown outcomes count, proven not-sent ones do not."""
        with self.reading() as db:
            return self._used(db, account, endpoint, hours, self.now())

    def held(self, account: str, endpoint: str, hours: float) -> list[tuple[float, int]]:
        """What `used` adds up, slice by slice: until which moment it counts, and how many rows."""
        mine = (quota_slices.c.account == account) & (quota_slices.c.endpoint == endpoint)
        oldest = _oldest_slot(self.now(), hours)
        query = sa.select(quota_slices).where(mine, quota_slices.c.slot >= oldest).order_by(quota_slices.c.slot)
        with self.reading() as db:
            return [(quota_until(row.slot * QUOTA_SLICE_S, hours), row.used) for row in db.execute(query)]

    # The account's state

    def account(self, account: str) -> Account:
        """The state file of an account, and its generation."""
        self.ensure(accounts, account=account)
        with self.reading() as db:
            row = db.execute(sa.select(accounts).where(accounts.c.account == account)).one()
            return Account(fence=row.fence, generation=row.generation, state_path=row.state_path)

    def accounts(self) -> list[str]:
        """All accounts that anything was ever sent to, or was to be."""
        with self.reading() as db:
            return list(db.execute(sa.select(accounts.c.account).order_by(accounts.c.account)).scalars())

    def unabsorbed(self, account: str, *, and_absorbed: bool = False) -> list[Batch]:
        """Batches whose outcome does not stand in the account's state file yet, by run and plan, wholes before halves.

        `and_absorbed`: those also whose outcome does. A batch that was in doubt when it handed its rows on counts as unknown.
        """
        handed_on = (BatchState.SPLIT, BatchState.REPLACED)
        ended = batches.c.state.in_([s for s in BatchState if s.tells_of_its_rows])
        where = (
            (batches.c.account == account)
            & (~batches.c.absorbed | sa.literal(and_absorbed))
            & (ended | (batches.c.state.in_(handed_on) & _IN_DOUBT))
        )
        order = (batches.c.run, batches.c.plan, batches.c.rows.desc())
        with self.reading() as db:
            found = [_batch(row) for row in db.execute(sa.select(batches).where(where).order_by(*order))]
        return [replace(b, state=BatchState.UNKNOWN) if b.state in handed_on else b for b in found]

    def commit_state(
        self, account: str, *, fence: int, generation: int, state_path: str | None, absorbed: Sequence[Batch]
    ) -> None:
        """Names the new state file and marks the batches that it holds, together.

        One that has ended at the vendor since it was read is left for the next state: pollers wait for no lease.
        """
        with self.transaction() as db:
            self._check_fence(db, account, fence)
            values = {"generation": generation, "state_path": state_path}
            db.execute(sa.update(accounts).where(accounts.c.account == account).values(values))
            working = BatchState.PROCESSING
            for group, still in (
                ([b.id for b in absorbed if b.state is working], batches.c.state == working),
                ([b.id for b in absorbed if b.state is not working], sa.true()),
            ):
                for chunk in chunks(group):
                    db.execute(sa.update(batches).where(batches.c.id.in_(chunk), still).values(absorbed=True))

    # The lease; etl.ledger.lease keeps it

    def take_lease(self, account: str, *, holder: str, until: float, is_dead: Mapping[str, bool]) -> int | None:
        """The new fence if the account is free, its lease has ended, or its holder is known to be dead; else None."""
        with self.transaction() as db:
            self._ensure(db, accounts, {"account": account})
            row = db.execute(sa.select(accounts).where(accounts.c.account == account).with_for_update()).one()
            if row.holder is not None and row.expires_at > self.now() and not is_dead.get(row.holder, False):
                return None
            fence: int = row.fence + 1
            values = {"fence": fence, "holder": holder, "expires_at": until}
            db.execute(sa.update(accounts).where(accounts.c.account == account).values(values))
            return fence

    def holder(self, account: str) -> str | None:
        """Who holds the account's lease, or held it last."""
        with self.reading() as db:
            return db.execute(sa.select(accounts.c.holder).where(accounts.c.account == account)).scalar_one_or_none()

    def renew_lease(self, account: str, *, fence: int, until: float) -> None:
        """Holds the lease longer; raises LostLeaseError when it is somebody else's."""
        with self.transaction() as db:
            self._check_fence(db, account, fence)
            db.execute(sa.update(accounts).where(accounts.c.account == account).values(expires_at=until))

    def drop_lease(self, account: str, *, fence: int) -> None:
        """Gives the lease back, if it is still ours."""
        with self.transaction() as db:
            mine = (accounts.c.account == account) & (accounts.c.fence == fence)
            db.execute(sa.update(accounts).where(mine).values(holder=None, expires_at=0))

    # Inside

    def lock_account(self, db: sa.Connection, account: str) -> int:
        """The account's fence; until the transaction ends nobody else gets here."""
        query = sa.select(accounts.c.fence).where(accounts.c.account == account).with_for_update()
        fence: int = db.execute(query).scalar_one()
        return fence

    def _check_fence(self, db: sa.Connection, account: str, fence: int) -> None:
        if self.lock_account(db, account) != fence:
            raise LostLeaseError("another process took this account over; this one stops")

    def _used(self, db: sa.Connection, account: str, endpoint: str, hours: float, now: float) -> int:
        oldest = _oldest_slot(now, hours)
        mine = (quota_slices.c.account == account) & (quota_slices.c.endpoint == endpoint)
        query = sa.select(sa.func.coalesce(sa.func.sum(quota_slices.c.used), 0))
        return int(db.execute(query.where(mine, quota_slices.c.slot >= oldest)).scalar_one())

    def _debit(self, db: sa.Connection, account: str, endpoint: str, slot: int, rows: int) -> None:
        mine = (
            (quota_slices.c.account == account) & (quota_slices.c.endpoint == endpoint) & (quota_slices.c.slot == slot)
        )
        db.execute(sa.update(quota_slices).where(mine).values(used=quota_slices.c.used + rows))

    def _ensure(self, db: sa.Connection, table: sa.Table, values: Mapping[str, Any]) -> None:
        from sqlalchemy.dialects import postgresql, sqlite

        insert = sqlite.insert if self.engine.dialect.name == "sqlite" else postgresql.insert
        db.execute(insert(table).values(values).on_conflict_do_nothing())

    def _database_clock(self) -> float:
        if self.engine.dialect.name == "sqlite":
            return time.time()
        with self.reading() as db:
            return float(db.execute(sa.text("select extract(epoch from clock_timestamp())")).scalar_one())


class QuotaSpentError(EtlError):
    """The rows of a batch do not fit into the rolling quota now, but in `wait` seconds, if others send nothing."""

    def __init__(self, message: str, *, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


def _let_go(engine: sa.Engine, pid: int) -> None:
    """Closes the connections of a ledger that nobody has closed or uses any more; not those of a parent process."""
    if os.getpid() == pid:
        engine.dispose()


def _oldest_slot(now: float, hours: float) -> int:
    """The first slice that counts; it does for five minutes after its last moment, since the vendor may count late."""
    return int((now - hours * 3600) // QUOTA_SLICE_S) - 1


def quota_until(moment: float, hours: float) -> float:
    """Until when a row counts against a rolling quota that is sent at a moment."""
    return (moment // QUOTA_SLICE_S + 2) * QUOTA_SLICE_S + hours * 3600


def room_at(held: Iterable[tuple[float, int]], most: int) -> float:
    """From which moment on no more than `most` of the rows that count are left; `held` is as Ledger.held says."""
    by_moment = sorted(held)
    left = sum(rows for _, rows in by_moment)
    for until, rows in by_moment:
        left -= rows
        if left <= most:
            return until
    return math.inf


def batch_id(run: str, plan: int, ordinal: str, sha256: str) -> str:
    """A batch's id, from what it is: the same plan makes the same ids."""
    return hashlib.sha256(f"{run}|{plan}|{ordinal}|{sha256}".encode()).hexdigest()[:20]


def insert_rows(db: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Adds rows to a table; none is no statement."""
    if rows:
        db.execute(sa.insert(table), rows)


def _columns(batch: Batch, account: str) -> dict[str, Any]:
    """A new batch's row."""
    names = (
        "id", "run", "endpoint", "plan", "ordinal", "file", "offset", "size", "sha256", "first", "rows", "parent", "state",
    )  # fmt: skip
    return {"account": account, **{name: getattr(batch, name) for name in names}}


def _batch(row: sa.Row[Any]) -> Batch:
    return Batch(
        id=row.id, run=row.run, endpoint=row.endpoint, plan=row.plan, ordinal=row.ordinal, file=row.file,
        offset=row.offset, size=row.size, sha256=row.sha256, first=row.first, rows=row.rows,
        state=BatchState(row.state), attempts=row.attempts, parent=row.parent,
    )  # fmt: skip


def chunks(ids: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    """Ids in portions that one statement can name."""
    return (ids[at : at + size] for at in range(0, len(ids), size))


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise ConfigError("PROFILE_ETL_LEDGER is not a database URL") from None
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise ConfigError("PROFILE_ETL_LEDGER must be sqlite:///... or postgresql+psycopg://...")
    if parsed.get_backend_name() == "postgresql":
        try:
            return sa.create_engine(parsed, pool_pre_ping=True)
        except ImportError:
            raise ConfigError("PostgreSQL needs psycopg: install profile-etl[postgres]") from None
    if parsed.database:
        from etl.storage import make_folder

        path = Path(parsed.database.removeprefix("file:")).resolve()
        if kind := network_file_system(path, mount_table()):
            raise ConfigError(
                f"the ledger {path} is on a network file system ({kind}), where SQLite is not safe: set PROFILE_ETL_LEDGER to "
                "a file on a local disk (sqlite:////...), or to postgresql+psycopg://..."
            )
        try:
            make_folder(path.parent)
        except OSError as error:
            raise ConfigError(f"the ledger's folder {path.parent} cannot be made: {error.strerror}") from None
    engine = sa.create_engine(parsed, connect_args={"timeout": 60})
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", lambda db: db.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver must not open transactions by itself: a write that began as a read could not wait for its turn.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _equal(**wanted: object) -> list[sa.ColumnElement[bool]]:
    """Columns of a run that have a value, as far as one is wanted."""
    return [runs.c[name] == value for name, value in wanted.items() if value is not None]
