"""Opt-outs that go alone: of a row in quarantine the one thing that must be sent, and what earlier days have left."""

from __future__ import annotations

import polars as pl

import contracts
from contracts.profiles import Profiles
from contracts.values import instant

_OPT_INS = ("email_opt_in", "sms_opt_in")
_WORDS = ["true", "false"]
_NOT_THEIRS = ("customer_id_missing", "customer_id_invalid")
# More rows than there can be; a moment after all and one before all, and one before today's only.
_ROWS, _AFTER, _BEFORE, _EARLIER = 2**40, 2**120, -(2**120), -(2**119)


def opt_outs(quarantined: pl.LazyFrame, customers: pl.Series, earlier: pl.DataFrame, first: int) -> pl.DataFrame:
    """Profiles that hold a customer_id, the addresses that are valid, and opt-ins that are false; nothing else.

    One for each customer of whom no row goes out (`customers` are the others) and the newest word on an opt-in is an exact
    `false`. A blank, and what is neither `true` nor `false`, is no word; one of an unknown moment is the newest if it is
    `false`, and the oldest if it is `true`. Older than all these are the words that `earlier` days have left, which have the
    rows from `first` on. `row` is the newest row that says so, `_absent` whether the customer has disappeared, `_said_on` the
    earlier day that said so last, if none of today's rows does; `updated_at` is left open.
    """
    broke = pl.col("codes").list.contains
    order = instant("updated_at") * _ROWS + pl.col("row").cast(pl.Int128)
    words = (
        quarantined.filter(pl.any_horizontal(pl.col(name).is_in(_WORDS) for name in _OPT_INS))
        .filter(~pl.any_horizontal(broke(code) for code in _NOT_THEIRS))
        .with_columns(pl.when(~broke(f"{name}_invalid")).then(name) for name in ("email", "phone"))
        .select("row", "customer_id", "email", "phone", *_OPT_INS, order=order)
        .collect()
    )
    left = earlier.select(
        *("customer_id", "email", "phone", "_absent", "_said_on"),
        *(pl.when(~pl.col(name)).then(pl.lit("false")).alias(name) for name in _OPT_INS),
        row=pl.int_range(first, first + pl.len(), dtype=pl.UInt64),
        order=pl.lit(_EARLIER, dtype=pl.Int128),
    )
    every = pl.concat([left, contracts.blank_to_null(words)], how="diagonal")
    theirs = every.sort(pl.col("order").fill_null(_AFTER), "row")
    theirs = theirs.join(_among(customers, theirs["customer_id"]), on="customer_id", how="anti")
    says_no = pl.any_horizontal(pl.col(name) == "false" for name in _OPT_INS)
    said_on = pl.col("_said_on").filter(says_no)
    by_customer = theirs.group_by("customer_id").agg(
        pl.col("row").filter(says_no).last(),
        pl.col("_absent").filter(says_no).last().fill_null(value=False),
        pl.when(~said_on.is_null().any()).then(said_on.max()),
        *(pl.col(name).drop_nulls().last() for name in ("email", "phone")),
        *(pl.when(_is_out(name)).then(pl.lit(value=False)).alias(name) for name in _OPT_INS),
    )
    types = {name: column.dtype.type for name, column in Profiles.to_schema().columns.items()}
    found = by_customer.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in _OPT_INS)).sort("row")
    return pl.concat([pl.DataFrame(schema=types), found], how="diagonal")


def _among(customers: pl.Series, ids: pl.Series) -> pl.DataFrame:
    """Those of the customers who are among some ids: the few are looked for, not the many."""
    return customers.filter(customers.is_in(ids.implode())).to_frame("customer_id")


def _is_out(name: str) -> pl.Expr:
    word, order = pl.col(name), pl.col("order")
    no = order.fill_null(_AFTER).filter(word == "false").max()
    yes = order.filter(word == "true").max()
    return no > yes.fill_null(_BEFORE)
