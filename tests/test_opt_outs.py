"""An opt-out is never held back: of a row in quarantine it is sent alone, and everything older gives way to it."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import pipeline
from etl.explain import explain
from etl.report import read_report
from etl.syncs import Normalise
from etl.transform.optouts import opt_outs
from etl.validate import EXPORTS, quarantine_schema

MONDAY = date(2026, 3, 2)
SUNDAY, TUESDAY, WEDNESDAY = (MONDAY + timedelta(days=n) for n in (-1, 1, 2))
NAMES = (
    "customer_id",
    "email",
    "phone",
    "city",
    "birthday",
    "email_opt_in",
    "sms_opt_in",
    "subscriptions",
    "updated_at",
)
BROKEN = {"birthday": "soon"}


def _land(installation, day, *rows):
    """The CRM export of a day; each row differs from a customer who is opted in."""
    folder = installation.root / "landing" / "crm" / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "customers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, NAMES)
        writer.writeheader()
        for row in rows:
            known = {"customer_id": "C-1", "email": "c1@example.org", "city": "Lyon", "updated_at": f"{day}T08:00:00Z"}
            writer.writerow(known | {"email_opt_in": "true", "sms_opt_in": "true", "subscriptions": "weekly"} | row)


def _held(emulator, vendor="batch", key="C-1"):
    return emulator.profiles_of(vendor)[key]["attributes"]


def _buckets(report):
    assert report.balanced
    return {name: count for name, count in report.rows.items() if count and name != "records_in"}


def test_at_batch_only_the_opt_out_is_sent(installation, emulator):
    """What else the bad row says stays here, and what the account knew of the profile stays there."""
    _land(installation, SUNDAY, {})
    installation.run(SUNDAY)
    before = _held(emulator)
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false", "sms_opt_in": "", "city": "Nice"})
    report = installation.run(MONDAY)
    assert (_buckets(report), report.optouts_sent, report.exit_code) == ({"quarantined": 1}, 1, 1)
    assert _held(emulator) == before | {"$email_marketing": "unsubscribed"}


@pytest.mark.parametrize("endpoint", ["adobe_target_single", "adobe_target_bulk"])
def test_at_adobe_target_only_the_opt_out_is_sent(install, emulator, endpoint):
    """Also in a file, although it may take the place of the last one: the rest comes back with the next good row."""
    bulk, installation = (
        install(emulator.url, destination="adobe_target_bulk"),
        install(emulator.url, destination=endpoint),
    )
    _land(installation, SUNDAY, {})
    bulk.run(SUNDAY)
    _land(installation, MONDAY, {**BROKEN, "sms_opt_in": "false", "city": "Nice"})
    report = installation.run(MONDAY)
    assert (_buckets(report), report.optouts_sent) == ({"quarantined": 1}, 1)
    held = _held(emulator, "adobe_target")
    assert (held["smsOptIn"], held.get("city")) == ("false", "Lyon" if endpoint.endswith("single") else None)
    _land(installation, TUESDAY, {"sms_opt_in": "false"})
    bulk.run(TUESDAY)
    assert _held(emulator, "adobe_target")["city"] == "Lyon"


def test_at_releva_the_address_is_opted_out(install, emulator):
    """By the address alone; the subscriptions go, every other value stays, and the change is counted."""
    installation = install(emulator.url, destination="releva")
    _land(installation, SUNDAY, {})
    installation.run(SUNDAY)
    before = _held(emulator, "releva", "c1@example.org")
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false", "phone": "+33639980001"})
    assert installation.run(MONDAY).optouts_sent == 1
    profile = emulator.profiles_of("releva")["c1@example.org"]
    assert profile["attributes"] == before | {"subscriptions": []}
    assert profile["subscription_changes"] == 1


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"email": "nobody", "phone": "+33639980001"}, ["+33639980001"]),
        ({"email": "nobody", "phone": "12"}, []),
        ({"email_opt_in": "true", "sms_opt_in": "false"}, []),
    ],
)
def test_releva_is_told_only_by_a_valid_address_and_of_e_mail(install, emulator, row, told):
    """An address that broke a rule is none, and Releva has no field for SMS."""
    installation = install(emulator.url, destination="releva")
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false", **row})
    report = installation.run(MONDAY)
    assert (_buckets(report), report.optouts_sent) == ({"quarantined": 1}, len(told))
    assert list(emulator.profiles_of("releva")) == told


def test_an_opt_out_of_anybody_at_an_address_is_one_of_the_person(install, emulator):
    """Who has a good row speaks for the person, opted out; the address is sent once."""
    installation = install(emulator.url, destination="releva")
    out = {**BROKEN, "email_opt_in": "false"}
    _land(installation, MONDAY, {"customer_id": "C-2", "city": "Nice"}, out, {**out, "customer_id": "C-3"})
    report = installation.run(MONDAY)
    assert (_buckets(report), report.optouts_sent) == ({"quarantined": 2, "accepted": 1}, 0)
    held = _held(emulator, "releva", "c1@example.org")
    assert (held["subscriptions"], held["email"]) == ([], "c1@example.org")
    assert not [notice for notice in report.notices if notice.startswith("optouts")]


def test_the_same_opt_out_is_not_sent_again(installation, emulator):
    """Neither the next day, nor where the account got it with a whole row; and the day on which it was said counts."""
    whole = {"email_opt_in": "false"}
    _land(installation, SUNDAY, whole, {**BROKEN, **whole, "customer_id": "C-2"})
    assert installation.run(SUNDAY).optouts_sent == 1
    _land(installation, MONDAY, {**BROKEN, **whole}, {**BROKEN, **whole, "customer_id": "C-2"})
    report = installation.run(MONDAY)
    assert (_buckets(report), report.optouts_sent, report.batches) == ({"quarantined": 2}, 0, [])
    _land(installation, SUNDAY, {})  # a corrected export of a day that is over
    assert _buckets(installation.run(SUNDAY)) == {"superseded": 1}
    _land(installation, TUESDAY, whole, {**whole, "customer_id": "C-2"})
    assert _buckets(installation.run(TUESDAY)) == {"unchanged": 1, "accepted": 1}
    assert _held(emulator, key="C-2")["city"] == "Lyon"


def test_a_good_row_that_opts_in_again_is_sent_whole(installation, emulator):
    """The last word is that of the newest day."""
    for day, row in ((SUNDAY, {}), (MONDAY, {**BROKEN, "email_opt_in": "false"}), (TUESDAY, {})):
        _land(installation, day, row)
        installation.run(day)
    assert _held(emulator)["$email_marketing"] == "subscribed"
    _land(installation, WEDNESDAY, {**BROKEN, "email_opt_in": "false"})
    assert installation.run(WEDNESDAY).optouts_sent == 1
    assert _held(emulator)["$email_marketing"] == "unsubscribed"


def test_deferred_data_of_an_older_day_gives_way(installation, emulator):
    """What `--limit` held back is not sent after the opt-out, which no limit holds back."""
    _land(installation, SUNDAY, {"customer_id": "C-2"}, {})
    assert _buckets(installation.run(SUNDAY, limit=1)) == {"deferred": 1, "accepted": 1}
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"}, {"customer_id": "C-2", "city": "Nice"})
    report = installation.run(MONDAY, limit=0)
    assert (_buckets(report), report.optouts_sent) == ({"quarantined": 1, "deferred": 1}, 1)
    assert _buckets(installation.run(SUNDAY)) == {"superseded": 1, "unchanged": 1}
    assert _held(emulator) == {"$email_marketing": "unsubscribed"}


def test_an_opt_out_in_doubt_leaves_the_run_unfinished_and_is_said_again(installation, emulator):
    """It goes through ledger, plan and retry like a row; its row is quarantined all the while."""
    _land(installation, SUNDAY, {})
    installation.run(SUNDAY)
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"})
    emulator.faults({"status": 503})
    report = installation.run(MONDAY)
    assert (_buckets(report), report.optouts_sent, report.exit_code) == ({"quarantined": 1}, 0, 3)
    assert "optouts_held_back: of the opt-outs in quarantine 1 unknown" in report.notices
    emulator.heal()
    again = installation.run(MONDAY)
    assert (_buckets(again), again.optouts_sent, again.exit_code) == ({"quarantined": 1}, 1, 1)
    assert _held(emulator)["$email_marketing"] == "unsubscribed"


def test_an_opt_out_that_the_vendor_confirms_late_is_counted_then(install, emulator):
    """The report of the run that sent it is brought up to date when its batch is done."""
    installation = install(emulator.url, destination="adobe_target_bulk")
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"})
    ctx = installation.context(MONDAY, wait=False)
    first = pipeline.run(ctx)
    assert (first.optouts_sent, first.exit_code) == (0, 3)
    for day in (TUESDAY, WEDNESDAY):  # the vendor is done when it is asked for the second time
        installation.clock.now += 600
        _land(installation, day)
        installation.run(day)
    renewed = read_report(ctx.place)
    assert (renewed.optouts_sent, renewed.exit_code) == (1, 1)


def test_explain_says_that_the_opt_out_was_sent(installation):
    """Beside the rule that the row broke."""
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"})
    installation.run(MONDAY)
    assert "quarantined (birthday_invalid); its opt-out was sent; batch" in "\n".join(
        explain(installation.settings, "C-1")
    )


# --- whose word counts ------------------------------------------------------------------------------------------------

WORDS = (None, " ", "true", "false", "FALSE", "no")
bad_rows = st.lists(
    st.fixed_dictionaries(
        {
            "customer_id": st.sampled_from(("A", "B")),
            "updated_at": st.sampled_from((None, "later", "2026-03-01T08:00:00Z", "2026-03-01T10:00:00+01:00")),
            "email": st.sampled_from((None, " ", "a@example.org", "b@example.org", "nobody")),
            "email_opt_in": st.sampled_from(WORDS),
            "sms_opt_in": st.sampled_from(WORDS),
        }
    ),
    max_size=5,
)
MOMENTS = {"2026-03-01T08:00:00Z": 8, "2026-03-01T10:00:00+01:00": 9}


def _codes(row):
    broken = {"email": row["email"] == "nobody", "updated_at": row["updated_at"] == "later"}
    return [f"{name}_invalid" for name, is_broken in broken.items() if is_broken]


def _is_out(rows, name):
    """The rule in plain words: of true and false the newest, in doubt false."""
    words = [(MOMENTS.get(row["updated_at"]), number, row[name]) for number, row in enumerate(rows)]
    no = [(99 if at is None else at, number) for at, number, word in words if word == "false"]
    yes = [(0 if at is None else at, number) for at, number, word in words if word == "true"]
    return bool(no) and (not yes or max(no) > max(yes))


@given(bad_rows, st.sets(st.sampled_from("AB")))
def test_the_newest_word_on_an_opt_in_counts(rows, going_out):
    """And only of customers of whom no row goes out; a blank or another word says nothing, an unknown moment is the safe one."""
    schema = quarantine_schema(EXPORTS["crm"])
    frame = pl.DataFrame([{"row": n, "codes": _codes(row), **row} for n, row in enumerate(rows)], schema=schema)
    found = opt_outs(frame.lazy(), pl.Series("customer_id", sorted(going_out), dtype=pl.String)).rows_by_key(
        "customer_id", named=True, unique=True
    )
    expected = {}
    for customer in {"A", "B"} - going_out:
        theirs = [row if row["customer_id"] == customer else dict.fromkeys(row) for row in rows]
        out = {name: False if _is_out(theirs, name) else None for name in ("email_opt_in", "sms_opt_in")}
        if any(word is False for word in out.values()):
            expected[customer] = out
    assert {key: {name: row[name] for name in ("email_opt_in", "sms_opt_in")} for key, row in found.items()} == expected
    for key, row in found.items():
        assert rows[row["row"]]["customer_id"] == key
        assert "false" in {rows[row["row"]][name] for name in ("email_opt_in", "sms_opt_in")}
        assert row["email"] in {None, "a@example.org", "b@example.org"}


def test_a_row_without_a_valid_id_opts_nobody_out():
    """Blank or broken: whose opt-out it is cannot be known."""
    codes = (["customer_id_missing"], ["customer_id_invalid"], ["customer_id_missing"])
    rows = [
        {"row": n, "codes": c, "customer_id": id_, "email_opt_in": "false"}
        for n, (c, id_) in enumerate(zip(codes, (" ", " A", None), strict=True))
    ]
    frame = pl.DataFrame(rows, schema=quarantine_schema(EXPORTS["crm"]))
    assert opt_outs(frame.lazy(), pl.Series("customer_id", [], dtype=pl.String)).is_empty()


def test_an_opt_out_speaks_as_the_sync_has_its_rows_put_right(install, emulator):
    """The vendor knows the person by the address as it would go out, also where no row of the day is good."""
    installation = install(emulator.url, destination="releva")
    _land(installation, SUNDAY, {"email": "", "phone": "+33639980001"})
    installation.run(SUNDAY)
    _land(installation, MONDAY, {**BROKEN, "email": "", "phone": " 06 39 98 00 01", "email_opt_in": "false "})
    ctx = installation.context(MONDAY)
    put_right = Normalise(phone_region="FR", text=True)
    report = pipeline.run(replace(ctx, sync=replace(ctx.sync, normalise=put_right, attributes={"BRAND": "brand"})))
    assert (_buckets(report), report.optouts_sent) == ({"quarantined": 1}, 1)
    assert _held(emulator, "releva", "+33639980001").get("subscriptions") in ([], None)
