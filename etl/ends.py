"""Ends: how each row of a batch ended, from the ledger alone; the one place that says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import polars as pl

from etl import parts
from etl.ledger import Job, Ledger, counts_of
from etl.model import Batch, BatchState, Bucket, Counts
from etl.storage import Place

# The end of every row of a run, once it is reconciled.
DISPOSITIONS = "private/dispositions.parquet"
REFERENCES: dict[str, Any] = {
    "row": pl.UInt64,
    "key": pl.String,
    "fingerprint": pl.UInt64,
    "memory": pl.UInt64,
    "email_opt_in": pl.Boolean,
    "sms_opt_in": pl.Boolean,
    "tags": pl.List(pl.String),
    "said_on": pl.Date,
    "size": pl.UInt32,
}
# Rows of a complete batch whose vendor says how many failed, and not which. No bucket: only their numbers are known.
UNIDENTIFIED = "unidentified"
_ENDS = {
    BatchState.PLANNED: Bucket.NOT_SENT,
    BatchState.SENDING: Bucket.UNKNOWN,
    BatchState.UNKNOWN: Bucket.UNKNOWN,
    BatchState.ACCEPTED: Bucket.ACCEPTED,
    BatchState.REJECTED: Bucket.REJECTED,
    BatchState.PROCESSING: Bucket.PROCESSING,
    BatchState.STUCK: Bucket.STUCK,
    BatchState.UNREPORTED: Bucket.UNREPORTED,
    BatchState.SUPERSEDED: Bucket.SUPERSEDED,
}


def plan_folder(run: str, plan: int) -> str:
    """The folder of one plan of a run, in the work place."""
    return f"{run}/private/plan-{plan:03d}"


def references(work: Place, run: str, plan: int) -> pl.LazyFrame:
    """The columns of REFERENCES for a plan's records, in the order in which its batches take them."""
    found = parts.scan(work, f"{plan_folder(run, plan)}/references", REFERENCES)
    written = found.collect_schema()  # an earlier version has written fewer of them
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in REFERENCES.items() if name not in written]
    return found.with_columns(*missing).select(*REFERENCES)


def batch_rows(work: Place, batch: Batch | Job) -> pl.DataFrame:
    """The references of one batch, or of the one that a job is about."""
    return references(work, batch.run, batch.plan).slice(batch.first, batch.rows).collect()


def rows_of(work: Place, run: str, batches: Iterable[Batch]) -> pl.DataFrame:
    """The rows of some batches of a run: the references' columns, `batch`, and the row's `index` in it."""
    empty = {**REFERENCES, "batch": pl.String, "index": pl.Int64}
    frames = [pl.DataFrame(schema=empty)]
    for plan, group in groupby(sorted(batches, key=lambda b: (b.plan, b.first)), key=lambda b: b.plan):
        places = [(b.id, b.first, b.rows) for b in group]
        placed = (
            pl.DataFrame(places, schema={"batch": pl.String, "first": pl.Int64, "rows": pl.Int64}, orient="row")
            .with_columns(index=pl.int_ranges(0, "rows"))
            .explode("index")
        )
        found = references(work, run, plan).collect()
        frames.append(found[placed["first"] + placed["index"]].hstack(placed.select("batch", "index")))
    return pl.concat(frames)


def row_ends(ledger: Ledger, work: Place, run: str, batches: Sequence[Batch]) -> pl.DataFrame:
    """`rows_of` the batches that keep their rows, with `end` (a bucket, or UNIDENTIFIED) and `code` of a row refused."""
    kept = [batch for batch in batches if batch.state.keeps_its_rows]
    counts = counts_of(ledger, [batch.id for batch in kept if batch.state is BatchState.COMPLETE])
    refused = pl.DataFrame(
        [(batch, code.index, code.code) for batch, code in ledger.row_codes(run) if code.rejected],
        schema={"batch": pl.String, "index": pl.Int64, "code": pl.String},
        orient="row",
    ).unique(("batch", "index"), keep="last", maintain_order=True)
    named = dict(refused.group_by("batch").len().iter_rows())
    ends = {b.id: _end(b, counts.get(b.id), named.get(b.id, 0)) for b in kept}
    of_refused = pl.when(pl.col("end") == Bucket.CONFIRMED).then(pl.lit(Bucket.FAILED_AT_DESTINATION.value))
    return (
        rows_of(work, run, kept)
        .join(
            pl.DataFrame(list(ends.items()), schema={"batch": pl.String, "end": pl.String}, orient="row"),
            on="batch",
            how="left",
            maintain_order="left",
        )
        .join(refused, on=("batch", "index"), how="left", maintain_order="left")
        .with_columns(
            end=pl.when(pl.col("code").is_not_null())
            .then(of_refused.otherwise(pl.lit(Bucket.REJECTED.value)))
            .otherwise("end")
        )
    )


def share(rows: int, counts: Counts) -> Counts:
    """How some of a complete batch's rows ended; where they are not all of them, the worst that can have been."""
    failed = min(rows, counts.failed)
    not_found = min(rows - failed, counts.not_found)
    unreported = min(rows - failed - not_found, counts.unreported)
    return Counts(
        failed=failed, not_found=not_found, unreported=unreported, confirmed=rows - failed - not_found - unreported
    )


def _end(batch: Batch, counts: Counts | None, named: int) -> str:
    """The end of a batch's rows, but for those that the vendor has named."""
    if counts is None:
        return _ENDS[batch.state].value
    by_bucket = {
        Bucket.CONFIRMED: counts.confirmed,
        Bucket.NOT_FOUND: counts.not_found,
        Bucket.FAILED_AT_DESTINATION: counts.failed - named,
        Bucket.UNREPORTED: counts.unreported,
    }
    there = [bucket for bucket, count in by_bucket.items() if count]
    if named:
        return Bucket.CONFIRMED.value
    return there[0].value if len(there) == 1 else UNIDENTIFIED
