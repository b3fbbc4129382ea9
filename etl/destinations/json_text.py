"""JSON text by polars expressions: exact, without a Python object for a row; null stays null, so that it can be omitted."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

_ESCAPES = {chr(code): f"\\u{code:04x}" for code in range(0x20)} | {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def _escaped(value: pl.Expr) -> pl.Expr:
    return value.str.replace_many(list(_ESCAPES), list(_ESCAPES.values()))


def text(column: str, *, suffix: str = "") -> pl.Expr:
    """A JSON string of a text column, with a fixed ending."""
    return pl.concat_str(pl.lit('"'), _escaped(pl.col(column)), pl.lit(f'{suffix}"'))


def texts(column: str) -> pl.Expr:
    """A JSON array of strings, of a list column."""
    items = pl.col(column).list.eval(pl.concat_str(pl.lit('"'), _escaped(pl.element()), pl.lit('"')))
    return pl.concat_str(pl.lit("["), items.list.join(","), pl.lit("]"))


def number(column: str) -> pl.Expr:
    """A JSON number of an integer or finite float column; a float keeps its point (`1.0`), which is its type."""
    return pl.col(column).cast(pl.String)


def word(column: str, words: Mapping[bool, str]) -> pl.Expr:
    """A JSON string that stands for true, and one for false."""
    return (
        pl.when(pl.col(column)).then(pl.lit(f'"{words[True]}"')).when(~pl.col(column)).then(pl.lit(f'"{words[False]}"'))
    )


def members(values: Mapping[str, pl.Expr]) -> pl.Expr:
    """A JSON object; a member whose value is null is left out."""
    fragments = [
        pl.concat_str(pl.lit(f',"{key}":'), value).fill_null("")
        for key, value in values.items()
    ]  # fmt: skip
    return pl.concat_str(pl.lit("{"), pl.concat_str(fragments).str.slice(1), pl.lit("}"))
