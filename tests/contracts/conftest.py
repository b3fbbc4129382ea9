"""What the tests of the contracts share: good rows to spoil, and one rule asked about many values."""

import functools
from collections.abc import Callable

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import settings

import contracts
from contracts.declare import optional

settings.register_profile("contracts", deadline=None)  # the first example pays for phone metadata and regexes
settings.load_profile("contracts")

CUSTOMER = {"customer_id": "C-1", "email": "ada@example.org", "updated_at": "2026-03-01T08:00:00Z"}
RECEIPT = {
    "transaction_id": "T-1",
    "customer_id": "C-1",
    "occurred_at": "2026-03-01T08:00:00Z",
    "total": "12.50",
    "currency": "EUR",
}


@pytest.fixture(scope="session")
def customers() -> Callable[..., pl.DataFrame]:
    """Build CRM rows: a good one for each mapping, changed by it."""
    schema = dict.fromkeys(contracts.crm.COLUMNS, pl.String)
    return lambda *changes: pl.DataFrame([CUSTOMER | change for change in changes], schema=schema)


@pytest.fixture(scope="session")
def receipts() -> Callable[..., pl.DataFrame]:
    """Build POS rows, in the same way."""
    schema = dict.fromkeys(contracts.pos.COLUMNS, pl.String)
    return lambda *changes: pl.DataFrame([RECEIPT | change for change in changes], schema=schema)


@pytest.fixture(scope="session")
def keeps() -> Callable[[pa.Check, list[str]], list[bool]]:
    """Ask one rule about texts: which of them keep it?"""

    @functools.cache
    def model(rule: pa.Check) -> type[pa.DataFrameModel]:
        return type("OneRule", (pa.DataFrameModel,), {"__annotations__": {"text": str}, "text": optional(rule)})

    def ask(rule: pa.Check, texts: list[str]) -> list[bool]:
        frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
        return contracts.check(model(rule), frame).codes.is_null().to_list()

    return ask
