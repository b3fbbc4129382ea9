"""JSON text by polars expressions: exact, and without a Python object for each row.

A `Member` is a key, a column, and the column's value as JSON text; where the column is null, the member is left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

_ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(0x20)} | {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


@dataclass(frozen=True, slots=True)
class Member:
    """`fragment` is `"key":value` as text, null where the column is."""

    column: str
    fragment: pl.Expr
    key: str = ""


def escaped(value: pl.Expr) -> pl.Expr:
    """The inside of a JSON string."""
    return value.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))


def text(key: str, column: str, *, suffix: str = "") -> Member:
    """A string, of a text column and a fixed ending."""
    return _member(key, column, '"', escaped(pl.col(column)), f'{suffix}"')


def texts(key: str, column: str) -> Member:
    """An array of strings, of a list column."""
    items = pl.col(column).list.eval(pl.concat_str(pl.lit('"'), escaped(pl.element()), pl.lit('"')))
    return _member(key, column, "[", items.list.join(","), "]")


def number(key: str, column: str) -> Member:
    """A number, of an integer or finite float column; a float keeps its point (`1.0`), which is its type."""
    return _member(key, column, "", pl.col(column).cast(pl.String), "")


def word(key: str, column: str, words: Mapping[bool, str]) -> Member:
    """A string that stands for true, and one for false."""
    word = pl.when(pl.col(column)).then(pl.lit(words[True])).when(~pl.col(column)).then(pl.lit(words[False]))
    return _member(key, column, '"', word, '"')


def whole(key: str, values: Sequence[Member]) -> Member:
    """An object that is there only if all of its members are."""
    inside = pl.concat_str([value.fragment for value in values], separator=",")
    return _member(key, values[0].column, "{", inside, "}")


def cleared(values: Sequence[Member], columns: Collection[str], nothing: str) -> list[Member]:
    """The members, those of some columns there also where the column is null: then with `nothing` as their value."""
    return [
        replace(value, fragment=value.fragment.fill_null(pl.lit(f'"{value.key}":{nothing}')))
        if value.column in columns
        else value
        for value in values
    ]


def members(values: Sequence[Member]) -> pl.Expr:
    """The inside of an object: the members that are there, with commas between them."""
    return pl.concat_str([value.fragment for value in values], separator=",", ignore_nulls=True)


def _member(key: str, column: str, before: str, value: pl.Expr, after: str) -> Member:
    return Member(column, pl.concat_str(pl.lit(f'"{key}":{before}'), value, pl.lit(after)), key)
