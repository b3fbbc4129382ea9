"""Crashes, faults and interleavings, thousands of times: the account stays whole, and nothing is lost, doubled or too fast."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from simulation.bugs import BUGS
from simulation.schedule import figures, run_schedule

# A schedule packs, sends, absorbs and accounts for a few days, with all the files that this takes: about half a second of
# processor time, too much for ten thousand here. `make soak` plays a million.
SCHEDULES = 30
# Where each bug shows first; after a change of the code it may be elsewhere.
SHOWN_BY = {
    "a lease for everybody": 1,
    "intent after the call": 1, "outcome before the call": 18, "recovered as planned": 141, "quota without unknowns": 160,
    "quota never asked": 29, "no fence": 2, "timeouts as not sent": 9, "half of a bisection": 1, "other bytes": 0,
    "days in any order": 3, "old data again": 211,
}  # fmt: skip
MORE_SEEDS = 100


def test_nothing_goes_wrong_in_any_schedule(record_property):
    """I1 to I12, in chaos and after it; a seed that is printed plays the same schedule again."""
    results = [run_schedule(seed) for seed in range(SCHEDULES)]
    record_property("figures", {"table": "simulation", **figures(results)})
    assert {result.seed: result.wrong for result in results if result.wrong} == {}
    assert sum(result.crashes for result in results) > SCHEDULES / 2


def test_a_seed_plays_the_same_schedule_again():
    """What was found can be looked at."""
    assert run_schedule(7) == run_schedule(7)


@pytest.mark.parametrize("name", BUGS)
def test_the_simulation_can_fail(name):
    """Each planted bug is caught."""
    with ExitStack() as planted:
        for bug in BUGS[name]:
            planted.enter_context(bug)
        assert any(run_schedule(seed).wrong for seed in [SHOWN_BY.get(name, 0), *range(MORE_SEEDS)])
