"""Purge: takes away what holds personal data of runs that are long over; what may still be needed is left, and named.

Of a run, its folder `private` goes. The report, the results of its steps and its rows in the ledger stay, as nothing in
them is personal, and so does the account's state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from etl import base
from etl.errors import Busy
from etl.ledger import Ledger, Run
from etl.model import BatchState
from etl.run import PURGED
from etl.snapshot import SNAPSHOTS
from etl.storage import PRIVATE, Place

DAY_S = 86_400.0
_DONE = (0, 1)
# Batches whose end is open need their run's files; of those that never left, only until another run has done their work.
_OPEN = [s for s in BatchState if s is BatchState.PROCESSING or not (s.is_settled or s is BatchState.PLANNED)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A run whose files are there: since when it is over (or began), and why they are needed; None if they are not."""

    name: str
    since: float
    needed: str | None
    is_private: bool
    is_read: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What was removed; how many runs are too young; and of those old enough and left, the reason and the remedy."""

    runs: int
    snapshots: int
    leftovers: int
    bytes: int
    young: int
    left: list[str]


def purge(ledger: Ledger, work: Place, *, days: float) -> Purged:
    """Removes the personal data of the runs that are over for so many days; raises Busy beside another purge."""
    with alone(work):
        oldest = ledger.now() - days * DAY_S
        kept = list(kept_runs(ledger, work))
        old = [run for run in kept if run.is_private and run.since < oldest]
        due = [run for run in old if not run.needed]
        freed = []
        for run in due:
            mark(work / run.name)
            freed.append(_remove(work, f"{run.name}/{PRIVATE}"))
        base.thin(work, oldest=datetime.fromtimestamp(oldest, UTC).date())
        snapshots = remove_snapshots(ledger, work, [run for run in kept if run not in due])
        leftovers = remove_leftovers(work)
    return Purged(
        runs=len(due),
        snapshots=len(snapshots),
        leftovers=len(leftovers),
        bytes=sum((*freed, *snapshots, *leftovers)),
        young=sum(run.is_private for run in kept) - len(old),
        left=[f"{run.name}: {run.needed}" for run in old if run.needed],
    )


@contextmanager
def alone(work: Place) -> Iterator[None]:
    """Keeps another purge of this machine away."""
    with work.hold("purging") as held:
        if not held:
            raise Busy("another profile-etl purge is at work", wait=60)
        yield


def kept_runs(ledger: Ledger, work: Place) -> Iterator[Kept]:
    """The runs of which there are more files than the purge leaves behind, plans that were never sent included."""
    open_, planned = (
        {run.run for run in ledger.runs_with_batches(*states)} for states in (_OPEN, [BatchState.PLANNED])
    )
    untold: dict[str, set[str]] = {}
    for name in _folders(work):
        inside = set(work.names(name))
        run = ledger.run(name)
        if PURGED in inside and PRIVATE not in inside:
            continue
        if run is None:
            since = work.modified(f"{name}/extract.json") if "extract.json" in inside else time.time()
            is_made = "plan.json" in inside or since < time.time() - DAY_S
            needed = None if is_made else "its plan is being made"
        else:
            since = run.finished_at or run.started_at
            if run.account not in untold:
                untold[run.account] = {batch.run for batch in ledger.unabsorbed(run.account)}
            needed = None
            if name in open_:
                needed = "what became of its batches is open: run it again, or profile-etl status --wait"
            elif name in untold[run.account]:
                needed = "its outcomes are not in the account's state: run any day of the account"
            elif (run.finished_at is None or name in planned) and not _is_done_by_another(ledger, run):
                needed = "it is not finished: run it again"
        yield Kept(
            name=name,
            since=since,
            needed=needed,
            is_private=PRIVATE in inside,
            is_read="extract.json" in inside and PURGED not in inside,
        )


def mark(run: Place) -> None:
    """Notes in a run's folder that its files are going: no step of it can be done again."""
    run.write_json(PURGED, {"on": str(datetime.now(UTC).date())})


def remove_snapshots(ledger: Ledger, work: Place, kept: Iterable[Kept]) -> list[int]:
    """Removes the copies of exports that none of the runs has read; returns their sizes."""
    read = [run for run in kept if run.is_read]
    if any(run.needed and not run.is_read and run.since > ledger.now() - DAY_S for run in kept):
        return []  # it is reading its exports now, and has not said yet which they are
    said = (work.read_json(f"{run.name}/extract.json") or {"files": []} for run in read)
    needed = {file["sha256"] for extracted in said for file in extracted["files"]}
    needed |= {known.file.sha256 for known in base.everyones(work)}
    found = [name for name in work.names(SNAPSHOTS) if not name.startswith(".") and name not in needed]
    return [_remove(work, f"{SNAPSHOTS}/{name}") for name in found]


def remove_leftovers(work: Place) -> list[int]:
    """Removes what processes left behind half-written when they died; returns the sizes. None writes for a day."""
    found = [name for name in leftovers(work) if work.modified(name) < time.time() - DAY_S]
    return [_remove(work, name) for name in found]


def leftovers(work: Place) -> Iterator[str]:
    """Folders in which a process is writing, or was when it died; at a URL there are none."""
    for folder, inside, _ in os.walk(work.root) if work.is_local else ():
        for name in [name for name in inside if name.startswith(".staging-")]:
            inside.remove(name)
            yield str(Path(folder, name).relative_to(work.root))


def _folders(work: Place) -> Iterator[str]:
    """The folders of all runs, by their names."""
    for sync in work.names():
        for day in filter(_is_day, work.names(sync)):
            for destination in work.names(f"{sync}/{day}"):
                yield from (f"{sync}/{day}/{destination}/{run}" for run in work.names(f"{sync}/{day}/{destination}"))


def _is_day(name: str) -> bool:
    with suppress(ValueError):
        return str(date.fromisoformat(name)) == name
    return False


def _is_done_by_another(ledger: Ledger, run: Run) -> bool:
    """A later run of the day went through, so that nobody takes this one up again."""
    later = ledger.runs(sync=run.sync, day=run.day, destination=run.destination)
    return any(other.started_at > run.started_at and other.exit_code in _DONE for other in later)


def _remove(work: Place, name: str) -> int:
    size = work.size(name)
    work.remove(name)
    return size
