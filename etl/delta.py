"""Delta: what an account last accepted of each profile, and so which profiles are worth a call.

The state is a folder of Parquet parts, private, one for each account and generation; the ledger names the current one.
Its columns: `key`; `fingerprint` of the record as it was last accepted or rejected, null while an outcome is unknown;
`as_of`, the day of the export that said so; `outcome` (accepted, rejected, unknown); `code` of a rejection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
import polars_hash as plh

from etl.model import BatchState, Bucket

OUTCOME = pl.Enum([state.value for state in (BatchState.ACCEPTED, BatchState.REJECTED, BatchState.UNKNOWN)])
STATE: dict[str, Any] = {
    "key": pl.String,
    "fingerprint": pl.UInt64,
    "as_of": pl.Date,
    "outcome": OUTCOME,
    "code": pl.Categorical,
}
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
        slim = [part.select(pl.col("key").hash().alias("hash"), pl.exclude("key")) for part in parts]
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


def decide(records: pl.DataFrame, state: State, day: date, *, full: bool) -> pl.DataFrame:
    """What becomes of each record (`key`, `fingerprint`): `bucket`, null for "send it", and `code`.

    A profile that a later day's export has spoken of is superseded. One that was accepted, or rejected, just as it
    stands is not sent again, except by `full`.
    """
    known = state.find(records["key"]).rename({"fingerprint": "known"}).with_columns(records["fingerprint"])
    same = (pl.col("known") == pl.col("fingerprint")).fill_null(value=False) & (not full)
    rejected = same & (pl.col("outcome") == BatchState.REJECTED.value)
    bucket = (
        pl.when(rejected)
        .then(pl.lit(Bucket.REJECTED.value))
        .when(same)
        .then(pl.lit(Bucket.UNCHANGED.value))
        .when(pl.col("as_of") > day)
        .then(pl.lit(Bucket.SUPERSEDED.value))
    )
    return known.select(bucket=bucket, code=pl.when(rejected).then(pl.col("code").cast(pl.String)))


def updated(parts: Iterable[pl.DataFrame], news: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The parts of the next state: the old ones with `news` (the state's columns, one row a key) in their place.

    `as_of` never goes back.
    """
    state, seen = State.load([news]), []
    for part in parts:
        new = state.find(part["key"]).rename({name: f"new_{name}" for name in STATE if name != "key"})
        both = part.hstack(new)
        is_news = pl.col("new_outcome").is_not_null()
        yield both.select(
            "key",
            *(
                pl.when(is_news).then(pl.col(f"new_{name}")).otherwise(pl.col(name)).alias(name)
                for name in ("fingerprint", "outcome", "code")
            ),
            as_of=pl.max_horizontal("as_of", "new_as_of"),
        ).select(*STATE)
        seen.append(both.filter(is_news)["key"].hash())
    fresh = news.filter(~pl.col("key").hash().is_in(pl.concat(seen).implode())) if seen else news
    if fresh.height:
        yield fresh.select(*STATE)
