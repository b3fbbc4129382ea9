"""Turns: who goes first where the day's room does not hold everybody.

An opt-out goes first, then whoever has waited longest, and last what is sent only lest the vendor forget it. A profile waits
since the day that the account knows it from; one that it does not know since the day that put it off. So nobody is overtaken
for ever by those who stand earlier in the export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from etl.delta import places
from etl.model import Bucket

_OPT_OUT, _FIRST, _REFRESH = 0, 1, 2**31 - 1


def turn(*, by_waiting: bool) -> pl.Expr:
    """The turn of a decided record, as a number; null of one that is not wanted.

    Without `by_waiting`, all that have changed go in the order of the export.
    """
    waiting = pl.when("opts_out").then(_OPT_OUT).otherwise(pl.col("since").cast(pl.Int32))
    changed = waiting if by_waiting else pl.lit(_FIRST)
    return pl.when(pl.col("bucket").is_null()).then(changed).when("due").then(_REFRESH)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Since which day profiles wait that were put off, for look-ups: `hash` of the key (sorted), `since`."""

    table: pl.DataFrame

    @classmethod
    def of(cls, kept: Iterable[pl.DataFrame]) -> Waiting:
        """From what a plan has not sent (`key`, `bucket`, `since`)."""
        empty = pl.DataFrame(schema={"hash": pl.UInt64, "since": pl.Date})
        is_late = pl.col("bucket") == Bucket.DEFERRED.value
        since = (part for part in kept if "since" in part.columns)  # an earlier version has not written it
        late = [part.filter(is_late).select(pl.col("key").hash().alias("hash"), "since") for part in since]
        return cls(pl.concat([empty, *late]).sort("hash"))

    def since(self, keys: pl.Series, as_of: pl.Series, today: date) -> pl.Series:
        """Since when each of the profiles waits that the account knows from a day, or from none."""
        found = self.table["since"].gather(places(self.table["hash"], keys.hash()))
        return pl.select(pl.min_horizontal(as_of, found).fill_null(today)).to_series()


@dataclass(slots=True)
class Turns:
    """Hands out room to records that come part by part: all earlier turns, and of the `last` one the first `rows`."""

    last: int
    rows: int
    _taken: int = field(default=0, init=False)

    @classmethod
    def of(cls, wanted: Mapping[int, int], room: int) -> Turns:
        """For so many rows, where so many want to go in each turn."""
        for number, rows in sorted(wanted.items()):
            if rows > room:
                return cls(number, room)
            room -= rows
        return cls(_REFRESH, wanted.get(_REFRESH, 0))

    def take(self, turns: pl.Series) -> pl.Series:
        """Whether each of the next records goes."""
        is_last = (turns == self.last).fill_null(value=False)
        place = is_last.cum_sum() + self._taken
        self._taken += int(is_last.sum())
        return (turns < self.last).fill_null(value=False) | (is_last & (place <= self.rows))
