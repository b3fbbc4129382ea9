"""Where the records of delimited text begin and end, and which are legal: decided on bytes, before any parser.

The rules are RFC 4180's, strictly. A field is quoted if a quote stands at its very start, and only a delimiter or a
line end may follow the closing quote; a quote anywhere else is a stray one. LF and CRLF end a line, a lone CR is data.
A record with a stray quote ends with the physical line of that quote; one whose quote is never legally closed within
the record cap is its first physical line alone. So no bad line swallows the good ones behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Chars = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
Flags = npt.NDArray[np.bool_]

_LF, _CR, _QUOTE = b'\n\r"'
_BLANKS = np.frombuffer(b" \t\r\n", np.uint8)
_QUOTED = re.compile(rb'"[^"]*"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """What a record of one file looks like."""

    delimiter: bytes
    fields: int
    record_cap: int


class Extent(NamedTuple):
    """Where a record ends (behind its line end) and how many fields it has; None with a stray quote in it."""

    end: int
    fields: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """The records of a buffer in order: byte ranges (line ends included), first physical lines (from 0), verdicts.

    The bytes from `taken` on belong to a record whose end is not in the buffer; they come again before the next one.
    """

    starts: Positions
    ends: Positions
    lines: Positions
    legal: Flags
    taken: int
    lines_taken: int
    blank_lines: int


class _Lines(NamedTuple):
    """Verdicts on physical lines, each judged as if a record began with it.

    `legal`: it is a whole record of the right number of fields; `unclosed`: it ends inside a legally opened quote.
    """

    legal: Flags
    unclosed: Flags
    blank: Flags


def split_records(data: bytes, grammar: Grammar, *, last: bool) -> Records:
    """Split a buffer that begins with a record and ends with a line feed; `last` says that nothing follows it.

    All lines are judged at once. Only one that ends inside a quoted field is followed, by hand, into the next ones;
    a line that this passes over cannot itself be unclosed, so the work stays linear whatever the file.
    """
    chars = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(chars == _LF) + 1
    starts = np.concatenate(([0], ends[:-1]))
    legal, unclosed, blank = _judge_lines(data, chars, starts, ends, grammar)
    record_ends = ends.copy()
    begins = ~blank
    taken, free = len(ends), 0
    for line in np.flatnonzero(unclosed).tolist():
        if line < free:
            continue
        start = int(starts[line])
        extent = record_at(data, start, grammar.delimiter, grammar.record_cap)
        if extent is not None:
            free = int(np.searchsorted(ends, extent.end)) + 1
            begins[line + 1 : free] = False
            blank[line + 1 : free] = False
            record_ends[line] = extent.end
            legal[line] = extent.fields == grammar.fields
        elif not last and len(data) - start <= grammar.record_cap:
            taken = line
            break
    first_lines = np.flatnonzero(begins[:taken])
    return Records(
        starts=starts[first_lines],
        ends=record_ends[first_lines],
        lines=first_lines,
        legal=legal[first_lines],
        taken=int(starts[taken]) if taken < len(ends) else len(data),
        lines_taken=taken,
        blank_lines=int(np.count_nonzero(blank[:taken])),
    )


def record_at(data: bytes, start: int, delimiter: bytes, record_cap: int) -> Extent | None:
    """The record that begins at `start`, or None if a quote in it is never legally closed within the record cap."""
    limit = min(start + record_cap, len(data))
    found = _legal_fields(delimiter).match(data, start, limit)
    stop = found.end() if found else start
    if found and found["line_end"]:
        return Extent(stop, 1 + _QUOTED.sub(b"", found[0]).count(delimiter))
    if stop in {start, limit} or data[stop - 1 : stop] == delimiter:
        return None
    line_end = data.index(b"\n", stop) + 1
    return Extent(line_end, None) if line_end <= limit else None


def without_line_end(record: bytes) -> bytes:
    return record.removesuffix(b"\n").removesuffix(b"\r")


def is_blank(line: bytes, delimiter: bytes | None = None) -> bool:
    """Nothing but spaces and tabs, none of which is the delimiter."""
    return not without_line_end(line).strip(b" \t") and (delimiter is None or delimiter not in line)


@cache
def _legal_fields(delimiter: bytes) -> re.Pattern[bytes]:
    """Matches the legal fields and the line end, or stops at a quote that is stray or not legally closed."""
    d = re.escape(delimiter)
    field = rb'(?:"[^"]*(?:""[^"]*)*"(?=%b|\r?\n)|[^"\n%b]*)' % (d, d)
    return re.compile(rb"%b(?:%b%b)*(?P<line_end>\r?\n)?" % (field, d, field))


def _judge_lines(data: bytes, chars: Chars, starts: Positions, ends: Positions, grammar: Grammar) -> _Lines:
    delimiter = ord(grammar.delimiter)
    delimiters, quotes = np.flatnonzero(chars == delimiter), np.flatnonzero(chars == _QUOTE)
    separators, quotes_in = _per_line(delimiters, ends), _per_line(quotes, ends)
    well_quoted = np.ones(len(ends), np.bool_)
    short = ends - starts <= grammar.record_cap
    bare = short & (separators == 0) & (quotes_in == 0) & np.isin(chars[starts], _BLANKS)
    if len(quotes):
        before = np.cumsum(quotes_in) - quotes_in  # how many quotes stand before each line
        quoted = np.flatnonzero(quotes_in)
        line = np.repeat(quoted, quotes_in[quoted])
        opening = _is_even(np.arange(len(quotes)) - before[line])
        well_quoted[line[~_well_placed(chars, quotes, opening, delimiter)]] = False
        delimiters = delimiters[np.repeat(quotes_in > 0, separators)]
        line = np.repeat(quoted, separators[quoted])
        inside = ~_is_even(np.searchsorted(quotes, delimiters) - before[line])
        separators -= np.bincount(line[inside], minlength=len(ends))
    closed = _is_even(quotes_in)
    return _Lines(
        legal=short & well_quoted & closed & (separators == grammar.fields - 1),
        unclosed=short & well_quoted & ~closed,
        blank=_blank(data, starts, ends, bare, grammar.delimiter),
    )


def _per_line(positions: Positions, ends: Positions) -> Positions:
    return np.diff(np.searchsorted(positions, ends), prepend=0)


def _is_even(numbers: Positions) -> Flags:
    even: Flags = (numbers & 1) == 0
    return even


def _well_placed(chars: Chars, quotes: Positions, opening: Flags, delimiter: int) -> Flags:
    """Opening quotes begin a field, closing ones end it; the two halves of an escaped quote touch each other."""
    edge = np.zeros(256, np.bool_)
    edge[[delimiter, _LF, _QUOTE]] = True
    outward = quotes + np.where(
        opening, -1, 1
    )  # -1, before the first byte, wraps to the last, a line feed: as it should
    placed: Flags = edge[chars[outward]]
    doubtful = np.flatnonzero(~placed & ~opening)
    after = outward[doubtful]
    placed[doubtful] = (chars[after] == _CR) & (chars[np.minimum(after + 1, len(chars) - 1)] == _LF)
    return placed


def _blank(data: bytes, starts: Positions, ends: Positions, candidates: Flags, delimiter: bytes) -> Flags:
    blank = np.zeros(len(ends), np.bool_)
    for line in np.flatnonzero(candidates).tolist():
        blank[line] = is_blank(data[starts[line] : ends[line]], delimiter)
    return blank
