"""What reading hands on, whatever the format: blocks of text rows, and the file's account of itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from etl.errors import ExportError

_NAMES_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How one export looks, and how it is read.

    `name` is for messages; `columns` maps the export's header names to ours; of a tuple in `required`, one has to be
    there.
    `block_size`: bytes read at a time, large enough for vectorised work, small enough for any machine.
    `record_cap`: bytes; a longer line or record is a fault of the file, and is never held whole.
    """

    name: str
    columns: Mapping[str, str]
    wanted: Sequence[str]
    required: Sequence[str | tuple[str, ...]]
    delimiter: str = ","
    encoding: str = "utf-8"
    block_size: int = 16 << 20
    record_cap: int = 1 << 20

    def ours(self, header_name: str) -> str:
        return self.columns.get(header_name, header_name)

    def theirs(self, column: str) -> str:
        """Our name of a column, with the export's own where that differs, for a message."""
        expected = [theirs for theirs, ours in self.columns.items() if ours == column]
        return f"{column} (in the export: {' or '.join(expected)})" if expected else column


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that does not stop the run and that a person should know; `code` is stable."""

    code: str
    message: str


@dataclass(slots=True, kw_only=True)
class Account:
    """What a file turned out to hold; complete once all its blocks have been read."""

    records: int = 0
    blank_lines: int = 0
    notices: list[Notice] = field(default_factory=list)

    def notice(self, code: str, message: str) -> None:
        self.notices.append(Notice(code=code, message=message))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Neighbouring records of a file.

    `rows`: the wanted columns as text, exactly as read. `unparsable`: `record`, the original text, null where it is
    longer than the record cap. Both: `_line`, the first physical line (from 1), and `_record`, the number of the record
    in the file (from 0, over rows and unparsable ones alike), as UInt64.
    """

    rows: pl.DataFrame = field(repr=False)
    unparsable: pl.DataFrame = field(repr=False)
    originals: Callable[[Sequence[int]], list[str]] = field(repr=False)

    def raw(self, record_numbers: pl.Series) -> pl.Series:
        """The original text of some parsed records of this block; only these are decoded."""
        return pl.Series("record", self.originals(record_numbers.to_list()), dtype=pl.String)


def unparsable(records: Sequence[str | None]) -> pl.DataFrame:
    return pl.DataFrame({"record": pl.Series(records, dtype=pl.String)})


def numbered(frame: pl.DataFrame, numbers: Iterable[int], lines: Iterable[int]) -> pl.DataFrame:
    """The frame of `Block.rows` or `Block.unparsable`, completed."""
    return frame.with_columns(
        pl.Series("_line", lines, dtype=pl.UInt64), pl.Series("_record", numbers, dtype=pl.UInt64)
    )


def empty_file(name: str) -> ExportError:
    return ExportError(f"{name} is empty: the export probably failed; land it again", code="file_empty")


def too_compressed(name: str, what: str) -> ExportError:
    return ExportError(
        f"{name} {what}, as no export should: look at what wrote it; "
        "if its rows are real, land them unpacked, or in several files",
        code="too_compressed",
    )


def locate_columns(header: Sequence[str], layout: Layout, account: Account) -> dict[str, int | None]:
    """Each wanted column's position in the header, None where an optional one is absent.

    Raises ExportError for a missing or repeated column. What is missing is looked at first: a file without a header
    has a customer in its first line, so no name is quoted before the header is known to be one.
    """
    ours = [layout.ours(name) for name in header]
    alternatives = [(names,) if isinstance(names, str) else names for names in layout.required]
    missing = [" or ".join(map(layout.theirs, names)) for names in alternatives if not set(names) & set(ours)]
    if missing and len(header) == 1:
        raise ExportError(
            f"{layout.name} has a single column: the sync's `delimiter` is probably not the one of this file",
            code="header_one_column",
        )
    if missing:
        raise ExportError(
            f"{layout.name} lacks required columns: {', '.join(missing)}; "
            "name them in the export, or map them under `columns` in the sync",
            code="header_missing_column",
        )
    repeated = [name for name, count in Counter(ours).items() if count > 1]
    if repeated:
        places = "; ".join(
            f"{name!r} in columns {', '.join(str(n) for n, other in enumerate(ours, 1) if other == name)}"
            for name in repeated[:_NAMES_SHOWN]
        )
        raise ExportError(f"{layout.name} has the same column more than once: {places}", code="header_duplicate")
    extra = [name for name in ours if name not in layout.wanted]
    if extra:
        shown = ", ".join(map(repr, extra[:_NAMES_SHOWN])) + (", ..." if len(extra) > _NAMES_SHOWN else "")
        account.notice("extra_columns", f"{layout.name} has {len(extra)} columns that are not used: {shown}")
    absent = [column for column in layout.wanted if column not in ours]
    if absent:
        account.notice("columns_absent", f"{layout.name} has no column {', '.join(map(layout.theirs, absent))}")
    return {column: ours.index(column) if column in ours else None for column in layout.wanted}
