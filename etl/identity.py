"""Identity: where a vendor knows people by their address, several customers can be one person, and one of them is sent.

The latest `updated_at` speaks for the person, at a tie the later row; the others are `identity_shared`. An opt-out of
any of them is an opt-out of the person, whoever speaks.
"""

from __future__ import annotations

import polars as pl

from contracts.values import instant

_HASH = pl.col("identity").hash()


def shared_identities(profiles: pl.LazyFrame, identity: tuple[str, ...]) -> pl.DataFrame:
    """The profiles that have their identity in common: `row`, `loses`, and `opted_out` (of any of them), by `row`.

    A profile's identity is the first of the columns that has a value, exactly as it stands. E-mail addresses and phone
    numbers share one space without meeting: the contract has an `@` in every address, and none in a phone number.
    """
    rows = profiles.select("row", "updated_at", "email_opt_in", identity=pl.coalesce(identity))
    rows = rows.filter(pl.col("identity").is_not_null())
    # Nearly all identities stand alone: the first look is at hashes only, the second at texts, so that false friends go.
    hashes = rows.select(_HASH).collect(engine="streaming").to_series().sort()
    repeated = hashes.filter(hashes == hashes.shift(1)).unique()
    rivals = rows.filter(_HASH.is_in(repeated.implode())).with_columns(updated=instant("updated_at")).collect()
    return (
        rivals.filter(pl.len().over("identity") > 1)
        .sort("updated", "row")
        .select(
            "row",
            loses=pl.col("row") != pl.col("row").last().over("identity"),
            opted_out=(~pl.col("email_opt_in")).any().over("identity"),
        )
        .sort("row")
    )


def resolved(profiles: pl.DataFrame, shared: pl.DataFrame) -> pl.DataFrame:
    """Some of the profiles, in their order, each speaking for its person; `identity_shared` is true for the others."""
    loses, opted_out = pl.col("loses").fill_null(value=False), pl.col("opted_out").fill_null(value=False)
    return (
        profiles.join(shared, on="row", how="left", maintain_order="left")
        .with_columns(
            email_opt_in=pl.when(opted_out & ~loses).then(pl.lit(value=False)).otherwise("email_opt_in"),
            identity_shared=loses,
        )
        .drop("loses", "opted_out")
    )
