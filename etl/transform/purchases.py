"""What customers bought in the window: each receipt judged once, then one row of attributes a customer."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from contracts.values import cents, instant, utc_text

_RECEIPT = ("store_id", "transaction_id", "moment")


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchases:
    """`by_customer`: customer_id, orders_30d, spend_30d, last_purchase_at, last_store, favourite_category; and the
    number of receipts in each bucket of the report."""

    by_customer: pl.DataFrame
    deduplicated: int
    anonymous: int
    orphaned: int
    used: int


def summarise_purchases(receipts: pl.DataFrame, customers: pl.Series) -> Purchases:
    """Judges valid receipts (`row` and the contract's columns, as text) and sums up those of the given customers.

    The same receipt (store, transaction and moment) counts once, the first; then a receipt without a customer is
    anonymous, and one of a customer who does not go out is orphaned.
    """
    read = receipts.select(
        "row", "customer_id", "store_id", "transaction_id", "occurred_at", "category",
        moment=instant("occurred_at"), cents=cents("total"),
    )  # fmt: skip
    distinct = read.filter(~_repeats(read))
    named = distinct.filter(pl.col("customer_id").is_not_null())
    used = named.join(customers.to_frame("customer_id"), on="customer_id", how="semi")
    return Purchases(
        by_customer=_attributes(used),
        deduplicated=read.height - distinct.height,
        anonymous=distinct.height - named.height,
        orphaned=named.height - used.height,
        used=used.height,
    )


def _repeats(read: pl.DataFrame) -> pl.Series:
    """True for each receipt that stands in an earlier row too; looked for among equal hashes only."""
    hashes = read.select(_RECEIPT).hash_rows()
    maybe = hashes.is_duplicated()
    again = read.filter(maybe).sort("row").with_columns(again=~pl.struct(_RECEIPT).is_first_distinct())
    return read["row"].is_in(again.filter("again")["row"].implode())


def _attributes(used: pl.DataFrame) -> pl.DataFrame:
    bought = pl.col("cents") > 0
    totals = used.group_by("customer_id").agg(
        orders_30d=bought.sum().cast(pl.Int64), spend_30d=pl.col("cents").sum() / 100
    )
    purchases = used.filter(bought).with_columns(at=pl.struct("moment", "row"))
    latest = (
        purchases.join(purchases.group_by("customer_id").agg(pl.col("at").max()), on=("customer_id", "at"), how="semi")
        .select("customer_id", last_purchase_at=utc_text("occurred_at"), last_store="store_id")
    )  # fmt: skip
    return (
        totals.join(latest, on="customer_id", how="left")
        .join(_favourites(purchases), on="customer_id", how="left")
    )  # fmt: skip


def _favourites(purchases: pl.DataFrame) -> pl.DataFrame:
    """Each customer's most frequent category; at a tie the most recent one, then the first of the alphabet."""
    counts = (
        purchases.filter(pl.col("category").is_not_null())
        .group_by("customer_id", "category").agg(receipts=pl.len(), latest=pl.col("moment").max())
    )  # fmt: skip
    return (
        counts.sort("receipts", "latest", "category", descending=[True, True, False])
        .group_by("customer_id", maintain_order=True).agg(favourite_category=pl.col("category").first())
    )  # fmt: skip
