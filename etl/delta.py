"""Delta: what an account last accepted of each profile, and so which profiles are worth a call.

The state is a folder of Parquet parts, private, one for each account and generation; the ledger names the current one.
Its columns: `key`; `fingerprint` of the record that was sent last, null while its outcome is unknown; `as_of`, the day of
the export that said so; `outcome`, how that record ended; `code` that goes with it (of an unidentified end, the batch);
`memory`, what the destination wants to know of the last record that was accepted; `confirmed_on`, the day on which the
vendor confirmed last that it holds the profile; `email_opt_in` and `sms_opt_in`, as they were accepted last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
import polars_hash as plh

from etl.ends import UNIDENTIFIED
from etl.model import Bucket

# What becomes of a record that is just as it was sent before: by how that ended, its bucket now.
_SAME = {
    Bucket.ACCEPTED.value: Bucket.UNCHANGED.value,
    Bucket.CONFIRMED.value: Bucket.UNCHANGED.value,
    **{
        bucket.value: bucket.value
        for bucket in (
            Bucket.REJECTED,
            Bucket.PROCESSING,
            Bucket.FAILED_AT_DESTINATION,
            Bucket.NOT_FOUND,
            Bucket.UNREPORTED,
            Bucket.STUCK,
        )
    },
    UNIDENTIFIED: UNIDENTIFIED,
}
OUTCOME = pl.Enum([*_SAME, Bucket.UNKNOWN.value])
# What `retry` leaves alone: it got through, or may yet.
_DELIVERED = (Bucket.ACCEPTED.value, Bucket.CONFIRMED.value)
_THROUGH = (*_DELIVERED, Bucket.PROCESSING.value)
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
}
OPT_INS = ("email_opt_in", "sms_opt_in")
# Goes into every fingerprint: raise it when the meaning of a record changes without its text.
_FINGERPRINT_VERSION = "1"


def fingerprint(record: str) -> pl.Expr:
    """64 bits of a record column's text, the same in every version and on every machine (xxh3)."""
    text: pl.Expr = plh.concat_str(pl.lit(_FINGERPRINT_VERSION), pl.col(record)).nchash.xxh3_64()
    return text


@dataclass(frozen=True, slots=True)
class State:
    """An account's state for look-ups: `hash` of the key (sorted), then the state's columns without the key."""

    table: pl.DataFrame

    @classmethod
    def load(cls, parts: Iterable[pl.DataFrame]) -> State:
        """From the parts of a state folder; none at all is the state of an account that never accepted anything."""
        slim = [conformed(part).select(pl.col("key").hash().alias("hash"), pl.exclude("key")) for part in parts]
        empty = pl.DataFrame(schema=STATE).select(pl.col("key").hash().alias("hash"), pl.exclude("key"))
        return cls(pl.concat([empty, *slim]).sort("hash"))

    def find(self, keys: pl.Series) -> pl.DataFrame:
        """The state's columns of each key, nulls where it is not known."""
        if self.table.is_empty():
            return self.table.clear(len(keys)).drop("hash")
        hashes = keys.hash()
        at = self.table["hash"].search_sorted(hashes).clip(0, self.table.height - 1)
        found = self.table.select(pl.all().gather(at))
        known = found["hash"] == hashes
        return found.select(pl.when(known).then(pl.col(name)).alias(name) for name in found.columns if name != "hash")


def conformed(part: pl.DataFrame) -> pl.DataFrame:
    """A part of a state with the columns of today, also where an earlier version has written it."""
    missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in STATE.items() if name not in part.columns]
    return part.with_columns(*missing, outcome=pl.col("outcome").cast(pl.String).cast(OUTCOME)).select(*STATE)


def decide(
    records: pl.DataFrame, state: State, day: date, *, full: bool = False, retry: bool = False, confirms: bool = False
) -> pl.DataFrame:
    """What becomes of each record (`key`, `fingerprint`, the opt-ins, `opt_out`): `bucket`, null for "send it", and `code`.

    A profile that a later day's export has spoken of is superseded. One that was sent before just as it stands is not
    sent again, except by `full`, or by `retry` if it did not get through, and stays where it ended. A destination that `confirms` goes by what was confirmed: that
    another endpoint of the account took a profile which may not even be there is no reason to leave it out. An `opt_out` says
    nothing else of its profile, and is as before if the account has got just that with whatever it accepted last. `sent`,
    `known` and `confirmed_on` are what the state remembers; `flips` says whether an opt-in turns into its opposite, null for a profile
    that is not known.
    """
    names = {"fingerprint": "sent", **{name: f"told_{name}" for name in OPT_INS}}
    known = state.find(records["key"]).rename(names).with_columns(records.select("fingerprint", "opt_out", *OPT_INS))
    got_it = pl.all_horizontal(pl.col(name).is_null() | pl.col(name).eq(pl.col(f"told_{name}")) for name in OPT_INS)
    is_told = pl.col("opt_out") & got_it & pl.col("outcome").is_in(_DELIVERED)
    same = ((pl.col("sent") == pl.col("fingerprint")) | is_told).fill_null(value=False) & (not full)
    if retry:
        same &= pl.col("outcome").is_in(_THROUGH)
    if confirms:
        same &= pl.col("confirmed_on").is_not_null() | (pl.col("outcome") != Bucket.ACCEPTED.value)
    turns = ((pl.col(name) != pl.col(f"told_{name}")).fill_null(value=False) for name in OPT_INS)
    as_before = pl.col("outcome").cast(pl.String).replace_strict(_SAME, default=None, return_dtype=pl.String)
    bucket = pl.when(same).then(as_before).when(pl.col("as_of") > day).then(pl.lit(Bucket.SUPERSEDED.value))
    return known.select(
        bucket=bucket,
        code=pl.when(same).then(pl.col("code").cast(pl.String)),
        sent="sent",
        known="memory",
        confirmed_on="confirmed_on",
        flips=pl.when(pl.col("as_of").is_not_null()).then(pl.any_horizontal(turns)),
    )


def updated(parts: Iterable[pl.DataFrame], news: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The parts of the next state: the old ones with `news` (the state's columns, one row a key) in their place.

    `as_of` never goes back; `memory`, `confirmed_on` and the opt-ins stay where the news have none, but a profile that the
    vendor did not find is not confirmed any more.
    """
    state, seen = State.load([news]), []
    is_news = pl.col("new_outcome").is_not_null()
    not_found = pl.col("new_outcome") == Bucket.NOT_FOUND.value
    for part in map(conformed, parts):
        new = state.find(part["key"]).rename({name: f"new_{name}" for name in STATE if name != "key"})
        both = part.hstack(new)
        yield both.select(
            "key",
            *(
                pl.when(is_news).then(pl.col(f"new_{name}")).otherwise(pl.col(name)).alias(name)
                for name in ("fingerprint", "outcome", "code")
            ),
            as_of=pl.max_horizontal("as_of", "new_as_of"),
            **{name: pl.coalesce(f"new_{name}", name) for name in ("memory", *OPT_INS)},
            confirmed_on=pl.when(not_found.fill_null(value=False))
            .then(None)
            .otherwise(pl.max_horizontal("new_confirmed_on", "confirmed_on")),
        ).select(*STATE)
        seen.append(both.filter(is_news)["key"].hash())
    fresh = news.filter(~pl.col("key").hash().is_in(pl.concat(seen).implode())) if seen else news
    if fresh.height:
        yield fresh.select(*STATE)
