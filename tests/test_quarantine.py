"""The quarantine's CSV: every value can be read back, and none of them runs in a spreadsheet."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from contracts import blank_to_null
from etl.quarantine import read_csv, write_csv

STARTS = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.lists(st.tuples(st.sampled_from(["", *STARTS, "'"]), TEXT).map("".join), min_size=1, max_size=5))
def test_no_value_begins_a_formula(values):
    """What would gets an apostrophe before it, as spreadsheets write a text, and so does what looks so; others stay."""
    rows = pl.DataFrame({"file": "f.csv", "line": 1, "codes": [["a", "b"]] * len(values), "record": values})
    with tempfile.TemporaryDirectory() as folder:
        write_csv(rows, Path(folder) / "rows.csv")
        with (Path(folder) / "rows.csv").open(newline="", encoding="utf-8") as file:
            read = [row["record"] for row in csv.DictReader(file)]
    assert read == [f"'{value}" if value.lstrip("'")[:1] in tuple(STARTS) else value for value in values]


VALUES = st.lists(st.tuples(st.sampled_from(["", *STARTS, "'", "''="]), TEXT).map("".join), min_size=1, max_size=5)


@given(VALUES, st.sampled_from([",", ";", "\t"]), st.sampled_from(["utf-8", "utf-8-sig"]))
def test_what_was_exported_is_read_back(values, delimiter, encoding):
    """Every value as it was, blanks as no value; also after a spreadsheet that writes other delimiters and a mark."""
    rows = pl.DataFrame({"file": "f.csv", "line": 1, "codes": [["a", "b"]] * len(values), "record": values})
    read = blank_to_null(rows.select("record"))["record"].to_list()
    with tempfile.TemporaryDirectory() as folder:
        write_csv(rows, Path(folder) / "rows.csv")
        assert read_csv(Path(folder) / "rows.csv")["record"].to_list() == read
        with (Path(folder) / "rows.csv").open(newline="", encoding="utf-8") as file:
            cells = list(csv.reader(file))
        with (Path(folder) / "saved.csv").open("w", newline="", encoding=encoding) as file:
            csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(cells)
        assert read_csv(Path(folder) / "saved.csv")["record"].to_list() == read
