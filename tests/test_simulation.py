"""Crashes, faults and interleavings, thousands of times: the account stays whole, and nothing is lost, doubled or too fast."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from simulation.bugs import BUGS
from simulation.schedule import figures, run_schedule

# A schedule packs, sends, absorbs and accounts for a few days, with all the files that this takes: about 0.2 s of processor
# time. `make soak` plays a million.
SCHEDULES = 400
SEEDS_FOR_A_BUG = 150


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
        assert any(run_schedule(seed).wrong for seed in range(SEEDS_FOR_A_BUG))
