"""Where not all fits, nobody is overtaken for ever."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from etl.turns import Turns

SUNDAY = date(2026, 3, 1)
TURN = st.none() | st.integers(0, 3)


@given(st.lists(st.lists(TURN, max_size=8), max_size=5), st.integers(0, 45))
def test_room_goes_to_the_earliest_turns_and_in_them_to_the_first_rows(parts, room):
    """However the rows are cut into parts: it is used up, never exceeded, and whoever has no turn does not go."""
    every = [(turn, at) for at, turn in enumerate(turn for part in parts for turn in part)]
    wanted = [(turn, at) for turn, at in every if turn is not None]
    turns = Turns.of(Counter(turn for turn, _ in wanted), room)
    goes = [goes for part in parts for goes in turns.take(pl.Series(part, dtype=pl.Int32))]
    assert [at for at, goes in enumerate(goes) if goes] == sorted(at for _, at in sorted(wanted)[:room])


def test_whoever_has_waited_longest_goes_first(install, emulator):
    """All change every day, and a third of them fits: in three days everybody has had a turn, and an opt-out at once."""
    account = install(emulator.url, extra={"limits": {"batch_update": {"rows_per_call": 10, "quota": 60}}})
    names = [f"C-{number:05d}" for number in range(60)]
    account.land({name: {"email_opt_in": "true"} for name in names}, SUNDAY)
    assert account.run(SUNDAY).rows["accepted"] == 60
    account.extra["limits"]["batch_update"]["quota"] = 20
    arrived = []
    for number, city in enumerate(("Paris", "Nice", "Lille"), start=1):
        day = SUNDAY + timedelta(days=number)
        account.clock.now += 25 * 3600
        rows = {name: {"city": city, "email_opt_in": "true"} for name in names}
        account.land(rows | {names[-1]: {"city": city, "email_opt_in": "false"}}, day)
        report = account.run(day, accept_volume=True)
        assert (report.rows["accepted"], report.rows["deferred"]) == (20, 40)
        arrived.append({name for name in names if emulator.profiles[name]["attributes"].get("city") == city})
    assert arrived[0] == {*names[:19], names[-1]}
    assert arrived[1] == set(names[19:39])
    assert arrived[2] == set(names[39:59])


def test_new_customers_are_not_overtaken_by_newer_ones(install, emulator):
    """Whom the account does not know waits since the day that put them off, however early others stand in the export."""
    account = install(emulator.url, extra={"limits": {"batch_update": {"rows_per_call": 4, "quota": 4}}})
    everybody: list[str] = []
    for number in range(3):
        everybody = [f"C-{number}{place}" for place in range(6)] + everybody
        account.clock.now += 25 * 3600
        waiting = sorted({*everybody} - {*emulator.profiles})
        account.land({name: {} for name in everybody}, SUNDAY + timedelta(days=number))
        account.run(SUNDAY + timedelta(days=number), accept_volume=True)
        arrived = sorted({*waiting} & {*emulator.profiles})
        assert [name[:3] for name in arrived] == [name[:3] for name in waiting[:4]]
