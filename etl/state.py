"""The account's state on disk: reading the current generation, and absorbing what batches came to.

Whoever holds the account's lease absorbs; before that, an outcome stands in the ledger only. A new generation is written
beside the old one, and the ledger names it in the transaction that marks its batches as absorbed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Any

import polars as pl

from etl import parts
from etl.delta import OUTCOME, STATE, State, updated
from etl.ledger import Ledger, Run
from etl.model import Batch, BatchState
from etl.storage import Place

FOLDER = "private/state"
REFERENCES: dict[str, Any] = {"row": pl.UInt64, "key": pl.String, "fingerprint": pl.UInt64, "size": pl.UInt32}


def load_state(work: Place, ledger: Ledger, account: str) -> State:
    """The current state of an account, for look-ups."""
    return State.load(_parts(work, ledger.account(account).state_path))


def absorb(
    work: Place,
    ledger: Ledger,
    account: str,
    *,
    fence: int,
    besides: str | None = None,
    seen: pl.DataFrame | None = None,
) -> int:
    """Brings the outcomes of all runs (`besides` one) into the state; returns the generation that is current then.

    `seen` are profiles (`key`, `fingerprint`, `as_of`, `outcome`, `code`) that were found as they are known: where that
    still holds, they tell that the account's knowledge is of a later day.
    """
    batches = [batch for batch in ledger.unabsorbed(account) if batch.run != besides]
    now = ledger.account(account)
    news = [_outcomes(work, ledger, run, group) for run, group in _by_run(ledger, batches)]
    if seen is not None and seen.height:
        known = load_state(work, ledger, account).find(seen["key"])
        as_known = (seen["fingerprint"] == known["fingerprint"]) & (seen["as_of"] > known["as_of"])
        news.insert(0, seen.filter(as_known).select(*STATE))
    news = [frame for frame in news if frame.height]
    if not news:
        if batches:
            ledger.commit_state(
                account, fence=fence, generation=now.generation, state_path=now.state_path, absorbed=batches
            )
        return now.generation
    generation = now.generation + 1
    path = f"{FOLDER}/{account}/{generation:08d}-{fence:08d}"
    latest = pl.concat(news).unique("key", keep="last", maintain_order=True)
    with work.staged(path) as folder:
        folder.mkdir()
        for number, part in enumerate(updated(_parts(work, now.state_path), latest)):
            part.write_parquet(folder / f"part-{number:05d}.parquet")
    ledger.commit_state(account, fence=fence, generation=generation, state_path=path, absorbed=batches)
    for old in work.names(f"{FOLDER}/{account}")[:-2]:  # a pack elsewhere may be reading the one before
        work.remove(f"{FOLDER}/{account}/{old}")
    return generation


def references(work: Place, run: str, plan: int) -> pl.LazyFrame:
    """`row`, `key`, `fingerprint` of a plan's records, in the order in which its batches take them."""
    return parts.scan(work, f"{plan_folder(run, plan)}/references", REFERENCES)


def plan_folder(run: str, plan: int) -> str:
    """The folder of one plan of a run, in the work place."""
    return f"{run}/private/plan-{plan:03d}"


def rejected_rows(ledger: Ledger, run: str) -> Mapping[str, Mapping[int, str]]:
    """The codes of the rows that the vendor did not take, by batch and by the row's index in it."""
    rejected: dict[str, dict[int, str]] = defaultdict(dict)
    for batch, said in ledger.row_codes(run):
        if said.rejected:
            rejected[batch][said.index] = said.code
    return rejected


def rejection_codes(rejected: Mapping[int, str], rows: int) -> pl.Series:
    """`code` for each row of a batch, null where the row was taken."""
    return pl.Series("code", [rejected.get(index) for index in range(rows)], dtype=pl.String)


def _parts(work: Place, path: str | None) -> Iterator[pl.DataFrame]:
    if path is None:
        return iter(())
    folder = work.fetch(path)
    return (pl.read_parquet(part) for part in sorted(folder.iterdir()))


def _by_run(ledger: Ledger, batches: list[Batch]) -> Iterator[tuple[Run, list[Batch]]]:
    """Oldest day first, so that what a later export said is the last word."""
    groups: dict[str, list[Batch]] = defaultdict(list)
    for batch in batches:
        groups[batch.run].append(batch)
    runs = (run for run in map(ledger.run, groups) if run is not None)
    return ((run, groups[run.run]) for run in sorted(runs, key=lambda run: (run.day, run.started_at)))


def _outcomes(work: Place, ledger: Ledger, run: Run, batches: list[Batch]) -> pl.DataFrame:
    """The state's columns for every row of some batches of a run."""
    rejected = rejected_rows(ledger, run.run)
    frames = []
    for plan in sorted({batch.plan for batch in batches}):
        rows = references(work, run.run, plan).select("key", "fingerprint").collect()
        frames += [
            _outcome(rows.slice(batch.first, batch.rows), batch.state, rejected.get(batch.id, {}))
            for batch in batches
            if batch.plan == plan
        ]
    return pl.concat(frames).with_columns(as_of=pl.lit(date.fromisoformat(run.day))).select(*STATE)


def _outcome(rows: pl.DataFrame, state: BatchState, rejected: Mapping[int, str]) -> pl.DataFrame:
    """Adds `outcome` and `code` to a batch's rows, and forgets the fingerprint where the outcome is unknown."""
    code = rejection_codes(rejected, rows.height)
    outcome = pl.when(code.is_not_null()).then(pl.lit(BatchState.REJECTED.value)).otherwise(pl.lit(state.value))
    return rows.with_columns(
        outcome=outcome.cast(OUTCOME),
        code=code.cast(pl.Categorical),
        fingerprint=None if state is BatchState.UNKNOWN else "fingerprint",
    ).cast({"fingerprint": pl.UInt64})
