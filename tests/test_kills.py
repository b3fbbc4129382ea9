"""Real processes, killed at every named point of a run and at random moments: the next one ends as if nothing had been.

Every case has a vendor of its own that refuses one row, so that batches are halved. What it knows in the end is compared
with what an undisturbed run has told it. `make test` takes the cases that SEED draws, `make soak` takes all.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import pytest
import requests
import sqlalchemy as sa

import crash_points
from crash_points import DESTINATIONS, POINTS, Point
from etl import pipeline
from etl.emulator.adobe import DEMO_CLIENT
from etl.emulator.server import start
from etl.ledger import Ledger
from etl.ledger.schema import attempts
from etl.report import read_report
from etl.settings import Connection
from etl.storage import Place

SEED = 20261122
# So many in `make test`: points and pairs of points in all; destinations with a moment each, in `make soak` (second) all with
# so many.
NAMED, PAIRS = 10, 2
KILLS, STOPS = (5, 50), (2, 20)
LATE = 0.7  # that share of the moments lies behind the first call

DAY = date(2026, 3, 2)
CUSTOMERS = [f"C-{number:05d}" for number in range(36)]
GUILTY = ["C-00013", "c-00013@example.org"]
SMALL = {"rows_per_call": 10, "calls_per_minute": 6000}
EXTRA = {
    "limits": {name: SMALL for name in DESTINATIONS if name != "adobe_target_single"},
    "polling": {"first_s": 0.05, "max_s": 0.2},
}
DELIVERED = ("accepted", "confirmed", "unchanged")


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a day ended: its account, and what the vendor knows."""

    exit_code: int
    rows: dict[str, int]
    attributes: dict[str, Any]
    updates: int
    calls: int
    possible: int
    balanced: bool


@dataclass(kw_only=True)
class Site:
    """An installation with a vendor of its own, and what became of its processes."""

    here: Any
    vendor: Any
    kills: int = 0
    in_flight: int = 0

    def die_at(self, point: Point) -> None:
        """Runs the command line in a process that kills itself at a point, if it gets there."""
        self.bury(self.here.start(program=(crash_points.__file__, point.name)))

    def interrupt(self, number: signal.Signals, dice: random.Random) -> str:
        """Runs the command line in a process, and sends it a signal at any moment; returns what it printed."""
        process, known, is_late = self.here.start(), len(self.vendor.requests), dice.random() < LATE
        has_begun = (
            (lambda: len(self.vendor.requests) > known)
            if is_late
            else (lambda: any(self.here.root.rglob("options.json")))
        )
        while process.poll() is None and not has_begun():
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.4))
        process.send_signal(number)
        return self.bury(process)

    def bury(self, process: Any) -> str:
        """Waits for the end of a process that was killed, or came to its end before that; returns what it printed."""
        out, error = process.communicate(timeout=60)
        assert process.returncode in {-signal.SIGKILL, 0, 1, 3}, error
        self.kills += process.returncode == -signal.SIGKILL
        self.in_flight += sum(rows for outcome, rows, _ in self.attempts() if outcome == "sending")
        return str(out)

    def finish(self) -> Ending:
        """What the next command does, in this process, which saves its start; and how the day has ended then."""
        here = self.here
        ctx = pipeline.context(
            here.sync, DAY, run_id="cli", destination=here.destination, settings=here.settings,
            connection=Connection.from_parts(here.sync.connection, here.connection_parts),
        )  # fmt: skip
        with closing(ctx.ledger), pipeline.resume_or_new(ctx) as named, closing(named.ledger):
            last = pipeline.run(named)
        reports = [read_report(Place(str(path.parent))) for path in here.root.rglob("run_report.json")]
        profiles = self.vendor.profiles_of(here.vendor)
        return Ending(
            exit_code=last.exit_code,
            rows={name: count for name, count in last.rows.items() if count and name not in DELIVERED}
            | {"delivered": sum(last.rows[name] for name in DELIVERED)},
            attributes={key: profile["attributes"] for key, profile in profiles.items()},
            updates=sum(profile["updates"] for profile in profiles.values()),
            calls=sum(bool(call["rows"]) for call in self.vendor.requests),
            possible=sum(report.duplicates_possible for report in reports),
            balanced=all(report.balanced for report in reports),
        )

    def attempts(self) -> list[tuple[str, int, int]]:
        """Outcome, rows and fence of every attempt, in the order in which they began."""
        query = sa.select(attempts.c.outcome, attempts.c.rows, attempts.c.fence).order_by(attempts.c.started_at)
        with closing(Ledger(self.here.settings.ledger)) as ledger, ledger.reading() as db:
            return [tuple(row) for row in db.execute(query)]


@pytest.fixture
def site(install, real_time_emulator, tmp_path) -> Iterator[Callable[..., Site]]:
    """Makes sites for a destination; the vendor takes `delay` seconds for each call."""
    with ExitStack() as stack:

        def make(destination: str, *, delay: float = 0) -> Site:
            single = destination == "adobe_target_single"
            url = stack.enter_context(start(adobe_settings={"complete_after_polls": 0 if single else 2}))
            here = replace(install(url, destination=destination, extra=EXTRA), root=tmp_path / url.rpartition(":")[2])
            vendor = replace(real_time_emulator, url=url)
            _land(here)
            if single:  # which creates nobody
                _introduce(url)
            vendor.faults({"refuse_call_with": GUILTY}, *([{"delay": delay}] if delay else []))
            Ledger(here.settings.ledger).close()  # to make its tables takes a process half a second
            return Site(here=here, vendor=vendor)

        yield make


def _land(here: Any) -> None:
    """An export with a few defects, and purchases."""
    defects = {"older": {"customer_id": CUSTOMERS[0], "updated_at": "2026-03-01T08:00:00Z"}, "bad": {"email": "bad"}}
    here.land({key: {} for key in CUSTOMERS} | defects, DAY)
    receipts = here.root / "landing" / "pos" / str(DAY) / "receipts.csv"
    receipts.parent.mkdir(parents=True)
    lines = [f"T{n},{key},S1,{DAY}T10:00:00Z,{n}.50,EUR" for n, key in enumerate(CUSTOMERS)]
    receipts.write_text("\n".join(("transaction_id,customer_id,store_id,occurred_at,total,currency", *lines, "")))


def _introduce(url: str) -> None:
    path, form = f"/m2/{DEMO_CLIENT}/v2/profile/batchUpdate", "application/x-www-form-urlencoded"
    file = "\n".join(("batch=thirdPartyId,seen", *(f"{key},yes" for key in CUSTOMERS), ""))
    answer = requests.post(url + path, data=file, headers={"Content-Type": form}, timeout=10)
    assert "<success>true" in answer.text


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, Ending]:
    """By destination, how a day ends without a crash, as far as a test has found it out."""
    return {}


@pytest.fixture
def ends_well(site, undisturbed, record_property) -> Callable[..., None]:
    """Checks that a site ends as one without a crash, but for what was in flight, and enters it in the table."""

    def check(disturbed: Site, *points: Point) -> None:
        destination = disturbed.here.destination
        if destination not in undisturbed:
            undisturbed[destination] = site(destination).finish()
        calm, ending = undisturbed[destination], disturbed.finish()
        lost = sum(ending.attributes.get(key) != known for key, known in calm.attributes.items())
        duplicates = ending.updates - calm.updates
        record_property(
            "figures",
            {
                "table": "real kills", "seed": SEED, "destinations": [destination], "points": [point.name for point in points], "kills": disturbed.kills,
                "lost": lost, "duplicates": duplicates, "bound": disturbed.in_flight, "unbalanced": not ending.balanced,
            },
        )  # fmt: skip
        assert calm.rows == {"records_in": 38, "deduplicated": 1, "quarantined": 1, "rejected": 1, "delivered": 35}
        assert (ending.rows, ending.exit_code, ending.balanced) == (calm.rows, calm.exit_code, True)
        assert ending.attributes == calm.attributes
        assert lost == 0
        assert 0 <= duplicates <= ending.possible == disturbed.in_flight
        made = disturbed.attempts()
        assert ending.calls <= len(made) + (destination == "adobe_target_single")  # no call without an intent
        assert [fence for _, _, fence in made] == sorted(fence for _, _, fence in made)
        assert disturbed.finish() == ending, "the day was not finished"

    return check


def _dice(*seed: object) -> random.Random:
    return random.Random(f"{SEED} {seed}")  # noqa: S311  (repeatable; no secret)


def _points() -> list[Any]:
    """Every point at every destination that gets there; a few of them for `make test`, each point at most once."""
    dice = _dice("points")
    few = {point.name: dice.choice(point.destinations) for point in dice.sample(list(POINTS.values()), NAMED)}
    return [
        pytest.param(destination, point, id=f"{destination}-{point}", marks=_soak(few.get(point.name) != destination))
        for point in POINTS.values()
        for destination in point.destinations
    ]


def _moments(here: int, soak: int) -> list[Any]:
    """Numbers for each destination's moments, the first ones of some for `make test`."""
    few = _dice("moments").sample(DESTINATIONS, here)
    return [
        pytest.param(
            destination, number, id=f"{destination}-{number}", marks=_soak(number > 0 or destination not in few)
        )
        for destination in DESTINATIONS
        for number in range(soak)
    ]


def _soak(only: bool) -> list[pytest.MarkDecorator]:
    return [pytest.mark.soak] if only else []


@pytest.mark.parametrize(("destination", "point"), _points())
def test_a_run_that_dies_at_a_point_is_finished_by_the_next(site, ends_well, destination, point):
    """Nothing is lost, nothing is sent twice but what was in flight, and the account is that of an undisturbed run."""
    here = site(destination)
    here.die_at(point)
    assert here.kills == 1, "the run never came to this point"
    ends_well(here, point)


def _dies_twice(site: Callable[..., Site], ends_well: Callable[..., None], first: Point, second: Point) -> None:
    both = [name for name in first.destinations if name in second.destinations]
    here = site(_dice(first, second).choice(both))
    here.die_at(first)
    here.die_at(second)  # or ends, where this point lies behind
    ends_well(here, first, second)


@pytest.mark.parametrize("number", range(PAIRS))
def test_a_run_that_dies_twice_is_finished_by_the_third(site, ends_well, number):
    """The second process takes up the first one's run, and dies further on."""
    later = list(POINTS.values())[len(POINTS) // 2 :]
    _dies_twice(site, ends_well, *_dice("pairs", number).choices(later, k=2))


@pytest.mark.soak
@pytest.mark.parametrize("first", POINTS.values(), ids=str)
def test_a_run_that_dies_at_any_two_points_is_finished_by_the_third(site, ends_well, first):
    """Each point after each point, at one destination each."""
    for second in POINTS.values():
        if set(first.destinations) & set(second.destinations):
            _dies_twice(site, ends_well, first, second)


@pytest.mark.parametrize(("destination", "number"), _moments(*KILLS))
def test_a_run_that_is_killed_at_any_moment_is_finished_by_the_next(site, ends_well, destination, number):
    """Whatever it is doing; more often than not it waits for an answer."""
    here = site(destination, delay=0.1)
    here.interrupt(signal.SIGKILL, _dice("kills", destination, number))
    ends_well(here)


@pytest.mark.parametrize(("destination", "number"), _moments(*STOPS))
def test_a_run_that_is_told_to_stop_notes_every_outcome(site, ends_well, destination, number):
    """SIGTERM: what is under way comes to its end, the exit code is 3 if anything is left, and nothing is sent twice."""
    here = site(destination, delay=0.1)
    report = json.loads(here.interrupt(signal.SIGTERM, _dice("stops", destination, number)))
    left = sum(report["rows"][name] for name in ("not_sent", "unknown", "processing"))
    assert report["rows"]["unknown"] == 0
    assert (report["exit_code"] == 3) == (left > 0)
    assert {outcome for outcome, _, _ in here.attempts()} <= {"accepted", "rejected"}
    ends_well(here)
