"""Reconcile: one named end for every row, from files and ledger alone; then the account learns what was accepted.

Writes `private/dispositions.parquet`: `row`, `bucket`, `code`, `batch`, and `opt_out`, the end of an opt-out that goes alone;
beyond the rows of the export are the opt-outs of customers whom it does not speak of. Nothing is counted in memory along
the way, so a crash loses no count, and a row that is missing or has two ends shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from etl import parts, validate
from etl.ends import DISPOSITIONS, UNIDENTIFIED, batch_rows, plan_folder, row_ends, share
from etl.ledger import codes_of, counts_of
from etl.model import AttemptOutcome, BatchState, Bucket
from etl.pack import IDENTITY_SHARED, current_plan
from etl.run import RunContext
from etl.state import absorb, load_state, seen_by
from etl.transform.folders import DEDUPLICATED, NEWER, OPT_OUTS, QUARANTINES

_COLUMNS = pl.Schema({"row": pl.UInt64, "bucket": pl.String, "code": pl.String, "batch": pl.String})
# The code of an end that needs none of its own.
_OF_ITSELF = {Bucket.PROCESSING.value: "incomplete", Bucket.STUCK.value: "stuck", Bucket.UNREPORTED.value: "unreported"}
# Ends that a code of their batch explains.
_EXPLAINED = (Bucket.NOT_SENT, Bucket.UNKNOWN, Bucket.PROCESSING, Bucket.UNREPORTED, Bucket.STUCK)


def reconcile(ctx: RunContext) -> dict[str, Any]:
    """Counts the rows of each bucket and the reasons; `balanced` says whether every row has exactly one end.

    The row of an opt-out stays quarantined, or there is none; `opt_outs` counts apart how these ended, and `absent` those of
    customers who have disappeared.
    """
    account = ctx.connection.account
    with ctx.lease() as fence:
        plan = current_plan(ctx).plan  # while one waits, a successor may have made another
        absorb(ctx.work, ctx.ledger, account, fence=fence, seen=[seen_by(ctx.work, ctx.name, plan, ctx.day)])
        _supersede(ctx)
    bad = pl.concat([pl.DataFrame(schema=_COLUMNS), *_quarantined(ctx)])
    records = ctx.result("validate")["crm"]["records"]
    found, opt_outs = [], [bad.clear()]
    for frame in _dispositions(ctx, plan):
        # A row in quarantine has its end; what is sent of it is its opt-out.
        is_bad, is_beyond = frame["row"].is_in(bad["row"].implode()), frame["row"] >= records
        # Somebody else speaks for the person, or the vendor, who would not take the id, cannot know it.
        is_moot = (frame["code"] == IDENTITY_SHARED) | (is_beyond & (frame["bucket"] == Bucket.UNSENDABLE.value))
        opt_outs.append(frame.filter((is_bad | is_beyond) & ~is_moot.fill_null(value=False)))
        found.append(frame.filter(~is_bad))
    sent = pl.concat(opt_outs)
    bad = (
        bad.drop("batch")
        .join(sent.select("row", "batch"), on="row", how="left", maintain_order="left")
        .select(*_COLUMNS)
    )
    opt_out = sent.select("row", opt_out="bucket")
    every = pl.concat([bad, *found]).join(opt_out, on="row", how="left").sort("row")
    with ctx.place.staged(DISPOSITIONS) as path:
        every.write_parquet(path)
    ends = every.filter(pl.col("row") < records)
    counted = _counted(ctx, ends)
    rows = {"records_in": records, **{bucket.value: counted.get(bucket.value, 0) for bucket in Bucket}}
    pos = ctx.result("transform")["pos"]
    each_once = ends.height == records and ends["row"].n_unique() == records
    in_range = not records or ends["row"].max() == records - 1
    if current_plan(ctx).plan != plan:  # a successor has made another meanwhile, and it counts
        return reconcile(ctx)
    pos_adds_up = pos["records_in"] == sum(count for name, count in pos.items() if name != "records_in")
    return {
        "rows": rows,
        "opt_outs": _counted(ctx, sent),
        "absent": _counted(ctx, sent.filter(pl.col("row").is_in(_absent_rows(ctx).implode()))),
        "pos": pos,
        "reasons": _reasons(ctx, ends),
        "balanced": bool(each_once and in_range and pos_adds_up and sum(counted.values()) == records),
        "duplicates_possible": _duplicates_possible(ctx),
    }


def _absent_rows(ctx: RunContext) -> pl.Series:
    """The opt-outs of customers whom `on_absent` of the sync unsubscribes."""
    nobody = pl.DataFrame(schema={"row": pl.UInt64, "_absent": pl.Boolean})  # an earlier version has not written these
    opt_outs = pl.concat([nobody, *parts.frames(ctx.place, OPT_OUTS)], how="diagonal")
    return opt_outs.filter(pl.col("_absent") & (ctx.sync.on_absent == "unsubscribe"))["row"]


def _supersede(ctx: RunContext) -> None:
    """Ends batches of earlier runs of which nobody knows whether they arrived, where something newer has.

    Of whom the state knows nothing, nothing is waited for: such a customer was erased.
    """
    doubtful = ctx.ledger.in_doubt(ctx.connection.account, besides=ctx.name)
    if doubtful:
        state = load_state(ctx.work, ctx.ledger, ctx.connection.account)
        keys = {batch.id: batch_rows(ctx.work, batch)["key"] for batch in doubtful}
        over = [
            b
            for b in doubtful
            if (state.find(keys[b.id])["outcome"] != Bucket.UNKNOWN.value).fill_null(value=True).all()
        ]
        ctx.ledger.supersede(over)


def _quarantined(ctx: RunContext) -> Iterator[pl.DataFrame]:
    """The ends of the rows in quarantine."""
    for frame in parts.frames(ctx.place, f"{validate.FOLDER}/crm/quarantine", ["row", "codes"]):
        unparsable = pl.col("codes").list.contains(validate.UNPARSABLE)
        bucket = pl.when(unparsable).then(pl.lit(Bucket.UNPARSABLE.value)).otherwise(pl.lit(Bucket.QUARANTINED.value))
        yield _end(frame, bucket)
    for frame in parts.frames(ctx.place, NEWER, ["row"]):
        yield _end(frame, pl.lit(Bucket.QUARANTINED.value))


def _dispositions(ctx: RunContext, plan: int) -> Iterator[pl.DataFrame]:
    """The ends of all other rows, and of opt-outs, from the files of each step and the ledger; with the same columns."""
    deduplicated = pl.read_parquet(ctx.place.fetch(DEDUPLICATED))
    yield _end(deduplicated, pl.lit(Bucket.DEDUPLICATED.value))
    is_counted = pl.col("bucket") == UNIDENTIFIED  # then the code is the batch whose counters speak of it
    for frame in _kept(ctx, plan, ["row", "bucket", "code"]):
        of_itself = pl.col("bucket").replace_strict(_OF_ITSELF, default=None, return_dtype=pl.String)
        code = pl.coalesce(pl.when(~is_counted).then("code"), of_itself)
        yield _end(frame, pl.col("bucket"), code, pl.when(is_counted).then("code"))
    yield from _batch_ends(ctx)


def _batch_ends(ctx: RunContext) -> Iterator[pl.DataFrame]:
    """The rows of batches, with why their end is what it is, as far as their batch tells."""
    stopped = ctx.result("load")["stopped"]  # why a batch that was never tried stayed behind
    batches = ctx.ledger.batches(ctx.name)
    why = {b.id: stopped for b in batches} | {a.batch: a.code or stopped for a in ctx.ledger.attempts(ctx.name)}
    why |= {b.id: "incomplete" for b in batches if b.state is BatchState.PROCESSING} | codes_of(ctx.ledger, ctx.name)
    reasons = pl.DataFrame(list(why.items()), schema={"batch": pl.String, "why": pl.String}, orient="row")
    rows = row_ends(ctx.ledger, ctx.work, ctx.name, batches)
    explained = pl.when(pl.col("end").is_in([bucket.value for bucket in _EXPLAINED])).then("why")
    ends = rows.join(reasons, on="batch", how="left", maintain_order="left")
    yield ends.select("row", bucket="end", code=pl.coalesce("code", explained), batch="batch").cast(_COLUMNS)


def _counted(ctx: RunContext, ends: pl.DataFrame) -> dict[str, int]:
    """The rows of each bucket; of those whose end the vendor gives in numbers only, by these numbers."""
    counted: dict[str, int] = dict(ends.group_by("bucket").len().iter_rows())
    unidentified = ends.filter(pl.col("bucket") == UNIDENTIFIED).group_by("batch").len()
    counts = counts_of(ctx.ledger, unidentified["batch"].to_list())
    own = {batch.id for batch in ctx.ledger.batches(ctx.name)}
    for batch, rows in unidentified.iter_rows():
        shares = share(rows, counts[batch])
        delivered = Bucket.CONFIRMED if batch in own else Bucket.UNCHANGED
        for bucket, count in (
            (delivered, shares.confirmed),
            (Bucket.NOT_FOUND, shares.not_found),
            (Bucket.FAILED_AT_DESTINATION, shares.failed),
            (Bucket.UNREPORTED, shares.unreported),
        ):
            counted[bucket.value] = counted.get(bucket.value, 0) + count
    counted.pop(UNIDENTIFIED, None)
    return counted


def _end(
    rows: pl.DataFrame, bucket: pl.Expr, code: pl.Expr | None = None, batch: pl.Expr | None = None
) -> pl.DataFrame:
    return rows.with_columns(bucket=bucket, code=code, batch=batch).select(*_COLUMNS).cast(_COLUMNS)


def _kept(ctx: RunContext, plan: int, columns: list[str]) -> Iterator[pl.DataFrame]:
    folder = plan_folder(ctx.name, plan).removeprefix(f"{ctx.name}/")
    return parts.frames(ctx.place, f"{folder}/kept", columns)


def _reasons(ctx: RunContext, ends: pl.DataFrame) -> list[dict[str, Any]]:
    """How often each code occurs: broken rules, dropped and refused single fields, and why rows were not delivered."""
    counts = [_count(ends["code"])]
    for folder in QUARANTINES:
        counts += [_count(frame["codes"].explode()) for frame in parts.frames(ctx.place, folder, ["codes"])]
    accepted = {b.id for b in ctx.ledger.batches(ctx.name) if b.state is BatchState.ACCEPTED}
    fields = [c.code for batch, c in ctx.ledger.row_codes(ctx.name) if batch in accepted and not c.rejected]
    counts.append(_count(pl.Series(fields, dtype=pl.String)))
    dropped = ctx.result("validate")["crm"].get("dropped", {})
    rows = [(f"{field}_dropped", count) for field, count in dropped.items() if count]
    counts.append(pl.DataFrame(rows, schema=counts[0].schema, orient="row"))
    every = pl.concat(counts).group_by("code").agg(pl.col("count").sum())
    return every.sort("count", "code", descending=[True, False]).to_dicts()


def _count(codes: pl.Series) -> pl.DataFrame:
    """How often each code occurs in a part of them: all together may be several for each of millions of rows."""
    return codes.alias("code").drop_nulls().value_counts()


def _duplicates_possible(ctx: RunContext) -> int:
    """Rows of every attempt whose outcome nobody knows: each may have been taken, and is or will be sent again."""
    rows = {batch.id: batch.rows for batch in ctx.ledger.batches(ctx.name)}
    doubtful = {AttemptOutcome.UNKNOWN, AttemptOutcome.CRASHED, AttemptOutcome.SENDING}
    return sum(rows[attempt.batch] for attempt in ctx.ledger.attempts(ctx.name) if attempt.outcome in doubtful)
