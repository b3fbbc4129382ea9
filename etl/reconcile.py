"""Reconcile: one named end for every row, from files and ledger alone; then the account learns what was accepted.

Writes `private/dispositions.parquet`: `row`, `bucket`, `code`, `batch`. Nothing is counted in memory along the way, so
a crash loses no count, and a row that is missing or has two ends shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import polars as pl

from etl import parts, validate
from etl.delta import OUTCOME
from etl.ledger import lease
from etl.model import AttemptOutcome, Batch, BatchState, Bucket
from etl.run import RunContext
from etl.state import absorb, plan_folder, references, rejected_rows, rejection_codes
from etl.transform.step import FOLDER as TRANSFORMED

DISPOSITIONS = "private/dispositions.parquet"
_COLUMNS = pl.Schema({"row": pl.UInt64, "bucket": pl.String, "code": pl.String, "batch": pl.String})
_ENDS = {
    BatchState.PLANNED: Bucket.NOT_SENT,
    BatchState.SENDING: Bucket.UNKNOWN,
    BatchState.UNKNOWN: Bucket.UNKNOWN,
    BatchState.ACCEPTED: Bucket.ACCEPTED,
    BatchState.REJECTED: Bucket.REJECTED,
}


def reconcile(ctx: RunContext) -> dict[str, Any]:
    """Counts the rows of each bucket and the reasons; `balanced` says whether every row has exactly one end."""
    plan = ctx.result("pack")["plan"]
    account = ctx.connection.account
    with lease(ctx.ledger, account, patience_s=ctx.patience_s, sleep=ctx.sleep) as fence:
        absorb(ctx.work, ctx.ledger, account, fence=fence, seen=_seen(ctx, plan))
    ends = pl.concat([pl.DataFrame(schema=_COLUMNS), *_dispositions(ctx, plan)]).sort("row")
    with ctx.place.staged(DISPOSITIONS) as path:
        ends.write_parquet(path)
    records = ctx.result("validate")["crm"]["records"]
    counted = dict(ends.group_by("bucket").len().iter_rows())
    rows = {"records_in": records, **{bucket.value: counted.get(bucket.value, 0) for bucket in Bucket}}
    pos = ctx.result("transform")["pos"]
    each_once = ends.height == records and ends["row"].n_unique() == records
    in_range = not records or ends["row"].max() == records - 1
    pos_adds_up = pos["records_in"] == sum(count for name, count in pos.items() if name != "records_in")
    return {
        "rows": rows,
        "pos": pos,
        "reasons": _reasons(ctx, ends),
        "balanced": bool(each_once and in_range and pos_adds_up and sum(counted.values()) == records),
        "duplicates_possible": _duplicates_possible(ctx),
    }


def _dispositions(ctx: RunContext, plan: int) -> Iterator[pl.DataFrame]:
    """The ends of all rows, from the files of each step and the ledger; every frame has the same columns."""
    for frame in parts.frames(ctx.place, f"{validate.FOLDER}/crm/quarantine", ["row", "codes"]):
        unparsable = pl.col("codes").list.contains(validate.UNPARSABLE)
        bucket = pl.when(unparsable).then(pl.lit(Bucket.UNPARSABLE.value)).otherwise(pl.lit(Bucket.QUARANTINED.value))
        yield _end(frame, bucket)
    for frame in parts.frames(ctx.place, f"{TRANSFORMED}/quarantine", ["row"]):
        yield _end(frame, pl.lit(Bucket.QUARANTINED.value))
    deduplicated = pl.read_parquet(ctx.place.fetch(f"{TRANSFORMED}/deduplicated.parquet"))
    yield _end(deduplicated, pl.lit(Bucket.DEDUPLICATED.value))
    for frame in _kept(ctx, plan, ["row", "bucket", "code"]):
        yield _end(frame, pl.col("bucket"), pl.col("code"))
    yield from _batch_ends(ctx)


def _batch_ends(ctx: RunContext) -> Iterator[pl.DataFrame]:
    """The rows of batches; a rejected row inside an accepted batch is found by what the vendor said of it."""
    rejected = rejected_rows(ctx.ledger, ctx.name)
    last_code = {attempt.batch: attempt.code for attempt in ctx.ledger.attempts(ctx.name)}
    stopped = ctx.result("load")["stopped"]  # why a batch that was never tried stayed behind
    batches = [b for b in ctx.ledger.batches(ctx.name) if b.state in _ENDS]
    for plan in sorted({b.plan for b in batches}):
        rows = references(ctx.work, ctx.name, plan).select("row").collect()
        for batch in (b for b in batches if b.plan == plan):
            yield _batch_end(
                rows.slice(batch.first, batch.rows),
                batch,
                rejected.get(batch.id, {}),
                last_code.get(batch.id) or stopped,
            )


def _batch_end(rows: pl.DataFrame, batch: Batch, rejected: Mapping[int, str], last_code: str | None) -> pl.DataFrame:
    code = rejection_codes(rejected, rows.height)
    end = _ENDS[batch.state]
    bucket = pl.when(code.is_not_null()).then(pl.lit(Bucket.REJECTED.value)).otherwise(pl.lit(end.value))
    reason = code.fill_null(last_code) if end.is_unfinished and last_code else code
    return _end(rows, bucket, reason, batch.id)


def _end(
    rows: pl.DataFrame, bucket: pl.Expr, code: pl.Expr | pl.Series | None = None, batch: str | None = None
) -> pl.DataFrame:
    return rows.with_columns(bucket=bucket, code=code, batch=pl.lit(batch)).select(*_COLUMNS).cast(_COLUMNS)


def _kept(ctx: RunContext, plan: int, columns: list[str]) -> Iterator[pl.DataFrame]:
    folder = plan_folder(ctx.name, plan).removeprefix(f"{ctx.name}/")
    return parts.frames(ctx.place, f"{folder}/kept", columns)


def _seen(ctx: RunContext, plan: int) -> pl.DataFrame:
    """Profiles that were found as the account knows them: what the account knows is of this day now."""
    known = {Bucket.UNCHANGED.value: BatchState.ACCEPTED.value, Bucket.REJECTED.value: BatchState.REJECTED.value}
    frames = [
        frame.filter(pl.col("bucket").is_in(list(known))).select(
            "key",
            "fingerprint",
            as_of=pl.lit(ctx.day),
            outcome=pl.col("bucket").replace_strict(known, default=None, return_dtype=OUTCOME),
            code=pl.col("code").cast(pl.Categorical),
        )
        for frame in _kept(ctx, plan, ["key", "fingerprint", "bucket", "code"])
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


def _reasons(ctx: RunContext, ends: pl.DataFrame) -> list[dict[str, Any]]:
    """How often each code occurs: broken rules and single refused fields, and why rows were not delivered."""
    codes = [ends.select("code").drop_nulls().to_series()]
    for folder in (f"{validate.FOLDER}/crm/quarantine", f"{TRANSFORMED}/quarantine"):
        codes += [frame["codes"].explode().drop_nulls() for frame in parts.frames(ctx.place, folder, ["codes"])]
    accepted = {b.id for b in ctx.ledger.batches(ctx.name) if b.state is BatchState.ACCEPTED}
    fields = [c.code for batch, c in ctx.ledger.row_codes(ctx.name) if batch in accepted and not c.rejected]
    codes.append(pl.Series(fields, dtype=pl.String))
    counts = (
        pl.concat([c.alias("code").cast(pl.String) for c in codes])
        .value_counts()
        .sort("count", "code", descending=[True, False])
    )
    return counts.to_dicts()


def _duplicates_possible(ctx: RunContext) -> int:
    """Rows of every attempt whose outcome nobody knows: each may have been taken, and is or will be sent again."""
    rows = {batch.id: batch.rows for batch in ctx.ledger.batches(ctx.name)}
    doubtful = {AttemptOutcome.UNKNOWN, AttemptOutcome.CRASHED, AttemptOutcome.SENDING}
    return sum(rows[attempt.batch] for attempt in ctx.ledger.attempts(ctx.name) if attempt.outcome in doubtful)
