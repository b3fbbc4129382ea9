"""Absent: customers who have disappeared from a full CRM export since the last day that was run."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from etl import parts
from etl.run import RunContext
from etl.storage import Place


def count_absent(ctx: RunContext, present: pl.LazyFrame, profiles: str) -> int | None:
    """How many customers of the newest earlier day's run are not `present` (`customer_id`); None if there is no such run.

    `profiles` is the folder in a run with the customers who went out.
    """
    before = next(_runs_before(ctx, profiles), None)
    if before is None:
        return None
    here = present.select(pl.col("customer_id").hash()).unique().collect().to_series()
    ids = (part["customer_id"].hash() for part in parts.frames(before, profiles, ["customer_id"]))
    return sum(int((~theirs.is_in(here.implode())).sum()) for theirs in ids)


def _runs_before(ctx: RunContext, profiles: str) -> Iterator[Place]:
    """The runs of the sync for earlier days whose customers are known still, the newest day first."""
    sync = ctx.work / ctx.sync.name
    for day in sorted((day for day in sync.names() if day < str(ctx.day)), reverse=True):
        runs = [sync / f"{day}/{to}/{run}" for to in sync.names(day) for run in sync.names(f"{day}/{to}")]
        yield from (run for run in runs if run.exists("transform.json") and run.exists(profiles))
