"""Absent: customers who have disappeared from a full CRM export since the last day that was run."""

from __future__ import annotations

import re
from collections.abc import Iterable

import polars as pl

from contracts.values import instant
from etl.delta import places
from etl.validate import UNPARSABLE

_KEY = pl.col("customer_id").hash()
_PUNCTUATION = " :,{}"


def present_in(valid: pl.LazyFrame, quarantined: pl.LazyFrame, delimiter: str) -> pl.LazyFrame:
    """Everybody whom an export names, by the hash of the `customer_id`, each once.

    In a record that cannot be parsed each word may be one: whoever is named there has not disappeared; nor has somebody whose
    id has a blank too many.
    """
    texts = quarantined.filter(pl.col("codes").list.contains(UNPARSABLE)).select(customer_id="record")
    words = pl.col("customer_id").str.replace_all(rf'["{re.escape(delimiter)}]', "\n").str.split("\n")
    named = texts.select(words).explode("customer_id").select(pl.col("customer_id").str.strip_chars(_PUNCTUATION))
    trimmed = quarantined.select(pl.col("customer_id").str.strip_chars())
    return pl.concat([valid.select("customer_id"), trimmed, named]).select(_KEY.unique())


def told_apart(
    customers: Iterable[pl.DataFrame], present: pl.Series, out: pl.Series
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Those of the customers who are not `present`, and those who are, but of whom no row goes `out` (hashes both).

    Each once, as their newest row (`updated_at`) has them.
    """
    here, going = present.sort(), out.sort()
    gone, held = [], []
    for part in customers:
        keys = part.select(_KEY).to_series()
        is_here = places(here, keys).is_not_null()
        gone.append(part.filter(~is_here))
        held.append(part.filter(is_here & places(going, keys).is_null()))
    return _newest(gone), _newest(held)


def _newest(rows: list[pl.DataFrame]) -> pl.DataFrame:
    in_order = pl.concat(rows).sort(instant("updated_at"), maintain_order=True)
    return in_order.unique("customer_id", keep="last", maintain_order=True)
