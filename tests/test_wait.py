"""What a vendor says about a batch that it took decides how its rows end, and nothing else does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from etl.ends import share
from etl.model import BatchState, BatchStatus, Counts, JobState
from etl.settings import Polling
from etl.wait import counted, judge

ROWS = st.integers(1, 1000)
NUMBERS = st.none() | st.integers(0, 1200)
STATUSES = st.builds(
    BatchStatus, state=st.sampled_from(JobState), size=NUMBERS, consumed=NUMBERS, confirmed=NUMBERS, not_found=NUMBERS,
    failed=NUMBERS,
)  # fmt: skip


def total(counts: Counts) -> int:
    return counts.confirmed + counts.not_found + counts.failed + counts.unreported


@given(STATUSES, ROWS, st.integers(0, 10))
def test_only_the_vendors_own_counters_confirm(status, rows, gone):
    """Whatever an answer holds: nothing is confirmed but by `complete` with counters that do not contradict each other."""
    verdict = judge(status, rows=rows, gone=gone)
    if verdict.counts is not None:
        assert status.state is JobState.COMPLETE
        assert verdict.state is BatchState.COMPLETE
        assert total(verdict.counts) == rows
        assert verdict.counts.confirmed == status.confirmed
        assert verdict.counts.failed == status.failed
    if verdict.state is not None:
        assert status.state not in {JobState.INCOMPLETE, JobState.UNREADABLE}
    else:
        assert verdict.code


@given(ROWS, st.data())
def test_rows_that_the_counters_do_not_cover_are_unreported(rows, data):
    """The vendor consumed fewer than were sent: those are nobody's, and the account says so."""
    confirmed = data.draw(st.integers(0, rows))
    failed = data.draw(st.integers(0, rows - confirmed))
    consumed = data.draw(st.none() | st.integers(confirmed + failed, rows))
    counts = counted(
        BatchStatus(
            state=JobState.COMPLETE, size=rows, consumed=consumed, confirmed=confirmed, not_found=0, failed=failed
        ),
        rows,
    )
    assert counts == Counts(confirmed=confirmed, not_found=0, failed=failed, unreported=rows - confirmed - failed)


def test_a_batch_that_is_gone_is_given_up_after_a_while():
    """A status may be late to appear; five times in a row it is not there, nobody will ever tell."""
    gone = BatchStatus(state=JobState.GONE)
    assert [judge(gone, rows=1, gone=n).state for n in (1, 4, 5)] == [None, None, BatchState.UNREPORTED]


@given(st.builds(Counts, **dict.fromkeys(("confirmed", "not_found", "failed", "unreported"), st.integers(0, 50))), ROWS)
def test_the_share_of_a_part_of_a_batch_is_never_too_good(counts, rows):
    """All rows end as the vendor counted; of a part of them, each loss may stand in it, and the sum is the part."""
    assert share(total(counts), counts) == counts
    part = min(rows, total(counts))
    worst = share(part, counts)
    assert total(worst) == part
    losses = counts.not_found + counts.failed + counts.unreported
    assert part - worst.confirmed == min(part, losses)


def test_questions_become_rarer():
    """Half a minute after the vendor took the batch, then each time twice as long, up to five minutes."""
    assert [Polling().pause(polls) for polls in range(6)] == [30, 60, 120, 240, 300, 300]
    assert Polling(first_s=1, max_s=2).pause(10**9) == 2
