"""CSV: the splitter decides what a record is; polars only takes the legal ones apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count
from typing import NamedTuple

import numpy as np
import polars as pl

from etl.errors import ExportError
from etl.reading.blocks import Account, Block, Layout, empty_file, locate_columns, numbered, unparsable
from etl.reading.records import Grammar, Records, is_blank, record_at, split_records, without_line_end

_MARK = "\ufdd0"
_Parser = Callable[[Iterable[bytes | memoryview], int], pl.DataFrame]

_LONE_CR = re.compile(r"\r(?!\n)")


class _Header(NamedTuple):
    names: list[str]
    lines: int
    rest: bytes


def read_delimited(texts: Iterator[bytes], layout: Layout, account: Account) -> Iterator[Block]:
    """The records behind the header; `texts` are blocks of whole lines in UTF-8.

    Raises ExportError: `file_empty`, `header_unreadable`, `parser_disagrees`, and what `locate_columns` raises.
    """
    header = _read_header(texts, layout, account)
    grammar = Grammar(delimiter=layout.delimiter.encode(), fields=len(header.names), record_cap=layout.record_cap)
    wanted = locate_columns(header.names, layout, account)
    parse = partial(_parse, grammar=grammar, wanted=wanted, name=layout.name)
    first_line, carry = 1 + header.lines, header.rest
    for text in chain(texts, [b""]):
        data = carry + text
        if not data:
            continue
        records = split_records(data, grammar, last=not text)
        first_record, account.records = account.records, account.records + len(records.starts)
        account.blank_lines += records.blank_lines
        if len(records.starts):
            yield _block(data, records, first_line, first_record, layout.record_cap, parse)
        carry = data[records.taken :]
        first_line += records.lines_taken


def _read_header(texts: Iterator[bytes], layout: Layout, account: Account) -> _Header:
    delimiter = layout.delimiter.encode()
    data, extent = b"", None
    for text in texts:
        data, blank_lines = _skip_blank_lines(data + text, delimiter)
        account.blank_lines += blank_lines
        extent = record_at(data, 0, delimiter, layout.record_cap)
        if extent or len(data) > layout.record_cap:
            break
    if not data:
        raise empty_file(layout.name)
    if not extent or not extent.fields:
        message = f"{layout.name}: the header cannot be read; a quote in it is misplaced or never closed"
        raise ExportError(message, code="header_unreadable")
    record = data[: extent.end]
    grammar = Grammar(delimiter=delimiter, fields=extent.fields, record_cap=layout.record_cap)
    every_field = {str(n): n for n in range(extent.fields)}
    names = list(_parse([record], 1, grammar=grammar, wanted=every_field, name=layout.name).row(0))
    if any(map(_LONE_CR.search, names)):
        message = f"{layout.name}: the header holds a bare carriage return; export with LF or CRLF line ends"
        raise ExportError(message, code="header_unreadable")
    return _Header(names, account.blank_lines + record.count(b"\n"), data[extent.end :])


def _skip_blank_lines(data: bytes, delimiter: bytes) -> tuple[bytes, int]:
    start, lines = 0, 0
    while start < len(data) and is_blank(data[start : (end := data.index(b"\n", start) + 1)], delimiter):
        start, lines = end, lines + 1
    return data[start:], lines


def _block(data: bytes, records: Records, first_line: int, first_record: int, record_cap: int, parse: _Parser) -> Block:
    lines, legal, broken = first_line + records.lines, np.flatnonzero(records.legal), np.flatnonzero(~records.legal)
    bounds = zip(records.starts[broken].tolist(), records.ends[broken].tolist(), strict=True)
    texts = [_text(data[start:end]) if end - start <= record_cap else None for start, end in bounds]
    return Block(
        rows=numbered(parse(_runs(data, records), len(legal)), first_record + legal, lines[legal]),
        unparsable=numbered(unparsable(texts), first_record + broken, lines[broken]),
        originals=partial(_originals, data, records, first_record),
    )


def _originals(data: bytes, records: Records, first_record: int, numbers: Sequence[int]) -> list[str]:
    places = np.array(numbers, np.intp) - first_record
    bounds = zip(records.starts[places].tolist(), records.ends[places].tolist(), strict=True)
    return [_text(data[start:end]) for start, end in bounds]


def _text(record: bytes) -> str:
    return without_line_end(record).decode()


def _runs(data: bytes, records: Records) -> list[memoryview]:
    """The bytes of the legal records, neighbours in one piece."""
    starts, ends = records.starts[records.legal], records.ends[records.legal]
    gaps = np.flatnonzero(starts[1:] != ends[:-1])
    view = memoryview(data)
    return [view[a:b] for a, b in zip(starts[[0, *(gaps + 1)]], ends[[*gaps, -1]], strict=True)] if len(starts) else []


def _parse(
    runs: Iterable[bytes | memoryview], height: int, *, grammar: Grammar, wanted: Mapping[str, int | None], name: str
) -> pl.DataFrame:
    """The wanted fields of legal records, exactly as they stand there.

    Two habits of polars are worked around: it strips a byte order mark from the first field of the buffer, so a row is
    put in front of it; and a carriage return from the end of an unquoted field, so a mark is put behind that.
    """
    delimiter = grammar.delimiter
    buffer = b"".join([b'""', delimiter * (grammar.fields - 1), b"\n", *runs])
    mark = ""
    if b"\r" in buffer and b"\r" + delimiter in buffer:  # the search for one byte is many times quicker
        mark = next(text for n in count(1) if (text := _MARK * n).encode() not in buffer)
        buffer = buffer.replace(b"\r" + delimiter, b"\r" + mark.encode() + delimiter)
    fields = {column: pl.lit(None, pl.String) if at is None else pl.col(str(at)) for column, at in wanted.items()}
    try:
        parsed = pl.read_csv(
            buffer,
            has_header=False,
            separator=delimiter.decode(),
            schema={str(n): pl.String for n in range(grammar.fields)},
            columns=sorted({at for at in wanted.values() if at is not None}) or [0],
            empty_string_is_null=False,
        )[1:]
    except pl.exceptions.PolarsError as error:  # its message would quote the row
        raise _disagreement(name, type(error).__name__) from None
    if parsed.height != height:
        raise _disagreement(name, f"{parsed.height} rows instead of {height}")
    if mark:
        parsed = parsed.with_columns(pl.all().str.replace_all("\r" + mark, "\r", literal=True))
    return parsed.with_columns(**fields).select(*wanted)


def _disagreement(name: str, what: str) -> ExportError:
    message = f"{name}: the CSV parser and the record splitter disagree ({what}); please report this as a bug"
    return ExportError(message, code="parser_disagrees")
