"""Opt-outs that one day leaves to the next, and customers who have disappeared: nobody too many, and nobody too few."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from etl import pipeline

SUNDAY = date(2026, 3, 1)
MONDAY, TUESDAY, WEDNESDAY = (SUNDAY + timedelta(days=n) for n in (1, 2, 3))
IN = {"email_opt_in": "true", "sms_opt_in": "true"}
BLANK = {"email_opt_in": "", "sms_opt_in": ""}
OUT = {"email_opt_in": "false"}
BROKEN = {"birthday": "soon"}
SAME = {"email": "same@example.org"}
DELTA = {"crm_mode": "delta", "crm_max_age_days": 5}
UNSUBSCRIBE = {"on_absent": "unsubscribe"}


def _land(installation, day, customers):
    """The CRM export of a day; each customer differs from one who is opted in."""
    installation.land({key: IN | values for key, values in customers.items()}, day)


def _run(installation, day, customers, sync=None, **options):
    """Lands an export and runs its day, of a sync with other settings."""
    _land(installation, day, customers)
    installation.clock.now += 1
    ctx = installation.context(day, run_id=pipeline.new_run_id("cli"), **options)
    ctx = replace(ctx, sync=replace(ctx.sync, **(sync or {})))
    installation.ledgers.append(ctx.ledger)
    if ctx.options.dry_run:
        return pipeline.prepare(ctx)
    report = pipeline.run(ctx)
    assert report.balanced
    return report


def _email(emulator, key="C-1"):
    return emulator.profiles[key]["attributes"].get("$email_marketing")


def test_a_dry_run_takes_nothing_from_the_next_day(installation, emulator):
    """Of a day of changes that was only planned, the opt-out of a bad row goes with the next run."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}}, DELTA)
    _run(installation, MONDAY, {"C-1": BROKEN | OUT}, DELTA, dry_run=True)
    _run(installation, TUESDAY, {"C-2": {"city": "Nice"}}, DELTA)
    assert _email(emulator) == "unsubscribed"


def test_a_stray_blank_in_an_id_is_no_disappearance(installation, emulator):
    """The row is in quarantine; its customer is there."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}}, UNSUBSCRIBE)
    report = _run(installation, MONDAY, {" C-1": {}, "C-2": {}}, UNSUBSCRIBE)
    assert (report.rows["quarantined"], report.absent, report.optouts_sent) == (1, 0, 0)
    assert _email(emulator) == "subscribed"


def test_what_was_delivered_is_not_left(installation, emulator):
    """Also of a row in quarantine, whose own end is another: not even a run of everything says it again."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}})
    assert _run(installation, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}}).optouts_sent == 1
    assert _run(installation, TUESDAY, {"C-2": {}}, full=True).optouts_sent == 0


def test_an_export_that_was_stopped_unsubscribes_nobody_the_day_after(installation, emulator):
    """Half of it was missing, and a gate shut; who is in the next one, if only in quarantine, is there."""
    names = [f"C-{number:05d}" for number in range(1200)]
    _run(installation, SUNDAY, dict.fromkeys(names, BLANK), UNSUBSCRIBE)
    assert _run(installation, MONDAY, dict.fromkeys(names[:500], BLANK), UNSUBSCRIBE).exit_code == 3
    whole = {name: BLANK | (BROKEN if name in names[-5:] else {}) for name in names}
    report = _run(installation, TUESDAY, whole, UNSUBSCRIBE)
    assert (report.rows["quarantined"], report.optouts_sent) == (5, 0)


def test_who_was_said_nothing_of_before_goes_first_too(install, emulator):
    """An opt-out of a known customer whose opt-in was blank; of a new one it is no opt-out."""
    account = install(emulator.url, extra={"limits": {"batch_update": {"rows_per_call": 10, "quota": 60}}})
    names = [f"C-{number:02d}" for number in range(20)]
    _run(account, SUNDAY, dict.fromkeys(names, BLANK))
    account.extra["limits"]["batch_update"]["quota"] = 10
    account.clock.now += 26 * 3600
    changed = {name: BLANK | {"city": "Nice"} for name in names} | {names[-1]: BLANK | OUT, "C-new": OUT}
    report = _run(account, MONDAY, changed, accept_volume=True)
    assert (report.rows["accepted"], report.rows["deferred"]) == (10, 11)
    assert _email(emulator, names[-1]) == "unsubscribed"


def test_an_opt_out_that_a_row_said_speaks_for_the_address_until_it_is_delivered(install, emulator):
    """At Releva; its customer is in no later export, and another one with the same address is."""
    releva = install(emulator.url, destination="releva")
    _run(releva, SUNDAY, {"C-2": SAME})
    emulator.faults({"status": 401})
    assert _run(releva, MONDAY, {"C-2": SAME, "C-1": SAME | BROKEN | OUT}).exit_code == 3
    emulator.heal()
    _run(releva, TUESDAY, {"C-2": SAME | {"city": "Nice"}})
    assert emulator.profiles_of("releva")["same@example.org"]["attributes"]["subscriptions"] == []


@pytest.mark.parametrize("neighbour", [{}, BROKEN | BLANK])
def test_who_has_disappeared_does_not_speak_for_who_is_there(install, emulator, neighbour):
    """At Releva, where two customers of one address are one person; also if the other one is in quarantine."""
    releva = install(emulator.url, destination="releva")
    older = {"updated_at": "2026-02-01T08:00:00Z"}
    _run(releva, SUNDAY, {"C-1": SAME, "C-2": SAME | older, "C-3": {}}, UNSUBSCRIBE)
    report = _run(releva, MONDAY, {"C-1": SAME | neighbour, "C-3": {}}, UNSUBSCRIBE)
    assert (report.absent, report.absent_unsubscribed) == (1, 0)


@pytest.mark.parametrize("bad", [BROKEN, {"email": "nobody"}])
def test_who_was_in_quarantine_before_disappearing_is_unsubscribed(installation, emulator, bad):
    """Valid, then bad for two days, then gone: the customer was there all the time, and is not any more."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}}, UNSUBSCRIBE)
    for day in (MONDAY, TUESDAY):
        report = _run(installation, day, {"C-1": bad | BLANK, "C-2": {}}, UNSUBSCRIBE)
        assert (report.absent, report.optouts_sent) == (0, 0)
    report = _run(installation, WEDNESDAY, {"C-2": {}}, UNSUBSCRIBE)
    assert (report.absent, report.absent_unsubscribed) == (1, 1)
    assert _email(emulator) == "unsubscribed"
    assert _run(installation, WEDNESDAY + timedelta(days=1), {"C-2": {}}, UNSUBSCRIBE).absent == 0


def test_an_opt_out_of_a_day_that_came_late_is_left_too(installation, emulator):
    """The days after it have been run already, and none of them speaks of the customer."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}})
    _run(installation, TUESDAY, {"C-2": {}})
    emulator.faults({"status": 401})
    assert _run(installation, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}}).exit_code == 3
    emulator.heal()
    assert _run(installation, WEDNESDAY, {"C-2": {}}).optouts_sent == 1
    assert _email(emulator) == "unsubscribed"


def test_what_is_in_doubt_gives_way_to_an_opt_out(installation, emulator):
    """Opted-in data that may have arrived is not sent once more before the opt-out, which might not get through."""
    emulator.faults({"status": 503})
    assert _run(installation, SUNDAY, {"C-1": {}, "C-2": {}}).rows["unknown"] == 2
    emulator.heal()
    _run(installation, MONDAY, {"C-1": BROKEN | OUT, "C-3": {}})
    assert [request["rows"] for request in emulator.requests if request["status"] == 202] == [2]
    assert (_email(emulator), "C-2" in emulator.profiles) == ("unsubscribed", False)
    assert _run(installation, SUNDAY, {"C-1": {}, "C-2": {}}).rows["accepted"] == 1
    assert (_email(emulator), _email(emulator, "C-2")) == ("unsubscribed", "subscribed")


def _prepare(installation, day, customers):
    """Lands an export and begins its day's run, which has sent nothing yet."""
    _land(installation, day, customers)
    installation.clock.now += 1
    ctx = installation.context(day, run_id=pipeline.new_run_id("cli"))
    installation.ledgers.append(ctx.ledger)
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    return ctx


def test_an_opt_out_of_a_late_day_that_is_not_finished_gives_way_to_what_a_later_day_said(installation, emulator):
    """A backfill's run beside the daily one has not told yet that its opt-out is superseded."""
    for day in (SUNDAY, TUESDAY):
        _run(installation, day, {"C-1": {"city": str(day)}, "C-2": {}})
    _prepare(installation, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}})
    assert _run(installation, WEDNESDAY, {"C-2": {}}).optouts_sent == 0
    assert _email(emulator) == "subscribed"


def test_an_opt_out_of_an_earlier_day_is_tried_again_by_the_day_that_failed_to_deliver_it(installation, emulator):
    """What the account knows of the customer as of that day is that very opt-out."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}})
    emulator.faults({"status": 401})
    _run(installation, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}})
    emulator.heal()
    emulator.faults({"status": 503})
    assert _run(installation, TUESDAY, {"C-2": {}}).exit_code == 3
    emulator.heal()
    _run(installation, TUESDAY, {"C-2": {}})
    assert _email(emulator) == "unsubscribed"


def _refused(installation, emulator, day, customers):
    """The day's run, to which the vendor says no."""
    emulator.faults({"status": 401})
    assert _run(installation, day, customers).exit_code == 3
    emulator.heal()


def test_an_opt_out_that_was_taken_over_does_not_hide_the_days_between(installation, emulator):
    """It is as old as the day that said it, also when a later day has delivered it; and whoever came between is run late."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}})
    _refused(installation, emulator, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}})
    assert _run(installation, WEDNESDAY, {"C-2": {}}).optouts_sent == 1
    assert _run(installation, TUESDAY, {"C-1": {"city": "Nice"}, "C-2": {}}).rows["superseded"] == 0
    assert (_email(emulator), emulator.cities()["C-1"]) == ("subscribed", "Nice")


def test_an_opt_out_that_was_taken_over_for_nothing_does_not_hide_the_days_between(installation, emulator):
    """The account has got it already, from an older day; so that is what it knows, and not from the day that found it so."""
    _run(installation, SUNDAY, {"C-1": OUT, "C-2": {}})
    _prepare(installation, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}})
    assert _run(installation, WEDNESDAY, {"C-2": {}}).optouts_sent == 0
    _run(installation, TUESDAY, {"C-1": {}, "C-2": {}})
    assert _email(emulator) == "subscribed"


def test_an_opt_out_that_is_taken_over_twice_is_as_old_as_before(installation, emulator):
    """The day between, which was run late, has opted the customer in."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}})
    _refused(installation, emulator, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}})
    _refused(installation, emulator, WEDNESDAY, {"C-2": {}})
    _run(installation, TUESDAY, {"C-1": {"city": "Nice"}, "C-2": {}})
    assert _run(installation, WEDNESDAY + timedelta(days=1), {"C-2": {}}).optouts_sent == 0
    assert _email(emulator) == "subscribed"


def test_an_opt_out_in_doubt_that_was_taken_over_gives_way_to_the_days_between(installation, emulator):
    """Both are in doubt: what the day between said is sent once more, the older opt-out is not."""
    _run(installation, SUNDAY, {"C-1": {}, "C-2": {}})
    _refused(installation, emulator, MONDAY, {"C-1": BROKEN | OUT, "C-2": {}})
    for day, export in ((WEDNESDAY, {"C-2": {}}), (TUESDAY, {"C-1": {"city": "Nice"}, "C-2": {}})):
        emulator.faults({"status": 503})
        assert _run(installation, day, export).exit_code == 3
        emulator.heal()
    _run(installation, WEDNESDAY + timedelta(days=1), {"C-2": {}})
    assert (_email(emulator), emulator.cities()["C-1"]) == ("subscribed", "Nice")
