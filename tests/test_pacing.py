"""The vendor's rate is used to the full and never exceeded, as a meter at the vendor's side sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.emulator.rate import Rate, lowest_level, most_in_a_second
from etl.errors import Busy, ConfigError
from etl.ledger import Ledger
from etl.limits import limits_of
from etl.model import Limits
from etl.pacing import (
    JITTER_S,
    LONGEST_WAIT_S,
    Allowance,
    Pace,
    Pacer,
    answered,
    reserve,
    stored_pace,
    throttled,
)

UPDATE, MASS = limits_of("batch_update"), limits_of("batch_mass_update")
BUCKET = replace(MASS, policy="bucket")
UPDATE_RATE = Rate(items_per_call=200, per_second=300, bucket=1_000)
MASS_RATE = Rate(items_per_call=10_000, per_second=10_000, bucket=10_000)
START = 1_772_438_400.0
ROUNDING = 0.01  # of a row: moments in seconds since 1970 are that coarse

jitters = st.floats(0, JITTER_S)
answers = st.floats(0, 3)


def paced(
    allowance: Allowance,
    calls: Sequence[tuple[int, float, float]],
    pace: Pace | None = None,
) -> Iterator[tuple[float, float, float]]:
    """Sends calls one after the other (rows, how late each leaves, how long its answer takes): reserved, sent, answered."""
    now, pace = START, pace or Pace()
    for rows, late, wait in calls:
        pace, reservation = reserve(pace, allowance, rows, now)
        sent = reservation.at + late
        yield reservation.at, sent, sent + wait
        pace = answered(pace, allowance, reservation, sent=sent, answered=sent + wait)
        now = sent if allowance.window is None else sent + wait


@given(st.lists(st.tuples(st.integers(1, 200), jitters), max_size=60))
@example([(200, JITTER_S if number == 5 else 0.0) for number in range(50)])
def test_the_update_bucket_is_never_overdrawn(calls):
    """Calls of any size that arrive as unequally late as the slack allows find their tokens at the vendor."""
    sent = paced(Allowance.of(UPDATE, 0), [(rows, late, 0.0) for rows, late in calls])
    arrivals = [(at, rows) for (_, at, _), (rows, _) in zip(sent, calls, strict=True)]
    assert lowest_level(arrivals, UPDATE_RATE) >= -ROUNDING


@given(st.lists(st.tuples(st.integers(1, 9_500), jitters), max_size=30))
def test_the_mass_update_bucket_is_never_overdrawn(calls):
    """Without a burst the slack is taken from the size of a call."""
    allowance = Allowance.of(BUCKET, 0)
    assert allowance.rows_per_call == 9_500
    sent = paced(allowance, [(rows, late, 0.0) for rows, late in calls])
    arrivals = [(at, rows) for (_, at, _), (rows, _) in zip(sent, calls, strict=True)]
    assert lowest_level(arrivals, MASS_RATE) >= -ROUNDING * 100


@given(st.lists(st.tuples(st.integers(1, 200), st.floats(0, 20)), max_size=40))
def test_a_call_that_leaves_late_takes_nothing_from_the_calls_after_it(calls):
    """A bucket that was full while a call hung about gained nothing, and the pace knows it."""
    sent = paced(Allowance.of(UPDATE, 0), [(rows, late, 0.0) for rows, late in calls])
    arrivals = [(at, rows) for (_, at, _), (rows, _) in zip(sent, calls, strict=True)]
    assert lowest_level(arrivals, UPDATE_RATE) >= -ROUNDING


def test_a_long_delay_of_one_call_costs_at_most_that_call():
    """After a minute's stall the bucket is as good as full, and the next calls leave at once."""
    sent = list(paced(Allowance.of(UPDATE, 0), [(200, 0.0, 0.0)] * 10 + [(200, 60.0, 0.0)] + [(200, 0.0, 0.0)] * 3))
    assert sent[-1][1] - sent[-4][1] < 0.1


@given(
    st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 2), answers, st.floats(0, 1)), max_size=30),
    st.sampled_from([0, 0.1, 0.5]),
)
def test_the_strict_window_holds_wherever_a_call_is_counted(calls, headroom):
    """Never more than 10,000 rows in any second, whether the vendor counts a call when it leaves, when it answers or between."""
    sent = paced(Allowance.of(MASS, headroom), [call[:3] for call in calls])
    arrivals = [
        (left + share * (answer - left), rows)
        for (_, left, answer), (rows, _, _, share) in zip(sent, calls, strict=True)
    ]
    assert most_in_a_second(arrivals) <= 10_000


def test_equal_calls_that_wait_for_the_same_moment_are_told_apart():
    """Two processes' reservations may fall on one moment; each moves to its own answer."""
    allowance = Allowance.of(MASS, 0)
    pace, _ = reserve(Pace(), allowance, 10_000, START)
    pace, first = reserve(pace, allowance, 4_000, START)
    pace, second = reserve(pace, allowance, 4_000, START)
    assert first == second
    pace = answered(pace, allowance, first, sent=first.at, answered=first.at + 1)
    pace = answered(pace, allowance, second, sent=first.at, answered=first.at + 3)
    assert sorted(pace.recent)[1:] == [(first.at + 1, 4_000), (first.at + 3, 4_000)]


@pytest.mark.parametrize(
    ("limits", "headroom", "rows", "calls"),
    [(UPDATE, 0, 200, 200), (UPDATE, 0.1, 200, 200), (BUCKET, 0, 9_500, 100), (BUCKET, 0.1, 9_550, 100)],
)
def test_the_bucket_is_used_to_the_full(limits: Limits, headroom: float, rows: int, calls: int):
    """Full calls use at least 99 % of our share of the rate, although each sleep ends a little late."""
    sent = list(paced(Allowance.of(limits, headroom), [(rows, 0.002, 0.3)] * calls))
    burst = limits.burst or limits.per_second
    ideal = (rows * calls - burst) / (limits.per_second * (1 - headroom))
    assert sent[-1][1] - sent[0][1] <= ideal / 0.99 + 0.1


@pytest.mark.parametrize("headroom", [0, 0.1])
def test_the_strict_window_is_used_to_the_full(headroom: float):
    """A full call follows each answer as soon as the window allows."""
    sent = list(paced(Allowance.of(MASS, headroom), [(10_000, 0.001, 0.005)] * 50))
    ideal = 49 / (1 - headroom)
    assert ideal <= sent[-1][1] - sent[0][1] <= ideal / 0.99


@given(st.integers(1, 600), st.sampled_from([0, 0.1, 0.5]), st.lists(jitters, min_size=1, max_size=700))
def test_calls_per_minute_holds_in_any_minute(limit, headroom, lates):
    """A limit of calls holds in every window of a minute at the vendor, and is used to 99 %."""
    limits = replace(UPDATE, per_second=None, burst=None, calls_per_minute=limit)
    calls = [(1, late, 0.0) for late in lates]
    arrivals = sorted(sent for _, sent, _ in paced(Allowance.of(limits, headroom), calls))
    allowed = limit * (1 - headroom)
    for number, at in enumerate(arrivals):
        assert sum(at <= other < at + 60 for other in arrivals[number : number + limit + 1]) <= allowed + 1
    assert headroom or all(b - a >= 60 for a, b in zip(arrivals, arrivals[limit:], strict=False))
    assert arrivals[-1] - arrivals[0] <= (len(arrivals) - 1) * 60 / allowed / 0.99 + JITTER_S


def test_a_bucket_counts_a_call_from_the_moment_at_which_it_may_leave():
    """A bucket that waits full for another limit gains nothing while it waits."""
    allowance = Allowance.of(replace(UPDATE, calls_per_minute=1), 0)
    pace, arrivals = Pace(), []
    for _ in range(3):
        pace, reservation = reserve(pace, allowance, 200, START)
        arrivals.append((reservation.at, 200))
    for _ in range(8):
        pace, reservation = reserve(pace, replace(allowance, call_gap=0), 200, arrivals[2][0])
        arrivals.append((reservation.at, 200))
    assert lowest_level(arrivals, UPDATE_RATE) >= -ROUNDING


def test_headroom_is_left_to_the_accounts_other_callers():
    """With a tenth of headroom, nine tenths of the rate and of the calls are used."""
    with_headroom = Allowance.of(replace(UPDATE, calls_per_minute=100), 0.1)
    assert with_headroom.per_second == pytest.approx(270)
    assert with_headroom.call_gap == pytest.approx(60 / 90, rel=0.01)
    assert Allowance.of(MASS, 0.1).window == pytest.approx(1 / 0.9)


def test_limits_that_leave_no_row_are_refused():
    """A burst that the slack eats up is a mistake in the connection, found before anything is sent."""
    with pytest.raises(ConfigError, match="no room for a single row"):
        Allowance.of(replace(UPDATE, burst=10), 0)


def test_a_call_beyond_the_limit_is_refused():
    """Pacing never lets a call through that the vendor's own limit would refuse."""
    with pytest.raises(ConfigError, match="201 rows"):
        reserve(Pace(), Allowance.of(UPDATE, 0), 201, START)


@pytest.mark.parametrize("limits", [UPDATE, MASS, BUCKET, replace(UPDATE, per_second=None, calls_per_minute=60)])
def test_a_clock_that_was_set_back_does_not_stop_the_sending(limits: Limits):
    """What lies further ahead than a queue can reach is the trace of another clock: the wait stays under two minutes."""
    allowance = Allowance.of(limits, 0)
    pace, rows = Pace(), allowance.rows_per_call
    for _ in range(10):
        pace, reservation = reserve(pace, allowance, rows, START)
        pace = answered(pace, allowance, reservation, sent=reservation.at, answered=reservation.at)
    _, after = reserve(pace, allowance, rows, START - 3600)
    assert after.at - (START - 3600) < 120


@given(st.lists(st.floats(0, LONGEST_WAIT_S), min_size=1, max_size=5), st.sampled_from([UPDATE, MASS, BUCKET]))
def test_after_a_429_nobody_sends_before_its_time(waits, limits):
    """However often the vendor asks for a pause, the next call leaves after the longest, and the pace is slower then."""
    allowance = Allowance.of(limits, 0)
    pace, _ = reserve(Pace(), allowance, 1, START)
    for wait in waits:
        pace = throttled(pace, allowance, wait=wait, now=START)
    _, next_call = reserve(pace, allowance, 1, START)
    assert next_call.at >= START + max(waits)
    assert pace.factor <= 1 / 2


def test_after_a_long_pause_the_bucket_starts_empty():
    """Whoever was told to wait does not come back with a burst."""
    allowance = Allowance.of(UPDATE, 0)
    pace = throttled(Pace(), allowance, wait=600, now=START)
    ats = []
    for now in (START, START + 600, START + 600):
        pace, reservation = reserve(pace, allowance, 200, now)
        ats.append(reservation.at - START)
    assert ats == pytest.approx([600, 600 + 200 / 150, 600 + 400 / 150])


def test_calls_that_were_under_way_together_slow_the_pace_once():
    """Four calls refused in the same pause are one message of the vendor, not four."""
    allowance = Allowance.of(UPDATE, 0)
    pace = Pace()
    for _ in range(4):
        pace = throttled(pace, allowance, wait=5, now=START)
    assert pace.factor == 1 / 2


def test_the_pace_recovers_slowly_after_a_429():
    """Each answer gives a little of the rate back, until all of it is used again."""
    allowance = Allowance.of(UPDATE, 0)
    pace = throttled(Pace(), allowance, wait=0, now=START)
    factors = []
    for _ in range(10):
        pace, reservation = reserve(pace, allowance, 200, START)
        pace = answered(pace, allowance, reservation, sent=reservation.at, answered=reservation.at)
        factors.append(pace.factor)
    assert factors == sorted(factors)
    assert factors[0] == pytest.approx(0.55)
    assert factors[-1] == 1


@pytest.fixture
def ledger(tmp_path, clock):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", clock=clock)
    yield ledger
    ledger.close()


@pytest.fixture
def pacer(ledger, clock):
    """A pacer whose sleeps take no time."""

    def sleep(seconds: float) -> bool:
        clock.now += seconds
        return True

    def make(limits: Limits = UPDATE, sleep=sleep) -> Pacer:
        return Pacer(ledger, account="a", endpoint="e", allowance=Allowance.of(limits, 0), sleep=sleep)

    return make


def test_a_restart_goes_on_from_the_same_state(pacer, clock):
    """A new process finds the bucket as the old one left it, not full."""
    for _ in range(5):
        pacer().wait_for(200)
    left = clock.now
    pacer().wait_for(200)
    assert clock.now - left == pytest.approx(200 / 300)


def test_a_429_holds_for_a_call_that_waits_already(pacer, clock):
    """A pause that the vendor asks for while another call sleeps before its start holds for that call too."""
    others = pacer()

    def sleep(seconds: float) -> bool:
        if clock.now < 1_772_438_401:
            others.throttled(30)
        clock.now += seconds
        return True

    for _ in range(4):
        others.wait_for(200)
    started = clock.now
    pacer(sleep=sleep).wait_for(200)
    assert clock.now - started >= 30


def test_a_pause_too_long_to_sleep_through_is_handed_back(pacer, ledger):
    """Nobody sleeps longer than a quarter of an hour: the run ends, says how long to stay away, and reserved nothing."""
    pacer().throttled(LONGEST_WAIT_S + 60)
    before = stored_pace(ledger, "a", "e")
    with pytest.raises(Busy) as caught:
        pacer().wait_for(200)
    assert caught.value.wait == pytest.approx(LONGEST_WAIT_S + 60)
    assert stored_pace(ledger, "a", "e") == before


def test_a_wait_that_is_cut_short_lets_nothing_leave(pacer):
    """When the run is to stop, the call that waits is not sent."""
    pacing = pacer(sleep=lambda _seconds: False)
    results = [pacing.wait_for(200) for _ in range(5)]
    assert results[-1] is None


def test_the_pace_of_an_endpoint_nobody_used_is_fresh(ledger):
    """A plan may ask for the pace before anything was ever sent."""
    assert stored_pace(ledger, "nobody", "e") == Pace()


SHARER = """
import sys, time
from etl.ledger import Ledger
from etl.limits import limits_of
from etl.pacing import Allowance, Pacer
from dataclasses import replace
ledger = Ledger(sys.argv[1])
limits = replace(limits_of("batch_update"), rows_per_call=20, per_second=1000, burst=200)
sleep = lambda seconds: time.sleep(seconds) or True
pacer = Pacer(ledger, account="a", endpoint="e", allowance=Allowance.of(limits, 0), sleep=sleep)
for _ in range(20):
    print(repr(pacer.wait_for(20).at))
ledger.close()
"""


def test_processes_share_one_pace_and_lose_no_call(tmp_path):
    """Four processes that reserve from one ledger at once take each place in the queue once."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    sharers = [
        subprocess.Popen((sys.executable, "-c", SHARER, url), stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    ats = sorted(float(line) for sharer in sharers for line in sharer.communicate()[0].split())
    assert all(sharer.returncode == 0 for sharer in sharers)
    assert len(ats) == 80
    rate = Rate(items_per_call=20, per_second=1000, bucket=150)
    assert lowest_level([(at, 20) for at in ats], rate) >= -ROUNDING


def test_no_pause_shuts_an_account_for_longer_than_a_day():
    """Ten years of Retry-After are somebody's mistake."""
    allowance = Allowance.of(UPDATE, 0)
    assert throttled(Pace(), allowance, wait=315_360_000, now=START).blocked_until == START + 86_400
