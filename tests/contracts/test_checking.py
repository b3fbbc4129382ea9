"""Checking: nothing switches it off, everything broken is reported, and no value gets out."""

import os
import subprocess
import sys
import traceback

import pandera.polars as pa
import polars as pl
import pytest

import contracts
from contracts import checking
from contracts.declare import required, rule

SECRET = "ada.lovelace(at)example.org"


def test_a_good_row_has_no_codes(customers, receipts):
    """A row that keeps every rule is valid, and its codes are null."""
    for model, frame in ((contracts.Crm, customers({})), (contracts.Pos, receipts({}))):
        checked = contracts.check(model, frame)
        assert checked.codes.to_list() == [None]
        assert checked.valid.equals(frame)


def test_all_broken_rules_are_reported_in_the_order_of_the_contract(customers):
    """A row is reported with every rule that it breaks, not with the first; the rows around it are not touched."""
    bad = {"customer_id": None, "email": None, "birthday": "1899-12-31", "latitude": "91", "updated_at": "yesterday"}
    checked = contracts.check(contracts.Crm, customers({}, bad, {}))
    assert checked.codes.to_list() == [
        None,
        [
            "customer_id_missing",
            "contact_missing",
            "birthday_invalid",
            "latitude_invalid",
            "location_incomplete",
            "updated_at_invalid",
        ],
        None,
    ]
    assert checked.valid.height == 2


def test_a_broken_contact_is_not_a_missing_one(customers):
    """`contact_missing` is for rows without e-mail and phone; an invalid one of them is invalid only."""
    codes = contracts.check(contracts.Crm, customers({"email": "ada"}, {"email": None, "phone": "+33639980001"})).codes
    assert codes.to_list() == [["email_invalid"], None]


def test_an_anonymous_receipt_is_good(receipts):
    """A receipt without customer_id keeps the contract; one with an impossible customer_id does not."""
    codes = contracts.check(contracts.Pos, receipts({"customer_id": None}, {"customer_id": "NULL"})).codes
    assert codes.to_list() == [None, ["customer_id_invalid"]]


def test_other_columns_are_kept_and_not_judged(customers):
    """Columns that the contract does not know pass through untouched."""
    frame = customers({}, {"updated_at": None}).with_columns(_line=pl.Series([2, 3]), note=pl.lit("\x00"))
    assert contracts.check(contracts.Crm, frame).valid.equals(frame.head(1))


def test_an_empty_export_is_good(customers):
    """A header without rows keeps the contract."""
    checked = contracts.check(contracts.Crm, customers({}).clear())
    assert checked.codes.to_list() == []
    assert checked.valid.is_empty()


def test_a_frame_of_bad_rows_only_is_reported_row_by_row(customers):
    """Codes stay with their rows however many rows break however many rules."""
    frame = pl.concat([customers({"city": "\x00" * (n % 2) or None, "updated_at": None}) for n in range(200)])
    expected = [["city_invalid", "updated_at_missing"] if n % 2 else ["updated_at_missing"] for n in range(200)]
    assert contracts.check(contracts.Crm, frame).codes.to_list() == expected


def test_a_lazy_frame_is_refused(customers):
    """pandera looks at no value of a lazy frame; it must not seem to have."""
    with pytest.raises(TypeError, match="LazyFrame"):
        contracts.check(contracts.Crm, customers({}).lazy())


@pytest.mark.parametrize("setting", ["PANDERA_VALIDATION_ENABLED=False", "PANDERA_VALIDATION_DEPTH=SCHEMA_ONLY"])
def test_no_environment_variable_switches_the_contract_off(setting):
    """pandera's switches change nothing about what is found."""
    name, value = setting.split("=")
    script = (
        "import contracts, polars as pl; frame = pl.DataFrame(schema=dict.fromkeys(contracts.crm.COLUMNS, pl.String));"
        "frame = frame.clear(1); print(contracts.check(contracts.Crm, frame).codes.to_list())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {name: value}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[['customer_id_missing', 'contact_missing', 'updated_at_missing']]"


def test_the_canary_notices_checks_that_do_not_run(monkeypatch, customers):
    """When pandera finds nothing in rows that are known to be bad, no row is let through."""
    monkeypatch.setattr(checking, "_errors", lambda *_: [])
    checking._prove.cache_clear()
    with pytest.raises(RuntimeError, match="do not run"):
        contracts.check(contracts.Crm, customers({}))


def test_a_frame_that_does_not_fit_is_refused_by_the_names_of_columns(customers):
    """A missing column or one that is not text is an error of the caller, and says which column."""
    with pytest.raises(ValueError, match="city"):
        contracts.check(contracts.Crm, customers({}).drop("city"))
    with pytest.raises(ValueError, match="customer_id"):
        contracts.check(contracts.Crm, customers({}).with_columns(customer_id=pl.lit(1)))


def test_no_value_gets_out_of_a_check(customers, capfd, caplog):
    """Checking bad rows prints nothing and logs nothing, at any level."""
    caplog.set_level(0)
    contracts.check(contracts.Crm, customers({"email": SECRET, "phone": SECRET, "updated_at": SECRET}))
    assert SECRET not in caplog.text
    assert capfd.readouterr() == ("", "")


def test_no_value_gets_out_when_a_rule_itself_fails():
    """A rule that cannot be computed is refused by column name; the value that stopped it stays inside."""

    class Broken(pa.DataFrameModel):
        name: str = required(rule("a number", lambda text: text.replace("\x00", None).cast(pl.Int64) > 0))

    with pytest.raises(ValueError, match=r"name \(check_error\)") as refused:
        contracts.check(Broken, pl.DataFrame({"name": [SECRET]}))
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__context__ is None


def test_profiles_must_keep_their_promise():
    """What transform makes is either as promised or an error that names codes, never values."""
    kinds = {name: column.dtype.type for name, column in contracts.Profiles.to_schema().columns.items()}
    good = pl.DataFrame([{"row": 7, "customer_id": "C-1", "tags": ["vip"], "spend_30d": -1.5}], schema=kinds)
    contracts.require(contracts.Profiles, good)
    spoiled = good.with_columns(spend_30d=float("nan"), city=pl.lit(""), customer_id=pl.lit(None, dtype=pl.String))
    with pytest.raises(ValueError, match=r"1 of 2 rows .*: city_invalid, customer_id_missing, spend_30d_invalid"):
        contracts.require(contracts.Profiles, pl.concat([good, spoiled]))
    with pytest.raises(ValueError, match="column_not_ordered"):
        contracts.require(contracts.Profiles, good.select(sorted(kinds)))
