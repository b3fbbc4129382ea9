"""Every row ends where the report says: whatever the vendor answers, and whenever a process dies."""

from __future__ import annotations

import itertools
import json
import math
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from itertools import pairwise

import pytest

from etl import pack, pipeline, reconcile, report
from etl.calls import Calls
from etl.client import Client
from etl.delta import Seen
from etl.emulator.server import start
from etl.ledger import LEASE_S, Ledger, LostLeaseError
from etl.limits import limits_of
from etl.load import STOPPED_BY_US
from etl.model import AttemptOutcome, BatchState
from etl.pacing import LONGEST_WAIT_S, Pacer
from etl.pack import current_plan
from etl.state import absorb, load_state
from etl.storage import Place

MONDAY = date(2026, 3, 2)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)
CALLS_AT_ONCE = limits_of("batch_update").calls_at_once
TEN_A_CALL = {"limits": {"batch_update": {"rows_per_call": 10}}}


def ends(report) -> dict[str, int]:
    """The buckets that hold rows, of a report that balances."""
    assert report.balanced
    assert report.rows["records_in"] == sum(report.rows.values()) - report.rows["records_in"]
    return {bucket: count for bucket, count in report.rows.items() if count and bucket != "records_in"}


def reasons(report) -> dict[str, int]:
    return {reason["code"]: reason["count"] for reason in report.reasons}


@pytest.fixture
def small_calls(install, emulator):
    """An installation whose calls hold ten rows, so that a hundred customers make ten calls."""
    return install(emulator.url, extra=TEN_A_CALL)


@pytest.fixture
def one_at_a_time(install, emulator):
    """An installation that sends to the mass endpoint: one call after the other."""
    return install(
        emulator.url, destination="batch_mass_update", extra={"limits": {"batch_mass_update": {"rows_per_call": 10}}}
    )


# --- the ordinary day -------------------------------------------------------------------------------------------------


def test_every_profile_arrives_once(small_calls, emulator):
    """A day without trouble: one call a batch, one update a profile, nothing to look at."""
    small_calls.land(95)
    report = small_calls.run()
    assert ends(report) == {"accepted": 95}
    assert report.exit_code == 0
    assert (emulator.meter()["calls"], len(emulator.profiles), emulator.duplicates()) == (10, 95, 0)


def test_a_finished_day_is_not_sent_again(small_calls, emulator):
    """The second run finds every profile as the account knows it, and makes no call."""
    small_calls.land(95)
    small_calls.run()
    before = len(emulator.requests)
    again = small_calls.run()
    assert ends(again) == {"unchanged": 95}
    assert again.exit_code == 0
    assert len(emulator.requests) == before


def test_a_finished_run_that_is_run_again_sends_nothing(small_calls, emulator):
    """A cleared task finds its batches settled, and its report stays as it was."""
    small_calls.land(95)
    first = pipeline.run(small_calls.context())
    before = len(emulator.requests)
    again = pipeline.run(small_calls.context())
    assert ends(again) == ends(first)
    assert len(emulator.requests) == before


def test_the_ledger_may_be_postgresql(install, emulator, postgres_url):
    """Several machines share one: the account comes out the same, run after run."""
    shared = install(emulator.url, extra=TEN_A_CALL, ledger=postgres_url)
    emulator.faults({"refuse_call_with": "C-00003"}, {"status": 503, "every": 5})
    shared.land(95)
    assert ends(shared.run()) == {"accepted": 94, "rejected": 1}
    assert ends(shared.run()) == {"unchanged": 94, "rejected": 1}


def test_only_changed_profiles_are_sent(small_calls, emulator):
    """A new day sends what is new or different."""
    small_calls.land(30)
    small_calls.run()
    small_calls.land({"C-00001": {"city": "Paris"}, "C-00002": {}, "C-new": {}}, TUESDAY)
    assert ends(small_calls.run(TUESDAY)) == {"accepted": 2, "unchanged": 1}
    assert emulator.cities()["C-00001"] == "Paris"


# --- what the vendor answers ------------------------------------------------------------------------------------------


def test_calls_that_failed_are_sent_again(small_calls, emulator):
    """A 503 leaves the outcome unknown; the same bytes go again, a little later."""
    emulator.faults({"status": 503, "every": 4})
    small_calls.land(95)
    report = small_calls.run()
    assert ends(report) == {"accepted": 95}
    assert (len(emulator.profiles), emulator.duplicates()) == (95, 0)
    assert report.duplicates_possible == 10 * emulator.meter()["statuses"]["503"]
    sent = [request["sha256"] for request in emulator.requests]
    assert len(set(sent)) == 10


def test_what_arrived_twice_was_counted_as_possible(small_calls, emulator):
    """A batch that was applied although its answer got lost is the only kind that arrives twice."""
    emulator.faults({"drop": "reset", "apply": True, "every": 4})
    small_calls.land(95)
    report = small_calls.run()
    assert ends(report) == {"accepted": 95}
    assert 0 < emulator.duplicates() <= report.duplicates_possible


@pytest.mark.parametrize("asked", [20, None])
def test_a_429_uses_up_no_retry(small_calls, emulator, asked):
    """However often the vendor asks for a pause, it gets one, and everything is delivered in the end."""
    refusal = {"status": 429, "every": 1, "times": 15} | ({} if asked is None else {"retry_after": asked})
    emulator.faults(refusal)
    small_calls.land(95)
    report = small_calls.run()
    assert ends(report) == {"accepted": 95}
    assert report.duplicates_possible == 0
    assert emulator.meter()["statuses"] == {"429": 15, "202": 10}


def test_nobody_sends_before_the_vendors_pause_is_over(one_at_a_time, emulator):
    """After a 429 the next arrival is as late as the vendor asked."""
    emulator.faults({"status": 429, "retry_after": 45, "times": 1})
    one_at_a_time.land(95)
    assert ends(one_at_a_time.run()) == {"accepted": 95}
    first, second, *_ = (request["at"] for request in emulator.requests)
    assert second - first >= 45


def test_a_pause_too_long_to_sleep_through_ends_the_run(one_at_a_time, emulator):
    """The run says how long to stay away; the next one is told so without a call, and the one after delivers."""
    emulator.faults({"status": 429, "retry_after": LONGEST_WAIT_S + 100, "times": 1})
    one_at_a_time.land(95)
    ctx = one_at_a_time.context()
    report = pipeline.run(ctx)
    assert ends(report) == {"not_sent": 95}
    assert report.exit_code == 3
    assert ctx.result("load") == {"stopped": "http_429", "wait": LONGEST_WAIT_S + 100}
    assert ends(one_at_a_time.run()) == {"not_sent": 95}
    assert len(emulator.requests) == 1
    one_at_a_time.clock.now += LONGEST_WAIT_S + 100
    assert ends(one_at_a_time.run()) == {"accepted": 95}


def test_a_vendor_that_never_lets_a_call_pass_ends_the_run(one_at_a_time, emulator):
    """No run waits for ever: after a score of refusals of one batch the rest is left for later."""
    emulator.faults({"status": 429, "retry_after": 1})
    one_at_a_time.land(10)
    report = one_at_a_time.run()
    assert ends(report) == {"not_sent": 10}
    assert len(emulator.requests) == 20


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_us_stops_at_once(small_calls, emulator, status):
    """What was under way comes to its end, no new call is started, and every row is not sent."""
    emulator.faults({"status": status})
    small_calls.land(200)
    report = small_calls.run()
    assert ends(report) == {"not_sent": 200}
    assert report.exit_code == 3
    assert reasons(report).keys() == {f"http_{status}"}
    assert len(emulator.requests) <= CALLS_AT_ONCE


def test_a_refusal_while_a_call_waits_for_its_turn_stops_that_call(install, emulator):
    """A call that sleeps for its place in the rate does not leave once the account is refused."""
    limits = {"rows_per_call": 10, "per_second": 10, "burst": 11}
    slow = install(emulator.url, extra={"limits": {"batch_update": limits}})
    emulator.faults({"status": 401})
    slow.land(50)
    ctx = slow.context()
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    sleep = type(ctx).sleep

    def patient(self, seconds: float) -> bool:
        """The answer comes during this sleep."""
        while any(attempt.outcome is AttemptOutcome.SENDING for attempt in self.ledger.attempts(self.name)):
            time.sleep(0.01)
        return sleep(self, seconds)

    object.__setattr__(ctx, "sleep", patient.__get__(ctx))
    pipeline.do(ctx, "load")
    assert len(emulator.requests) == 1


def test_a_redirect_is_not_followed(one_at_a_time, emulator, clock):
    """Rows that met a redirect are unknown, the run stops, and the other host sees nothing."""
    with start(clock=clock) as elsewhere:
        emulator.faults({"redirect": f"{elsewhere}/2.11/profiles/mass-update"})
        one_at_a_time.land(95)
        report = one_at_a_time.run()
        assert type(emulator)(elsewhere, clock).requests == []
    assert ends(report) == {"unknown": 10, "not_sent": 85}
    assert report.exit_code == 3
    assert len(emulator.requests) == 1


def test_nothing_is_debited_for_what_never_left(install):
    """A connection that is refused proves that nothing was sent: no quota is used, no duplicate possible."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        limits = {"rows_per_call": 10, "quota": 1000}
        offline = install(f"http://127.0.0.1:{closed.getsockname()[1]}", extra={"limits": {"batch_update": limits}})
        offline.land(200)
        ctx = offline.context()
        report = pipeline.run(ctx)
    assert ends(report) == {"not_sent": 200}
    assert reasons(report).keys() == {"connect_failed"}
    assert (report.quota["used"], report.duplicates_possible) == (0, 0)
    assert len(ctx.ledger.attempts(ctx.name)) <= 10 + CALLS_AT_ONCE


def test_an_outage_costs_few_calls_and_loses_nothing(small_calls, emulator):
    """When everything fails, the run stops within its retry budget; the next run delivers."""
    emulator.faults({"status": 503})
    small_calls.land(400)
    report = small_calls.run()
    assert ends(report).keys() == {"unknown", "not_sent"}
    assert report.exit_code == 3
    assert len(emulator.requests) <= 10 + CALLS_AT_ONCE
    emulator.heal()
    assert ends(small_calls.run()) == {"accepted": 400}
    assert len(emulator.profiles) == 400


def test_an_outage_of_hours_costs_a_call_each_time_the_run_comes_back(small_calls, emulator):
    """Airflow's task comes back after longer and longer pauses; when the vendor is there again, all is delivered."""
    emulator.faults({"status": 503})
    small_calls.land(400)
    ctx = small_calls.context()
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    pauses = []
    while sum(pauses) < 6 * 3600:
        pauses.append(pipeline.do(ctx, "load")["wait"])
        ctx.clock.now += pauses[-1]
    assert pauses[0] == 60
    assert pauses[-1] == LONGEST_WAIT_S
    assert len(emulator.requests) <= 10 + CALLS_AT_ONCE + len(pauses)
    emulator.heal()
    assert ends(pipeline.deliver(ctx)) == {"accepted": 400}


def test_a_503_that_asks_for_a_pause_holds_everybody_back(small_calls, emulator):
    """The vendor speaks of itself, not of one call."""
    emulator.faults({"status": 503, "retry_after": 45, "times": 1})
    small_calls.land(200)
    assert ends(small_calls.run()) == {"accepted": 200}
    refused = next(request["at"] for request in emulator.requests if request["status"] == 503)
    began = [request["at"] for request in emulator.requests if request["at"] > refused]
    assert len([at for at in began if at < refused + 45]) < CALLS_AT_ONCE


def test_what_an_earlier_run_left_in_doubt_is_sent_again_before_anything_newer(small_calls, emulator):
    """The same bytes, when no later export speaks of all of its customers; the earlier report is brought up to date."""
    emulator.faults({"drop": "reset", "apply": True, "times": 3})
    small_calls.land(10)
    first = small_calls.context(run_id="cli-first")
    assert ends(pipeline.run(first)) == {"unknown": 10}
    lost = emulator.requests[-1]["sha256"]
    small_calls.land({f"C-{number:05d}": {} for number in range(5)}, TUESDAY, city="Paris")
    assert ends(small_calls.run(TUESDAY)) == {"accepted": 5}
    assert [request["sha256"] for request in emulator.requests].count(lost) == 4
    assert set(emulator.cities().values()) == {"Paris", "Lyon"}
    assert list(emulator.cities().values()).count("Paris") == 5
    assert ends(report.read_report(first.place)) == {"accepted": 10}


def test_what_was_left_in_doubt_is_superseded_when_something_newer_got_through(small_calls, emulator):
    """No call is spent on it, and the earlier report says so."""
    emulator.faults({"drop": "reset", "times": 3})
    small_calls.land(10)
    first = small_calls.context(run_id="cli-first")
    assert ends(pipeline.run(first)) == {"unknown": 10}
    small_calls.land(10, TUESDAY, city="Paris")
    assert ends(small_calls.run(TUESDAY)) == {"accepted": 10}
    assert len(emulator.requests) == 4
    earlier = report.read_report(first.place)
    assert (ends(earlier), earlier.exit_code) == ({"superseded": 10}, 0)
    assert ends(small_calls.run()) == {"superseded": 10}


def test_a_plan_that_another_process_of_the_run_may_be_sending_stays(small_calls):
    """A worker that Airflow gave up too early makes the plan once more, and touches nothing of its successor's."""
    small_calls.land(20)
    ctx = small_calls.context()
    pipeline.begin(ctx)
    made = pipeline.prepare(ctx)
    small_calls.run()
    assert pack.stage(ctx, plan=1)["rows"] == made["rows"] == 20
    assert ends(pipeline.deliver(ctx)) == {"unchanged": 20}


def test_rows_that_another_run_has_under_way_are_looked_at_again(install, emulator):
    """A run whose other rows are settled does not stay unfinished because of what it saw at its first plan."""
    bulk = install(
        emulator.url,
        destination="adobe_target_bulk",
        extra={"limits": {"adobe_target_bulk": {"rows_per_call": 5}}},
    )
    bulk.land(10)
    emulator.faults({"job": "incomplete", "path": "/batchStatus"}, {"status": 401, "path": "/batchUpdate", "every": 2})
    one, other = (bulk.context(run_id=f"cli-{name}", wait=False) for name in ("one", "other"))
    assert ends(pipeline.run(one)) == {"processing": 5, "not_sent": 5}
    assert ends(pipeline.run(other)) == {"processing": 5, "not_sent": 5}
    assert ends(pipeline.run(one)) == ends(pipeline.run(other)) == {"processing": 10}
    emulator.heal()
    for _ in range(3):
        bulk.clock.now += 600
        ended = pipeline.run(one)
    assert ends(ended) == {"confirmed": 10}
    assert ends(pipeline.run(other)) == {"unchanged": 10}


def test_a_call_that_could_not_leave_at_once_does_not_leave(small_calls, emulator):
    """A machine that stood still between intent and call may have been replaced meanwhile."""

    standstills = iter([LEASE_S])

    class SlowCalls(Calls):
        def begin(self, call):
            small_calls.clock.now += next(standstills, 0)
            return super().begin(call)

    small_calls.land(10)
    ctx = small_calls.context()
    object.__setattr__(ctx, "calls", SlowCalls)
    assert ends(pipeline.run(ctx)) == {"accepted": 10}
    assert [a.code for a in ctx.ledger.attempts(ctx.name)] == ["too_late", None]
    assert len(emulator.requests) == 1


@pytest.mark.parametrize(
    ("guilty", "customers"), [({7}, 100), ({0, 99}, 100), ({1, 2, 50}, 100), ({0}, 1), (set(range(5)), 5)]
)
def test_guilty_rows_are_found_by_halving(installation, emulator, guilty, customers):
    """A call refused for some of its rows is halved until these stand alone; all others are delivered."""
    emulator.faults({"refuse_call_with": [f"C-{number:05d}" for number in guilty]})
    installation.land(customers)
    report = installation.run()
    delivered = {"accepted": customers - len(guilty)} if customers > len(guilty) else {}
    assert ends(report) == delivered | {"rejected": len(guilty)}
    assert report.exit_code == 1
    assert reasons(report) == {"http_400": len(guilty)}
    assert len(emulator.requests) <= 2 * len(guilty) * math.ceil(math.log2(customers)) + 1
    assert {f"C-{number:05d}" for number in range(customers)} - set(emulator.profiles) == {
        f"C-{number:05d}" for number in guilty
    }


def test_a_vendor_that_rejects_everything_is_not_asked_about_every_row(install, emulator, monkeypatch):
    """After many single rows without one that was taken, the rest is left for when a person has looked."""
    monkeypatch.setattr("etl.load._ALL_REJECTED", 20)
    mass = install(emulator.url, destination="batch_mass_update")
    emulator.faults({"status": 400})
    mass.land(30)
    report = mass.run()
    assert ends(report) == {"rejected": 20, "not_sent": 10}
    assert (report.exit_code, reasons(report)) == (3, {"http_400": 30})


def test_a_call_that_is_too_large_for_the_vendor_is_halved(installation, emulator):
    """A 413 speaks of the payload, not of a row: its halves pass."""
    emulator.faults({"status": 413, "times": 1})
    installation.land(50)
    assert ends(installation.run()) == {"accepted": 50}
    assert [request["rows"] for request in emulator.requests] == [50, 25, 25]


def test_rejected_rows_stay_rejected(installation, emulator):
    """What the vendor refused is not tried again until it changes, and every report says so."""
    emulator.faults({"refuse_call_with": "C-00003"})
    installation.land(10)
    installation.run()
    before = len(emulator.requests)
    again = installation.run()
    assert ends(again) == {"unchanged": 9, "rejected": 1}
    assert (again.exit_code, reasons(again)) == (1, {"http_400": 1})
    assert len(emulator.requests) == before
    emulator.heal()
    installation.land(10, TUESDAY, city="Paris")
    assert ends(installation.run(TUESDAY)) == {"accepted": 10}


def test_refused_fields_are_named_and_their_rows_accepted(installation, emulator):
    """A partial error drops a field, not its row."""
    emulator.faults({"refuse_attribute": ["C-00003/city", "C-00007/city", "C-00007/$email_address"]})
    installation.land(10)
    report = installation.run()
    assert ends(report) == {"accepted": 10}
    assert report.exit_code == 1
    assert reasons(report) == {"field_refused_city": 2, "field_refused_$email_address": 1}


def test_a_refused_field_of_no_row_of_ours_is_still_named(installation, emulator):
    """An index beyond the call's end cannot be placed, and is not passed over."""
    error = {"category": "attribute", "bulk_index": 99, "attribute": "city"}
    body = json.dumps({"code": "SUCCESS_WITH_PARTIAL_ERRORS", "errors": [error]})
    emulator.faults({"status": 202, "body": body, "apply": True})
    installation.land(5)
    report = installation.run()
    assert (ends(report), report.exit_code) == ({"accepted": 5}, 1)
    assert reasons(report) == {"field_refused_unplaced": 1}


@pytest.mark.parametrize(
    "fault",
    [
        {"body": ""},
        {"status": 200, "html": "on"},
        {"truncate": 5},
        {"truncate": 5, "framing": "close"},
        {"drop": "close"},
        {"status": 202, "body": '{"code":"WHATEVER"}'},
    ],
)
def test_an_answer_that_proves_nothing_is_unknown(installation, emulator, fault):
    """A 2xx without the vendor's whole acknowledgement is never taken for one; three tries, then the rows wait."""
    emulator.faults(fault | {"apply": True})
    installation.land(20)
    report = installation.run()
    assert ends(report) == {"unknown": 20}
    assert report.exit_code == 3
    assert report.duplicates_possible == 60
    assert len(emulator.requests) == 3
    emulator.heal()
    assert ends(installation.run()) == {"accepted": 20}
    assert emulator.duplicates() <= report.duplicates_possible


@pytest.mark.parametrize("then", [{"status": 401}, {"status": 429, "retry_after": 9999}])
def test_rows_that_may_have_arrived_are_never_called_not_sent(installation, emulator, then):
    """An answer that nothing was taken speaks of its own call, not of the one before."""
    emulator.faults({"drop": "close", "apply": True, "times": 1}, then | {"times": 1})
    installation.land(10)
    assert ends(installation.run()) == {"unknown": 10}


def test_a_vendor_that_asks_for_patience_after_a_failure_gets_it(installation, emulator):
    """Retry-After holds for a 503 too."""
    emulator.faults({"status": 503, "retry_after": 300, "times": 1})
    installation.land(10)
    assert ends(installation.run()) == {"accepted": 10}
    first, second = (request["at"] for request in emulator.requests)
    assert second - first >= 300


def test_the_strict_window_counts_from_the_answer_of_a_failed_call_too(one_at_a_time, emulator, monkeypatch):
    """Nobody knows when the vendor counted a call that took five seconds to fail."""
    clock, post, calls = one_at_a_time.clock, Client.post, []

    def slowly(self, *args, **kwargs):
        left = clock.now
        clock.now += 5
        calls.append((left, clock.now))
        return post(self, *args, **kwargs)

    monkeypatch.setattr(Client, "post", slowly)
    one_at_a_time.extra["limits"]["batch_mass_update"]["per_second"] = 10
    emulator.faults({"status": 503, "every": 2})
    one_at_a_time.land(50)
    one_at_a_time.run()
    assert len(calls) > 5
    assert all(after[0] - before[1] >= 1 for before, after in pairwise(calls))


# --- stops ------------------------------------------------------------------------------------------------------------


def test_a_run_that_is_to_stop_notes_what_was_under_way(small_calls, emulator):
    """Calls under way come to their end and are recorded; the rest is not sent, and the next run sends it."""
    small_calls.land(400)
    ctx = small_calls.context()
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    object.__setattr__(ctx, "progress", lambda _step, done, _planned: ctx.stop.set() if done else None)
    assert pipeline.do(ctx, "load")["stopped"] == STOPPED_BY_US
    batches = ctx.ledger.batches(ctx.name)
    accepted = sum(batch.rows for batch in batches if batch.state is BatchState.ACCEPTED)
    assert {batch.state for batch in batches} == {BatchState.ACCEPTED, BatchState.PLANNED}
    assert len(emulator.profiles) == accepted
    report = pipeline.run(small_calls.context())
    assert ends(report) == {"accepted": 400}
    assert emulator.duplicates() == 0


def test_a_run_that_lost_its_lease_sends_nothing_more(small_calls, emulator):
    """Whoever finds another holder in its place stops in good order."""
    small_calls.land(400)
    ctx = small_calls.context()
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    account, ledger = ctx.connection.account, ctx.ledger

    def take_over(step: str, done: int, _planned: int) -> None:
        if step == "load" and done:
            until = ledger.now() + 60
            ledger.take_lease(account, holder="x:1:y", until=until, is_dead={ledger.holder(account): True})

    object.__setattr__(ctx, "progress", take_over)
    assert pipeline.do(ctx, "load")["stopped"] == "lease_lost"
    assert len(emulator.requests) <= 2 * CALLS_AT_ONCE


def test_outcomes_that_come_at_once_are_all_counted(install, emulator):
    """The calls under way share one budget, and none of their outcomes is lost on the way."""
    many = install(emulator.url, extra={"limits": {"batch_update": {"rows_per_call": 1}}})
    emulator.faults({"status": 503, "every": 30})
    many.land(120)
    ctx = many.context()
    shown: list[int] = []
    object.__setattr__(ctx, "progress", lambda step, done, _: shown.append(done) if step == "load" and done else None)
    assert ends(pipeline.run(ctx)) == {"accepted": 120}
    assert shown == sorted(shown)
    assert shown[-1] == 120


# --- other runs of the account ----------------------------------------------------------------------------------------


def test_a_run_whose_account_moved_on_is_planned_anew(small_calls, emulator):
    """What another run delivered meanwhile is not sent again; what it left is."""
    small_calls.land(50)
    slow = small_calls.context()
    pipeline.begin(slow)
    pipeline.prepare(slow)
    small_calls.run(limit=20)
    before = len(emulator.requests)
    assert ends(pipeline.run(slow)) == {"unchanged": 20, "accepted": 30}
    assert len(emulator.requests) - before == 3
    assert emulator.duplicates() == 0


def test_an_older_day_never_overwrites_a_newer_one(small_calls, emulator):
    """A profile that a later export has spoken of is superseded; one that only the older export knows is sent."""
    small_calls.land({f"C-{number}": {"city": "Paris"} for number in range(30)}, TUESDAY)
    small_calls.land({f"C-{number}": {"city": "Lyon"} for number in range(40)}, MONDAY)
    small_calls.run(TUESDAY)
    assert ends(small_calls.run(MONDAY)) == {"superseded": 30, "accepted": 10}
    assert list(emulator.cities().values()) == ["Paris"] * 30 + ["Lyon"] * 10


def test_an_older_day_of_unknown_outcome_never_overwrites_a_newer_one(small_calls, emulator):
    """A run that died in doubt is not simply repeated: its profiles have newer values by now."""
    small_calls.land(30, MONDAY, city="Lyon")
    small_calls.land(30, TUESDAY, city="Paris")
    emulator.faults({"drop": "close", "apply": True})
    died = small_calls.context(MONDAY)
    pipeline.begin(died)
    pipeline.prepare(died)
    pipeline.do(died, "load")
    emulator.heal()
    assert ends(small_calls.run(TUESDAY)) == {"accepted": 30}
    before = len(emulator.requests)
    assert ends(pipeline.run(small_calls.context(MONDAY))) == {"superseded": 30}
    assert len(emulator.requests) == before
    assert set(emulator.cities().values()) == {"Paris"}


def test_a_profile_that_changes_back_after_an_unknown_outcome_is_sent(small_calls, emulator):
    """Lyon, then perhaps Paris, then Lyon: the account may hold Paris, so that Lyon is sent again."""
    small_calls.land(10, MONDAY, city="Lyon")
    small_calls.run(MONDAY)
    emulator.faults({"drop": "close", "apply": True})
    small_calls.land(10, TUESDAY, city="Paris")
    assert ends(small_calls.run(TUESDAY)) == {"unknown": 10}
    emulator.heal()
    small_calls.land(10, WEDNESDAY, city="Lyon")
    assert ends(small_calls.run(WEDNESDAY)) == {"accepted": 10}
    assert set(emulator.cities().values()) == {"Lyon"}


def test_what_a_run_found_unchanged_no_older_day_changes_before_its_end(small_calls, emulator):
    """A run speaks of its customers from its load on, although the account learns of those who are unchanged at the end."""
    small_calls.land(10, MONDAY, city="Lyon")
    small_calls.run(MONDAY)
    small_calls.land(10, WEDNESDAY, city="Lyon")
    slow = small_calls.context(WEDNESDAY)
    pipeline.begin(slow)
    pipeline.prepare(slow)
    pipeline.do(slow, "load")
    small_calls.land(10, TUESDAY, city="Nice")
    assert ends(small_calls.run(TUESDAY)) == {"superseded": 10}
    assert ends(pipeline.follow(slow)) == {"unchanged": 10}
    assert set(emulator.cities().values()) == {"Lyon"}


def test_what_another_run_of_the_day_sent_while_this_one_ended_is_not_forgotten(small_calls, emulator):
    """A run that found a profile unchanged vouches for it only if the account still knows it so."""
    small_calls.land(10, MONDAY, city="Lyon")
    small_calls.run(MONDAY)
    small_calls.land(10, TUESDAY, city="Lyon")
    slow = small_calls.context(TUESDAY)
    pipeline.begin(slow)
    pipeline.prepare(slow)
    pipeline.do(slow, "load")
    small_calls.land(10, TUESDAY, city="Nice")
    assert ends(pipeline.run(small_calls.context(TUESDAY, run_id="cli-corrected"))) == {"accepted": 10}
    pipeline.do(slow, "reconcile")
    small_calls.land(10, WEDNESDAY, city="Lyon")
    assert ends(small_calls.run(WEDNESDAY)) == {"accepted": 10}
    assert set(emulator.cities().values()) == {"Lyon"}


def test_a_state_that_others_have_replaced_is_read_anew_or_left_to_them(small_calls, monkeypatch):
    """Who only reads takes the newest; who would write it has lost the lease, or nobody else could have written."""
    small_calls.land(10)
    small_calls.run()
    ctx = small_calls.context()
    account, known = ctx.connection.account, ctx.ledger.account
    days = (MONDAY + timedelta(days=number) for number in itertools.count(1))

    def overtaken(name):
        found = known(name)
        for day in itertools.islice(days, 3):
            small_calls.land(10, day, city=str(day))
            small_calls.run(day)
        patched.undo()
        return found

    for read in (load_state, partial(absorb, fence=1, seen=[Seen.of(WEDNESDAY, [])])):
        with monkeypatch.context() as patched:
            patched.setattr(ctx.ledger, "account", overtaken)
            if read is load_state:
                assert read(ctx.work, ctx.ledger, account).table.height == 10
            else:
                with pytest.raises(LostLeaseError):
                    read(ctx.work, ctx.ledger, account)


def test_an_account_is_of_the_plan_that_counts(small_calls, monkeypatch):
    """A process that was given up too early wakes up after its successor has made the plan anew."""
    small_calls.land(10)
    small_calls.run()
    small_calls.land(20, TUESDAY)
    slow = small_calls.context(TUESDAY)
    pipeline.begin(slow)
    pipeline.prepare(slow)
    pipeline.do(slow, "load")
    counted = iter([replace(current_plan(slow), plan=7)])
    monkeypatch.setattr(reconcile, "current_plan", lambda ctx: next(counted, None) or current_plan(ctx))
    assert ends(pipeline.follow(slow)) == {"accepted": 10, "unchanged": 10}


# --- processes that die -----------------------------------------------------------------------------------------------


class Died(BaseException):
    """The end of a process, as far as its code can tell."""


def dying(method, *, nth: int, after: bool):
    """A method whose nth call is the last thing that its process does, or would have done."""
    calls = itertools.count(1)

    def call(*args, **kwargs):
        last = next(calls) == nth
        if last and not after:
            raise Died
        result = method(*args, **kwargs)
        if last:
            raise Died
        return result

    return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "method", "nth"),
    [
        (Ledger, "open_run", 1),
        (Ledger, "adopt_plan", 1),
        (Ledger, "intend", 1),
        (Ledger, "intend", 4),
        (Ledger, "settle", 1),  # of the call that is split
        (Ledger, "settle", 5),
        (Ledger, "commit_state", 1),
        (Ledger, "finish_run", 1),
        (Pacer, "answered", 2),
        (Place, "write_json", 3),
        (Place, "write_json", 7),
        (Place, "write_json", 9),
    ],
)
def test_a_run_goes_on_wherever_it_died(one_at_a_time, emulator, monkeypatch, owner, method, nth, after):
    """Before and after each commit and each file: the next process finds where it stands, and nothing is lost."""
    emulator.faults({"refuse_call_with": "C-00003"}, {"status": 503, "times": 1})
    one_at_a_time.land(45)
    with monkeypatch.context() as patched:
        patched.setattr(owner, method, dying(getattr(owner, method), nth=nth, after=after))
        with pytest.raises(Died):
            pipeline.run(one_at_a_time.context())
    report = pipeline.run(one_at_a_time.context())
    assert ends(report) == {"accepted": 44, "rejected": 1}
    assert len(emulator.profiles) == 44
    assert emulator.duplicates() <= report.duplicates_possible


def test_what_is_in_doubt_is_not_sent_after_something_newer_when_a_run_goes_on(one_at_a_time, emulator, monkeypatch):
    """The process that died had sent the newer word already, and the older one would undo it."""
    emulator.faults({"drop": "reset"})
    one_at_a_time.land(10)
    assert ends(one_at_a_time.run()) == {"unknown": 10}
    emulator.heal()
    one_at_a_time.land(20, TUESDAY, city="Paris")
    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "settle", dying(Ledger.settle, nth=2, after=True))
        with pytest.raises(Died):
            pipeline.run(one_at_a_time.context(TUESDAY))
    assert ends(pipeline.run(one_at_a_time.context(TUESDAY))) == {"accepted": 20}
    assert set(emulator.cities().values()) == {"Paris"}


def test_a_plan_made_anew_is_carried_out_although_its_maker_died(small_calls, emulator, monkeypatch):
    """A new plan counts from the moment at which it is adopted; until then the old one can be made anew again."""
    small_calls.land(50)
    slow = small_calls.context()
    pipeline.begin(slow)
    pipeline.prepare(slow)
    small_calls.run(limit=20)
    for method in ("write_json", "adopt_plan"):
        owner = Place if method == "write_json" else Ledger
        for after in (False, True):
            with monkeypatch.context() as patched:
                patched.setattr(owner, method, dying(getattr(owner, method), nth=1, after=after))
                with pytest.raises(Died):
                    pipeline.run(small_calls.context())
    assert ends(pipeline.run(small_calls.context())) == {"unchanged": 20, "accepted": 30}
    assert emulator.duplicates() == 0


def finished(process) -> dict:
    """The report of a process that came to its end."""
    out, error = process.communicate(timeout=60)
    assert process.returncode in {0, 1, 3}, error
    return json.loads(out)


def killed_when(process, moment: Callable[[], bool]) -> None:
    """Kills a process at a moment, as the kernel does when memory runs out."""
    while process.poll() is None and not moment():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_call_whose_sender_died_before_the_answer_is_sent_again_and_counted(install, real_time_emulator):
    """Between the vendor's acceptance and our record of it nobody knows: the rows arrive twice, and the report says so."""
    emulator = real_time_emulator
    installation = install(emulator.url)
    installation.land(50)
    emulator.faults({"delay": 30, "apply": True, "times": 1})
    killed_when(installation.start(), lambda: emulator.meter()["rows_applied"] == 50)
    emulator.heal()
    report = finished(installation.start())
    assert report["rows"]["accepted"] == 50
    assert report["duplicates_possible"] == emulator.duplicates() == 50
