"""The CRM export: one row a customer. A column of your own is one more line here."""

import pandera.polars as pa
import polars as pl

from contracts import rules
from contracts.declare import optional, required, row_rule

CONTACT = row_rule(
    "contact_missing",
    "A customer must have an e-mail or a phone; both are blank",
    pl.any_horizontal(pl.col("email", "phone").is_not_null()),
)
LOCATION = row_rule(
    "location_incomplete",
    "latitude and longitude go together; only one of them is there",
    pl.col("latitude").is_null() == pl.col("longitude").is_null(),
)


class Crm(pa.DataFrameModel):
    """A customer as the CRM knows them; every value is text, blanks are null."""

    customer_id: str = required(rules.CUSTOMER_ID)
    email: str = optional(rules.EMAIL, CONTACT)
    phone: str = optional(rules.PHONE)
    first_name: str = optional(rules.TEXT)
    last_name: str = optional(rules.TEXT)
    birthday: str = optional(rules.BIRTHDAY)
    language: str = optional(rules.LANGUAGE)
    country: str = optional(rules.COUNTRY)
    registered_at: str = optional(rules.INSTANT)
    subscribed_at: str = optional(rules.INSTANT)
    email_opt_in: str = optional(rules.OPT_IN)
    sms_opt_in: str = optional(rules.OPT_IN)
    consent: str = optional(rules.CONSENT)
    tags: str = optional(rules.ENTRIES)
    subscriptions: str = optional(rules.ENTRIES)
    loyalty_tier: str = optional(rules.TEXT)
    city: str = optional(rules.TEXT)
    latitude: str = optional(rules.LATITUDE, LOCATION)
    longitude: str = optional(rules.LONGITUDE)
    avatar_url: str = optional(rules.URL)
    updated_at: str = required(rules.INSTANT)


COLUMNS = tuple(Crm.to_schema().columns)
