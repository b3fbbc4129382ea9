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
from etl.erase import erase
from etl.explain import explain
from etl.report import as_text, read_report
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
    assert "optouts_held_back: of the opt-outs that go alone 1 unknown" in report.notices
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


# --- what was not delivered is left to the next day --------------------------------------------------------------------


@pytest.fixture(params=["full", "delta"])
def daily(installation, request):
    """Runs a day of the sync with exports of everybody, or of changes."""

    def run(day, **options):
        ctx = installation.context(day, run_id=pipeline.new_run_id("cli"), **options)
        report = pipeline.run(replace(ctx, sync=replace(ctx.sync, crm_mode=request.param, crm_max_age_days=0)))
        assert report.balanced
        return report

    return run


REFUSED = {"status": 401}


def test_an_opt_out_that_was_not_delivered_is_left_to_the_days_after(installation, emulator, daily):
    """Until one gets it through, if no export speaks of the customer; then it costs no call any more."""
    _land(installation, SUNDAY, {}, {"customer_id": "C-2"})
    daily(SUNDAY)
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"}, {"customer_id": "C-2", "city": "Nice"})
    emulator.faults(REFUSED)
    assert daily(MONDAY).exit_code == 3
    _land(installation, TUESDAY, {"customer_id": "C-2", "city": "Paris"})
    report = daily(TUESDAY)
    assert (report.exit_code, report.optouts_sent) == (3, 0)
    assert "optouts_held_back: of the opt-outs that go alone 1 not sent" in report.notices
    emulator.heal()
    _land(installation, WEDNESDAY, {"customer_id": "C-2", "city": "Lyon"})
    report = daily(WEDNESDAY)
    assert (report.optouts_sent, report.exit_code, report.absent_unsubscribed) == (1, 0, 0)
    assert "1  opt-outs were sent alone" in as_text(report)
    assert _held(emulator)["$email_marketing"] == "unsubscribed"
    assert "opt-out without a record: accepted; batch" in "\n".join(explain(installation.settings, "C-1"))
    thursday = WEDNESDAY + timedelta(days=1)
    _land(installation, thursday, {"customer_id": "C-2", "city": "Lyon"})
    assert (daily(thursday).batches, _held(emulator)["$email_marketing"]) == ([], "unsubscribed")
    assert str(thursday) not in "".join(explain(installation.settings, "C-1")), (
        "what was delivered is not kept any more"
    )


@pytest.mark.parametrize(
    ("row", "held"),
    [
        ({}, "subscribed"),
        ({**BROKEN, "email_opt_in": "true"}, "subscribed"),
        ({**BROKEN, "email_opt_in": ""}, "unsubscribed"),
    ],
)
def test_a_newer_word_takes_the_place_of_what_was_left(installation, emulator, daily, row, held):
    """Of a good row, or of a bad one that says yes; one that says nothing leaves it as it is."""
    _land(installation, SUNDAY, {})
    daily(SUNDAY)
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"})
    emulator.faults(REFUSED)
    daily(MONDAY)
    emulator.heal()
    _land(installation, TUESDAY, {"sms_opt_in": ""} | row)
    assert daily(TUESDAY).optouts_sent == (held == "unsubscribed")
    assert _held(emulator)["$email_marketing"] == held


def test_neither_a_limit_nor_a_retry_loses_what_was_left(installation, emulator, daily):
    """It is counted by no limit, and `retry` of the day sends what got no answer."""
    _land(installation, MONDAY, {**BROKEN, "email_opt_in": "false"})
    emulator.faults({"status": 400})
    daily(MONDAY)
    emulator.heal()
    _land(installation, TUESDAY, {"customer_id": "C-2"})
    report = daily(TUESDAY, limit=0)
    assert "optouts_held_back: of the opt-outs that go alone 1 rejected" in report.notices
    again = pipeline.retry(installation.context(TUESDAY, run_id="retry-1", retry=True))
    assert again.optouts_sent == 1
    assert _held(emulator) == {"$email_marketing": "unsubscribed"}


def test_an_older_day_does_not_take_over_from_a_newer_one(installation, emulator, daily):
    """What is left goes one way in time, and the newest run of a day counts."""
    _land(installation, TUESDAY, {"customer_id": "C-2"}, {**BROKEN, "email_opt_in": "false"})
    daily(TUESDAY)
    _land(installation, MONDAY, {"customer_id": "C-2"})
    assert daily(MONDAY).optouts_sent == 0
    installation.clock.now += 1
    _land(installation, TUESDAY, {"customer_id": "C-2"})  # as it is delivered anew, it was a mistake
    daily(TUESDAY)
    _land(installation, WEDNESDAY, {"customer_id": "C-2"})
    report = daily(WEDNESDAY, full=True)
    assert (report.optouts_sent, _buckets(report)["accepted"]) == (0, 1)


def test_whoever_was_erased_leaves_no_opt_out(installation, emulator, daily):
    """No file has them any more; those of the others stay, in the same one."""
    out = {**BROKEN, "email_opt_in": "false"}
    _land(installation, SUNDAY, out, {**out, "customer_id": "C-2", "email": "c2@example.org"})
    emulator.faults({"status": 400})
    daily(SUNDAY)
    _land(installation, MONDAY, {"customer_id": "C-3", "email": "c3@example.org"})
    daily(MONDAY)
    emulator.heal()
    ctx = installation.context()
    erase(ctx.ledger, ctx.work, "C-1")
    files = [path for path in (installation.root / "work").rglob("*") if path.is_file()]
    assert not [path for path in files if b"c1@example.org" in path.read_bytes()]
    assert [path for path in files if b"c2@example.org" in path.read_bytes()]
    _land(installation, TUESDAY, {"customer_id": "C-3", "email": "c3@example.org"})
    assert daily(TUESDAY, full=True).optouts_sent == 1
    assert emulator.profiles.keys() == {"C-2", "C-3"}


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


def _is_out(rows, name, *, was_out):
    """The rule in plain words: of true and false the newest, in doubt false."""
    words = [(MOMENTS.get(row["updated_at"]), number, row[name]) for number, row in enumerate(rows)]
    no = [(99 if at is None else at, number) for at, number, word in words if word == "false"]
    yes = [(0 if at is None else at, number) for at, number, word in words if word == "true"]
    no += [(0.5, 0)] if was_out else []  # before all moments, and after a yes of none
    return bool(no) and (not yes or max(no) > max(yes))


left_words = st.dictionaries(st.sampled_from("AB"), st.sampled_from([(False, None), (None, False), (False, False)]))
LEFT = {
    **dict.fromkeys(("customer_id", "email", "phone"), pl.String),
    **dict.fromkeys(("email_opt_in", "sms_opt_in", "_absent"), pl.Boolean),
    "_said_on": pl.Date,
}


def _left(words):
    rows = [(key, None, None, *said, True, SUNDAY) for key, said in words.items()]
    return pl.DataFrame(rows, schema=LEFT, orient="row")


@given(bad_rows, st.sets(st.sampled_from("AB")), left_words)
def test_the_newest_word_on_an_opt_in_counts(rows, going_out, left):
    """And only of customers of whom no row goes out; a blank or another word says nothing, an unknown moment is the safe one.

    What earlier days have left is older than any word of today.
    """
    schema = quarantine_schema(EXPORTS["crm"])
    frame = pl.DataFrame([{"row": n, "codes": _codes(row), **row} for n, row in enumerate(rows)], schema=schema)
    customers = pl.Series("customer_id", sorted(going_out), dtype=pl.String)
    found = opt_outs(frame.lazy(), customers, _left(left), len(rows)).rows_by_key(
        "customer_id", named=True, unique=True
    )
    expected = {}
    for customer in {"A", "B"} - going_out:
        theirs = [row if row["customer_id"] == customer else dict.fromkeys(row) for row in rows]
        said = dict(zip(("email_opt_in", "sms_opt_in"), left.get(customer, (None, None)), strict=True))
        out = {name: False if _is_out(theirs, name, was_out=was is False) else None for name, was in said.items()}
        if any(word is False for word in out.values()):
            expected[customer] = out
    assert {key: {name: row[name] for name in ("email_opt_in", "sms_opt_in")} for key, row in found.items()} == expected
    for key, row in found.items():
        if row["row"] >= len(rows):  # none of today's
            assert (row["_absent"], row["_said_on"]) == (True, SUNDAY)
            assert list(left)[row["row"] - len(rows)] == key
            continue
        assert (row["_absent"], row["_said_on"]) == (False, None)
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
    assert opt_outs(frame.lazy(), pl.Series("customer_id", [], dtype=pl.String), _left({}), len(rows)).is_empty()


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
