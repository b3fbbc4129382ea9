"""The point-of-sale export: one row a receipt."""

import pandera.polars as pa

from contracts import rules
from contracts.declare import one_of, optional, required

CURRENCIES = ("EUR",)
"""The ISO 4217 currencies to accept. `spend_30d` adds up totals as they stand: keep to one, or convert before."""


class Pos(pa.DataFrameModel):
    """A receipt as the till wrote it; every value is text, blanks are null. No customer_id: an anonymous receipt."""

    transaction_id: str = required(rules.TEXT)
    customer_id: str = optional(rules.CUSTOMER_ID)
    store_id: str = optional(rules.TEXT)
    occurred_at: str = required(rules.INSTANT)
    total: str = required(rules.MONEY)
    currency: str = required(one_of(f"an accepted currency: {' or '.join(CURRENCIES)}", CURRENCIES))
    items: str = optional(rules.COUNT)
    category: str = optional(rules.TEXT)


COLUMNS = tuple(Pos.to_schema().columns)
