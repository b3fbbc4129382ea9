"""No call without a committed intent, no intent without the lease, and every outcome is written once."""

from __future__ import annotations

import pytest

from etl.ledger import Ending, LostLeaseError, batch_id, note_poll, open_jobs
from etl.model import AttemptOutcome, BatchState, BatchStatus, Counts, JobState, RowCode


@pytest.fixture
def state(ledger):
    """The state of each batch of a run."""
    return lambda run="r1": {batch.id: batch.state for batch in ledger.batches(run)}


def test_an_intent_stands_in_the_ledger_before_anything_is_sent(ledger, sending, intend, batch, state):
    """The attempt is numbered, debited and `sending` from the commit on."""
    assert intend(batch(), sending()) == 1
    assert state() == {"b1": BatchState.SENDING}
    (attempt,) = ledger.attempts("r1")
    assert (attempt.batch, attempt.n, attempt.outcome) == ("b1", 1, AttemptOutcome.SENDING)


def test_an_intent_under_an_old_lease_is_refused(ledger, sending, intend, batch, state, account):
    """Whoever slept through the end of its lease sends nothing more, and leaves no trace."""
    old = sending()
    ledger.take_lease(account, holder="elsewhere:2:new", until=0, is_dead={"elsewhere:1:r1": True})
    with pytest.raises(LostLeaseError):
        intend(batch(), old)
    assert state() == {"b1": BatchState.PLANNED}
    assert ledger.attempts("r1") == []
    assert ledger.used(account, "batch_update", 24) == 0


def test_a_batch_is_not_sent_twice_at_once(sending, intend, batch):
    """A batch that is under way, or settled, takes no further intent."""
    fence = sending()
    intend(batch(), fence)
    with pytest.raises(LostLeaseError, match="no longer waiting"):
        intend(batch(), fence)


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [
        (AttemptOutcome.ACCEPTED, BatchState.ACCEPTED),
        (AttemptOutcome.REJECTED, BatchState.REJECTED),
        (AttemptOutcome.UNKNOWN, BatchState.UNKNOWN),
        (AttemptOutcome.NOT_SENT, BatchState.PLANNED),
        (AttemptOutcome.THROTTLED, BatchState.PLANNED),
        (AttemptOutcome.REFUSED, BatchState.PLANNED),
    ],
)
def test_an_outcome_is_committed_with_the_state_it_leads_to(ledger, sending, intend, batch, state, outcome, wanted):
    """Attempt and batch change together, with the vendor's code and status."""
    n = intend(batch(), sending())
    ledger.settle(
        Ending(batch=batch(), n=n, outcome=outcome, state=wanted, code="http_599", status=599, request_id="req-1")
    )
    assert state() == {"b1": wanted}
    (attempt,) = ledger.attempts("r1")
    assert (attempt.outcome, attempt.code, attempt.status) == (outcome, "http_599", 599)


@pytest.mark.parametrize("outcome", [AttemptOutcome.NOT_SENT, AttemptOutcome.THROTTLED, AttemptOutcome.REFUSED])
def test_doubt_about_an_earlier_attempt_stays(ledger, sending, intend, batch, state, outcome):
    """A batch that may have arrived once is unknown until it is accepted, although the next attempt never left."""
    fence = sending()
    n = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.UNKNOWN, state=BatchState.UNKNOWN))
    n = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=n, outcome=outcome, state=BatchState.PLANNED))
    assert state() == {"b1": BatchState.UNKNOWN}


def test_what_a_dead_process_left_open_is_unknown(ledger, sending, intend, batch, state, account):
    """Recovery never takes `sending` for "not sent"; what was settled stays as it is."""
    fence = sending(batch("b1"), batch("b2", ordinal=1), batch("b3", ordinal=2))
    intend(batch("b1"), fence)
    n = intend(batch("b2"), fence)
    ledger.settle(Ending(batch=batch("b2"), n=n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED))
    assert ledger.recover(account, fence) == 1
    assert state() == {"b1": BatchState.UNKNOWN, "b2": BatchState.ACCEPTED, "b3": BatchState.PLANNED}
    assert [attempt.outcome for attempt in ledger.attempts("r1") if attempt.batch == "b1"] == [AttemptOutcome.CRASHED]
    assert ledger.recover(account, fence) == 0


def test_many_open_batches_are_recovered_together(ledger, sending, intend, batch, account):
    """More of them than a database takes in one list."""
    many = [batch(f"b{number}", ordinal=number) for number in range(501)]
    fence = sending(*many)
    for one in many:
        intend(one, fence)
    assert ledger.recover(account, fence) == 501


def test_only_the_holder_recovers(ledger, sending, account):
    """A process without the lease cannot judge what the holder has under way."""
    fence = sending()
    with pytest.raises(LostLeaseError):
        ledger.recover(account, fence - 1)


def test_a_zombies_outcome_changes_nothing(ledger, sending, intend, batch, state, account):
    """Once a new holder has taken a batch over, what the old one learned too late cannot overwrite the new outcome."""
    old = sending()
    first = intend(batch(), old)
    fence = ledger.take_lease(account, holder="x:2:new", until=ledger.now() + 60, is_dead={"elsewhere:1:r1": True})
    ledger.recover(account, fence)
    second = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=second, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED))
    with pytest.raises(LostLeaseError):
        ledger.settle(Ending(batch=batch(), n=first, outcome=AttemptOutcome.NOT_SENT, state=BatchState.PLANNED))
    assert state() == {"b1": BatchState.ACCEPTED}
    assert [a.outcome for a in ledger.attempts("r1")] == [AttemptOutcome.CRASHED, AttemptOutcome.ACCEPTED]
    assert ledger.used(account, "batch_update", 24) == 20


def test_a_split_hands_its_rows_to_its_halves_in_one_step(ledger, sending, intend, batch, state):
    """The halves are planned in the transaction that marks the whole as split; they belong to the same run and plan."""
    n = intend(batch(), sending())
    halves = [batch("b1a", rows=5), batch("b1b", first=5, rows=5)]
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.REJECTED, state=BatchState.SPLIT, children=halves))
    assert state() == {"b1": BatchState.SPLIT, "b1a": BatchState.PLANNED, "b1b": BatchState.PLANNED}
    waiting = [b for b in ledger.batches("r1") if not b.state.is_settled]
    assert {(b.parent, b.plan, b.first, b.rows) for b in waiting} == {("b1", 1, 0, 5), ("b1", 1, 5, 5)}


def test_what_the_vendor_said_of_rows_is_kept_once(ledger, sending, intend, batch):
    """The same code of the same row twice in an answer is one fact."""
    n = intend(batch(), sending())
    codes = [RowCode(index=3, code="field_refused_city", rejected=False)] * 2
    codes.append(RowCode(index=1, code="identifier_refused", rejected=True))
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED, codes=codes))
    assert ledger.row_codes("r1") == [("b1", codes[2]), ("b1", codes[0])]


def test_a_new_plan_replaces_what_is_not_settled(ledger, sending, intend, batch, state, account):
    """Batches that were accepted stay; the rest hands its rows to the new plan, and an old plan never comes back."""
    fence = sending(batch("b1"), batch("b2", ordinal=1))
    n = intend(batch("b1"), fence)
    ledger.settle(Ending(batch=batch("b1"), n=n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED))
    ledger.adopt_plan("r1", plan=2, account=account, fence=fence, planned=[batch("c1", plan=2)])
    ledger.adopt_plan("r1", plan=1, account=account, fence=fence, planned=[batch("d1")])
    assert state() == {"b1": BatchState.ACCEPTED, "b2": BatchState.REPLACED, "c1": BatchState.PLANNED}


def test_the_same_plan_is_adopted_once(ledger, sending, batch, state, account):
    """A step that runs again finds its batches as they are."""
    ledger.adopt_plan("r1", plan=1, account=account, fence=sending(), planned=[batch()])
    assert list(state()) == ["b1"]


def test_a_batch_that_ends_while_it_is_absorbed_is_absorbed_again(ledger, sending, intend, batch, account):
    """A poller waits for no lease: what it learns between the reading of a batch and the new state is not lost."""
    fence = sending()
    taken = {"outcome": AttemptOutcome.ACCEPTED, "state": BatchState.PROCESSING, "job": "https://vendor/1"}
    ledger.settle(Ending(batch=batch(), n=intend(batch(), fence), **taken))
    read = ledger.unabsorbed(account)
    [job] = open_jobs(ledger, account)
    counts = Counts(confirmed=10, not_found=0, failed=0, unreported=0)
    said = BatchStatus(state=JobState.COMPLETE)
    note_poll(ledger, job, said, code=None, next_poll_at=0, gone=0, state=BatchState.COMPLETE, counts=counts)
    ledger.commit_state(account, fence=fence, generation=1, state_path="state/1", absorbed=read)
    assert [(b.id, b.state) for b in ledger.unabsorbed(account)] == [("b1", BatchState.COMPLETE)]


def test_only_the_holder_adopts_a_plan(ledger, sending, batch, state, account):
    """A process that slept through its lease does not take the batches away from the one that has it."""
    fence = sending()
    with pytest.raises(LostLeaseError):
        ledger.adopt_plan("r1", plan=2, account=account, fence=fence - 1, planned=[batch("c1", plan=2)])
    assert list(state()) == ["b1"]


def test_a_batch_that_is_in_doubt_and_replaced_is_still_to_be_absorbed(ledger, sending, intend, batch, account):
    """The account may hold its rows: a new plan that is never sent must not hide that."""
    fence = sending()
    n = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.UNKNOWN, state=BatchState.UNKNOWN))
    ledger.adopt_plan("r1", plan=2, account=account, fence=fence, planned=[batch("c1", plan=2)])
    assert [(b.id, b.state) for b in ledger.unabsorbed(account)] == [("b1", BatchState.UNKNOWN)]


def test_a_batch_that_is_in_doubt_and_split_is_absorbed_before_its_halves(ledger, sending, intend, batch, account):
    """First "nobody knows", then what became of each half."""
    fence = sending()
    n = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.UNKNOWN, state=BatchState.UNKNOWN))
    n = intend(batch(), fence)
    half = batch("a-half", rows=5)
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.REJECTED, state=BatchState.SPLIT, children=[half]))
    n = intend(half, fence)
    ledger.settle(Ending(batch=half, n=n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED))
    assert [b.id for b in ledger.unabsorbed(account)] == ["b1", "a-half"]


def test_an_outcome_is_absorbed_once_and_anew_after_another_attempt(ledger, sending, intend, batch, account):
    """The state file and the list of what it holds change together; sending again makes the outcome news again."""
    fence = sending()
    n = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.UNKNOWN, state=BatchState.UNKNOWN))
    news = ledger.unabsorbed(account)
    ledger.commit_state(account, fence=fence, generation=1, state_path="state/1", absorbed=news)
    assert ledger.unabsorbed(account) == []
    assert (ledger.account(account).generation, ledger.account(account).state_path) == (1, "state/1")
    n = intend(batch(), fence)
    ledger.settle(Ending(batch=batch(), n=n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED))
    assert [b.id for b in ledger.unabsorbed(account)] == ["b1"]
    with pytest.raises(LostLeaseError):
        ledger.commit_state(account, fence=fence - 1, generation=2, state_path=None, absorbed=news)


def test_a_run_that_is_known_goes_on(ledger, open_run):
    """Opening a run again keeps what stands there."""
    first = open_run()
    open_run(started_at=99.0)
    assert ledger.run("r1") == first
    ledger.finish_run("r1", exit_code=0, records_in=7)
    assert (ledger.run("r1").exit_code, ledger.run("r1").records_in) == (0, 7)
    assert ledger.run("r2") is None


def test_runs_are_listed_newest_first(ledger, open_run):
    """By sync, day and destination, or all of them."""
    for number in range(3):
        open_run(f"r{number}", started_at=float(number), day=f"2026-03-0{number + 1}")
    assert [run.run for run in ledger.runs()] == ["r2", "r1", "r0"]
    assert [run.run for run in ledger.runs(day="2026-03-02")] == ["r1"]
    assert [run.run for run in ledger.runs(limit=1)] == ["r2"]
    assert ledger.runs(sync="another") == []


def test_usual_records_are_of_the_days_just_before(ledger, open_run):
    """The newest finished run of each day counts, however often a day, or an older one, was run."""
    for day in range(1, 6):
        open_run(f"first-{day}", day=f"2026-03-0{day}", started_at=float(day))
        ledger.finish_run(f"first-{day}", exit_code=0, records_in=day)
    for number in range(40):
        open_run(f"again-{number:02}", day="2026-03-01", started_at=100.0 + number)
        ledger.finish_run(f"again-{number:02}", exit_code=0, records_in=999)
    open_run("failed", day="2026-03-04", started_at=200.0)
    ledger.finish_run("failed", exit_code=3, records_in=0)
    wanted = {"sync": "crm_to_batch", "destination": "batch", "days": 3}
    assert sorted(ledger.usual_records(before="2026-03-05", **wanted)) == [2, 3, 4]
    assert sorted(ledger.usual_records(before="2026-03-03", **wanted)) == [2, 999]


def test_a_batch_id_says_what_is_sent():
    """The same plan of a run makes the same ids; other bytes make another."""
    assert batch_id("r1", 1, "0", "aa") == batch_id("r1", 1, "0", "aa")
    assert len({batch_id("r1", 1, "0", "aa"), batch_id("r1", 1, "0", "bb"), batch_id("r1", 2, "0", "aa")}) == 3
