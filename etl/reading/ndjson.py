"""NDJSON: one flat JSON object a line; numbers keep the digits that were written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import polars as pl

from etl.reading.blocks import Account, Block, Layout, numbered, unparsable
from etl.reading.records import is_blank, without_line_end

_Record = dict[str, str | None]


def read_ndjson(texts: Iterator[bytes], layout: Layout, account: Account) -> Iterator[Block]:
    """The records of blocks of whole lines in UTF-8. A key that no record has is a column of blanks."""
    wanted = frozenset(layout.wanted)
    first_line, any_unused = 1, False
    for text in texts:
        physical = text.removesuffix(b"\n").split(b"\n")
        lines = {number: line for number, line in enumerate(physical, first_line) if not is_blank(line)}
        records = [_parse(line, layout.columns, layout.record_cap) for line in lines.values()]
        any_unused = any_unused or any(record and not record.keys() <= wanted for record in records)
        if records:
            yield _block(lines, records, account.records, layout)
        first_line += len(physical)
        account.records += len(records)
        account.blank_lines += len(physical) - len(records)
    if any_unused:  # keys are not named: nothing proves that they are column names and not data
        account.notice("extra_columns", f"{layout.name} has keys that are not used")


def _block(lines: dict[int, bytes], records: Sequence[_Record | None], first_record: int, layout: Layout) -> Block:
    line_numbers, originals = list(lines), list(lines.values())
    good = [n for n, record in enumerate(records) if record is not None]
    bad = [n for n, record in enumerate(records) if record is None]
    parsed = [record for record in records if record is not None]
    rows = pl.from_dicts(parsed, schema=dict.fromkeys(layout.wanted, pl.String))
    kept = [_text(originals[n]) if len(originals[n]) < layout.record_cap else None for n in bad]
    return Block(
        rows=numbered(rows, [first_record + n for n in good], [line_numbers[n] for n in good]),
        unparsable=numbered(unparsable(kept), [first_record + n for n in bad], [line_numbers[n] for n in bad]),
        originals=lambda numbers: [_text(originals[number - first_record]) for number in numbers],
    )


def _text(line: bytes) -> str:
    return without_line_end(line).decode()


def _parse(line: bytes, columns: Mapping[str, str], record_cap: int) -> _Record | None:
    """The record under our names; None if it is not one flat JSON object of distinct keys and encodable text."""
    if len(line) >= record_cap:
        return None
    try:
        pairs = _DECODER.decode(line.decode())
        if not isinstance(pairs, tuple):
            return None
        record = dict(pairs) if not columns else {columns.get(key, key): value for key, value in pairs}
        types = set(map(type, record.values()))
        if len(record) < len(pairs) or not types <= _PLAIN:
            return None
        if bool in types:
            record = {key: _WORDS.get(value, value) for key, value in record.items()}
        if b"\\u" in line:
            "".join(filter(None, record.values())).encode()  # an escaped lone surrogate is not text
    except (ValueError, RecursionError):
        return None
    return record


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_PLAIN = {str, bool, type(None)}  # numbers come as text
_WORDS = {True: "true", False: "false"}
# Objects come as tuples of pairs, so that repeated keys are seen and a list is not taken for an object.
_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_float=str, parse_int=str, parse_constant=_refuse)
