"""Packing: which neighbouring records make one call, by count and by bytes; and their bytes without an object for each."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl


@dataclass(frozen=True, slots=True)
class Encoded:
    """Texts end to end, each with a separator after it: text i is `text[offsets[i]:offsets[i + 1]]`."""

    offsets: npt.NDArray[np.int64]
    text: memoryview

    @classmethod
    def of(cls, texts: pl.Series, separator: bytes) -> Encoded:
        """The UTF-8 bytes of a text column without nulls, written by polars in one go."""
        buffer = io.BytesIO()
        texts.to_frame().write_csv(
            buffer, include_header=False, line_terminator=separator.decode(), quote_style="never"
        )
        sizes = texts.str.len_bytes().to_numpy().astype(np.int64) + len(separator)
        return cls(np.concatenate(([0], np.cumsum(sizes))), buffer.getbuffer())

    def slice(self, first: int, stop: int) -> bytes:
        """The bytes of the texts from `first` up to `stop`, separators included."""
        return bytes(self.text[self.offsets[first] : self.offsets[stop]])


def pack(ends: npt.NDArray[np.int64], *, max_rows: int, max_bytes: int) -> list[int]:
    """Cuts values into calls, greedily and in order; returns the first value of each call, and the end.

    `ends[i]` is the sum of the sizes before value i (one more entry than values); `max_bytes` is for the values of one
    call together. Raises ValueError for a value that no call can hold.
    """
    count = len(ends) - 1
    starts = [0]
    while starts[-1] < count:
        first = starts[-1]
        fits = int(np.searchsorted(ends, ends[first] + max_bytes, side="right")) - 1
        stop = min(fits, first + max_rows, count)
        if stop <= first:
            raise ValueError(f"value {first} is larger than one call may be")
        starts.append(stop)
    return starts
