"""The rolling quota is reserved with the intent, given back only on proof, and never exceeded in any window."""

from __future__ import annotations

import tempfile
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from etl.ledger import Ending, Ledger, QuotaSpentError, Run
from etl.model import AttemptOutcome, Batch, BatchState

HOUR = 3600.0
OUTCOMES = {
    AttemptOutcome.ACCEPTED: BatchState.ACCEPTED,
    AttemptOutcome.UNKNOWN: BatchState.UNKNOWN,
    AttemptOutcome.THROTTLED: BatchState.PLANNED,
    AttemptOutcome.NOT_SENT: BatchState.PLANNED,
    AttemptOutcome.REJECTED: BatchState.REJECTED,
    AttemptOutcome.REFUSED: BatchState.PLANNED,
}


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_only_proof_that_nothing_left_gives_quota_back(ledger, sending, intend, batch, account, outcome):
    """Whatever the vendor may have counted stays debited."""
    n = intend(batch(), sending())
    assert ledger.used(account, "batch_update", 24) == 10
    ledger.settle(Ending(batch=batch(), n=n, outcome=outcome, state=OUTCOMES[outcome]))
    assert ledger.used(account, "batch_update", 24) == (0 if outcome is AttemptOutcome.NOT_SENT else 10)


def test_a_crashed_attempt_keeps_its_debit(ledger, sending, intend, batch, account):
    """Nobody knows whether it arrived."""
    fence = sending()
    intend(batch(), fence)
    ledger.recover(account, fence)
    assert ledger.used(account, "batch_update", 24) == 10


def test_an_intent_beyond_the_quota_leaves_no_trace(ledger, sending, intend, batch, account):
    """Reserved in the intent's own transaction: either both stand or neither."""
    fence = sending(batch("b1"), batch("b2", ordinal=1))
    intend(batch("b1"), fence, quota=15)
    with pytest.raises(QuotaSpentError, match="15 rows in 24 hours"):
        intend(batch("b2"), fence, quota=15)
    assert ledger.used(account, "batch_update", 24) == 10
    assert [attempt.batch for attempt in ledger.attempts("r1")] == ["b1"]


def test_endpoints_have_quotas_of_their_own(ledger, sending, intend, batch, account):
    """What one endpoint used is not taken from the other."""
    fence = sending(batch("b1"), batch("b2", ordinal=1, endpoint="batch_mass_update"))
    intend(batch("b1"), fence, quota=10)
    intend(batch("b2", endpoint="batch_mass_update"), fence, quota=10)
    assert ledger.used(account, "batch_mass_update", 24) == 10


def test_two_senders_cannot_both_take_the_last_place(ledger, sending, intend, batch, account):
    """Intents at the same moment see each other."""
    many = [batch(f"b{number}", ordinal=number) for number in range(8)]
    fence = sending(*many)
    refused: list[str] = []

    def send(one: Batch) -> None:
        try:
            intend(one, fence, quota=45)
        except QuotaSpentError:
            refused.append(one.id)

    threads = [threading.Thread(target=send, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert ledger.used(account, "batch_update", 24) == 40


LATE = (AttemptOutcome.ACCEPTED, 300.0)
SOON = (AttemptOutcome.ACCEPTED, 0.0)


@settings(max_examples=25)
@example([(299.0, 60, *LATE), (3600.0, 60, *SOON), (1.0, 60, *SOON)], 1.0)
@given(
    st.lists(
        st.tuples(st.floats(0, HOUR), st.integers(1, 60), st.sampled_from(list(OUTCOMES)), st.floats(0, 300)),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([1.0, 2.5]),
)
def test_no_window_ever_holds_more_than_the_quota(calls, hours):
    """As the vendor counts, up to five minutes after our intent; and what has left the window is soon free again."""
    now, quota = [1_772_438_400.0], 100
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(f"sqlite:///{folder}/ledger.db", clock=lambda: now[0])
        counted = list(_send(ledger, now, calls, quota, hours))
        now[0] += hours * HOUR + 601
        assert ledger.used("a", "e", hours) == 0
        ledger.close()
    for at, _ in counted:
        assert sum(rows for other, rows in counted if at - hours * HOUR < other <= at) <= quota


def _send(ledger, now, calls, quota, hours):
    """Intends and settles one call after the other; gives when the vendor counted how many rows."""
    planned = [
        Batch(
            id=str(number), run="r", endpoint="e", plan=1, ordinal=number, file="f", offset=0, size=1, sha256="",
            first=0, rows=rows,
        )
        for number, (_, rows, _, _) in enumerate(calls)
    ]  # fmt: skip
    ledger.open_run(Run(run="r", sync="s", day="d", destination="e", run_id="r", account="a", started_at=0))
    fence = ledger.take_lease("a", holder="h:1:x", until=now[0] + 1e9, is_dead={})
    ledger.adopt_plan("r", plan=1, account="a", fence=fence, planned=planned)
    for batch, (pause, rows, outcome, late) in zip(planned, calls, strict=True):
        now[0] += pause
        try:
            (n,) = ledger.intend([batch], account="a", fence=fence, quota=quota, quota_hours=hours)
        except QuotaSpentError as spent:
            refused_at = now[0]
            for later, fits in ((spent.wait - 1, False), (spent.wait, True)):
                now[0] = refused_at + later
                assert (ledger.used("a", "e", hours) + rows <= quota) is fits
            now[0] = refused_at
            continue
        if outcome is not AttemptOutcome.NOT_SENT:
            yield now[0] + late, rows
        ledger.settle(Ending(batch=batch, n=n, outcome=outcome, state=OUTCOMES[outcome]))
