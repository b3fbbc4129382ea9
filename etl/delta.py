"""Delta: what an account last accepted of each profile, and so which profiles are worth a call.

The state is a folder of Parquet parts, private, one for each account and generation; the ledger names the current one.
Its columns: `key`; `fingerprint` of the record that was sent last, null while its outcome is unknown; `as_of`, the day of
the export that said so; `outcome`, how that record ended; `code` that goes with it (of an unidentified end, the batch);
`memory`, what the destination wants to know of the last record that was accepted; `confirmed_on`, the day on which the
vendor confirmed last that it holds the profile; `email_opt_in` and `sms_opt_in`, as they were accepted last; `tags` that the
vendor may hold, where they can only be taken away by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
import polars_hash as plh

from etl.ends import UNIDENTIFIED
from etl.model import DELIVERED, Bucket

# How the record that was sent last can have ended.
OUTCOME = pl.Enum(
    [
        *DELIVERED, Bucket.REJECTED.value, Bucket.PROCESSING.value, Bucket.FAILED_AT_DESTINATION.value,
        Bucket.NOT_FOUND.value, Bucket.UNREPORTED.value, Bucket.STUCK.value, UNIDENTIFIED, Bucket.UNKNOWN.value,
    ]
)  # fmt: skip
# What `retry` leaves alone: it got through, or may yet.
_THROUGH = (*DELIVERED, Bucket.PROCESSING.value)
STATE: dict[str, Any] = {
    "key": pl.String,
    "fingerprint": pl.UInt64,
    "as_of": pl.Date,
    "outcome": OUTCOME,
    "code": pl.Categorical,
    "memory": pl.UInt64,
    "confirmed_on": pl.Date,
    "email_opt_in": pl.Boolean,
    "sms_opt_in": pl.Boolean,
    "tags": pl.List(pl.String),
}
OPT_INS = ("email_opt_in", "sms_opt_in")
# Goes into every fingerprint: raise it when the meaning of a record changes without its text.
_FINGERPRINT_VERSION = "1"


def fingerprint(record: str, own: Sequence[str] = ()) -> pl.Expr:
    """64 bits of a record column's text, the same in every version and on every machine (xxh3).

    The names of own columns count: a record may be a row of cells, whose names stand at the head of its file.
    """
    names = (pl.lit(name) for name in own)
    text: pl.Expr = plh.concat_str(pl.lit(_FINGERPRINT_VERSION), pl.col(record), *names).nchash.xxh3_64()
    return text


@dataclass(frozen=True, slots=True)
class State:
    """An account's state for look-ups: `hash` of the key (sorted), then the state's columns without the key."""

    table: pl.DataFrame

    @classmethod
    def load(cls, parts: Iterable[pl.DataFrame]) -> State:
        """From the parts of a state folder; none at all is the state of an account that never accepted anything."""
        slim = [_slim(conformed(part)) for part in parts]
        return cls(pl.concat([_slim(pl.DataFrame(schema=STATE)), *slim], how="diagonal").sort("hash"))

    def find(self, keys: pl.Series) -> pl.DataFrame:
        """The state's columns of each key, nulls where it is not known."""
        columns = self.table.drop("hash")
        if columns.is_empty():
            found = columns.clear(len(keys))
        else:
            found = columns.select(pl.all().gather(places(self.table["hash"], keys.hash())))
        return found if "tags" in found.columns else found.with_columns(tags=pl.lit(None, dtype=STATE["tags"]))


def _slim(part: pl.DataFrame) -> pl.DataFrame:
    """A part for look-ups; without the tags where it remembers none, as in most accounts."""
    unused = () if part["tags"].count() else ("tags",)
    return part.select(pl.col("key").hash().alias("hash"), pl.exclude("key", *unused))


@dataclass(frozen=True, slots=True)
class Seen:
    """Profiles that a day's export was found to describe just as they were sent before, for look-ups."""

    day: date
    marks: pl.Series

    @classmethod
    def of(cls, day: date, frames: Iterable[pl.DataFrame]) -> Seen:
        """Of the `key` and `fingerprint` of each of them; without one it is not known."""
        marks = [frame.select(_MARK).to_series().drop_nulls() for frame in frames]
        return cls(day, pl.concat([pl.Series("key", dtype=pl.UInt64), *marks]).sort())

    def tells_more(self, part: pl.DataFrame) -> pl.Series:
        """Of which rows of a state it says something new: that they are still so on a later day."""
        is_seen = places(self.marks, part.select(_MARK).to_series()).is_not_null()
        return is_seen & (part["as_of"] < self.day).fill_null(value=False)


# Of two 64-bit hashes; nobody is there whose fingerprint is not known.
_MARK = pl.col("key").hash() ^ pl.col("fingerprint")


def places(table: pl.Series, wanted: pl.Series) -> pl.Series:
    """Where each value stands in a sorted table; null where it does not."""
    if table.is_empty():
        return pl.repeat(None, len(wanted), dtype=pl.UInt32, eager=True)
    order = wanted.arg_sort()  # looked up in the table's order, the processor finds most of it in its cache
    at = table.search_sorted(wanted.gather(order)).clip(0, len(table) - 1)
    found = at.clone().scatter(order, at)
    is_there = (table.gather(found) == wanted).fill_null(value=False)
    return found.to_frame("at").select(pl.when(is_there).then("at")).to_series()


def conformed(part: pl.DataFrame) -> pl.DataFrame:
    """A part of a state with the columns of today, also where an earlier version has written it."""
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in STATE.items() if name not in part.columns]
    return part.with_columns(*missing, outcome=pl.col("outcome").cast(pl.String).cast(OUTCOME)).select(*STATE)


def decide(
    records: pl.DataFrame,
    state: State,
    day: date,
    *,
    full: bool = False,
    retry: bool = False,
    confirms: bool = False,
    refresh_days: int | None = None,
) -> pl.DataFrame:
    """What becomes of each record (`key`, `fingerprint`, opt-ins, `opt_out`, `said_on`): `bucket`, null for "send it", and `code`.

    A profile that a later day's export has spoken of is superseded; so is what an earlier day has `said_on` it and left to this
    one, if a day between them has spoken. One that was sent before just as it stands is not
    sent again, except by `full`, or by `retry` if it did not get through, and stays where it ended. A destination that
    `confirms` goes by what was confirmed: that another endpoint of the account took a profile which may not even be there is
    no reason to leave it out. An `opt_out` says nothing else of its profile, and is as before if the account has got just
    that with whatever it accepted last. `sent`, `known`, `known_tags`, `as_of` and `confirmed_on` are what the state
    remembers; `flips` says whether an opt-in turns into its opposite, or an opt-out is the first word on it, null for a
    profile that is not known, and `opts_out` whether one turns false. `due` marks unchanged ones that are to be sent all the
    same where there is room, because the vendor forgets a profile that is idle: each of them once in `refresh_days`.
    """
    names = {"fingerprint": "sent", "tags": "known_tags", **{name: f"told_{name}" for name in OPT_INS}}
    known = (
        state.find(records["key"])
        .rename(names)
        .with_columns(records.select("fingerprint", "opt_out", "said_on", *OPT_INS))
    )
    got_it = pl.all_horizontal(pl.col(name).is_null() | pl.col(name).eq(pl.col(f"told_{name}")) for name in OPT_INS)
    is_delivered = pl.col("outcome").is_in(DELIVERED)
    is_told = pl.col("opt_out") & got_it & is_delivered
    same = ((pl.col("sent") == pl.col("fingerprint")) | is_told).fill_null(value=False) & (not full)
    if retry:
        same &= pl.col("outcome").is_in(_THROUGH)
    if confirms:
        same &= pl.col("confirmed_on").is_not_null() | (pl.col("outcome") != Bucket.ACCEPTED.value)
    due = pl.lit(value=False)
    if refresh_days is not None and not retry:
        due = same & ~pl.col("opt_out") & is_delivered & _has_had_its_turn(records["key"], day, refresh_days)
    turns = [(pl.col(name) != pl.col(f"told_{name}")).fill_null(value=False) for name in OPT_INS]
    turns.append(pl.col("opt_out") & got_it.fill_null(value=False).not_())
    falls = [pl.col(name).eq_missing(other=False) & pl.col(f"told_{name}").ne_missing(other=False) for name in OPT_INS]
    as_before = pl.when(is_delivered).then(pl.lit(Bucket.UNCHANGED.value)).otherwise(pl.col("outcome").cast(pl.String))
    # What the account knows as of the day itself may be an earlier try of it.
    is_between = pl.col("as_of").is_between("said_on", pl.lit(day), closed="none")
    is_older = (pl.col("as_of") > day) | is_between.fill_null(value=False)
    bucket = pl.when(same).then(as_before).when(is_older).then(pl.lit(Bucket.SUPERSEDED.value))
    return known.select(
        bucket=bucket,
        code=pl.when(same).then(pl.col("code").cast(pl.String)),
        sent="sent",
        known="memory",
        known_tags="known_tags",
        confirmed_on="confirmed_on",
        as_of="as_of",
        flips=pl.when(pl.col("as_of").is_not_null()).then(pl.any_horizontal(turns)),
        opts_out=pl.col("opt_out") | (pl.col("as_of").is_not_null() & pl.any_horizontal(falls)),
        due=due.fill_null(value=False),
    )


def _has_had_its_turn(keys: pl.Series, day: date, days: int) -> pl.Expr:
    """Whether a key's turn has come since the day that the account knows its profile from; each has one in so many days.

    A turn that fell on a day without a run is made up for, and an older day than the known one is nobody's turn.
    """
    turn = keys.to_frame("key").select(plh.col("key").nchash.xxh3_64() % days).to_series().cast(pl.Int64)
    since_turn = (day.toordinal() - turn) % days
    return (pl.lit(day) - pl.col("as_of")).dt.total_days() > since_turn


def updated(parts: Iterable[pl.DataFrame], news: pl.DataFrame, seen: Sequence[Seen] = ()) -> Iterator[pl.DataFrame]:
    """The parts of the next state: the old ones with `news` (the state's columns, one row a key) in their place.

    `as_of` never goes back, and moves on where there are no news of a profile that was `seen`; `memory`, `confirmed_on` and
    the opt-ins stay where the news have none, but a profile that the vendor did not find is not confirmed any more. `tags` are
    those that were delivered last, and those of every record since that was not.
    """
    state, hashes, known = State.load([news]), news["key"].hash().implode(), []
    for part in map(conformed, parts):
        is_news = part["key"].hash().is_in(hashes)
        same = part.filter(~is_news)
        for each in seen:
            same = same.with_columns(as_of=pl.when(each.tells_more(same)).then(pl.lit(each.day)).otherwise("as_of"))
        old = part.filter(is_news)
        yield pl.concat([same, _renewed(old, state.find(old["key"]))])
        known.append(old["key"])
    fresh = news.filter(~pl.col("key").is_in(pl.concat(known).implode())) if known else news
    if fresh.height:
        yield fresh.select(*STATE)


def _renewed(old: pl.DataFrame, news: pl.DataFrame) -> pl.DataFrame:
    # In one piece: polars takes a list in a frame of an empty chunk and one row for a value to be repeated, and panics.
    both = old.hstack(news.rename({name: f"new_{name}" for name in news.columns})).rechunk()
    not_found = pl.col("new_outcome") == Bucket.NOT_FOUND.value
    may_be_there = pl.when(~pl.col("new_outcome").is_in(DELIVERED)).then(pl.col("tags").list.set_union("new_tags"))
    return both.with_columns(
        *(pl.col(f"new_{name}").alias(name) for name in ("fingerprint", "outcome", "code")),
        as_of=pl.max_horizontal("as_of", "new_as_of"),
        **{name: pl.coalesce(f"new_{name}", name) for name in ("memory", *OPT_INS)},
        confirmed_on=pl.when(~not_found).then(pl.max_horizontal("new_confirmed_on", "confirmed_on")),
        tags=pl.coalesce(may_be_there, "new_tags", "tags"),
    ).select(*STATE)


def evened(parts: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in parts of so many each, but for the last one: what is read part by part stays small."""
    rest: list[pl.DataFrame] = []
    for part in parts:
        rest.append(part)
        if sum(each.height for each in rest) >= rows:
            whole = pl.concat(rest)
            cut = whole.height - whole.height % rows
            yield from whole.head(cut).iter_slices(rows)
            rest = [whole.slice(cut)]
    left = pl.concat(rest) if rest else pl.DataFrame()
    if left.height:
        yield left
