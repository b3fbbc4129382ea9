"""Batches that the vendor works on after it took them: waited for, counted as the vendor counts, never sent again by itself."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from etl import pipeline, wait
from etl.ledger import Ledger, open_jobs
from etl.ledger.schema import jobs, polls
from etl.load import AWAITING

MONDAY = date(2026, 3, 2)
TUESDAY = MONDAY + timedelta(days=1)
STATUS, UPLOAD = "/profile/batchStatus", "/v2/profile/batchUpdate"


@pytest.fixture
def bulk(install, emulator):
    """An installation that delivers to Adobe Target in bulk, and waits for half an hour."""
    return install(emulator.url, destination="adobe_target_bulk", extra={"polling": {"timeout_s": 1800}})


@pytest.fixture
def small_files(install, emulator):
    """The same with ten rows a file."""
    limits = {"adobe_target_bulk": {"rows_per_call": 10}}
    return install(emulator.url, destination="adobe_target_bulk", extra={"limits": limits})


def ends(report) -> dict[str, int]:
    """The buckets that hold rows, of a report that balances."""
    assert report.balanced
    return {bucket: count for bucket, count in report.rows.items() if count and bucket != "records_in"}


def codes(report) -> set[str]:
    return {reason["code"] for reason in report.reasons}


def uploads(emulator) -> int:
    return sum(request["path"].endswith(UPLOAD) for request in emulator.requests)


def test_what_the_vendor_confirms_is_confirmed(bulk, emulator):
    """The run stays until the batch is complete, and its counters say how the rows ended."""
    bulk.land(95)
    report = bulk.run()
    assert ends(report) == {"confirmed": 95}
    assert report.exit_code == 0
    assert len(emulator.profiles_of("adobe_target")) == 95


def test_a_finished_day_is_not_sent_again(bulk, emulator):
    """Confirmed profiles are unchanged, and nobody is asked about them."""
    bulk.land(95)
    bulk.run()
    before = len(emulator.requests)
    assert ends(bulk.run()) == {"unchanged": 95}
    assert len(emulator.requests) == before


@pytest.mark.parametrize(
    ("fault", "expected", "exit_code"),
    [
        ({"fail_rows": 3}, {"confirmed": 92, "failed_at_destination": 3}, 1),
        ({"lose_rows": 3}, {"confirmed": 92, "unreported": 3}, 1),
        ({"job": "stuck"}, {"stuck": 95}, 1),
        ({"job": "lost"}, {"unreported": 95}, 1),
        ({"job": "no_counters"}, {"unreported": 95}, 1),
        ({"job": "negative_counters"}, {"unreported": 95}, 1),
        ({"status_host": "evil.test"}, {"unreported": 95}, 1),
        ({"job": "incomplete"}, {"processing": 95}, 3),
        ({"job": "unknown_word"}, {"processing": 95}, 3),
        ({"job": "other_batch"}, {"processing": 95}, 3),
        ({"path": STATUS, "malformed_xml": True}, {"processing": 95}, 3),
        ({"path": STATUS, "entity_bomb": True}, {"processing": 95}, 3),
        ({"path": STATUS, "html": True}, {"processing": 95}, 3),
        ({"path": STATUS, "status": 500}, {"processing": 95}, 3),
        ({"path": STATUS, "redirect": "http://127.0.0.1:9/"}, {"processing": 95}, 3),
    ],
)
def test_each_answer_has_its_end_and_nothing_is_sent_again(bulk, emulator, fault, expected, exit_code):
    """Whatever the vendor says of a batch, the account adds up, and a second run sends nothing."""
    emulator.faults(fault)
    bulk.land(95)
    report = bulk.run()
    assert ends(report) == expected
    assert report.exit_code == exit_code
    again = bulk.run()
    assert ends(again) == {("unchanged" if bucket == "confirmed" else bucket): n for bucket, n in expected.items()}
    assert again.exit_code == exit_code
    assert uploads(emulator) == 1


def test_losses_that_are_not_named_are_told_in_numbers(bulk, emulator):
    """Three of 95, and the vendor does not say which: just that stands in the report, and only where it is so."""
    emulator.faults({"lose_rows": 3, "times": 1})
    bulk.land(95)
    said = "of 95 rows 3 are not reported; the vendor does not say which"
    assert any(said in notice for notice in bulk.run().notices)
    emulator.faults({"fail_rows": 3})
    bulk.land(95, TUESDAY, city="Nice")
    assert not any("does not say which" in notice for notice in bulk.run(TUESDAY).notices)


def test_a_loss_that_is_named_is_told_of_its_row(bulk, emulator):
    """Where the vendor names all that failed, the others are confirmed each by itself."""
    emulator.faults({"fail_id": "C-00007"})
    bulk.land(95)
    report = bulk.run()
    assert ends(report) == {"confirmed": 94, "failed_at_destination": 1}
    assert codes(report) == {"failed_at_destination"}
    bulk.land({f"C-{number:05d}": {} for number in range(5)})
    assert ends(bulk.run()) == {"unchanged": 5}


def test_the_wait_ends_at_its_deadline(install, emulator, clock):
    """A day after it was taken a batch is not waited for any longer; it was asked about ever less often until then."""
    bulk = install(emulator.url, destination="adobe_target_bulk", extra={"polling": {"timeout_s": 3600}})
    emulator.faults({"job": "incomplete"})
    bulk.land(5)
    started = clock.now
    assert ends(bulk.run()) == {"processing": 5}
    assert 3600 <= clock.now - started < 3700
    assert len(emulator.requests) - 1 == 4 + (3600 - 450) // 300 + 1


def test_a_batch_that_was_given_up_is_still_learnt_of(install, emulator, clock):
    """Past the deadline nothing waits for it, but whoever runs next asks once more."""
    bulk = install(emulator.url, destination="adobe_target_bulk", extra={"polling": {"timeout_s": 3600}})
    emulator.faults({"path": STATUS, "html": True})
    bulk.land(5)
    assert ends(bulk.run()) == {"processing": 5}
    emulator.heal()
    clock.now += 600
    assert ends(bulk.run()) == {"unchanged": 5}
    assert uploads(emulator) == 1


def test_at_most_nine_batches_are_open(small_files, emulator):
    """The vendor keeps ten statuses: a tenth batch waits until one of nine is complete."""
    small_files.land(250)
    ctx = small_files.context()
    assert ends(pipeline.run(ctx)) == {"confirmed": 250}
    assert uploads(emulator) == 25
    with ctx.ledger.engine.connect() as db:
        opened = dict(db.execute(sa.select(jobs.c.batch, jobs.c.opened_at)).all())
        ended = dict(db.execute(sa.select(polls.c.batch, sa.func.max(polls.c.at)).group_by(polls.c.batch)).all())
    assert max(sum(opened[b] <= moment < ended[b] for b in opened) for moment in opened.values()) == 9


def test_profiles_wait_for_their_earlier_batch(bulk, emulator):
    """Two batches that hold the same id never stand at the vendor together, whichever runs they belong to."""
    bulk.land(30)
    bulk.run(wait=False)
    bulk.land(30, TUESDAY, city="Nice")
    early = bulk.context(TUESDAY, run_id="cli-2", wait=False)
    assert ends(pipeline.run(early)) == {"not_sent": 30}
    assert uploads(emulator) == 1
    assert pipeline.do(early, "load")["stopped"] == AWAITING
    assert ends(bulk.run(TUESDAY)) == {"confirmed": 30}
    assert uploads(emulator) == 2
    assert {p["attributes"]["city"] for p in emulator.profiles_of("adobe_target").values()} == {"Nice"}


def test_other_profiles_do_not_wait(bulk, emulator):
    """An open batch is no hindrance to profiles that it does not hold."""
    emulator.faults({"job": "incomplete", "times": 1})
    bulk.land(30)
    bulk.run(wait=False)
    bulk.land({f"D-{number}": {} for number in range(30)}, TUESDAY)
    assert ends(bulk.run(TUESDAY)) == {"confirmed": 30}


def test_a_run_that_did_not_wait_is_finished_later(bulk, emulator):
    """`--no-wait` leaves the rows processing; who follows the run up later completes its report."""
    bulk.land(30)
    ctx = bulk.context(wait=False)
    report = pipeline.run(ctx)
    assert ends(report) == {"processing": 30}
    assert report.exit_code == 3
    followed = pipeline.follow(bulk.context())
    assert ends(followed) == {"confirmed": 30}
    assert uploads(emulator) == 1


def test_many_waiters_ask_no_more_often_than_one(bulk, emulator, clock):
    """What is due is claimed in the ledger, so that a second poller finds nothing to do."""
    emulator.faults({"job": "incomplete"})
    bulk.land(30)
    ctx = bulk.context(wait=False)
    pipeline.run(ctx)
    clock.now += 30
    for _ in range(5):
        pipeline.do(bulk.context(), "wait")
    (job,) = open_jobs(ctx.ledger, ctx.connection.account)
    assert job.polls == 1
    assert len(emulator.requests) == 2


def test_polls_count_as_calls(small_files, emulator, clock):
    """Uploads and questions together stay within 50 calls a minute."""
    small_files.land(300)
    small_files.run()
    arrivals = [request["at"] for request in emulator.requests]
    assert max(sum(at <= other < at + 60 for other in arrivals) for at in arrivals) <= 50


def test_single_is_for_profiles_that_bulk_has_confirmed(install, emulator, clock):
    """Single never creates a profile and says success all the same; so bulk goes first, and again when it is long ago."""
    either = install(emulator.url, destination="adobe_target")
    either.land(30)
    assert ends(either.run()) == {"confirmed": 30}
    either.land({f"C-{number:05d}": {} for number in range(5)}, TUESDAY, city="Nice")
    assert ends(either.run(TUESDAY)) == {"accepted": 5}
    assert emulator.profiles_of("adobe_target")["C-00001"]["attributes"]["city"] == "Nice"
    wednesday = TUESDAY + timedelta(days=1)
    either.land({"C-00001": {}, "C-new": {}}, wednesday, city="Metz")
    assert ends(either.run(wednesday)) == {"confirmed": 2}
    clock.now += 20 * 86_400
    friday = wednesday + timedelta(days=2)
    either.land({"C-00001": {}}, friday, city="Toul")
    assert ends(either.run(friday)) == {"confirmed": 1}


def test_v1_finds_no_unknown_profiles(install, emulator):
    """It does not create them: they are not found, and the counters say how many."""
    first = install(emulator.url, destination="adobe_target_bulk")
    first.land(10)
    first.run()
    old = install(emulator.url, destination="adobe_target_bulk", extra={"bulk_version": "v1"})
    old.land({f"C-{number:05d}": {} for number in range(5, 15)}, TUESDAY, city="Nice")
    report = old.run(TUESDAY)
    assert ends(report) == {"confirmed": 5, "not_found": 5}
    assert report.exit_code == 1


def test_what_only_single_has_accepted_is_not_known_to_bulk(install, emulator):
    """Single says success of profiles that are not there; so whoever can confirm does not take its word for it."""
    single = install(emulator.url, destination="adobe_target_single")
    single.land(5)
    assert ends(single.run()) == {"accepted": 5}
    assert emulator.profiles_of("adobe_target") == {}
    either = install(emulator.url, destination="adobe_target")
    assert ends(either.run()) == {"confirmed": 5}
    assert ends(single.run()) == {"unchanged": 5}
    single.land({"C-00001": {"city": "Nice"}}, TUESDAY)
    assert ends(single.run(TUESDAY)) == {"accepted": 1}
    assert ends(either.run(TUESDAY)) == {"unchanged": 1}


# --- processes that die -----------------------------------------------------------------------------------------------


class Died(BaseException):
    """The end of a process, as far as its code can tell."""


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "method"),
    [(Ledger, "settle"), (wait, "claim_due"), (wait, "note_poll"), (Ledger, "commit_state"), (Ledger, "finish_run")],
)
def test_waiting_goes_on_wherever_it_died(bulk, emulator, monkeypatch, owner, method, after):
    """What the vendor has taken is asked about by the next process; it is sent twice only if nobody knows that it was."""
    real = getattr(owner, method)

    def dying(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise Died

    bulk.land(45)
    with monkeypatch.context() as patched:
        patched.setattr(owner, method, dying)
        with pytest.raises(Died):
            pipeline.run(bulk.context())
    report = pipeline.run(bulk.context())
    assert ends(report) == {"confirmed": 45}
    unknown = method == "settle"  # it is part of a larger transaction, which dies with it
    assert uploads(emulator) == 1 + unknown
    assert report.duplicates_possible == 45 * unknown


# --- what an attacker found -------------------------------------------------------------------------------------------


def test_a_slow_batch_is_not_pushed_out_by_quick_ones(small_files, emulator):
    """The vendor keeps ten statuses: while the oldest batch is open, no more than nine are handed in after all."""
    emulator.faults({"path": UPLOAD, "job": "incomplete", "times": 1})
    small_files.land(300)
    ctx = small_files.context(wait=False)
    pipeline.run(ctx)
    for _ in range(4):
        ctx.clock.now += 60
        pipeline.do(ctx, "load")
    assert uploads(emulator) == 9


def test_whoever_waits_beside_another_is_not_put_to_sleep(bulk, emulator, clock):
    """A question that somebody else asks right now is answered in a moment; its claim is no reason to stay away."""
    bulk.land(30)
    ctx = bulk.context(wait=False)
    pipeline.run(ctx)
    clock.now += 30
    assert wait.claim_due(ctx.ledger, ctx.connection.account, hold_s=120)
    assert pipeline.do(ctx, "wait") == {"pending": 1, "wait": 1.0}
    clock.now += 121
    pipeline.do(ctx, "wait")
    assert len(emulator.requests) == 2


def test_a_file_that_is_refused_whole_does_not_burn_the_quota(bulk, emulator):
    """Three single rows of a refused file are refused, too: then it is not the rows, and nothing more is spent on them."""
    emulator.faults({"path": UPLOAD, "body": "<response><success>false</success></response>"})
    bulk.land(1000)
    report = bulk.run()
    assert ends(report) == {"not_sent": 1000}
    assert (report.exit_code, uploads(emulator)) == (3, 4)
    assert report.quota["used"] == 1003
    emulator.heal()
    assert ends(bulk.run()) == {"confirmed": 1000}


@pytest.mark.parametrize(
    "guilty", [["C-00000"], ["C-00000", "C-00001", "C-00002"], ["C-00500"], ["C-00999", "C-00123"]]
)
def test_guilty_rows_are_found_in_a_file_that_was_doubted(bulk, emulator, guilty):
    """As long as some row is taken, the guilty ones are found, and the others delivered, within the bound of calls."""
    emulator.faults({"refuse_call_with": guilty})
    bulk.land(1000)
    report = bulk.run()
    assert ends(report) == {"confirmed": 1000 - len(guilty), "rejected": len(guilty)}
    assert uploads(emulator) - 1 <= 2 * len(guilty) * 10 + 1
