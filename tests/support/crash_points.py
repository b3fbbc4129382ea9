"""Crash points: the named places of a run, and a process that kills itself at one of them.

`python crash_points.py POINT ARGUMENT...` runs `profile-etl ARGUMENT...`. Nothing is changed but that the calls of one
function are counted: the nth of them ends the process by SIGKILL, before it begins, after it has returned, or after the
transaction that it is part of is committed.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.engine.default import DefaultDialect

from etl import cli, wait
from etl.destinations.adobe_target import AdobeBulk, AdobeSingle
from etl.destinations.batch import BatchEndpoint
from etl.destinations.releva import Releva
from etl.ledger import Ledger
from etl.storage import Place

Moment = Literal["before", "after", "committed"]
DESTINATIONS = ("batch_update", "batch_mass_update", "adobe_target_single", "adobe_target_bulk", "releva")
_ENDPOINTS = (BatchEndpoint, AdobeSingle, AdobeBulk, Releva)
_SPLITTING = tuple(name for name in DESTINATIONS if name != "adobe_target_single")  # its calls hold a single row
_AWAITING = ("adobe_target_bulk",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A place where a process may die: the `nth` call of a function that speaks of `about`, and which `moment` of it."""

    name: str
    owners: Sequence[Any]
    method: str
    moment: Moment
    about: str = ""
    nth: int = 1
    destinations: Sequence[str] = DESTINATIONS

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    def arm(self) -> None:
        """Lets this process die there."""
        calls = itertools.count(1)
        for owner in self.owners:
            setattr(owner, self.method, self._deadly(getattr(owner, self.method), calls))

    def _deadly(self, method: Callable[..., Any], calls: itertools.count[int]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            said = " ".join(arg for arg in args if isinstance(arg, str))
            is_last = re.search(self.about, said) is not None and next(calls) == self.nth
            if is_last and self.moment == "before":
                die()
            if is_last and self.moment == "committed":
                _die_at_next_commit()
            result = method(*args, **kwargs)
            if is_last and self.moment == "after":
                die()
            return result

        return call


def die() -> None:
    """Ends this process as the kernel does when memory runs out: nothing is tidied up, nothing is told."""
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_next_commit() -> None:
    commit = DefaultDialect.do_commit

    def last(dialect: DefaultDialect, connection: Any) -> None:
        commit(dialect, connection)
        die()

    DefaultDialect.do_commit = last  # type: ignore[method-assign]


def _file(name: str, about: str, *, nth: int = 1, **more: Any) -> list[Point]:
    """Before and after a file or folder takes its name."""
    common = {"owners": (Place,), "method": "publish", "about": about, "nth": nth, **more}
    return [
        Point(name=f"before {name} is published", moment="before", **common),
        Point(name=f"after {name} is published", moment="after", **common),
    ]


def _commit(name: str, method: str, *moments: Moment, owners: Sequence[Any] = (Ledger,), **more: Any) -> list[Point]:
    """Around a transaction of the ledger."""
    words = {"before": f"before {name}", "after": f"{name}, not committed", "committed": f"after {name}"}
    return [Point(name=words[m], owners=owners, method=method, moment=m, **more) for m in moments]


def _call(number: int) -> list[Point]:
    """Around the calls to the vendor, each from its intent to its outcome."""
    send = {"owners": _ENDPOINTS, "method": "submit", "nth": number}
    return [
        *_commit(f"intent {number} is noted", "intend", "before", "after", "committed", nth=number),
        Point(name=f"before request {number} is sent", moment="before", **send),
        Point(name=f"after request {number} is answered", moment="after", **send),
        *_commit(f"outcome {number} is noted", "settle", "before", "after", "committed", nth=number),
    ]


def _poll(number: int) -> list[Point]:
    """Around the questions what became of a batch."""
    more = {"owners": (wait,), "nth": number, "destinations": _AWAITING}
    return _commit(f"answer {number} of the vendor's status is noted", "note_poll", "before", "committed", **more)


# In the order in which a run meets them.
POINTS: dict[str, Point] = {
    point.name: point
    for point in (
        *_file("options.json", r"^options\.json$"),
        *_commit("the run is noted", "open_run", "committed"),
        *_file("the snapshot of the CRM export", "^private/snapshots/", nth=1),
        *_file("the snapshot of the POS export", "^private/snapshots/", nth=2),
        *_file("extract.json", r"^extract\.json$"),
        *_file("the folder validated", "^private/validated$"),
        *_file("validate.json", r"^validate\.json$"),
        *_file("the folder transformed", "^private/transformed$"),
        *_file("transform.json", r"^transform\.json$"),
        *_file("the folder records", "^private/records$"),
        *_file("the plan's folder", "/private/plan-001$"),
        *_file("pack.json", r"^pack\.json$"),
        *_file("plan.json", r"^plan\.json$"),
        *_commit("the lease is taken", "take_lease", "before", "committed"),
        *_commit("what a dead process left is noted", "recover", "before", "committed"),
        *_commit("the plan is adopted", "adopt_plan", "before", "committed"),
        *_call(1),
        *_call(3),
        *_file("the first piece of a split batch", "/pieces/", nth=1, destinations=_SPLITTING),
        *_file("the second piece of a split batch", "/pieces/", nth=2, destinations=_SPLITTING),
        *_commit("the lease is given back", "drop_lease", "before", "committed"),
        *_file("load.json", r"^load\.json$"),
        *_commit("the questions are claimed", "claim_due", "committed", owners=(wait,), nth=2, destinations=_AWAITING),
        *_poll(1),
        *_poll(3),
        *_file("wait.json", r"^wait\.json$"),
        *_commit("the lease is taken again", "take_lease", "committed", nth=2),
        *_file("the account's state", "^private/state/"),
        *_commit("the account's state is named", "commit_state", "before", "committed"),
        *_commit("the lease is given back again", "drop_lease", "committed", nth=2),
        *_file("the table of dispositions", r"^private/dispositions\.parquet$"),
        *_file("reconcile.json", r"^reconcile\.json$"),
        *_file("the report", r"^run_report\.json$"),
        *_commit("the run is closed", "finish_run", "before", "committed"),
    )
}  # fmt: skip


if __name__ == "__main__":
    POINTS[sys.argv[1]].arm()
    sys.argv = ["profile-etl", *sys.argv[2:]]
    cli.main()
