"""Days in any order, again, corrected or without an export: the vendor ends up with what the newest of them says."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import date, timedelta
from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DAYS = [date(2026, 3, 2) + timedelta(days=number) for number in range(4)]
_examples = count()

# What one day's export says of some of five customers; without any there is no export.
exports = st.dictionaries(st.integers(0, 4), st.sampled_from(["Lyon", "Nice", "Lille"]))
steps = st.lists(st.tuples(st.integers(0, len(DAYS) - 1), exports, st.booleans()), min_size=2, max_size=7)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_the_newest_day_has_the_last_word(installation, emulator, wanted):
    """A day that is run again is read again; one without an export is a state of its own run; a repeat sends nothing."""
    example = next(_examples)
    shutil.rmtree(installation.root / "landing", ignore_errors=True)
    said: dict[date, Mapping[str, str]] = {}
    for number, export, is_repeated in wanted:
        day = DAYS[number]
        cities = {f"C-{example}-{customer}": city for customer, city in export.items()}
        shutil.rmtree(installation.root / "landing" / "crm" / str(day), ignore_errors=True)
        if cities:
            installation.land({key: {"city": city} for key, city in cities.items()}, day)
            # A customer whom the corrected export leaves out is as the export before said.
            said[day] = {**said.get(day, {}), **cities}
        report = installation.run(day, accept_volume=True)
        assert report.balanced
        assert report.exit_code == (0 if cities else 3)
        assert report.rows["records_in"] == len(cities)
        if cities and is_repeated:
            sent = len(emulator.requests)
            assert installation.run(day, accept_volume=True).rows["accepted"] == 0
            assert len(emulator.requests) == sent
        newest = {key: value for day in sorted(said) for key, value in said[day].items()}
        held = emulator.cities()
        assert {key: held[key] for key in newest} == newest
