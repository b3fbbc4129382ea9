"""Earlier: what the runs of earlier days leave to this one: opt-outs to say again, and customers who have disappeared since.

Of the runs to the account the newest earlier day counts, and of that the run that began last. It has taken over in its turn
what was left to it, and what it could not, as that day was run later, is taken over besides: so no opt-out is lost. What is
known to have been delivered, or to be older than what a later day said, is not left any more; a run that has not ended may
not have told so yet, and so each says as of which day it speaks. That is what the account then knows, however late it gets
through: a day between that is run later still is newer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import chain
from typing import Any

import polars as pl

from etl import parts, tombstones, validate
from etl.delta import places
from etl.ends import DISPOSITIONS
from etl.ledger import Run
from etl.model import DELIVERED, Bucket
from etl.run import RunContext
from etl.storage import Place
from etl.transform.absent import told_apart
from etl.transform.folders import DEDUPLICATED, HELD, OPT_OUTS

_CUSTOMERS = f"{validate.FOLDER}/crm/valid"
_SETTLED = (*DELIVERED, Bucket.UNCHANGED.value, Bucket.SUPERSEDED.value)
_PERSON = ["customer_id", "email", "phone", "updated_at"]
_OPT_OUTS: dict[str, Any] = {
    **dict.fromkeys(("customer_id", "email", "phone", "updated_at"), pl.String),
    **dict.fromkeys(("email_opt_in", "sms_opt_in", "_absent"), pl.Boolean),
    "_said_on": pl.Date,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Opt-outs, and how many customers have disappeared since; None where nobody can tell.

    `_absent`: only the customer's disappearance says so; `_said_on`: the day whose export said it, null for the run's own.
    `held` are customers who are there, but only in rows that do not go out: customer_id, email, phone, updated_at.
    """

    opt_outs: pl.DataFrame
    held: pl.DataFrame
    absent: int | None = None


def left_to(ctx: RunContext, present: pl.LazyFrame | None, out: pl.Series, *, unsubscribe: bool) -> Left:
    """What is left to a run whose export names those who are `present`, None if it does not name everybody.

    `out` are the customers who go out. To `unsubscribe` those who have disappeared is an opt-out, too. Whoever was erased
    since leaves nothing.
    """
    runs = ctx.ledger.runs_of_days(ctx.sync.name, account=ctx.connection.account, before=str(ctx.day))
    is_there = partial(_is_there, ctx.work)
    newest = next(filter(is_there, runs), None)
    late = [run for run in runs if newest and run.started_at > newest.started_at and is_there(run)]
    left = pl.DataFrame(schema=_OPT_OUTS)
    for run in {run.day: run for run in [*reversed(late), *([newest] if newest else [])]}.values():
        place = ctx.work / run.run
        open_ = [_undelivered(place, part) for part in parts.frames(place, OPT_OUTS)]
        theirs = pl.concat([left.clear(), *open_], how="diagonal")
        said_on = pl.coalesce("_said_on", pl.lit(date.fromisoformat(run.day)))
        left = pl.concat([left, _not_erased(ctx, theirs, run.day).with_columns(said_on).select(*_OPT_OUTS)])
    left = left.with_columns(pl.col("_absent").fill_null(value=False))  # an earlier version has not written it
    before = next((run for run in runs if is_there(run) and (ctx.work / run.run).names(_CUSTOMERS)), None)
    nobody = pl.DataFrame(schema=dict.fromkeys(_PERSON, pl.String))
    if present is None or before is None:
        return Left(opt_outs=left, held=nobody)
    here = present.collect().to_series()
    is_back = places(here.sort(), left["customer_id"].hash()).is_not_null()
    left = left.filter(~(is_back & pl.col("_absent")))
    known = (parts.frames(ctx.work / before.run, folder, _PERSON) for folder in (_CUSTOMERS, HELD))
    gone, held = told_apart(chain([nobody], *known), here, out.hash())
    if unsubscribe:
        opted_out = gone.with_columns(email_opt_in=False, sms_opt_in=False, _absent=True)
        opted_out = _not_erased(ctx, opted_out, before.day).with_columns(_said_on=pl.lit(None, dtype=pl.Date))
        left = pl.concat([left, opted_out.select(*_OPT_OUTS)])
    return Left(opt_outs=left, held=_not_erased(ctx, held, before.day).select(_PERSON), absent=gone.height)


def _is_there(work: Place, run: Run) -> bool:
    return (work / run.run).exists("transform.json") and (work / run.run).exists(DEDUPLICATED)


def _undelivered(run: Place, opt_outs: pl.DataFrame) -> pl.DataFrame:
    if not run.exists(DISPOSITIONS):
        return opt_outs
    ends = pl.scan_parquet(run.fetch(DISPOSITIONS))
    if "opt_out" not in ends.collect_schema():  # an earlier version has written it
        return opt_outs
    delivered = ends.filter(pl.col("opt_out").is_in(_SETTLED)).select("row").collect().to_series()
    return opt_outs.filter(~pl.col("row").is_in(delivered.implode()))


def _not_erased(ctx: RunContext, customers: pl.DataFrame, day: str) -> pl.DataFrame:
    numbered = customers.with_columns(row=pl.int_range(pl.len(), dtype=pl.UInt64))
    gone = tombstones.erased_rows(ctx.work, [numbered], [(0, day)])
    return numbered.filter(~pl.col("row").is_in(gone.implode()))
