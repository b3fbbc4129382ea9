"""Earlier: what the runs of earlier days leave to this one: opt-outs to say again, and customers who have disappeared since.

Of the runs to the account the newest earlier day counts, and of that the run that began last. It has taken over in its turn
what was left to it, so that no opt-out is lost; what is known to have been delivered is not left any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import polars as pl

from etl import parts, tombstones, validate
from etl.ends import DISPOSITIONS
from etl.model import DELIVERED, Bucket
from etl.run import RunContext
from etl.storage import Place
from etl.transform.absent import absent, among

_CUSTOMERS = f"{validate.FOLDER}/crm/valid"
_HAS_IT = (*DELIVERED, Bucket.UNCHANGED.value)
_OPT_OUTS: dict[str, Any] = {
    **dict.fromkeys(("customer_id", "email", "phone", "updated_at"), pl.String),
    **dict.fromkeys(("email_opt_in", "sms_opt_in", "_absent"), pl.Boolean),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Opt-outs (`_absent`: only the customer's disappearance says so), and how many have since; None where nobody can tell."""

    opt_outs: pl.DataFrame
    absent: int | None


def left_to(ctx: RunContext, present: pl.LazyFrame | None, *, made: str, opt_outs: str, unsubscribe: bool) -> Left:
    """What is left to a run whose export names those who are `present`, None if it does not name everybody.

    The files of a run that tell that it was transformed, and of whom opt-outs go out, are `made` and `opt_outs`. To
    `unsubscribe` those who have disappeared is an opt-out, too. Whoever was erased since leaves nothing.
    """
    earlier = _runs_before(ctx, made)
    newest = list(islice(earlier, 1))
    left, count = pl.DataFrame(schema=_OPT_OUTS), None
    for day, run in newest:
        open_ = [_undelivered(run, part) for part in parts.frames(run, opt_outs)]
        left = _not_erased(ctx, pl.concat([left, *open_], how="diagonal"), day)
    left = left.with_columns(pl.col("_absent").fill_null(value=False))  # an earlier version has not written it
    if present is None or not newest:
        return Left(opt_outs=left, absent=None)
    here = present.collect().to_series()
    is_back = among(here.sort(), left["customer_id"].hash())
    left = left.filter(~(is_back & pl.col("_absent")))
    had_customers = ((day, run) for day, run in chain(newest, earlier) if run.names(_CUSTOMERS))
    for day, run in islice(had_customers, 1):
        customers = parts.frames(run, _CUSTOMERS, ["customer_id", "email", "phone", "updated_at"])
        gone = absent(customers, here)
        count = gone.height
        if unsubscribe:
            out = gone.with_columns(email_opt_in=False, sms_opt_in=False, _absent=True)
            left = pl.concat([left, _not_erased(ctx, out, day)])
    return Left(opt_outs=left, absent=count)


def _runs_before(ctx: RunContext, made: str) -> Iterator[tuple[str, Place]]:
    """The runs of the sync to the account for earlier days whose files are there still, each with its day."""
    for run in ctx.ledger.runs_of_days(ctx.sync.name, before=str(ctx.day)):
        place = ctx.work / run.run
        if run.account == ctx.connection.account and place.exists("transform.json") and place.exists(made):
            yield run.day, place


def _undelivered(run: Place, opt_outs: pl.DataFrame) -> pl.DataFrame:
    if not run.exists(DISPOSITIONS):
        return opt_outs
    ends = pl.scan_parquet(run.fetch(DISPOSITIONS))
    if "opt_out" not in ends.collect_schema():  # an earlier version has written it
        return opt_outs
    delivered = ends.filter(pl.col("opt_out").is_in(_HAS_IT)).select("row").collect().to_series()
    return opt_outs.filter(~pl.col("row").is_in(delivered.implode()))


def _not_erased(ctx: RunContext, opt_outs: pl.DataFrame, day: str) -> pl.DataFrame:
    numbered = opt_outs.with_columns(row=pl.int_range(pl.len(), dtype=pl.UInt64))
    gone = tombstones.erased_rows(ctx.work, [numbered], [(0, day)])
    return numbered.filter(~pl.col("row").is_in(gone.implode())).select(*_OPT_OUTS)
