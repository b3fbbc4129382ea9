"""Explain: what happened to one customer, run by run, from files and ledger; no value of the customer is ever shown."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl

from etl import parts, validate
from etl.ends import DISPOSITIONS, UNIDENTIFIED
from etl.ledger import Ledger, Run
from etl.model import Batch, BatchState, Bucket
from etl.settings import Settings
from etl.storage import Place
from etl.transform.folders import OPT_OUTS, QUARANTINES

_RUNS = 1_000


def explain(settings: Settings, customer_id: str) -> Iterator[str]:
    """A line for every record of the customer in every run that is still there, the newest run first."""
    ledger, work = Ledger(settings.ledger), Place(settings.work)
    for run in ledger.runs(limit=_RUNS):
        place = work / run.run
        found = _records(place, customer_id)
        if found.is_empty():
            continue
        batches = {batch.id: batch for batch in ledger.batches(run.run)}
        yield f"{run.day}  {run.sync} to {run.destination}, {datetime.fromtimestamp(run.started_at, UTC):%Y-%m-%d %H:%M}Z"
        for record in _ended(place, found).iter_rows(named=True):
            where = "opt-out without a record" if record["line"] is None else f"line {record['line']:,}"
            yield f"    {where}: {_end(run, record, batches)}"


def _records(place: Place, customer_id: str) -> pl.DataFrame:
    """`row` and `line` of the customer's records in the CRM export of a run, and of an opt-out that none of them says."""
    frames = [pl.DataFrame(schema={"row": pl.UInt64, "line": pl.UInt64})]
    for folder in ("valid", "quarantine"):
        frames += [
            frame.filter(pl.col("customer_id").str.strip_chars() == customer_id).select(
                "row", pl.col("line").cast(pl.UInt64)
            )
            for frame in parts.frames(place, f"{validate.FOLDER}/crm/{folder}", ["customer_id", "row", "line"])
        ]
    frames += [
        frame.filter(pl.col("customer_id") == customer_id).select("row", line=pl.lit(None, dtype=pl.UInt64))
        for frame in parts.frames(place, OPT_OUTS, ["customer_id", "row"])
    ]
    return pl.concat(frames).unique("row", keep="first", maintain_order=True).sort("row")


def _ended(place: Place, found: pl.DataFrame) -> pl.DataFrame:
    """The records with `bucket`, `code` and `batch`; nulls where the run was never accounted for."""
    if not place.exists(DISPOSITIONS):
        return found.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ("bucket", "code", "batch"))
    ends = pl.read_parquet(place.fetch(DISPOSITIONS))
    codes = [
        frame.filter(pl.col("row").is_in(found["row"].implode())).select("row", why=pl.col("codes").list.join(", "))
        for folder in QUARANTINES
        for frame in parts.frames(place, folder, ["row", "codes"])
    ]
    why = pl.concat([pl.DataFrame(schema={"row": pl.UInt64, "why": pl.String}), *codes])
    both = found.join(ends, on="row", how="left").join(why, on="row", how="left")
    return both.with_columns(code=pl.coalesce("code", "why")).sort("row")


def _end(run: Run, record: dict[str, str | None], batches: dict[str, Batch]) -> str:
    bucket, code, batch = record["bucket"], record["code"], record["batch"]
    if bucket is None:
        return "the run did not come to an account" if run.exit_code is None else "no account of it is left"
    if bucket == UNIDENTIFIED:
        bucket = "in a batch with losses that the vendor counts and does not name"
    said = bucket.replace("_", " ") + (f" ({code})" if code else "")
    if batch is None:
        return said
    known = batches.get(batch)
    if bucket == Bucket.QUARANTINED and known is not None:
        taken = known.state in {BatchState.ACCEPTED, BatchState.PROCESSING, BatchState.COMPLETE}
        said += "; its opt-out was sent" if taken else "; its opt-out is not through"
    return f"{said}; batch {batch}" + (f", {known.state}, attempts {known.attempts}" if known else "")
