"""Turns: who goes first where the day's room does not hold everybody.

An opt-out goes first, then whoever has waited longest, and last what is sent only lest the vendor forget it. A profile waits
since the day that the account knows it from, so that nobody is overtaken for ever by those who stand earlier in the export.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

_OPT_OUT, _NEW, _REFRESH = 0, 1, 2**31 - 1


def turn(*, by_waiting: bool) -> pl.Expr:
    """The turn of a decided record, as a number; null of one that is not wanted.

    Without `by_waiting`, all that have changed go in the order of the export.
    """
    waiting = pl.when("opts_out").then(_OPT_OUT).otherwise(pl.col("as_of").cast(pl.Int32).fill_null(_NEW))
    changed = waiting if by_waiting else pl.lit(_NEW)
    return pl.when(pl.col("bucket").is_null()).then(changed).when("due").then(_REFRESH)


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
