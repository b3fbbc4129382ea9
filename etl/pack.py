"""Pack: encodes the profiles, leaves out what the account knows already, and stages the exact bytes of every call.

Writes, once a run, `private/records/` (`row`, `key`, `record`, `reason`, `memory`, `tags`, `fingerprint`, the opt-ins,
`opt_out`: it is an opt-out that goes alone, and says nothing else, and `said_on`, the earlier day that left it to this one;
these come first). Writes, for each plan of the run, `private/plan-NNN/`: `payloads` (the bodies one after the other, a line
each), `references/` (`row`, `key`, `fingerprint`, `memory`, the opt-ins, `tags`, `said_on`, `size` in bytes, in the order of
sending), `kept/` (`row`, `key`, `fingerprint`, null of what an earlier day has said, `bucket`, `code`, `since` of what is not
sent), `calls.arrow` (`sha256`, `offset`, `size`, `first`, `rows` of each call) and `manifest.json`. A plan is good for the
generation of the account's state that it was made from; load has it made anew when the account has moved on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import polars as pl

from contracts.profiles import Profiles
from etl import delta, parts, tombstones
from etl.client import Client
from etl.destinations import Chosen, choose, connect_all
from etl.destinations.base import AwaitsCompletion, Destination
from etl.ends import plan_folder, rows_of
from etl.identity import resolved, shared_identities
from etl.ledger import QUOTA_PATIENCE_S, batch_id
from etl.model import Batch, Bucket
from etl.pacing import Allowance
from etl.packing import Encoded, pack
from etl.run import RunContext
from etl.state import load_state
from etl.transform.folders import OPT_OUTS, PROFILES, QUARANTINES
from etl.turns import Turns, Waiting, turn
from etl.validate import days_of_rows

RECORDS = "private/records"
IDENTITY_SHARED = "identity_shared"
_CALLS_FILE, _SUMMARY = "calls.arrow", "manifest.json"
ERASED = "erased"
_CALLS = {"sha256": pl.String, "offset": pl.Int64, "size": pl.Int64, "first": pl.Int64, "rows": pl.Int64}
_JUDGED = ["row", "key", "fingerprint", "reason", *delta.OPT_INS, "opt_out", "said_on"]
_UNIQUE = ("customer_id",)
# The profiles' columns where there are none.
_NOBODY = {name: column.dtype.type for name, column in Profiles.to_schema().columns.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A staged plan; `generation` is that of the account's state when it was made.

    `kept` counts the rows of each bucket that are not sent, `known` those whose opt-ins the account knows, `flipped` those
    of them with another opt-in now, `refreshed` the unchanged ones that are sent lest the vendor forget them.
    """

    plan: int
    generation: int
    endpoint: str
    why: str
    rows: int
    bytes: int
    kept: Mapping[str, int]
    known: int
    flipped: int
    refreshed: int
    calls: pl.DataFrame


def render(ctx: RunContext) -> dict[str, Any]:
    """Encodes every profile; a profile that the vendor would refuse is unsendable.

    Where the vendor knows people by something that several customers share, one of them is sent for all. Whoever was
    erased speaks for nobody.
    """
    ids = (parts.frames(ctx.place, folder, ["row", "customer_id"]) for folder in (PROFILES, OPT_OUTS))
    gone = tombstones.erased_rows(ctx.work, chain.from_iterable(ids), days_of_rows(ctx))
    is_gone = pl.col("row").is_in(gone.implode())
    counts: dict[str, Any] = {"records": 0, "unsendable": 0}
    with ctx.client() as client, ctx.place.staged(RECORDS, first_wins=True) as folder:
        folder.mkdir()
        endpoint = connect_all(ctx.destination, ctx.connection, client, ctx.sync.own)[0]
        shared = None
        opt_outs = _opt_outs(ctx, endpoint)
        clear = [name for name in ctx.sync.cleared if name in endpoint.clears]
        counts["left"] = [name for name in ctx.sync.cleared if name not in endpoint.clears]
        if endpoint.identity != _UNIQUE:
            known = parts.scan(ctx.place, PROFILES, _NOBODY)
            # A customer who has disappeared does not speak for those who are there, as their records may have been merged.
            is_somebodys = pl.coalesce(endpoint.identity).is_in(_held(ctx, endpoint).implode())
            opt_outs = opt_outs.filter(~(pl.col("_absent") & is_somebodys))
            for_all = opt_outs.with_columns(email_opt_in=pl.when("_absent").then(None).otherwise("email_opt_in"))
            everyone = pl.concat([known, for_all.lazy()], how="diagonal")
            shared = shared_identities(everyone.filter(~is_gone), endpoint.identity)
        alone = opt_outs.drop("_absent", "_said_on")
        for number, part in enumerate(chain([alone], parts.frames(ctx.place, PROFILES))):
            records = _records(endpoint, part, shared, ctx.sync.own, clear if number else ()).with_columns(
                opt_out=pl.lit(number == 0),
                said_on=pl.lit(None, dtype=pl.Date) if number else opt_outs["_said_on"],
            )
            if len(gone):
                records = records.with_columns(reason=pl.when(is_gone).then(pl.lit(ERASED)).otherwise("reason"))
            parts.write(folder, number, records)
            counts["records"] += records.height
            counts["unsendable"] += records.filter(pl.col("reason") != ERASED).height
    return counts


def _held(ctx: RunContext, endpoint: Destination) -> pl.Series:
    """What the rows in quarantine hold of that by which the vendor knows people."""
    frames = (part for folder in QUARANTINES for part in parts.frames(ctx.place, folder, list(endpoint.identity)))
    values = [part[name].alias("held") for part in frames for name in endpoint.identity]
    return pl.concat([pl.Series("held", dtype=pl.String), *values]).drop_nulls().unique()


def _opt_outs(ctx: RunContext, endpoint: Destination) -> pl.DataFrame:
    """The opt-outs that the vendor has a field for, each with the identity of its profile and nothing else; `_absent` and `_said_on` too."""
    key = pl.coalesce(endpoint.identity)
    identity = (pl.when(pl.col(name) == key).then(name).alias(name) for name in endpoint.identity)
    is_said = pl.any_horizontal(pl.lit(value=False), *(pl.col(name).is_not_null() for name in endpoint.opt_ins))
    nobody = pl.DataFrame(schema=_NOBODY | {"_absent": pl.Boolean, "_said_on": pl.Date})
    some = pl.concat([nobody, *parts.frames(ctx.place, OPT_OUTS)], how="diagonal")
    some = some.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in ctx.sync.own)
    alone = some.filter(key.is_not_null() & is_said).select("row", "_absent", "_said_on", *identity, *endpoint.opt_ins)
    return pl.concat([some.clear(), alone], how="diagonal")


def _records(
    endpoint: Destination,
    profiles: pl.DataFrame,
    shared: pl.DataFrame | None,
    own: Sequence[str],
    clear: Collection[str],
) -> pl.DataFrame:
    if shared is None or shared.is_empty():
        return _encoded(endpoint, profiles, own, clear)
    told = resolved(profiles, shared)
    records = _encoded(endpoint, told, own, clear)
    loses = told["identity_shared"].fill_null(value=False)
    return records.with_columns(reason=pl.when(loses).then(pl.lit(IDENTITY_SHARED)).otherwise("reason"))


def _encoded(endpoint: Destination, profiles: pl.DataFrame, own: Sequence[str], clear: Collection[str]) -> pl.DataFrame:
    rendered = endpoint.render(profiles.lazy(), clear)
    records = rendered.with_columns(fingerprint=delta.fingerprint("record", own)).collect()
    return records.hstack(profiles.select(delta.OPT_INS))


def stage(ctx: RunContext, *, plan: int) -> dict[str, Any]:
    """Makes a plan from the records and the account's state; returns what `manifest` reads back.

    A plan of that number that is there already stays: another process of the run may be sending it.
    """
    account = ctx.connection.account
    generation = ctx.ledger.account(account).generation
    state = load_state(ctx.work, ctx.ledger, account)
    settled = _settled_rows(ctx)
    waiting = _waiting(ctx)
    with ctx.client() as client:
        endpoints = connect_all(ctx.destination, ctx.connection, client, ctx.sync.own)
        decided = partial(_decided, ctx, state, settled, waiting, endpoints[0])
        limit = _limit(ctx, settled, decided)
        counted = _counted(ctx, endpoints[-1], decided(_JUDGED))
        chosen = _choose(ctx, client, endpoints, decided, counted, limit)
    folder = plan_folder(ctx.name, plan)
    with ctx.work.staged(folder, first_wins=True) as path:
        path.mkdir()
        room = _room(ctx, chosen, limit)
        writer = _Stage(
            ctx=ctx, path=path, endpoint=chosen.endpoint, room=room, turns=Turns.of(counted.turns, room.rows)
        )
        for number, part in decided(None):
            writer.add(number, part)
        writer.finish()
        summary = {
            "plan": plan,
            "generation": generation,
            "endpoint": chosen.endpoint.name,
            "why": chosen.why,
            "calls": len(writer.calls),
            "rows": writer.taken,
            "bytes": writer.offset - len(writer.calls),
            "kept": writer.kept,
            # What this run has settled was known to it; so a plan made anew finds no larger share than the one before.
            "known": writer.known + len(settled),
            "flipped": writer.flipped,
            "refreshed": writer.refreshed,
        }
        (path / _SUMMARY).write_text(json.dumps(summary))
    first: dict[str, Any] = ctx.work.read_json(f"{folder}/{_SUMMARY}") or summary
    return first


def current_plan(ctx: RunContext) -> Manifest:
    """The plan whose batches count: the one in the ledger, or the first one that was made."""
    run = ctx.ledger.run(ctx.name)
    return manifest(ctx, run.plan if run is not None and run.plan else ctx.result("pack")["plan"])


_Decisions = Callable[[list[str] | None], Iterator[tuple[int, pl.DataFrame]]]


@dataclass(frozen=True, slots=True)
class _Counted:
    """How many records are wanted, in each turn, and how many of them are not sure to be at the vendor."""

    turns: Mapping[int, int]
    unconfirmed: int

    @property
    def wanted(self) -> int:
        return sum(self.turns.values())


def _counted(ctx: RunContext, small: Destination, decided: Iterator[tuple[int, pl.DataFrame]]) -> _Counted:
    today = datetime.fromtimestamp(ctx.ledger.now(), UTC).date()
    alive = today - timedelta(days=small.limits.profile_days or 0)
    turns: Counter[int] = Counter()
    unconfirmed = 0
    for _, part in decided:
        wanted = _wanted(part)
        turns.update(dict(wanted.group_by("turn").len().iter_rows()))
        unconfirmed += wanted.filter((pl.col("confirmed_on") > alive).fill_null(value=False).not_()).height
    return _Counted(turns, unconfirmed)


def _choose(
    ctx: RunContext,
    client: Client,
    endpoints: Sequence[Destination],
    decided: _Decisions,
    counted: _Counted,
    limit: int,
) -> Chosen:
    """The endpoint for the records that are wanted; the small one of two only if each of them fits into its calls."""
    large, small = endpoints[0], endpoints[-1]
    rows = min(counted.wanted, limit)
    unconfirmed = min(counted.unconfirmed, rows)
    chosen = choose(ctx.destination, rows, ctx.connection, client, unconfirmed=unconfirmed, own=ctx.sync.own)
    is_roomy = small.envelope == large.envelope and small.limits.bytes_per_call >= large.limits.bytes_per_call
    if chosen.endpoint.name == large.name or is_roomy:
        return chosen
    room = small.limits.bytes_per_call - small.envelope.size
    texts = (_finished(small, _wanted(part)) for _, part in decided(None))
    if all((text.str.len_bytes() <= room).fill_null(value=False).all() for text in texts):
        return chosen
    return Chosen(endpoint=large, why=f"a profile is not one that {small.name} can send")


def _finished(endpoint: Destination, wanted: pl.DataFrame) -> pl.Series:
    """The records as they are sent."""
    tags = wanted.select("known_tags", "tags").rechunk()  # as in `delta.updated`
    gone = tags.select(gone=pl.col("known_tags").list.set_difference("tags").list.sort())
    return endpoint.finish(wanted.select("record", "memory", "known").hstack(gone)).rename("record")


def manifest(ctx: RunContext, plan: int) -> Manifest:
    """A staged plan, read back."""
    folder = plan_folder(ctx.name, plan)
    value = ctx.work.read_json(f"{folder}/{_SUMMARY}") or {}
    names = ("plan", "generation", "endpoint", "why", "rows", "bytes", "kept", "known", "flipped", "refreshed")
    calls = pl.read_ipc(ctx.work.fetch(f"{folder}/{_CALLS_FILE}"))
    value = {"refreshed": 0, **value}  # an earlier version has not written it
    return Manifest(calls=calls, **{name: value[name] for name in names})


def batches(ctx: RunContext, staged: Manifest) -> Iterator[Batch]:
    """The batches of a staged plan, as the ledger takes them over."""
    file = f"{plan_folder(ctx.name, staged.plan)}/payloads"
    for ordinal, (sha256, offset, size, first, rows) in enumerate(staged.calls.iter_rows()):
        yield Batch(
            id=batch_id(ctx.name, staged.plan, str(ordinal), sha256), run=ctx.name, endpoint=staged.endpoint,
            plan=staged.plan, ordinal=ordinal, file=file, offset=offset, size=size, sha256=sha256, first=first,
            rows=rows,
        )  # fmt: skip


def _decided(
    ctx: RunContext,
    state: delta.State,
    settled: pl.Series,
    waiting: Waiting,
    endpoint: Destination,
    columns: list[str] | None,
) -> Iterator[tuple[int, pl.DataFrame]]:
    """The parts of the records with `bucket` and `code`; rows that are settled in this run already are left out."""
    asked: dict[str, Any] = {
        "full": ctx.options.full,
        "retry": ctx.options.retry,
        "confirms": isinstance(endpoint, AwaitsCompletion),
        "refresh_days": endpoint.limits.refresh_days,
    }
    for number, part in enumerate(parts.frames(ctx.place, RECORDS, columns)):
        open_rows = part.filter(~pl.col("row").is_in(settled.implode()))
        decided = open_rows.hstack(delta.decide(open_rows, state, ctx.day, **asked))
        reason = pl.col("reason")
        bucket = (
            pl.when(reason == ERASED).then(pl.lit(Bucket.SUPERSEDED.value)).otherwise(pl.lit(Bucket.UNSENDABLE.value))
        )
        yield (
            number,
            decided.with_columns(
                bucket=pl.when(reason.is_not_null()).then(bucket).otherwise("bucket"),
                code=pl.coalesce("reason", "code"),
                due=pl.col("due") & reason.is_null(),
                since=waiting.since(decided["key"], decided["as_of"], ctx.day),
            ).with_columns(turn=turn(by_waiting=ctx.options.limit is None)),
        )


def _waiting(ctx: RunContext) -> Waiting:
    """Whom the newest run for an earlier day has put off."""
    for run in ctx.ledger.runs_of_days(ctx.sync.name, account=ctx.connection.account, before=str(ctx.day)):
        folder = plan_folder(run.run, run.plan)
        if run.plan and ctx.work.exists(f"{folder}/{_SUMMARY}"):
            return Waiting.of(parts.frames(ctx.work, f"{folder}/kept"))
    return Waiting.of([])


def _wanted(part: pl.DataFrame) -> pl.DataFrame:
    return part.filter(pl.col("turn").is_not_null())


def _kept(part: pl.DataFrame, bucket: Bucket, code: str) -> pl.DataFrame:
    return part.with_columns(bucket=pl.lit(bucket.value), code=pl.lit(code))


def _settled_rows(ctx: RunContext) -> pl.Series:
    """Rows that an earlier plan of this run has brought to an end."""
    ended = [b for b in ctx.ledger.batches(ctx.name) if b.state.is_settled and b.state.keeps_its_rows]
    return rows_of(ctx.work, ctx.name, ended)["row"]


def _limit(ctx: RunContext, settled: pl.Series, decided: _Decisions) -> int:
    """How many rows this plan may send; profiles that earlier plans of the run have sent count, opt-outs that go alone never."""
    if ctx.options.limit is None:
        return sys.maxsize
    opt_outs = [part.filter("opt_out")["row"] for part in islice(parts.frames(ctx.place, RECORDS), 1)]
    done = len(settled) - sum(int(settled.is_in(rows.implode()).sum()) for rows in opt_outs)
    free = sum(_wanted(part).filter("opt_out").height for _, part in islice(decided(_JUDGED), 1))
    return max(0, ctx.options.limit - done) + free


@dataclass(frozen=True, slots=True)
class _Room:
    """How many rows this plan may send, and the code for those beyond."""

    rows: int
    code: str


def _room(ctx: RunContext, chosen: Chosen, limit: int) -> _Room:
    limits = chosen.endpoint.limits
    asked = _Room(limit, "limit")
    quota = limits.our_quota(ctx.connection.headroom)
    if quota is None:
        return asked
    held = ctx.ledger.held(ctx.connection.account, chosen.endpoint.name, limits.quota_hours)
    stays = sum(rows for until, rows in held if until > ctx.ledger.now() + QUOTA_PATIENCE_S)
    return min(asked, _Room(max(0, quota - stays), "quota"), key=lambda room: room.rows)


@dataclass(slots=True, kw_only=True)
class _Stage:
    """Writes a plan's files part by part; what does not fill a call waits for the next part."""

    ctx: RunContext
    path: Path
    endpoint: Destination
    room: _Room
    turns: Turns
    calls: list[tuple[str, int, int, int, int]] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    offset: int = 0
    taken: int = 0
    first: int = 0
    known: int = 0
    flipped: int = 0
    refreshed: int = 0
    _open: pl.Series = field(default_factory=lambda: pl.Series("record", [], dtype=pl.String))

    def add(self, number: int, part: pl.DataFrame) -> None:
        """Takes what is to be sent; a record that no call can hold once it is finished is unsendable after all."""
        wanted = _wanted(part)
        self.known += part["flips"].count()
        self.flipped += wanted.filter("flips").height
        goes = self.turns.take(part["turn"])
        sent, stays = part.filter(goes), part.filter(~goes)
        self.refreshed += int(sent["due"].sum())
        records = _finished(self.endpoint, sent)
        room = max(0, self.endpoint.limits.bytes_per_call - self.endpoint.envelope.size)
        fits = records.str.len_bytes() <= room
        is_late = pl.col("bucket").is_null()
        kept = pl.concat(
            [
                stays.filter(~is_late),
                _kept(stays.filter(is_late), Bucket.DEFERRED, self.room.code),
                _kept(sent.filter(~fits), Bucket.UNSENDABLE, "record_too_large"),
            ]
        )
        sent, records = sent.filter(fits), records.filter(fits)
        if kept.height:
            # What is as before has been sent as it says, or, of an opt-out, with more; and says so as of today.
            of_today = pl.when(pl.col("said_on").is_null()).then("sent")
            columns = ("row", "key", "bucket", "code", "since")
            parts.write(self.path / "kept", number, kept.select(*columns, fingerprint=of_today))
            for bucket, count in kept.group_by("bucket").len().iter_rows():
                self.kept[bucket] = self.kept.get(bucket, 0) + count
        if sent.height:
            references = sent.select(
                "row", "key", "fingerprint", "memory", *delta.OPT_INS, "tags", "said_on", size=records.str.len_bytes()
            )
            parts.write(self.path / "references", number, references)
            self.taken += sent.height
            self._open = pl.concat([self._open, records])
            self._pack(last=False)

    def finish(self) -> None:
        self._pack(last=True)
        pl.DataFrame(self.calls, schema=_CALLS, orient="row").write_ipc(self.path / _CALLS_FILE)

    def _pack(self, *, last: bool) -> None:
        """Writes the calls that are full, and the rest too when nothing follows."""
        envelope, limits = self.endpoint.envelope, self.endpoint.limits
        encoded = Encoded.of(self._open, envelope.separator)
        allowance = Allowance.of(limits, self.ctx.connection.headroom)
        between = len(envelope.separator)
        # Every record carries its separator; the one after the last record of a call falls away.
        room = limits.bytes_per_call - envelope.size + between
        starts = pack(encoded.offsets, max_rows=allowance.rows_per_call, max_bytes=room)
        whole = len(starts) - 1 if last else max(0, len(starts) - 2)
        with (self.path / "payloads").open("ab") as file:
            for first, stop in pairwise(starts[: whole + 1]):
                joined = encoded.slice(first, stop)
                self._write(file.write, envelope.wrap(joined[: len(joined) - between]), stop - first)
        self._open = self._open.slice(starts[whole])

    def _write(self, write: Callable[[bytes], object], payload: bytes, rows: int) -> None:
        self.calls.append((hashlib.sha256(payload).hexdigest(), self.offset, len(payload), self.first, rows))
        write(payload)
        write(b"\n")
        self.offset += len(payload) + 1
        self.first += rows
