"""Profiles: typed, in UTC, and never a false zero."""

import polars as pl

import contracts
from etl.transform.profiles import build_profiles


def _row(number: int, **overrides: str | None) -> dict[str, object]:
    blank = dict.fromkeys(contracts.crm.COLUMNS)
    required = {"customer_id": f"C{number}", "email": f"c{number}@example.org", "updated_at": "2026-11-20T01:00:00Z"}
    return {**blank, **required, "row": number, **overrides}


def _rows(*rows: dict[str, object]) -> pl.DataFrame:
    schema = {**dict.fromkeys(contracts.crm.COLUMNS, pl.String), "row": pl.UInt64}
    return pl.DataFrame(list(rows), schema=schema)


def _purchases(**values: object) -> pl.DataFrame:
    row = {
        "customer_id": "C1", "orders_30d": 2, "spend_30d": 9.5, "last_purchase_at": "2026-11-19T10:00:00Z",
        "last_store": "S1", "favourite_category": "books",
    }  # fmt: skip
    schema = dict.fromkeys(row, pl.String) | {"orders_30d": pl.Int64, "spend_30d": pl.Float64}
    return pl.DataFrame([row | values], schema=schema)


def test_types_and_utc():
    """Texts become what they mean; moments are the same ones in UTC."""
    row = _row(
        1, registered_at="2026-01-01T00:30:00.25+01:00", email_opt_in="false", sms_opt_in="true", tags=" a ;b;;a",
        latitude="45.50", longitude="4",
    )  # fmt: skip
    profile = build_profiles(_rows(row), None).to_dicts()[0]
    assert profile["registered_at"] == "2025-12-31T23:30:00.25Z"
    assert (profile["email_opt_in"], profile["sms_opt_in"]) == (False, True)
    assert profile["tags"] == ["a", "b"]
    assert (profile["latitude"], profile["longitude"]) == (45.5, 4.0)
    assert profile["subscriptions"] is None


def test_a_customer_without_receipts_has_bought_nothing():
    """Zero orders and nothing spent are facts; a last purchase there is none."""
    first, second = build_profiles(_rows(_row(1), _row(2)), _purchases()).to_dicts()
    assert (first["orders_30d"], first["spend_30d"], first["last_store"]) == (2, 9.5, "S1")
    assert (second["orders_30d"], second["spend_30d"], second["last_store"]) == (0, 0.0, None)


def test_without_a_pos_export_there_is_no_purchase_attribute():
    """What has not landed is not a zero."""
    profile = build_profiles(_rows(_row(1)), None).to_dicts()[0]
    names = ("orders_30d", "spend_30d", "last_purchase_at", "last_store", "favourite_category")
    assert [profile[name] for name in names] == [None] * 5


def test_the_order_of_the_rows_is_kept():
    """Profiles stand in the order of the export, whatever the purchases' order."""
    rows = _rows(*(_row(n) for n in (5, 3, 9, 1)))
    purchases = pl.concat([_purchases(customer_id=f"C{n}") for n in (1, 9, 3)])
    assert build_profiles(rows, purchases)["row"].to_list() == [5, 3, 9, 1]


def test_profiles_keep_their_contract():
    """What transform promises to load is what it gives."""
    contracts.require(contracts.Profiles, build_profiles(_rows(_row(1), _row(2, tags=";")), _purchases()))
