"""The account's state on disk: reading the current generation, and absorbing what batches came to.

Whoever holds the account's lease absorbs; before that, an outcome stands in the ledger only. A new generation is written
beside the old one, and the ledger names it in the transaction that marks its batches as absorbed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from etl import parts
from etl.delta import OPT_INS, OUTCOME, STATE, Seen, State, evened, updated
from etl.ends import UNIDENTIFIED, plan_folder, row_ends
from etl.errors import LedgerError
from etl.ledger import Account, Ledger, LostLeaseError, Run, lease
from etl.model import DELIVERED, Batch, Bucket
from etl.storage import Place

FOLDER = "private/state"
_REMEDY = "put the right one back, or have it made anew by profile-etl doctor --rebuild-state"
_PART_ROWS = 500_000
_MARKED = ["key", "fingerprint", "as_of"]
# These keep a profile from being sent for another reason than that it was sent before just as it stands.
_NOT_SEEN = (Bucket.UNSENDABLE.value, Bucket.SUPERSEDED.value, Bucket.DEFERRED.value)


def load_state(work: Place, ledger: Ledger, account: str) -> State:
    """The current state of an account, for look-ups; raises LedgerError where it and the ledger do not belong together."""
    known = check_ledger(work, ledger, account)
    try:
        return State.load(_parts(work, known.state_path))
    except FileNotFoundError:
        if not _has_moved_on(ledger, account, known):
            raise
        return load_state(work, ledger, account)


def check_ledger(work: Place, ledger: Ledger, account: str) -> Account:
    """An account as the ledger knows it; raises LedgerError if that and the work folder's state do not belong together.

    A state that was written under a lease which the ledger has never given tells of an older copy, or of a new ledger in
    the place of a lost one: it does not know of all that was sent.
    """
    known = _checked_age(work, ledger, account)
    is_lost = known.state_path is not None and not work.exists(known.state_path)
    if is_lost and not _has_moved_on(ledger, account, known):
        raise LedgerError(f"the work folder lacks {known.state_path}, which the ledger names: {_REMEDY}")
    return known


def _has_moved_on(ledger: Ledger, account: str, known: Account) -> bool:
    """Whether others have written new generations meanwhile, and taken the one that was known away."""
    return ledger.account(account).state_path != known.state_path


def _checked_age(work: Place, ledger: Ledger, account: str) -> Account:
    folder = f"{FOLDER}/{account}"
    names = work.names(folder)  # before the look into the ledger: another process may be writing a state now
    newest = max((int(name.rpartition("-")[2]) for name in names if name[0].isdigit()), default=0)
    known = ledger.account(account)
    if newest > known.fence:
        raise LedgerError(
            f"the ledger is older than {folder} of the work folder, and does not know all that was sent: put the right one "
            "back. If it is lost for good, remove that folder, and every profile is sent again"
        )
    return known


def seen_by(work: Place, run: str, plan: int, day: date) -> Seen:
    """Profiles that a run of a day found as the account knows them: what the account knows is of that day then."""
    kept = parts.frames(work, f"{plan_folder(run, plan)}/kept", ["key", "fingerprint", "bucket"])
    return Seen.of(day, (frame.filter(~pl.col("bucket").is_in(_NOT_SEEN)) for frame in kept))


def absorb(
    work: Place,
    ledger: Ledger,
    account: str,
    *,
    fence: int,
    besides: str | None = None,
    seen: Sequence[Seen] = (),
) -> int:
    """Brings the outcomes of all runs (`besides` one) into the state; returns the generation that is current then.

    Where those that were `seen` are still known so, the account's knowledge of them is of that day now.
    """
    batches = [batch for batch in ledger.unabsorbed(account) if batch.run != besides]
    now = ledger.account(account)
    today = datetime.fromtimestamp(ledger.now(), UTC).date()
    news = [_outcomes(work, ledger, run, group, today) for run, group in _by_run(ledger, batches)]
    news = [frame for frame in news if frame.height]
    marked = _read_whole(work, ledger, account, now, _MARKED) if seen else ()
    tells_more = any(each.tells_more(part).any() for part in marked for each in seen)
    if not news and not tells_more:
        if batches:
            ledger.commit_state(
                account, fence=fence, generation=now.generation, state_path=now.state_path, absorbed=batches
            )
        return now.generation
    latest = pl.concat([pl.DataFrame(schema=STATE), *news]).unique("key", keep="last", maintain_order=True)
    following = updated(_read_whole(work, ledger, account, now), latest, seen)
    generation = _commit(work, ledger, account, following, fence=fence, absorbed=batches)
    generations = [name for name in work.names(f"{FOLDER}/{account}") if not name.startswith(".")]
    for old in generations[:-2]:  # a pack elsewhere may be reading the one before
        work.remove(f"{FOLDER}/{account}/{old}")
    return generation


def forget(work: Place, ledger: Ledger, account: str, keys: Collection[str], *, fence: int) -> int:
    """Takes profiles out of the state, and all that is left of earlier generations away; returns how many they were."""
    path = ledger.account(account).state_path
    is_one = pl.col("key").is_in(list(keys))
    found = sum(part.filter(is_one).height for part in _parts(work, path))
    if found:
        _commit(work, ledger, account, (part.filter(~is_one) for part in _parts(work, path)), fence=fence)
    current = Path(ledger.account(account).state_path or "").name
    for old in work.names(f"{FOLDER}/{account}"):
        if old != current:
            work.remove(f"{FOLDER}/{account}/{old}")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """A state that was made anew: its profiles, and the runs that sent something and whose files are gone."""

    account: str
    profiles: int
    lost_runs: int


def rebuild_unsound(work: Place, ledger: Ledger) -> Iterator[Rebuilt]:
    """Makes the states anew that are lost or damaged; raises Busy where a run is sending, and LedgerError as ever."""
    for account in ledger.accounts():
        with lease(ledger, account, patience_s=0, sleep=lambda _: False) as fence:
            try:
                load_state(work, ledger, account)
            except LedgerError:
                yield _rebuild(work, ledger, account, fence)


def _rebuild(work: Place, ledger: Ledger, account: str, fence: int) -> Rebuilt:
    """What the runs of the account that still have their files have said, one after the other, as it was absorbed.

    Of a profile that a run without files may have spoken of since, nobody knows what the vendor holds.
    """
    _checked_age(work, ledger, account)
    every = ledger.unabsorbed(account, and_absorbed=True)
    groups = {run.run: group for run, group in _by_run(ledger, every)}
    frames, lost_runs = [pl.DataFrame(schema=STATE)], 0
    for run in ledger.runs_of(account):
        group, day = groups.get(run.run, []), date.fromisoformat(run.day)
        news = pl.DataFrame(schema=STATE)
        if all(work.names(f"{plan_folder(run.run, batch.plan)}/references") for batch in group):
            moment = datetime.fromtimestamp(run.finished_at or run.started_at, UTC)
            news = _outcomes(work, ledger, run, group, moment.date()).unique("key", keep="last", maintain_order=True)
        else:
            lost_runs += 1
            doubted = {"fingerprint": None, "outcome": Bucket.UNKNOWN.value, "code": None}
            nothing = [pl.lit(value, dtype=STATE[name]).alias(name) for name, value in doubted.items()]
            frames = [frame.with_columns(nothing) for frame in frames]
        frames = list(updated(frames, news, [seen_by(work, run.run, run.plan, day)]))
    _commit(work, ledger, account, frames, fence=fence, absorbed=every)
    return Rebuilt(account=account, profiles=sum(frame.height for frame in frames), lost_runs=lost_runs)


def _commit(
    work: Place,
    ledger: Ledger,
    account: str,
    frames: Iterable[pl.DataFrame],
    *,
    fence: int,
    absorbed: Sequence[Batch] = (),
) -> int:
    """Writes the next generation, and has the ledger name it."""
    generation = ledger.account(account).generation + 1
    path = f"{FOLDER}/{account}/{generation:08d}-{fence:08d}"
    with work.staged(path) as folder:
        folder.mkdir()
        for number, part in enumerate(evened(frames, _PART_ROWS)):
            part.write_parquet(folder / f"part-{number:05d}.parquet")
    ledger.commit_state(account, fence=fence, generation=generation, state_path=path, absorbed=absorbed)
    return generation


def _parts(work: Place, path: str | None, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    if path is None:
        return iter(())
    folder = work.fetch(path)
    return (_read(part, path, columns) for part in sorted(folder.iterdir()))


def _read(part: Path, path: str, columns: list[str] | None) -> pl.DataFrame:
    try:
        return pl.read_parquet(part, columns=columns)
    except pl.exceptions.PolarsError:
        raise LedgerError(f"{path}/{part.name} of the work folder is damaged: {_REMEDY}") from None


def _read_whole(
    work: Place, ledger: Ledger, account: str, known: Account, columns: list[str] | None = None
) -> Iterator[pl.DataFrame]:
    """The parts for whoever holds the lease; raises LostLeaseError where others took them away, as they could not else."""
    try:
        yield from _parts(work, known.state_path, columns)
    except FileNotFoundError:
        if not _has_moved_on(ledger, account, known):
            raise
        raise LostLeaseError("others have written the account's state meanwhile") from None


def _by_run(ledger: Ledger, batches: list[Batch]) -> Iterator[tuple[Run, list[Batch]]]:
    """Oldest day first, so that what a later export said is the last word."""
    groups: dict[str, list[Batch]] = defaultdict(list)
    for batch in batches:
        groups[batch.run].append(batch)
    runs = (run for run in map(ledger.run, groups) if run is not None)
    return ((run, groups[run.run]) for run in sorted(runs, key=lambda run: (run.day, run.started_at)))


def _outcomes(work: Place, ledger: Ledger, run: Run, batches: list[Batch], confirmed_on: date) -> pl.DataFrame:
    """The state's columns for every row of some batches of a run."""
    is_delivered = pl.col("end").is_in(DELIVERED)
    code = pl.when(pl.col("end") == UNIDENTIFIED).then("batch").otherwise("code")
    return row_ends(ledger, work, run.run, batches).select(
        "key",
        fingerprint=pl.when(pl.col("end") != Bucket.UNKNOWN.value).then("fingerprint"),
        as_of=pl.coalesce("said_on", pl.lit(date.fromisoformat(run.day))),
        outcome=pl.col("end").cast(OUTCOME),
        code=code.cast(pl.Categorical),
        memory=pl.when(is_delivered).then("memory"),
        confirmed_on=pl.when(pl.col("end") == Bucket.CONFIRMED.value).then(pl.lit(confirmed_on)),
        **{name: pl.when(is_delivered).then(name) for name in OPT_INS},
        tags="tags",
    )
