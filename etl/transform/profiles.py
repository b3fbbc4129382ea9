"""Valid CRM rows and purchases become profiles: typed, in UTC, one a customer."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from contracts.values import entries, utc_text

_PURCHASES: dict[str, type[pl.DataType]] = {
    "orders_30d": pl.Int64,
    "spend_30d": pl.Float64,
    "last_purchase_at": pl.String,
    "last_store": pl.String,
    "favourite_category": pl.String,
}
_TEXTS = ("email", "phone", "first_name", "last_name", "birthday", "language", "country")


def build_profiles(rows: pl.DataFrame, purchases: pl.DataFrame | None, own: Sequence[str] = ()) -> pl.DataFrame:
    """Profiles as `contracts.profiles` describes them, in the order of the rows.

    `purchases` is what `Purchases.of` says of the same customers, in the same order; None when the day's POS export has
    not landed: then no purchase attribute has a value. `own` columns go on as they are.
    """
    if purchases is None:
        joined = rows.with_columns(pl.lit(None, dtype=dtype).alias(name) for name, dtype in _PURCHASES.items())
    else:
        joined = rows.hstack(purchases)
    return joined.select(
        "row",
        "customer_id",
        *_TEXTS,
        registered_at=utc_text("registered_at"),
        subscribed_at=utc_text("subscribed_at"),
        email_opt_in=pl.col("email_opt_in") == "true",
        sms_opt_in=pl.col("sms_opt_in") == "true",
        consent="consent",
        tags=entries("tags"),
        subscriptions=entries("subscriptions"),
        loyalty_tier="loyalty_tier",
        city="city",
        latitude=pl.col("latitude").cast(pl.Float64),
        longitude=pl.col("longitude").cast(pl.Float64),
        avatar_url="avatar_url",
        updated_at=utc_text("updated_at"),
        **{name: pl.col(name) for name in (*_PURCHASES, *own)},
    )
