"""A state that is lost or damaged is made anew from the ledger and the runs' files, and what they cannot tell is sent again."""

from __future__ import annotations

import shutil
from datetime import date, timedelta

import polars as pl
import pytest

from etl.delta import STATE
from etl.errors import LedgerError
from etl.state import FOLDER, rebuild_unsound

DAY = date(2026, 3, 2)
DAYS = [DAY + timedelta(days=number) for number in range(4)]


@pytest.fixture
def ran(installation, emulator):
    """Four days: profiles that stay, change, are rejected, are in doubt, and that a backfill does not overrule."""
    for number, day in enumerate(DAYS):
        if number == 1:
            emulator.faults({"status": 500, "times": 20})
        people = {f"C-{n}": {"city": "Lyon" if n % 3 else f"Town {number}"} for n in range(10 + number)}
        installation.land(people, day)
        installation.run(day)
        emulator.heal()
    installation.land({"C-1": {"city": "Elsewhere"}, "C-99": {"city": "Nice"}}, DAYS[2])
    installation.run(DAYS[2])
    return installation


def _folder(installation):
    (account,) = (installation.root / "work" / FOLDER).iterdir()
    return account / max(path.name for path in account.iterdir())


def _state(installation) -> list[tuple]:
    frames = [pl.read_parquet(path) for path in sorted(_folder(installation).iterdir())]
    return pl.concat(frames).select(*STATE).sort("key").rows()


def _rebuilt(installation):
    ctx = installation.context()
    return list(rebuild_unsound(ctx.work, ctx.ledger))


def _lose(installation):
    shutil.rmtree(_folder(installation))


def _damage(installation):
    part = next(iter(_folder(installation).iterdir()))
    part.write_bytes(part.read_bytes()[:100])


@pytest.mark.parametrize("harm", [_lose, _damage])
def test_the_state_is_the_same_again(ran, emulator, harm):
    """Nothing is sent without it; then all that it knew is known, and a day that is run again sends nothing."""
    before = _state(ran)
    assert len(before) > 10
    harm(ran)
    sent = len(emulator.requests)
    with pytest.raises(LedgerError, match="doctor --rebuild-state"):
        ran.run(DAYS[-1])
    (made,) = _rebuilt(ran)
    assert (made.profiles, made.lost_runs) == (len(before), 0)
    assert _state(ran) == before
    assert ran.run(DAYS[-1]).rows["unchanged"] == 13
    assert len(emulator.requests) == sent


def test_what_a_purged_run_sent_is_sent_again_and_no_older_day_overrules(ran, emulator):
    """Of a profile that it may have spoken of nobody knows what the vendor holds; that it is of a later day is known."""
    for run in (ran.root / "work" / ran.sync.name / str(DAYS[3])).glob("*/*"):
        shutil.rmtree(run / "private")
    _lose(ran)
    (made,) = _rebuilt(ran)
    assert made.lost_runs == 1
    cities = emulator.cities()
    report = ran.run(DAYS[1])
    assert report.rows["accepted"] + report.rows["superseded"] == 11
    assert report.rows["superseded"] >= 10
    assert ran.run(DAYS[-1]).rows["accepted"] == 13
    assert emulator.cities() == cities


def test_a_sound_state_is_left_alone(ran):
    """It may know more than the runs that are still there."""
    before = _folder(ran)
    assert _rebuilt(ran) == []
    assert _folder(ran) == before
