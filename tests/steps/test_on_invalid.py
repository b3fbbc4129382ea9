"""A sync may send a row without an invalid field; what says who, when and with whose consent is never left out."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import contracts
from etl import pipeline
from etl.errors import ConfigError
from etl.syncs import OPTIONAL, Normalise, Sync
from etl.validate import EXPORTS, split

CRM = EXPORTS["crm"]
VALUES = {
    "customer_id": ("C-1", " "),
    "email": ("ana@example.org", "nobody", None),
    "phone": ("+33639980001", "12", None),
    "birthday": ("1986-01-17", "soon", None),
    "latitude": ("45.0", "north", None),
    "longitude": ("4.8", None),
    "email_opt_in": ("true", "yes", None),
    "updated_at": ("2026-03-02T08:00:00Z",),
}
rows_of_text = st.lists(
    st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VALUES.items()}), max_size=6
)
drops = st.lists(st.sampled_from(("email", "phone", "birthday", "latitude")), unique=True)


def _frame(rows):
    return pl.DataFrame(rows, schema=dict.fromkeys((*CRM.columns, "_record"), pl.String))


def _codes(rows):
    """What each row breaks."""
    codes = contracts.check(CRM.model, contracts.blank_to_null(_frame(rows))).codes
    return [set(broken or ()) for broken in codes.to_list()]


@settings(max_examples=20)
@given(rows_of_text, drops)
def test_a_row_is_judged_again_without_its_invalid_fields(rows, drop):
    """Row by row: what is still broken then is in quarantine, as it was read, with the codes of both looks."""
    rows = [{**row, "_record": str(number)} for number, row in enumerate(rows)]
    valid, bad, dropped = [], [], dict.fromkeys(drop, 0)
    before = _codes(rows)
    gone = [[name for name in drop if f"{name}_invalid" in codes] for codes in before]
    mended = [row | dict.fromkeys(names) for row, names in zip(rows, gone, strict=True)]
    for row, broken, names, rest, still in zip(rows, before, gone, mended, _codes(mended), strict=True):
        if still:
            bad.append((row["_record"], row["birthday"], still | broken))
        else:
            valid.append(rest)
            dropped |= {name: dropped[name] + 1 for name in names}
    found = split(_frame(rows), CRM, Normalise(), drop)
    assert found.valid.select(*VALUES, "_record").to_dicts() == [
        {name: row[name] for name in (*VALUES, "_record")} for row in valid
    ]
    got = [
        (number, birthday, set(codes))
        for number, birthday, codes in found.quarantine.select("_record", "birthday", "codes").iter_rows()
    ]
    assert got == bad
    assert all(codes.len() == codes.n_unique() for codes in found.quarantine["codes"])
    assert found.dropped == dropped


def test_the_rest_of_the_row_is_sent_and_the_loss_is_counted(installation, emulator):
    """A blank leaves what the vendor has, so that the last valid value stays there."""
    ctx = installation.context()
    installation.land({"C-1": {"phone": "+33639980001"}, "C-2": {"phone": "12"}, "C-3": {"email": "", "phone": "12"}})
    sync = replace(ctx.sync, on_invalid={"phone": "drop_field"})
    report = pipeline.run(replace(ctx, sync=sync))
    assert (report.rows["accepted"], report.rows["quarantined"], report.balanced) == (2, 1, True)
    assert {reason["code"]: reason["count"] for reason in report.reasons} == {
        "phone_dropped": 1, "phone_invalid": 1, "contact_missing": 1,
    }  # fmt: skip
    assert "$phone_number" not in emulator.profiles["C-2"]["attributes"]


def test_every_optional_field_may_be_named():
    """All of the contract but id, moment and consent."""
    never = {"customer_id", "updated_at", "email_opt_in", "sms_opt_in", "consent"}
    assert set(OPTIONAL) == set(contracts.crm.COLUMNS) - never


@pytest.mark.parametrize("wrong", [{"birthdya": "drop_field"}, {"city": "drop"}, {"sms_opt_in": "drop_field"}])
def test_a_slip_is_found_when_the_sync_is_read(wrong):
    """The message names the sync, and what may stand there."""
    with pytest.raises(ConfigError, match=r"sync mine: on_invalid has .*, birthday, .*quarantine or drop_field"):
        Sync(name="mine", destination="batch", connection="c", on_invalid=wrong)


def test_a_place_is_left_out_whole():
    """One coordinate without the other is no place: both go."""
    rows = [{"customer_id": "C-1", "email": "c1@example.org", "latitude": "north", "longitude": "4.8"}]
    rows = [row | {"updated_at": "2026-03-02T08:00:00Z", "_record": "0"} for row in rows]
    found = split(_frame(rows), CRM, Normalise(), ("latitude", "longitude"))
    assert found.valid.select("latitude", "longitude").rows() == [(None, None)]
    assert found.dropped == {"latitude": 1, "longitude": 1}
