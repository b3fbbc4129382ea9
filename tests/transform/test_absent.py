"""Absent: who has disappeared from a full export is counted, and is unsubscribed where the sync asks for it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, timedelta

import pytest

from etl import pipeline
from etl.erase import erase
from etl.errors import ConfigError
from etl.gates import OPT_INS
from etl.purge import purge
from etl.report import as_text
from etl.report_page import page
from etl.syncs import SYNCS

MONDAY = date(2026, 3, 2)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)


def test_customers_who_disappeared_are_counted(installation, emulator):
    """Against the newest earlier day that was run; the first run has nothing to compare with."""
    installation.land({"C-1": {}, "C-2": {}, "C-3": {}})
    assert installation.run().absent is None
    installation.land({"C-1": {}, "C-2": {}}, TUESDAY)
    report = installation.run(TUESDAY)
    assert (report.absent, report.rows["records_in"], report.exit_code) == (1, 2, 0)
    assert "1  customers of the last day that was run are absent" in as_text(report)
    assert emulator.profiles["C-3"]["updates"] == 1
    installation.land({"C-1": {}}, WEDNESDAY)
    assert installation.run(WEDNESDAY).absent == 1
    assert installation.run(TUESDAY).absent == 1  # what later days say is no matter


def test_a_customer_whose_row_is_bad_is_not_absent(installation):
    """They are in quarantine, and that is what the report says."""
    installation.land({"C-1": {}, "C-2": {}})
    installation.run()
    installation.land({"C-1": {"email": "nowhere"}, "C-3": {}}, TUESDAY)
    assert installation.run(TUESDAY).absent == 1


def test_where_the_rows_of_the_earlier_run_are_gone_nothing_is_claimed(installation):
    """Purged, say: null, and not 0."""
    installation.land({"C-1": {}})
    installation.run()
    for private in (installation.root / "work" / installation.sync.name).rglob("private"):
        shutil.rmtree(private)
    installation.land({"C-2": {}}, TUESDAY)
    assert installation.run(TUESDAY).absent is None


def test_an_erasure_leaves_the_others_comparable(installation):
    """Of the last run stays who was in it, but for the one who was erased."""
    installation.land({"C-1": {}, "C-2": {}, "C-3": {}})
    installation.run()
    ctx = installation.context()
    erase(ctx.ledger, ctx.work, "C-1")
    installation.land({"C-2": {}}, TUESDAY)
    assert installation.run(TUESDAY).absent == 1


# --- on_absent ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def unsubscribing(install, emulator):
    """Runs a day of a sync that unsubscribes who is absent; gives the report."""

    def make(**fields):
        installation = install(emulator.url, **fields)

        def run(customers, day, **options):
            installation.land(customers, day)
            ctx = installation.context(day, run_id=pipeline.new_run_id("cli"), **options)
            installation.clock.now += 1
            report = pipeline.run(replace(ctx, sync=replace(ctx.sync, on_absent="unsubscribe")))
            assert report.balanced
            return report

        run.installation = installation
        return run

    return make


IN = {"email_opt_in": "true", "sms_opt_in": "true"}


def test_whoever_disappears_is_unsubscribed_once(unsubscribing, emulator):
    """Nothing else of the profile changes; it is counted beside the buckets, and a good row brings the customer back."""
    run = unsubscribing()
    run({"C-1": IN, "C-2": IN, "C-3": {}}, MONDAY)
    before = emulator.profiles["C-2"]["attributes"]
    report = run({"C-1": IN, "C-4": IN}, TUESDAY)
    assert (report.absent, report.optouts_sent, report.absent_unsubscribed, report.exit_code) == (2, 2, 2, 0)
    assert report.rows["records_in"] == 2
    assert "2  of these are of customers who are absent" in as_text(report)
    assert "2 of these have disappeared" in page(report)
    out = {"$email_marketing": "unsubscribed", "$sms_marketing": "unsubscribed"}
    assert emulator.profiles["C-2"]["attributes"] == before | out
    report = run({"C-1": IN, "C-4": IN}, WEDNESDAY)
    assert (report.absent, report.optouts_sent, report.batches) == (0, 0, [])
    run({"C-1": IN, "C-2": IN, "C-4": IN}, WEDNESDAY + timedelta(days=1))
    assert emulator.profiles["C-2"]["attributes"]["$email_marketing"] == "subscribed"


def test_who_is_in_the_export_in_any_way_has_not_disappeared(unsubscribing, emulator):
    """In quarantine, or named by a record that cannot be parsed."""
    run = unsubscribing()
    run({"C-1": IN, "C-2": IN, "C-3": IN, "C-31": IN}, MONDAY)
    path = run.installation.root / "landing" / "crm" / str(TUESDAY) / "more.csv"
    path.parent.mkdir(parents=True)
    path.write_text('customer_id,email,updated_at\nC-1,nobody,2026-03-03T08:00:00Z\n"C-31",a"b@example.org,x\n')
    report = run({"C-2": IN}, TUESDAY)
    assert (report.rows["unparsable"], report.rows["quarantined"]) == (1, 1)
    assert (report.absent, report.absent_unsubscribed) == (1, 1)
    assert emulator.profiles["C-31"]["updates"] == emulator.profiles["C-1"]["updates"] == 1


def test_what_could_not_be_sent_is_sent_on_a_later_day(unsubscribing, emulator):
    """Although the customer is then not among those of the last day any more."""
    run = unsubscribing()
    run({"C-1": IN, "C-2": IN}, MONDAY)
    emulator.faults({"status": 401})
    assert run({"C-1": IN}, TUESDAY).exit_code == 3
    emulator.heal()
    report = run({"C-1": IN}, WEDNESDAY)
    assert (report.absent, report.absent_unsubscribed, report.exit_code) == (0, 1, 0)
    assert emulator.profiles["C-2"]["attributes"]["$email_marketing"] == "unsubscribed"


def test_an_export_of_nobody_unsubscribes_nobody(unsubscribing, emulator):
    """It is a valid one, and says nothing; the next one is compared with the day before it."""
    run = unsubscribing()
    run({"C-1": IN, "C-2": IN}, MONDAY)
    report = run({}, TUESDAY)
    assert (report.absent, report.batches) == (2, [])
    assert run({"C-1": IN}, WEDNESDAY).absent_unsubscribed == 1
    assert emulator.profiles["C-1"]["updates"] == 1


def test_a_half_cut_export_is_stopped(unsubscribing, emulator):
    """By the gate of the opt-ins, also where the export had no word on them; the next whole one unsubscribes nobody."""
    run = unsubscribing()
    whole = {f"C-{n:05d}": IN if n % 2 else {} for n in range(1_200)}
    run(whole, MONDAY)
    calls = len(emulator.requests)
    for options in ({}, {"retry": True}):
        report = run(dict(list(whole.items())[:500]), TUESDAY, **options)
        assert (report.exit_code, report.optouts_sent) == (3, 0)
        assert OPT_INS in " ".join(report.notices)
    assert len(emulator.requests) == calls
    report = run(whole, WEDNESDAY)
    assert (report.rows["unchanged"], report.batches, report.exit_code) == (1_200, [], 0)


def test_whoever_was_erased_is_not_unsubscribed(unsubscribing, emulator):
    """The vendor is not told of them again; nor by an older day that is run once more."""
    run = unsubscribing()
    run({"C-1": IN, "C-2": IN, "C-3": IN}, MONDAY)
    ctx = run.installation.context()
    erase(ctx.ledger, ctx.work, "C-1")
    run({"C-1": IN, "C-2": IN, "C-3": IN}, MONDAY)
    assert run({"C-3": IN}, TUESDAY).absent_unsubscribed == 1
    assert emulator.profiles["C-1"]["updates"] == 1


def test_records_that_were_merged_leave_the_person_subscribed(unsubscribing, emulator):
    """Releva knows people by address: who is there under another id has not disappeared."""
    run = unsubscribing(destination="releva")
    same = {**IN, "email": "same@example.org"}
    run({"C-1": same, "C-2": {**same, "updated_at": "2026-03-01T08:00:00Z"}, "C-3": IN}, MONDAY)
    report = run({"C-1": same}, TUESDAY)
    assert (report.absent, report.absent_unsubscribed, report.rows["unchanged"]) == (2, 1, 1)
    assert emulator.profiles_of("releva")["c-3@example.org"]["attributes"]["subscriptions"] == []


def test_nobody_is_unsubscribed_against_a_run_whose_rows_are_gone(unsubscribing):
    """There is nothing to compare with."""
    run = unsubscribing()
    run({"C-1": IN, "C-2": IN}, MONDAY)
    ctx = run.installation.context()
    purge(ctx.ledger, ctx.work, days=-1)
    report = run({"C-1": IN}, TUESDAY)
    assert (report.absent, report.absent_unsubscribed) == (None, 0)


@pytest.mark.parametrize("fields", [{"on_absent": "drop"}, {"on_absent": "unsubscribe", "crm_mode": "delta"}])
def test_a_mistake_in_a_sync_is_named_when_it_is_read(fields):
    """Who is not in an export of changes has not left."""
    with pytest.raises(ConfigError, match="on_absent"):
        replace(SYNCS["crm_to_batch"], **fields)
