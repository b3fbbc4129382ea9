"""Bugs to be planted: mistakes of the kind that this code exists to avoid. Each must be caught, or the invariants are for show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any
from unittest.mock import patch

import sqlalchemy as sa

from etl import delta, load, policy
from etl.ledger import Ledger
from etl.ledger.schema import accounts, attempts, batches
from etl.model import AttemptOutcome, BatchState, Receipt

_settle, _intend = Ledger.settle, Ledger.intend


def intent_after_the_call(ledger: Ledger, wanted: Any, **how: Any) -> list[int]:
    """Nothing is written before the POST; its attempt is numbered as if it had been."""
    ledger.late = {**getattr(ledger, "late", {}), **{batch.id: (batch, how) for batch in wanted}}  # type: ignore[attr-defined]
    return [batch.attempts + 1 for batch in wanted]


def _settle_late(ledger: Ledger, *endings: Any) -> None:
    for ending in endings:
        batch, how = ledger.late.pop(ending.batch.id)  # type: ignore[attr-defined]
        [n] = _intend(ledger, [batch], **how)
        _settle(ledger, replace(ending, n=n))


def outcome_before_the_call(ledger: Ledger, wanted: Any, **how: Any) -> list[int]:
    """What is about to be sent counts as taken."""
    numbers = _intend(ledger, wanted, **how)
    with ledger.transaction() as db:
        mine = batches.c.id.in_([batch.id for batch in wanted])
        db.execute(sa.update(batches).where(mine).values(state=BatchState.ACCEPTED))
    return numbers


def recovered_as_planned(ledger: Ledger, account: str, fence: int) -> int:
    """What a dead process had under way is taken for unsent."""
    with ledger.transaction() as db:
        lost = (batches.c.account == account) & (batches.c.state == BatchState.SENDING)
        ids = list(db.execute(sa.select(batches.c.id).where(lost)).scalars())
        mine = attempts.c.batch.in_(ids) & (attempts.c.outcome == AttemptOutcome.SENDING)
        db.execute(sa.update(attempts).where(mine).values(outcome=AttemptOutcome.NOT_SENT))
        db.execute(sa.update(batches).where(batches.c.id.in_(ids)).values(state=BatchState.PLANNED))
        return len(ids)


def quota_without_unknowns(ledger: Ledger, *endings: Any) -> None:
    """A call without an answer gives its rows back to the quota."""
    _settle(ledger, *endings)
    with ledger.transaction() as db:
        for ending in endings:
            if ending.outcome is AttemptOutcome.UNKNOWN:
                batch = ending.batch
                query = sa.select(attempts.c.slot, batches.c.account).join(batches, batches.c.id == attempts.c.batch)
                row = db.execute(query.where(attempts.c.batch == batch.id, attempts.c.n == ending.n)).one()
                ledger._debit(db, row.account, batch.endpoint, row.slot, -batch.rows)


def no_fence(ledger: Ledger, db: sa.Connection, account: str, fence: int) -> None:
    """Whoever once held the account goes on."""


def a_lease_for_everybody(ledger: Ledger, account: str, **_: Any) -> int:
    """Nobody waits for the one that holds the account."""
    with ledger.transaction() as db:
        ledger._ensure(db, accounts, {"account": account})
        return ledger.lock_account(db, account)


def unknown_as_taken(sender: Any, call: Any, end: Any, error: Any) -> Any:
    """An answer that proves nothing passes for a success."""
    if policy.outcome_of(error) is AttemptOutcome.UNKNOWN:
        return sender._accepted(call, end, Receipt())
    return _failed(sender, call, end, error)


_failed = load._Sender._failed


def half_of_a_bisection(sender: Any, batch: Any, payload: bytes, cuts: Any) -> Any:
    """The second half of a refused batch is forgotten."""
    pieces = _pieces(sender, batch, payload, cuts)
    return [pieces[0], pieces[0]] if len(pieces) == 2 else pieces


_pieces = load._Sender._pieces


def other_bytes(sender: Any, batch: Any) -> bytes:
    """A batch that is sent again is written anew."""
    return _payload(sender, batch) + (b" " if batch.attempts else b"")


_payload = load._Sender._payload


def days_in_any_order(records: Any, known: Any, day: Any, **how: Any) -> Any:
    """What a later day has said does not count."""
    return _decide(
        records,
        replace(known, table=known.table.with_columns(as_of=None).cast({"as_of": delta.STATE["as_of"]})),
        day,
        **how,
    )


_decide = delta.decide


def old_data_again(ctx: Any, waiting: Any) -> Any:
    """What was left in doubt is sent once more, whatever was sent since."""
    return ctx.ledger.in_doubt(ctx.connection.account, besides=ctx.name)


def quota_never_asked(ledger: Ledger, wanted: Any, **how: Any) -> list[int]:
    """Calls leave although the quota is used up."""
    return _intend(ledger, wanted, **how | {"quota": None})


def _on(target: Any, name: str, bug: Callable[..., Any]) -> Any:
    """A patch that keeps the bug a method where it replaces one."""

    @wraps(bug)
    def planted(*args: Any, **kwargs: Any) -> Any:
        return bug(*args, **kwargs)

    return patch.object(target, name, planted)


BUGS: dict[str, list[Any]] = {
    "intent after the call": [_on(Ledger, "intend", intent_after_the_call), _on(Ledger, "settle", _settle_late)],
    "outcome before the call": [_on(Ledger, "intend", outcome_before_the_call)],
    "recovered as planned": [_on(Ledger, "recover", recovered_as_planned)],
    "quota without unknowns": [_on(Ledger, "settle", quota_without_unknowns)],
    "quota never asked": [_on(Ledger, "intend", quota_never_asked)],
    "no fence": [_on(Ledger, "_check_fence", no_fence)],
    "a lease for everybody": [_on(Ledger, "take_lease", a_lease_for_everybody)],
    "timeouts as not sent": [patch.dict(policy._OUTCOMES, {policy.OutcomeUnknown: AttemptOutcome.NOT_SENT})],
    "unknown as taken": [_on(load._Sender, "_failed", unknown_as_taken)],
    "half of a bisection": [_on(load._Sender, "_pieces", half_of_a_bisection)],
    "other bytes": [_on(load._Sender, "_payload", other_bytes)],
    "days in any order": [_on(delta, "decide", days_in_any_order)],
    "old data again": [_on(load, "_left_in_doubt", old_data_again)],
}
