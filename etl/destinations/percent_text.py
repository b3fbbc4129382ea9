"""Percent-encoding (RFC 3986, UTF-8) by polars: a Python object for each distinct character, not for each value.

Whole columns need it (every time holds a `:`), and are nearly unique; their characters are few.
"""

from __future__ import annotations

from urllib.parse import quote

import polars as pl

_ASCII = "".join(map(chr, range(ord("\x7f") + 1)))
_RESERVED = [character for character in _ASCII if quote(character, safe="") != character]


def percent_encoded(value: pl.Expr) -> pl.Expr:
    """The text as a URL or a form may hold it: letters, digits and `-_.~` stay, any other byte becomes `%XX`."""
    return value.map_batches(_encoded, return_dtype=pl.String, is_elementwise=True)


def _encoded(texts: pl.Series) -> pl.Series:
    beyond_ascii = texts.filter(texts.str.len_bytes() != texts.str.len_chars())
    others = set(beyond_ascii.str.join().item()).difference(_ASCII)
    characters = [*_RESERVED, *others]
    return texts.str.replace_many(characters, [quote(character, safe="") for character in characters])
