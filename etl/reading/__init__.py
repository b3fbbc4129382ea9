"""Reading: one snapshot file in, blocks of text rows out; bad records stand aside, and memory does not grow.

Each format has a module. `bytestream` and `records` lie below them and know nothing of columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from etl.reading.blocks import Account, Block, Layout, Notice
from etl.reading.bytestream import read_text
from etl.reading.delimited import read_delimited
from etl.reading.ndjson import read_ndjson
from etl.reading.parquet import read_parquet

__all__ = ["Account", "Block", "Format", "Notice", "Reader", "read_export_file"]

Format = Literal["csv", "csv.gz", "ndjson", "parquet"]


@dataclass(slots=True, kw_only=True)
class Reader(Account):
    """The blocks of one file, to be iterated once; after that, the counts and notices of an `Account`."""

    path: Path
    format: Format
    layout: Layout

    def __iter__(self) -> Iterator[Block]:
        if self.format == "parquet":
            yield from read_parquet(self.path, self.layout, self)
        else:
            texts = read_text(self.path, self.layout, self, gzipped=self.format == "csv.gz")
            read_records = read_ndjson if self.format == "ndjson" else read_delimited
            with closing(texts):  # also when a later stage refuses the file, whoever holds the error then
                yield from read_records(texts, self.layout, self)
        if not self.records:
            self.notice("no_records", f"{self.layout.name} holds no records")


def read_export_file(
    path: Path,
    *,
    format: Format,  # noqa: A002 - the word that users write in a sync
    columns: Mapping[str, str],
    wanted: Sequence[str],
    required: Sequence[str | tuple[str, ...]],
    name: str,
    delimiter: str = ",",
    encoding: str = "utf-8",
) -> Reader:
    """Read the `wanted` columns of an export file as text; `columns` maps the file's header names to ours.

    A file without records has no blocks. A wanted column that is neither required nor in the file is all null;
    of a tuple in `required`, one has to be there.
    Iterating raises ExportError when the file as a whole cannot be used: `file_empty`, `encoding_broken`, `gzip_cut`,
    `too_compressed`, `parquet_broken`, `column_type`, `header_missing_column`, `header_one_column`, `header_duplicate`,
    `header_unreadable`, `parser_disagrees`. Later blocks can still raise, so nothing may be sent before the last.
    """
    layout = Layout(
        name=name, columns=columns, wanted=wanted, required=required, delimiter=delimiter, encoding=encoding
    )
    return Reader(path=path, format=format, layout=layout)
