"""Parquet: every column as the text that a careful CSV export would have written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import polars as pl

from etl.errors import ExportError
from etl.reading.blocks import Account, Block, Layout, empty_file, locate_columns, numbered, too_compressed, unparsable

_BATCH_ROWS = 50_000
# A row group is unpacked whole, and a row with an id and an address of its own takes more than a byte.
_ROWS_GRACE = 1_000_000
_WITHOUT_TEXT = (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary, pl.Duration)
_FIRST_LINE = 2  # as if a header stood above the rows


def read_parquet(path: Path, layout: Layout, account: Account) -> Iterator[Block]:
    """The rows of a Parquet file; date-times in UTC, or without a zone where the file has none: we do not guess it.

    Raises ExportError: `file_empty`, `parquet_broken`, `too_compressed`, `column_type`, and what `locate_columns` raises.
    """
    if not path.stat().st_size:
        raise empty_file(layout.name)
    try:
        file = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        schema = file.collect_schema()
        if file.select(pl.len()).collect().item() > max(_ROWS_GRACE, path.stat().st_size):
            raise too_compressed(layout.name, "has more rows than bytes")
        wanted = _wanted(schema, layout, account)
        everything = [_as_text(name, dtype) for name, dtype in schema.items() if not isinstance(dtype, _WITHOUT_TEXT)]
        for batch in file.collect_batches(chunk_size=_BATCH_ROWS):
            numbers = range(account.records, account.records + batch.height)
            account.records += batch.height
            yield Block(
                rows=numbered(batch.select(wanted), numbers, [number + _FIRST_LINE for number in numbers]),
                unparsable=numbered(unparsable([]), [], []),
                originals=partial(_originals, batch, everything, numbers.start),
            )
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        message = (
            f"{layout.name} is not a whole Parquet file ({type(error).__name__}): it was cut or damaged; land it again"
        )
        raise ExportError(message, code="parquet_broken") from None


def _wanted(schema: Mapping[str, pl.DataType], layout: Layout, account: Account) -> list[pl.Expr]:
    positions = locate_columns(list(schema), layout, account)
    names = {column: None if at is None else list(schema)[at] for column, at in positions.items()}
    nested = [column for column, name in names.items() if name and isinstance(schema[name], _WITHOUT_TEXT)]
    if nested:
        message = f"{layout.name}: {', '.join(map(layout.theirs, nested))} cannot be read as text; export plain columns"
        raise ExportError(message, code="column_type")
    return [
        (pl.lit(None, pl.String) if name is None else _as_text(name, schema[name])).alias(column)
        for column, name in names.items()
    ]


def _as_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if not isinstance(dtype, pl.Datetime):
        return column.cast(pl.String)
    moment = column if dtype.time_zone is None else column.dt.convert_time_zone("UTC")
    text = moment.dt.to_string("%Y-%m-%dT%H:%M:%S%.9f").str.strip_chars_end("0").str.strip_chars_end(".")
    return text if dtype.time_zone is None else text + "Z"


def _originals(
    batch: pl.DataFrame, everything: Sequence[pl.Expr], first_record: int, numbers: Sequence[int]
) -> list[str]:
    """The rows as JSON objects under the file's own names."""
    rows = batch[[number - first_record for number in numbers]].select(everything)
    return rows.select(pl.struct(pl.all()).struct.json_encode()).to_series().to_list()
