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


def _purchases(*orders: int) -> pl.DataFrame:
    rows = [
        {
            "orders_30d": n, "spend_30d": 9.5 * n, "last_purchase_at": "2026-11-19T10:00:00Z" if n else None,
            "last_store": "S1" if n else None, "favourite_category": "books" if n else None,
        }
        for n in orders
    ]  # fmt: skip
    texts = ("last_purchase_at", "last_store", "favourite_category")
    return pl.DataFrame(
        rows, schema={"orders_30d": pl.Int64, "spend_30d": pl.Float64} | dict.fromkeys(texts, pl.String)
    )


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


def test_purchases_are_those_of_the_same_row():
    """Zero orders and nothing spent are facts; a last purchase there is none."""
    first, second = build_profiles(_rows(_row(1), _row(2)), _purchases(2, 0)).to_dicts()
    assert (first["customer_id"], first["orders_30d"], first["spend_30d"], first["last_store"]) == ("C1", 2, 19.0, "S1")
    assert (second["orders_30d"], second["spend_30d"], second["last_store"]) == (0, 0.0, None)


def test_without_a_pos_export_there_is_no_purchase_attribute():
    """What has not landed is not a zero."""
    profile = build_profiles(_rows(_row(1)), None).to_dicts()[0]
    names = ("orders_30d", "spend_30d", "last_purchase_at", "last_store", "favourite_category")
    assert [profile[name] for name in names] == [None] * 5


def test_profiles_keep_their_contract():
    """What transform promises to load is what it gives."""
    contracts.require(contracts.Profiles, build_profiles(_rows(_row(1), _row(2, tags=";")), _purchases(1, 0)))
