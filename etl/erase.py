"""Erase: one customer leaves the work folder, and nobody else's account changes.

Of the runs in which the customer occurs stays what `explain` and `quarantine` read, without them; the rest, and the
copies of the exports, goes whole: a new run makes it again from the landing folder, which is not ours to clean. Killed
anywhere, the same command again goes on: what tells of the customer is taken away last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl

from etl import base, corrections, parts, purge, state, tombstones, validate
from etl.ends import DISPOSITIONS
from etl.ledger import Ledger, lease
from etl.snapshot import SNAPSHOTS
from etl.storage import PRIVATE, Place
from etl.transform import folders

_PATIENCE_S = 60.0
_CUSTOMERS, _RECEIPTS = (f"{validate.FOLDER}/{export}/valid" for export in ("crm", "pos"))
_QUARANTINES = (*folders.QUARANTINES, f"{validate.FOLDER}/pos/quarantine")
# What stays of a run, without the customer; of the rest of the folders that it is in, nothing.
_STAYING = (_CUSTOMERS, *_QUARANTINES, corrections.FOLDER, folders.OPT_OUTS, folders.HELD)
_GOING = (folders.PROFILES, _RECEIPTS)
_SHARED = {name.split("/")[1] for name in (validate.FOLDER, folders.FOLDER, DISPOSITIONS, corrections.FOLDER)}
# Whose row it is, such a code leaves open.
_OF_NOBODY = ("customer_id_missing", "customer_id_invalid")
_ADDRESS = r"@|(?:\d\D*){5}"
_BORDER = r"[^\w.@+-]"

_Theirs = Callable[[pl.DataFrame], pl.Series]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """Of how many runs, of how many accounts' states the customer was taken out, and what could not be cleaned yet."""

    runs: int
    states: int
    snapshots: int
    left: list[str]


def erase(ledger: Ledger, work: Place, customer_id: str, addresses: Iterable[str] = ()) -> Erased:
    """Takes a customer out of everything; `addresses` are those that no run knows of any more.

    Raises Busy while a run of an account is sending, or another purge is at work.
    """
    with purge.alone(work):
        tombstones.note(work, customer_id, datetime.fromtimestamp(ledger.now(), UTC).date())
        kept = list(purge.kept_runs(ledger, work))
        needed = [run for run in kept if run.needed]
        over = [work / run.name for run in kept if not run.needed]
        marks = {customer_id, *_addresses([work / run.name for run in kept], customer_id, addresses)}
        # An address leads to the state and to rows without an id, the id to everything else; so it goes last.
        states = [account for account in work.names(state.FOLDER) if _forget(work, ledger, account, marks)]
        cleaned = {
            run.root for theirs in (_nameless(marks), _named(customer_id)) for run in over if _clean(run, theirs)
        }
        base.forget(work, customer_id)
        snapshots = purge.remove_snapshots(ledger, work, needed)
        purge.remove_leftovers(work)
        left = list(_left(work, needed, customer_id, marks))
        return Erased(runs=len(cleaned), states=len(states), snapshots=len(snapshots), left=left)


def _addresses(runs: Sequence[Place], customer_id: str, known: Iterable[str]) -> set[str]:
    """The customer's e-mail addresses and phone numbers, but for those that another customer has, too."""
    columns = ["customer_id", "email", "phone"]
    found = {address for address in known if address}
    for rows in _rows(runs, (_CUSTOMERS, *folders.QUARANTINES, folders.OPT_OUTS), columns):
        theirs = rows.filter(_named(customer_id)(rows))
        values = pl.concat([theirs["email"], theirs["phone"].rename("email")]).drop_nulls()
        found |= set(values.filter(values.str.contains(_ADDRESS)))
    shared: set[str] = set()
    for rows in _rows(runs, (_CUSTOMERS,), columns):
        others = rows.filter(pl.col("customer_id") != customer_id)
        for name in ("email", "phone"):
            shared |= set(others[name].filter(others[name].is_in(list(found)).fill_null(value=False)))
    return found - shared


def _named(customer_id: str) -> _Theirs:
    """Rows that say whose they are."""
    return lambda rows: (rows["customer_id"].str.strip_chars() == customer_id).fill_null(value=False)


def _nameless(marks: set[str]) -> _Theirs:
    """Rows without a usable id that have an address of theirs, and unparsable records with one of the marks in them."""
    listed = list(marks)
    anywhere = rf"(?i)(?:^|{_BORDER})(?:{'|'.join(map(pl.escape_regex, listed))})(?:$|{_BORDER})"

    def theirs(rows: pl.DataFrame) -> pl.Series:
        if "codes" not in rows.columns:  # they are valid
            return pl.repeat(value=False, n=rows.height, dtype=pl.Boolean, eager=True)
        codes, no = pl.col("codes"), pl.lit(value=False)
        of_nobody = pl.any_horizontal(codes.list.contains(code) for code in _OF_NOBODY)
        address = pl.any_horizontal(no, *(pl.col(c).is_in(listed) for c in ("email", "phone") if c in rows.columns))
        unparsable = codes.list.contains(validate.UNPARSABLE) & pl.col("record").str.contains(anywhere)
        return rows.select(((of_nobody & address) | unparsable).fill_null(value=False)).to_series()

    return theirs


def _rows(runs: Iterable[Place], folders: Iterable[str], columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    return (rows for place in runs for folder in folders for rows in parts.frames(place, folder, columns))


def _holds(run: Place, folders: Iterable[str], theirs: _Theirs) -> bool:
    return any(theirs(rows).any() for rows in _rows([run], folders))


def _forget(work: Place, ledger: Ledger, account: str, marks: set[str]) -> int:
    def sleep(seconds: float) -> bool:
        time.sleep(seconds)
        return True

    with lease(ledger, account, patience_s=_PATIENCE_S, sleep=sleep) as fence:
        return state.forget(work, ledger, account, marks, fence=fence)


def _clean(run: Place, theirs: _Theirs) -> bool:
    """Takes their rows out of what stays of a run, and the rest of its files away; False when there are no such rows."""
    files = [f"{folder}/{name}" for folder in _STAYING for name in run.names(folder)]
    telling = {file for file in files if theirs(pl.read_ipc(run.fetch(file))).any()}
    if not telling and not _holds(run, [_RECEIPTS], theirs):
        return False
    purge.mark(run)
    for name in run.names(PRIVATE):
        if name not in _SHARED:
            run.remove(f"{PRIVATE}/{name}")
    for folder in _GOING:
        run.remove(folder)
    for file in sorted(files, key=telling.__contains__):
        rows = pl.read_ipc(run.fetch(file))
        with run.bench(PRIVATE) as bench:
            # Every file is written anew, and in the older layout: in the newer one, a frame brings texts of rows along
            # that were filtered out of it, also long before this.
            rows.filter(~theirs(rows)).write_ipc(bench / "part", compat_level=pl.CompatLevel.oldest())
            run.publish(bench / "part", file)
    return True


def _left(work: Place, needed: Iterable[purge.Kept], customer_id: str, marks: set[str]) -> Iterator[str]:
    """The runs that need their files, as far as the customer is in these or may be, and copies that were just begun."""
    for run in needed:
        place = work / run.name
        if (
            not place.exists("validate.json")
            or _holds(place, (_RECEIPTS, *_STAYING), _named(customer_id))
            or _holds(place, _QUARANTINES, _nameless(marks))
        ):
            yield f"{run.name}: {run.needed}"
    for name in purge.leftovers(work):
        if name.startswith(SNAPSHOTS):
            yield f"{name}: a copy was begun less than a day ago; if nothing runs, purge again tomorrow"
