"""The quarantine's CSV: every value can be read back, and none of them runs in a spreadsheet."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from etl.quarantine import write_csv

STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["", *STARTS, "'"]), TEXT).map("".join), min_size=1, max_size=5))
def test_no_value_begins_a_formula(values):
    """What would gets an apostrophe before it, as spreadsheets write a text; all others stand as they are."""
    rows = pl.DataFrame({"file": "f.csv", "line": 1, "codes": [["a", "b"]] * len(values), "record": values})
    with tempfile.TemporaryDirectory() as folder:
        write_csv(rows, Path(folder) / "rows.csv")
        with (Path(folder) / "rows.csv").open(newline="", encoding="utf-8") as file:
            read = [row["record"] for row in csv.DictReader(file)]
    assert read == [f"'{value}" if value[:1] in tuple(STARTS) else value for value in values]
