"""Which run a command takes up: the one that died, and never one that somebody is working on."""

import subprocess
import sys

from etl import pipeline

HOLD = """
import sys
from etl.storage import Place
with Place(sys.argv[1]).hold("running") as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def _take_up(installation) -> str:
    with pipeline.resume_or_new(installation.context(run_id="cli")) as ctx:
        pipeline.begin(ctx)
        return ctx.run_id


def test_a_run_that_died_is_taken_up(installation):
    """Its process is gone, its report was never written."""
    assert _take_up(installation) == _take_up(installation)


def test_a_run_that_another_process_is_at_work_on_is_left_alone(installation):
    """Two commands for the same day make two runs."""
    first = _take_up(installation)
    folder = installation.context(run_id=first).place.root
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        assert _take_up(installation) != first
        other.stdin.close()


def test_a_finished_run_is_followed_by_a_new_one(installation):
    """Running again adds a run."""
    installation.land(3)
    with pipeline.resume_or_new(installation.context(run_id="cli")) as first:
        pipeline.run(first)
    assert _take_up(installation) != first.run_id
