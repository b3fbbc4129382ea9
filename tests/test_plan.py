"""A plan says what the run will do, and stops a run that should not start."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from etl import pipeline
from etl.plan import as_text

MONDAY = date(2026, 3, 2)
UPDATE = {"rows_per_call": 50, "per_second": 30, "burst": 120}
MASS = {"rows_per_call": 100, "per_second": 100}


def ends(report) -> dict[str, int]:
    """The buckets that hold rows, of a report that balances."""
    assert report.balanced
    return {bucket: count for bucket, count in report.rows.items() if count and bucket != "records_in"}


def planned(installation, day: date = MONDAY, **options) -> dict:
    """The plan of a run that sends nothing."""
    return pipeline.prepare(installation.context(day, run_id=pipeline.new_run_id("plan"), dry_run=True, **options))


@pytest.mark.parametrize(
    ("endpoint", "limits", "headroom"),
    [
        ("batch_update", UPDATE, 0),
        ("batch_update", UPDATE | {"calls_per_minute": 20}, 0.1),
        ("batch_mass_update", MASS, 0.1),
        ("batch_mass_update", MASS | {"policy": "bucket", "burst": 100}, 0),
    ],
)
def test_a_run_does_what_its_plan_said(install, emulator, endpoint, limits, headroom):
    """Calls and bytes are exact, and the time is right to 2 %; also for a second plan, when part of the rate is used."""
    paced = install(emulator.url, destination=endpoint, extra={"limits": {endpoint: limits}, "headroom": headroom})
    path = "/profiles/update" if endpoint == "batch_update" else "/profiles/mass-update"
    for day, city in ((MONDAY, "Lyon"), (MONDAY + timedelta(days=1), "Paris")):
        paced.land(950, day, city=city)
        plan = planned(paced, day)
        before, started = emulator.meter(path), paced.clock.now
        report = paced.run(day)
        after = emulator.meter(path)
        assert ends(report) == {"accepted": 950}
        assert after["calls"] - before["calls"] == plan["calls"]
        bodies = [request["bytes"] for request in emulator.requests[before["calls"] :]]
        assert sum(bodies) == plan["bytes"]
        assert after["last_arrival"] - started == pytest.approx(plan["seconds"], rel=0.02)
        assert plan["seconds"] > 5


def test_a_plan_sends_nothing_and_leaves_no_run(installation, emulator):
    """Planning is free: no call, no quota, no report, no run for others to find."""
    installation.land(30)
    plan = planned(installation)
    assert (plan["calls"], plan["rows"], plan["deferred"]) == (1, 30, 0)
    assert "30" in as_text(plan)
    assert emulator.requests == []
    assert installation.context().ledger.runs() == []


@pytest.mark.parametrize(("customers", "endpoint"), [(20, "batch_update"), (21, "batch_mass_update")])
def test_the_endpoint_follows_the_volume(install, emulator, customers, endpoint):
    """What fits into one full call of the large endpoint goes to the small one; the plan says why."""
    limits = {"batch_mass_update": {"rows_per_call": 20}}
    free = install(emulator.url, destination="batch", extra={"limits": limits})
    free.land(customers)
    plan = planned(free)
    assert plan["endpoint"] == endpoint
    assert "20" in plan["why"]


@pytest.fixture
def forgetful(install, emulator):
    """An account at Adobe Target, whose profiles are forgotten when nobody sends them; yesterday 70 were confirmed."""
    account = install(emulator.url, destination="adobe_target_bulk")
    account.land(70)
    assert ends(account.run()) == {"confirmed": 70}
    return account


def test_within_a_week_every_unchanged_profile_is_sent_once(forgetful):
    """A part each day, which the plan tells; a second run of the day sends nothing."""
    refreshed = []
    for number in range(1, 8):
        day = MONDAY + timedelta(days=number)
        forgetful.clock.now += 86_400
        forgetful.land(70, day)
        plan = planned(forgetful, day)
        report = ends(forgetful.run(day))
        refreshed.append(report.get("confirmed", 0))
        assert (plan["refreshed"], plan["rows"], plan["deferred"]) == (refreshed[-1], refreshed[-1], 0)
        assert report["unchanged"] == 70 - refreshed[-1]
        assert f"refreshed {refreshed[-1]} of them" in as_text(plan)
    assert ends(forgetful.run(day)) == {"unchanged": 70}
    assert sum(refreshed) == 70
    assert max(refreshed) < 30


def test_what_has_changed_goes_before_what_is_only_refreshed(forgetful):
    """Where the quota has no room for both, an unchanged profile stays unchanged, and is not put off either."""
    forgetful.extra["limits"] = {"adobe_target_bulk": {"quota": 100}}
    later = MONDAY + timedelta(days=1)
    changed = {f"C-{number:05d}": {"city": "Paris" if number < 28 else "Lyon"} for number in range(70)}
    forgetful.land(changed, later)
    assert ends(forgetful.run(later)) == {"confirmed": 30, "unchanged": 40}
    assert {planned(forgetful, later)["refreshed"]} == {0}


def test_only_what_changed_counts_for_the_choice(install, emulator):
    """A large export of which little changed goes to the small endpoint."""
    free = install(emulator.url, destination="batch", extra={"limits": {"batch_mass_update": {"rows_per_call": 20}}})
    free.land(30)
    free.run()
    free.land({f"C-{number:05d}": {"city": "Paris" if number < 5 else "Lyon"} for number in range(30)})
    plan = planned(free)
    assert (plan["endpoint"], plan["rows"]) == ("batch_update", 5)


# --- quota and limit --------------------------------------------------------------------------------------------------


def test_rows_beyond_the_quota_are_deferred_by_name(install, emulator):
    """What fits is delivered, the rest is deferred, and goes out when the window has moved on."""
    limits = {"rows_per_call": 10, "quota": 100}
    scarce = install(emulator.url, extra={"limits": {"batch_update": limits}, "headroom": 0.3})
    scarce.land(95)
    plan = planned(scarce)
    assert plan["quota"] == {"limit": 100, "ours": 70, "window_hours": 24, "used_before": 0, "used_after": 70}
    report = scarce.run()
    assert ends(report) == {"accepted": 70, "deferred": 25}
    assert report.exit_code == 1
    assert {"code": "quota", "count": 25} in report.reasons
    assert report.quota == {"limit": 100, "window_hours": 24, "used": 70}
    assert ends(scarce.run()) == {"unchanged": 70, "deferred": 25}
    scarce.clock.now += 24.2 * 3600
    assert ends(scarce.run()) == {"unchanged": 70, "accepted": 25}
    assert emulator.duplicates() == 0


@pytest.mark.parametrize("wait", [False, True])
def test_a_run_at_the_same_hour_waits_for_what_yesterdays_gives_back(install, emulator, wait):
    """Yesterday's rows count a little longer than 24 hours: nothing is put off for that, and nothing goes too early."""
    scarce = install(emulator.url, extra={"limits": {"batch_update": {"rows_per_call": 10, "quota": 40}}})
    scarce.land(100)
    scarce.run()
    began = scarce.clock.now = scarce.clock.now + 24 * 3600
    ctx = scarce.context(run_id="cli-2", wait=wait)
    report = pipeline.run(ctx)
    if not wait:  # as a task does that frees its worker
        loaded = ctx.result("load")
        assert (ends(report), loaded["stopped"]) == ({"unchanged": 40, "not_sent": 40, "deferred": 20}, "quota")
        scarce.clock.now += loaded["wait"]
        report = pipeline.run(ctx)
    assert ends(report) == {"unchanged": 40, "accepted": 40, "deferred": 20}
    assert 0 < scarce.clock.now - began < 3600
    calls = [(attempt.started_at, 10) for run in ctx.ledger.runs() for attempt in ctx.ledger.attempts(run.run)]
    assert max(sum(rows for at, rows in calls if start <= at < start + 24 * 3600) for start, _ in calls) == 40


def test_quota_that_failed_calls_used_up_is_never_exceeded(install, emulator):
    """Calls without a known outcome count; what they leave no room for is not sent."""
    limits = {"rows_per_call": 10, "quota": 100}
    scarce = install(emulator.url, extra={"limits": {"batch_update": limits}})
    emulator.faults({"status": 503, "times": 3})
    scarce.land(100)
    report = scarce.run()
    assert ends(report).keys() <= {"accepted", "unknown", "not_sent"}
    assert report.exit_code == 3
    assert emulator.meter()["rows"] == report.quota["used"] == 100


def test_a_limit_delivers_the_first_changed_profiles(installation, emulator):
    """The rest is deferred by name, and the next run goes on with it."""
    installation.land(50)
    report = installation.run(limit=20)
    assert ends(report) == {"accepted": 20, "deferred": 30}
    assert report.exit_code == 1
    assert {"code": "limit", "count": 30} in report.reasons
    assert sorted(emulator.profiles) == [f"C-{number:05d}" for number in range(20)]
    assert ends(installation.run(limit=20)) == {"unchanged": 20, "accepted": 20, "deferred": 10}
    assert ends(installation.run()) == {"unchanged": 40, "accepted": 10}


def test_a_limit_of_nothing_sends_nothing(installation, emulator):
    """Zero is a number."""
    installation.land(5)
    assert ends(installation.run(limit=0)) == {"deferred": 5}
    assert emulator.requests == []


def test_a_limit_is_not_renewed_when_the_run_is_run_again(installation, emulator):
    """A cleared task keeps to what the run was asked for."""
    installation.land(50)
    first = pipeline.run(installation.context(limit=20))
    again = pipeline.run(installation.context(limit=20))
    assert ends(again) == ends(first) == {"accepted": 20, "deferred": 30}
    assert len(emulator.profiles) == 20
