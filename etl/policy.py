"""The retry policy: what follows from a call that went wrong, with the reason beside each branch; and how often at all.

Pure: it neither sleeps nor sends. A retry is made by load alone, with an attempt of its own in the ledger; no layer below
repeats anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etl.errors import DeliveryError, NotSent, OutcomeUnknown, Redirected, Refused, Rejected, Throttled
from etl.ledger import Attempt
from etl.model import AttemptOutcome, BatchState
from etl.pacing import LONGEST_WAIT_S

_UNKNOWN_TRIES = 3
_BUDGET, _RETRY_COST, _RETRY_FLOOR, _RETRY_SHARE = 500, 14, 10, 0.1
_NOT_SENT_BACKOFF_S, _UNKNOWN_BACKOFF_S, _LONGEST_BACKOFF_S = 0.5, 5.0, 60.0
_THROTTLE_BACKOFF_S = 1.0
_THROTTLE_TRIES = 20
_SHORTEST_OUTAGE_S, _LONGEST_OUTAGE_S = 60.0, 900.0
_OUTCOMES: dict[type[DeliveryError], AttemptOutcome] = {
    NotSent: AttemptOutcome.NOT_SENT,
    Throttled: AttemptOutcome.THROTTLED,
    Rejected: AttemptOutcome.REJECTED,
    Refused: AttemptOutcome.REFUSED,
    OutcomeUnknown: AttemptOutcome.UNKNOWN,
    Redirected: AttemptOutcome.UNKNOWN,
}


def outcome_of(error: DeliveryError) -> AttemptOutcome:
    """What the ledger notes of a call that ended so."""
    return _OUTCOMES[type(error)]


def throttle_pause(error: Throttled, *, tries: int, jitter: float) -> float:
    """Seconds for which nobody sends after a 429: what the vendor asked for, or longer each time."""
    backoff = min(_LONGEST_BACKOFF_S, _THROTTLE_BACKOFF_S * 2.0**tries) * (0.5 + jitter / 2)
    return backoff if error.retry_after is None else error.retry_after


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from a call: the batch's state, when it is tried again (seconds; None: not), who else stops.

    `away` is for how many seconds it is not worth trying again after a stop; None when the wait alone mends nothing.
    """

    state: BatchState
    retry_in: float | None = None
    splits: bool = False
    stops: bool = False
    away: float | None = None


def judge(error: DeliveryError, *, rows: int, tries: int, budget: Budget, jitter: float) -> Verdict:
    """The retry policy. `tries` counts this batch's failed attempts of the kind, `jitter` is random in [0, 1).

    `budget` has counted the call already.
    """
    may_retry = budget.allows
    pause = min(_LONGEST_BACKOFF_S, 2.0**tries * _NOT_SENT_BACKOFF_S) * jitter
    match error:
        case NotSent():
            # Nothing left: as often as the budget allows. Without one the vendor is out of reach for all batches.
            again = pause if may_retry else None
            return Verdict(state=BatchState.PLANNED, retry_in=again, stops=not may_retry, away=budget.away)
        case Throttled():
            # Not a failure, and the pacer keeps everyone waiting. A pause too long to sleep through ends the run, and
            # so does a vendor that never lets a batch pass.
            long = (error.retry_after or 0) > LONGEST_WAIT_S or tries >= _THROTTLE_TRIES
            retry_in = None if long else 0.0
            return Verdict(state=BatchState.PLANNED, retry_in=retry_in, stops=long, away=error.retry_after)
        case Rejected():
            # Halved until the guilty rows stand alone.
            state = BatchState.SPLIT if rows > 1 else BatchState.REJECTED
            return Verdict(state=state, splits=rows > 1)
        case Refused():
            # The next call would be refused in the same way.
            return Verdict(state=BatchState.PLANNED, stops=True)
        case Redirected():
            # Whoever redirects may have taken the body, and will redirect the next one too.
            return Verdict(state=BatchState.UNKNOWN, stops=True)
        case _:
            # The same bytes again, a little later: the first try may still be running.
            pause = max(
                error.retry_after or 0, min(_LONGEST_BACKOFF_S, 2.0 ** (tries - 1) * _UNKNOWN_BACKOFF_S) * jitter
            )
            again = pause if may_retry and tries < _UNKNOWN_TRIES and pause <= LONGEST_WAIT_S else None
            away = max(error.retry_after or 0, budget.away)
            return Verdict(state=BatchState.UNKNOWN, retry_in=again, stops=not may_retry, away=away)


@dataclass(slots=True)
class Budget:
    """How many retries a run may still make: a bucket that successes refill slowly, and a share of its calls.

    Where it is used up, the vendor is out of reach: the run stops, and comes back for a single call after as long as the
    trouble has lasted so far, so that an outage of any length costs few calls. `failing` is since when, and until when,
    nothing has got through; moments in seconds since the epoch.
    """

    calls: int
    tokens: int = _BUDGET
    retries: int = 0
    failing: tuple[float, float] | None = None

    @classmethod
    def after(cls, calls: int, attempts: Sequence[Attempt]) -> Budget:
        """What earlier attempts of the run have left of it."""
        budget = cls(calls)
        for attempt in attempts:
            budget.count(attempt.outcome, attempt.started_at)
        return budget

    def count(self, outcome: AttemptOutcome, at: float) -> None:
        """Takes the outcome of an attempt into account, and when that was."""
        if outcome is AttemptOutcome.ACCEPTED:
            self.tokens = min(_BUDGET, self.tokens + 1)
            self.failing = None
        elif outcome in {AttemptOutcome.NOT_SENT, AttemptOutcome.UNKNOWN}:
            self.tokens -= _RETRY_COST
            self.retries += 1
            self.failing = (self.failing[0] if self.failing else at, at)

    @property
    def away(self) -> float:
        """Seconds for which to stay away: as long as nothing has got through, within bounds."""
        first, last = self.failing or (0.0, 0.0)
        return min(_LONGEST_OUTAGE_S, max(_SHORTEST_OUTAGE_S, last - first))

    @property
    def allows(self) -> bool:
        """True while another retry may be made."""
        return self.tokens >= _RETRY_COST and self.retries < max(_RETRY_FLOOR, self.calls * _RETRY_SHARE)
