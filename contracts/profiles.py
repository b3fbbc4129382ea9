"""What transform promises to load: one typed row a profile, before any vendor's form of it."""

from typing import Annotated

import pandera.polars as pa
import polars as pl

from contracts.declare import matches, optional, required, rule

_FILLED = matches("a text that is not empty, with no control character", r"^\P{Cc}+$")
_FINITE = rule("a finite number", lambda number: number.is_finite())
_SOME = rule("a list that is not empty", lambda entries: entries.list.len() > 0)

Texts = Annotated[pl.List, pl.String()]


class Profiles(pa.DataFrameModel):
    """Profiles. Dates and times are ISO texts, times in UTC with `Z`; an absent value is null, never empty."""

    row: pl.UInt64 = required()
    customer_id: str = required(_FILLED)
    email: str = optional(_FILLED)
    phone: str = optional(_FILLED)
    first_name: str = optional(_FILLED)
    last_name: str = optional(_FILLED)
    birthday: str = optional(_FILLED)
    language: str = optional(_FILLED)
    country: str = optional(_FILLED)
    registered_at: str = optional(_FILLED)
    subscribed_at: str = optional(_FILLED)
    email_opt_in: pl.Boolean = optional()
    sms_opt_in: pl.Boolean = optional()
    consent: str = optional(_FILLED)
    tags: Texts = optional(_SOME)
    subscriptions: Texts = optional(_SOME)
    loyalty_tier: str = optional(_FILLED)
    city: str = optional(_FILLED)
    latitude: float = optional(_FINITE)
    longitude: float = optional(_FINITE)
    avatar_url: str = optional(_FILLED)
    updated_at: str = optional(_FILLED)
    orders_30d: int = optional()
    spend_30d: float = optional(_FINITE)
    last_purchase_at: str = optional(_FILLED)
    last_store: str = optional(_FILLED)
    favourite_category: str = optional(_FILLED)

    class Config:
        """Exactly these columns, in this order."""

        strict = True
        ordered = True


COLUMNS = tuple(Profiles.to_schema().columns)
