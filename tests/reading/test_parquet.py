"""Parquet: columns of any plain type become the text that a CSV export would hold."""

import datetime as dt
import json
from decimal import Decimal

import polars as pl
import pytest

from etl.errors import ExportError

PARIS = dt.timezone(dt.timedelta(hours=2))


@pytest.fixture
def read_frame(read_path, tmp_path):
    """Writes a frame and reads it back; all its columns are wanted unless told otherwise."""

    def run(frame, **layout):
        path = tmp_path / "export.parquet"
        frame.write_parquet(path, row_group_size=1000)
        return read_path(path, format="parquet", **{"wanted": frame.columns, "required": []} | layout)

    return run


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (" 007 ", pl.String, " 007 "),
        ("", pl.String, ""),
        (None, pl.String, None),
        (None, pl.Null, None),
        ("gold", pl.Categorical, "gold"),
        (-7, pl.Int16, "-7"),
        (48.5, pl.Float64, "48.5"),
        (True, pl.Boolean, "true"),
        (False, pl.Boolean, "false"),
        (Decimal("12.50"), pl.Decimal(10, 2), "12.50"),
        (dt.date(1986, 1, 7), pl.Date, "1986-01-07"),
        (dt.datetime(2024, 6, 1, 12, tzinfo=PARIS), pl.Datetime("us", "Europe/Paris"), "2024-06-01T10:00:00Z"),
        (dt.datetime(2024, 6, 1, 12, 0, 0, 120_000, dt.UTC), pl.Datetime("ms", "UTC"), "2024-06-01T12:00:00.12Z"),
        (dt.datetime(2024, 6, 1, 12, 0, 0, 1, dt.UTC), pl.Datetime("ns", "UTC"), "2024-06-01T12:00:00.000001Z"),
        (dt.datetime(2024, 6, 1, 10, 20, 30), pl.Datetime("us"), "2024-06-01T10:20:30"),  # noqa: DTZ001 - the point
    ],
)
def test_values_become_text(read_frame, value, dtype, text):
    """Text as it is, numbers plain, dates in ISO, date-times in UTC or, without a zone, left without one."""
    result = read_frame(pl.DataFrame({"a": pl.Series([value, None], dtype=dtype)}))
    assert result.rows == [(0, 2, (text,)), (1, 3, (None,))]


def test_large_files_come_in_blocks(read_frame):
    """Numbered through, a line each, as if below a header."""
    result = read_frame(pl.DataFrame({"a": pl.int_range(120_000, eager=True)}))
    assert result.rows == [(n, n + 2, (str(n),)) for n in range(120_000)]
    assert result.reader.records == 120_000


def test_columns_are_mapped_by_name(read_frame):
    """As in CSV; the original record keeps the file's own names and the columns that are not used."""
    frame = pl.DataFrame({"x": [dt.date(2024, 1, 2)], "NO": [7], "nested": [[1]]})
    result = read_frame(frame, wanted=("a", "b"), required=("a",), columns={"NO": "a"})
    assert result.values == [("7", None)]
    assert [json.loads(text) for text in result.originals] == [{"x": "2024-01-02", "NO": "7"}]
    assert result.notices == ["extra_columns", "columns_absent"]


@pytest.mark.parametrize("value", [[1], {"x": 1}, b"bytes", dt.timedelta(1)])
def test_a_wanted_column_without_a_text_is_a_breach(read_frame, value):
    """It is named."""
    with pytest.raises(ExportError, match="a cannot be read as text") as caught:
        read_frame(pl.DataFrame({"a": [value]}))
    assert caught.value.code == "column_type"


def test_a_missing_column_is_a_breach(read_frame):
    """With the same code as in CSV."""
    with pytest.raises(ExportError) as caught:
        read_frame(pl.DataFrame({"b": [1]}), required=["a"])
    assert caught.value.code in {"header_missing_column", "header_one_column"}


def test_a_table_without_rows_is_an_empty_export(read_frame):
    """Valid, with a notice."""
    result = read_frame(pl.DataFrame({"a": []}, schema={"a": pl.String}))
    assert (result.rows, result.notices) == ([], ["no_records"])


def test_a_cut_file_is_a_breach(read_path, tmp_path):
    """At whatever byte; 0 bytes have their own code."""
    path = tmp_path / "export.parquet"
    pl.DataFrame({"a": ["ann@example.org"] * 10}).write_parquet(path)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ExportError) as caught:
            read_path(path, format="parquet", wanted=["a"], required=["a"])
        assert caught.value.code == ("parquet_broken" if cut else "file_empty")
        assert "example.org" not in str(caught.value)
