"""What customers bought in the window: each receipt judged once, then one row of attributes a customer."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from contracts.values import cents, instant, utc_text

RECEIPT = ("row", "customer_id", "store_id", "transaction_id", "occurred_at", "total", "category")
# More than there can be: of rows, of nanoseconds in the years 1900-2999, of categories.
_ROWS, _MOMENTS, _CATEGORIES = 2**40, 2**66, 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchases:
    """The number of receipts in each bucket of the report, and what customers bought.

    `by_customer`: `customer` (a place in the customers that were given, sorted; only of those with receipts),
    orders_30d, spend_30d, last_purchase_at, last_store, favourite_category.
    """

    by_customer: pl.DataFrame
    deduplicated: int
    anonymous: int
    orphaned: int
    used: int

    def of(self, first: int, count: int) -> pl.DataFrame:
        """The attributes of neighbouring customers, a row for each: who has no receipts has bought nothing."""
        start, stop = (self.by_customer["customer"].search_sorted(place) for place in (first, first + count))
        every = pl.int_range(first, first + count, dtype=pl.UInt32, eager=True).to_frame("customer")
        theirs = every.join(
            self.by_customer.slice(start, stop - start), on="customer", how="left", maintain_order="left"
        )
        return theirs.drop("customer").with_columns(pl.col("orders_30d", "spend_30d").fill_null(0))


def summarise_purchases(receipts: pl.DataFrame, customers: pl.Series) -> Purchases:
    """Judges valid receipts (the columns of `RECEIPT`) and sums up those of the given customers.

    The same receipt (store, transaction and moment) counts once, the first; then a receipt without a customer is
    anonymous, and one of a customer who does not go out is orphaned.
    """
    moment = receipts.select(moment=instant("occurred_at")).to_series()
    repeats = _repeats(receipts, moment)
    categories = pl.Enum(receipts["category"].drop_nulls().unique().sort())
    distinct = receipts.select(
        "row", "customer_id", pl.col("category").cast(categories), moment, cents=cents("total")
    ).filter(~repeats)  # fmt: skip
    named = distinct.filter(pl.col("customer_id").is_not_null())
    # Numbers in place of ids make the grouping below several times cheaper.
    numbered = customers.to_frame("customer_id").with_row_index("customer")
    used = named.join(numbered, on="customer_id").drop("customer_id")
    return Purchases(
        by_customer=_attributes(used, receipts).sort("customer"),
        deduplicated=int(repeats.sum()),
        anonymous=distinct.height - named.height,
        orphaned=named.height - used.height,
        used=used.height,
    )


def _repeats(receipts: pl.DataFrame, moment: pl.Series) -> pl.Series:
    """True for each receipt that stands in an earlier row too; looked for among equal hashes only."""
    identity = receipts.select("store_id", "transaction_id", moment)
    maybe = identity.hash_rows().is_duplicated()
    again = identity.with_columns(receipts["row"]).filter(maybe).sort("row")
    again = again.filter(~pl.struct(identity.columns).is_first_distinct())
    return receipts["row"].is_in(again["row"].implode())


def _attributes(used: pl.DataFrame, receipts: pl.DataFrame) -> pl.DataFrame:
    """One row a `customer`; returns add to what was spent, but are no purchases."""
    purchases = used.lazy().filter(pl.col("cents") > 0)
    totals = (
        used.lazy()
        .group_by("customer")
        .agg(orders_30d=(pl.col("cents") > 0).sum().cast(pl.Int64), spend_30d=_money(pl.col("cents").sum()))
    )
    # The last purchase is found by number, and its texts are fetched afterwards.
    in_order = pl.col("moment") * _ROWS + pl.col("row").cast(pl.Int128)
    latest = purchases.group_by("customer").agg(row=(in_order.max() % _ROWS).cast(pl.UInt64))
    texts = latest.join(receipts.lazy().select("row", "occurred_at", last_store="store_id"), on="row").select(
        "customer", "last_store", last_purchase_at=utc_text("occurred_at")
    )
    joined = totals.join(texts, on="customer", how="left").join(_favourites(purchases), on="customer", how="left")
    columns = ("customer", "orders_30d", "spend_30d", "last_purchase_at", "last_store", "favourite_category")
    return joined.select(columns).collect(engine="streaming")


def _money(cents: pl.Expr) -> pl.Expr:
    """The float that is nearest to an amount; polars would divide a number by multiplying with 0.01, which is not."""
    return (cents.cast(pl.Decimal(38, 2)) / 100).cast(pl.Float64)


def _favourites(purchases: pl.LazyFrame) -> pl.LazyFrame:
    """Each customer's most frequent category; at a tie the most recent one, then the first of the alphabet."""
    counts = (
        purchases.filter(pl.col("category").is_not_null())
        .group_by("customer", "category")
        .agg(receipts=pl.len().cast(pl.Int128), latest=pl.col("moment").max())
    )
    # One number to compare by; the categories are an Enum in the order of the alphabet.
    rank = (pl.col("receipts") * _MOMENTS + pl.col("latest")) * _CATEGORIES - pl.col("category").to_physical()
    favourite = counts.with_columns(rank=rank).group_by("customer").agg(pl.col("category").max_by("rank"))
    return favourite.select("customer", favourite_category=pl.col("category").cast(pl.String))
