"""One row a customer: the newest wins, and a newer version in quarantine takes the older one with it."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from contracts.values import instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Row numbers (UInt64) of the rows that do not go out, by reason."""

    deduplicated: pl.Series
    newer_quarantined: pl.Series


def resolve_duplicates(valid: pl.LazyFrame, quarantined: pl.LazyFrame) -> Resolved:
    """Says which valid rows give way.

    Both frames have `row`, `customer_id`, `updated_at` (text). Among valid rows of a customer the latest `updated_at`
    wins, at a tie the later row. The winner goes to quarantine too if a quarantined row of the customer is newer, or
    does not tell when it was updated: what it says about consent could not be read.
    """
    ids = _repeated_ids(valid, quarantined)
    theirs = _versions(valid, ids)
    order = ("updated", "row")
    winners = theirs.sort(order).group_by("customer_id", maintain_order=True).last()
    bad = _versions(quarantined, ids).rename({"row": "bad_row", "updated": "bad_updated"})
    rivals = winners.join(bad, on="customer_id")
    is_newer = (
        pl.col("bad_updated").is_null()
        | (pl.col("bad_updated") > pl.col("updated"))
        | ((pl.col("bad_updated") == pl.col("updated")) & (pl.col("bad_row") > pl.col("row")))
    )
    return Resolved(
        deduplicated=theirs.join(winners, on="row", how="anti")["row"].sort(),
        newer_quarantined=rivals.filter(is_newer)["row"].unique().sort(),
    )


def _repeated_ids(valid: pl.LazyFrame, quarantined: pl.LazyFrame) -> pl.Series:
    """Ids of valid rows that may have another version. Found by hash, as nearly all are alone; a false friend is harmless."""
    ids = valid.select("customer_id").collect().to_series()
    others = quarantined.select(pl.col("customer_id").hash().unique()).collect().to_series()
    hashes = pl.concat([ids.hash(), others]).sort()
    repeated = hashes.filter(hashes == hashes.shift(1)).unique()
    return ids.filter(ids.hash().is_in(repeated.implode())).unique()


def _versions(frame: pl.LazyFrame, ids: pl.Series) -> pl.DataFrame:
    known = frame.filter(pl.col("customer_id").is_in(ids.implode()))
    return known.select("row", "customer_id", updated=instant("updated_at")).collect()
