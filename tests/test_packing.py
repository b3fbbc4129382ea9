"""Neighbouring records are cut into calls that are as full as both limits allow, and their bytes are exact."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.destinations.base import Envelope
from etl.packing import Encoded, pack

ARRAY = Envelope(prefix=b"[", separator=b",", suffix=b"]")
LINES = Envelope(prefix=b"", separator=b"\r\n", suffix=b"\r\n")

values = st.lists(st.integers(1, 60), max_size=80)
# A record is never empty, and a rendered one holds no raw control characters.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)


def ends(sizes: list[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(np.array(sizes, dtype=np.int64))))


def greedily(sizes: list[int], max_rows: int, max_bytes: int) -> list[int]:
    """What a reader would write: a value goes into the open call unless it no longer fits."""
    starts, rows, total = [0], 0, 0
    for index, size in enumerate(sizes):
        if rows and (rows == max_rows or total + size > max_bytes):
            starts.append(index)
            rows, total = 0, 0
        rows, total = rows + 1, total + size
    return [*starts, len(sizes)] if sizes else [0]


@given(values, st.integers(1, 20), st.integers(60, 300))
def test_calls_are_cut_as_a_plain_loop_would(sizes, max_rows, max_bytes):
    """No row is lost, doubled or moved, no call exceeds a limit, and none could take the row after it."""
    starts = pack(ends(sizes), max_rows=max_rows, max_bytes=max_bytes)
    assert starts == greedily(sizes, max_rows, max_bytes)
    for first, stop in pairwise(starts):
        assert 0 < stop - first <= max_rows
        assert sum(sizes[first:stop]) <= max_bytes


@given(values, st.integers(1, 59))
def test_a_value_that_no_call_can_hold_is_an_error(sizes, max_bytes):
    """Packing never drops or cuts: such values are sorted out before."""
    if max(sizes, default=0) <= max_bytes:
        assert pack(ends(sizes), max_rows=10, max_bytes=max_bytes)[-1] == len(sizes)
    else:
        with pytest.raises(ValueError, match="larger than one call"):
            pack(ends(sizes), max_rows=10, max_bytes=max_bytes)


@given(st.lists(texts, max_size=20), st.sampled_from([b",", b"\n", b"\r\n", b"--part--"]))
@example(['"', "'", ",", '","', "\\n", "\u2028", "\u2029", "\ufeff", "👩‍👩‍👧", " ", "\t x"], b",")
def test_the_bytes_of_a_column_are_the_texts_and_separators(column, separator):
    """Whatever a record holds - quotes, commas, line separators, emoji - comes out as its UTF-8 bytes, each slice too."""
    encoded = Encoded.of(pl.Series("record", column, dtype=pl.String), separator)
    assert bytes(encoded.text) == b"".join(text.encode() + separator for text in column)
    for index, text in enumerate(column):
        assert encoded.slice(index, index + 1) == text.encode() + separator


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=40),
    st.integers(1, 10),
    st.integers(200, 400),
    st.sampled_from([ARRAY, LINES]),
)
def test_payloads_hold_every_record_once_and_keep_to_their_bytes(column, max_rows, max_bytes, envelope):
    """From texts to payloads and back: nothing changes, and the limit counts encoded bytes, brackets included."""
    records = pl.Series("record", [json.dumps(text, ensure_ascii=False) for text in column], dtype=pl.String)
    encoded = Encoded.of(records, envelope.separator)
    between = len(envelope.separator)
    room = max_bytes - envelope.size + between
    starts = pack(encoded.offsets, max_rows=max_rows, max_bytes=room)
    back: list[str] = []
    for first, stop in pairwise(starts):
        joined = encoded.slice(first, stop)
        payload = envelope.wrap(joined[: len(joined) - between])
        assert len(payload) <= max_bytes
        sizes = records.slice(first, stop - first).str.len_bytes().to_list()
        split = envelope.split(payload, sizes)
        assert envelope.frame(split) == payload
        back += [json.loads(record) for record in split]
    assert back == column
