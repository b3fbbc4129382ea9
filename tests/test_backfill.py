"""Days in any order, again, corrected, side by side or without an export: the vendor ends up with what the newest says."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import count, islice

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl import pipeline
from etl.model import RunReport
from etl.report import report
from etl.run import RunContext
from soak import SOAK

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


IN, OUT, BAD = {"email_opt_in": "true"}, {"email_opt_in": "false"}, {"phone": "none"}
LYON, NICE = {"city": "Lyon"} | IN, {"city": "Nice"} | IN
# What a day says of a customer: a good row says something of the opt-in, a bad one perhaps that there is none.
rows = st.sampled_from([LYON, NICE, LYON | OUT, NICE | OUT, BAD | OUT, BAD])
says = st.lists(st.dictionaries(st.sampled_from(["a", "b"]), rows), min_size=3, max_size=len(DAYS))
# In each turn the run of a day goes on for some steps, or a new one begins; the vendor may refuse it, or not answer.
turns = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([1, 5, 6, 9]), st.sampled_from([None, None, 401, 503])), max_size=8
)


@settings(max_examples=500 if SOAK else 2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(says, turns, st.permutations(DAYS))
# An opt-out that the vendor refused is taken over by the day after the next; the day between opts in again, and is late.
@example(
    [{"a": LYON}, {"a": BAD | OUT}, {"a": NICE}, {}], [(0, 9, None), (1, 9, 401), (3, 9, None), (2, 9, None)], DAYS
)
# A run has found a customer unchanged, and has not ended when an older day is run.
@example([{"a": LYON}, {"a": NICE}, {"a": LYON}], [(0, 9, None), (2, 6, None), (1, 9, None)], DAYS)
def test_runs_side_by_side_end_with_what_the_newest_day_says(installation, emulator, said, wanted, order):
    """Steps of several days' runs in any order; then each goes on to its end, and those that failed are run again."""
    name = f"C-{next(_examples)}"
    here = replace(installation, root=installation.root / name)
    days = [_Day(day, here.context) for day in DAYS[: len(said)]]
    for day, export in zip(days, said, strict=True):
        # Somebody is in every export, so that there is one.
        here.land({name: {}} | {f"{name}-{key}": row for key, row in export.items()}, day.day)
    for number, steps, status in wanted:
        here.clock.now += 1
        emulator.faults(*([{"status": status}] if status else []))
        days[number % len(days)].go_on(steps)
        emulator.heal()
    for day in sorted(days, key=lambda day: order.index(day.day)):
        while day.run is not None or day.exit_code == 3:
            here.clock.now += 1
            day.go_on(9)
    for key in ("a", "b"):
        held = emulator.profiles.get(f"{name}-{key}", {"attributes": {}})["attributes"]
        city, opt_in = _last_word([export[key] for export in said if key in export])
        assert held.get("$email_marketing") == opt_in
        assert city in {None, held.get("city")}


@dataclass
class _Day:
    """The runs of a day, one after the other, and how the last one ended; they go on when they are told to."""

    day: date
    context: Callable[..., RunContext]
    run: Iterator[RunReport | None] | None = None
    exit_code: int = 3

    def go_on(self, steps: int) -> None:
        """So many steps of the run, to its end at most."""
        self.run = self.run or _steps(self.context(self.day, run_id=pipeline.new_run_id("cli")))
        for made in islice(self.run, steps):
            if made is not None:
                assert made.balanced
                self.run, self.exit_code = None, made.exit_code


def _steps(ctx: RunContext) -> Iterator[RunReport | None]:
    """A run, step by step as Airflow's tasks do it; the last one is the report."""
    pipeline.begin(ctx)
    for step in (*pipeline.PREPARE, *pipeline.DELIVER):
        pipeline.do(ctx, step)
        yield None
    made = report(ctx)
    ctx.ledger.close()
    yield made


def _last_word(rows: list[Mapping[str, str]]) -> tuple[str | None, str | None]:
    """City and opt-in of a customer; an opt-out that goes alone cancels what older days say, so that no city is due."""
    heard = [row for row in rows if "email_opt_in" in row]
    if not heard:
        return None, None
    return heard[-1].get("city"), "subscribed" if heard[-1]["email_opt_in"] == "true" else "unsubscribed"
