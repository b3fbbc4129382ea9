"""What follows from a call that went wrong, and how often anything is tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import DeliveryError, NotSent, OutcomeUnknown, Redirected, Refused, Rejected, Throttled
from etl.model import AttemptOutcome, BatchState
from etl.pacing import LONGEST_WAIT_S
from etl.policy import Budget, judge, outcome_of


def _error(kind: type[DeliveryError], **fields) -> DeliveryError:
    return kind("", code="x", **fields)


def _judge(error: DeliveryError, **overrides):
    return judge(error, **{"rows": 10, "tries": 1, "budget": Budget(100), "jitter": 0.5} | overrides)


@given(st.integers(1, 50), st.floats(0, 1, exclude_max=True))
def test_a_retry_is_never_later_than_a_minute(tries, jitter):
    """Backoff grows and is spread, and has an end."""
    verdict = _judge(_error(NotSent), tries=tries, jitter=jitter)
    assert verdict.state is BatchState.PLANNED
    assert 0 <= verdict.retry_in <= min(60, 2**tries)


def test_an_unknown_outcome_is_tried_three_times():
    """Then the batch waits for another run, while others go on."""
    verdicts = [_judge(_error(OutcomeUnknown), tries=tries) for tries in (1, 2, 3)]
    assert [verdict.retry_in is not None for verdict in verdicts] == [True, True, False]
    assert {verdict.state for verdict in verdicts} == {BatchState.UNKNOWN}
    assert not any(verdict.stops for verdict in verdicts)


@pytest.mark.parametrize("kind", [NotSent, OutcomeUnknown])
def test_without_budget_a_failure_stops_the_run(kind):
    """The vendor is out of reach for the other batches too."""
    verdict = _judge(_error(kind), budget=Budget(100, tokens=0))
    assert verdict.stops
    assert verdict.retry_in is None


@pytest.mark.parametrize(("kind", "outcome"), [(Refused, AttemptOutcome.REFUSED), (Redirected, AttemptOutcome.UNKNOWN)])
def test_what_the_next_call_would_meet_too_stops_the_run(kind, outcome):
    """There is nothing to try again."""
    verdict = _judge(_error(kind))
    assert (outcome_of(_error(kind)), verdict.stops, verdict.retry_in) == (outcome, True, None)


def test_a_rejected_row_that_stands_alone_is_rejected():
    """A whole call is halved instead."""
    assert _judge(_error(Rejected), rows=2).splits
    assert _judge(_error(Rejected), rows=1).state is BatchState.REJECTED


def test_a_pause_is_not_slept_through_beyond_a_quarter_of_an_hour():
    """Neither after a 429 nor after a failure."""
    assert _judge(_error(Throttled, retry_after=LONGEST_WAIT_S + 1)).stops
    assert _judge(_error(Throttled, retry_after=LONGEST_WAIT_S)).retry_in == 0
    assert _judge(_error(OutcomeUnknown, retry_after=LONGEST_WAIT_S + 1)).retry_in is None


def test_the_budget_is_a_tenth_of_the_calls_with_a_floor_and_successes_fill_it_slowly():
    """At least ten retries, at most a tenth of the calls, and never more than the bucket holds."""

    def retries(calls: int) -> int:
        budget = Budget(calls)
        while budget.allows:
            budget.count(AttemptOutcome.UNKNOWN, 0.0)
        return budget.retries

    assert (retries(5), retries(100), retries(200), retries(100_000)) == (10, 10, 20, 35)
    budget = Budget(100_000, tokens=0)
    for _ in range(14):
        assert not budget.allows
        budget.count(AttemptOutcome.ACCEPTED, 0.0)
    assert budget.allows


def test_neither_a_429_nor_a_rejection_uses_the_budget_up():
    """They are answers, not failures."""
    budget = Budget(1)
    for outcome in (AttemptOutcome.THROTTLED, AttemptOutcome.REJECTED, AttemptOutcome.REFUSED):
        budget.count(outcome, 0.0)
    assert budget == Budget(1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30).map(sorted))
def test_the_longer_an_outage_lasts_the_longer_a_run_stays_away(moments):
    """At least a minute, at most a quarter of an hour; what gets through ends it."""
    budget = Budget(1000)
    for moment in moments:
        budget.count(AttemptOutcome.NOT_SENT, moment)
    assert budget.away == min(900, max(60, moments[-1] - moments[0]))
    assert _judge(_error(NotSent), budget=replace(budget, tokens=0)).away == budget.away
    budget.count(AttemptOutcome.ACCEPTED, moments[-1])
    assert budget.away == 60
