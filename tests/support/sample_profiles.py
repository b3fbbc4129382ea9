"""A profile in which every field has a value, and profiles as the frame that a destination renders."""

from __future__ import annotations

import polars as pl

import contracts

FULL: dict[str, object] = {
    "customer_id": "C-1001",
    "email": "ana@example.org",
    "phone": "+33639980001",
    "first_name": 'Ána "Q" \\ O\'Neil',
    "last_name": "李\u200d🙂",
    "birthday": "1986-01-17",
    "language": "fr",
    "country": "FR",
    "registered_at": "2024-02-03T10:00:00Z",
    "subscribed_at": "2026-11-20T09:30:00.120Z",
    "email_opt_in": True,
    "sms_opt_in": False,
    "consent": "privacyPolicy",
    "tags": ["vip", "a,b", 'c"d'],
    "subscriptions": ["weekly"],
    "loyalty_tier": "gold",
    "city": "Saint-Étienne",
    "latitude": 45.0,
    "longitude": -4.83,
    "avatar_url": "https://img.example.org/a.png?x=1&y=é",
    "updated_at": "2026-11-20T10:00:00Z",
    "orders_30d": 3,
    "spend_30d": 120.5,
    "last_purchase_at": "2026-11-19T10:00:00Z",
    "last_store": "S01",
    "favourite_category": "books & more",
}

# What an account knows of the earlier records of a profile that it never sent.
STRANGER = {"known": pl.lit(None, dtype=pl.UInt64), "gone": pl.lit(None, dtype=pl.List(pl.String))}


def profiles_of(*profiles: dict[str, object]) -> pl.DataFrame:
    """A frame of profiles that differ in what a test says of them."""
    types = {name: column.dtype.type for name, column in contracts.Profiles.to_schema().columns.items()}
    rows = [{"row": n, "customer_id": f"C{n}", "email": f"c{n}@example.org", **p} for n, p in enumerate(profiles)]
    return pl.DataFrame([dict.fromkeys(types) | row for row in rows], schema=types)
