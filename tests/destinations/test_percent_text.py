"""Percent-encoding by columns: what any reader of URLs and forms takes apart again."""

from urllib.parse import parse_qsl, quote, unquote

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from etl.destinations.percent_text import percent_encoded

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ALLOWED = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~%")


def _encoded(values: list[str | None]) -> list[str | None]:
    frame = pl.DataFrame({"value": values}, schema={"value": pl.String})
    return frame.lazy().select(percent_encoded(pl.col("value"))).collect().to_series().to_list()


@given(st.lists(st.none() | TEXT, max_size=20))
def test_any_column_survives(values):
    """Whatever stands beside it: the standard library writes the same, and reads the text back."""
    encoded = _encoded(values)
    assert encoded == [None if value is None else quote(value, safe="") for value in values]
    assert [None if text is None else unquote(text, errors="strict") for text in encoded] == values


@given(TEXT.filter(bool))
def test_a_form_keeps_every_value_whole(value):
    """No blank as `+`, and nothing left that ends a cell, a row or a parameter."""
    [text] = _encoded([value])
    assert set(text) <= ALLOWED
    assert parse_qsl(f"a={text}&b=1", strict_parsing=True) == [("a", value), ("b", "1")]


def test_every_ascii_character_and_the_edges_of_utf8():
    """Unreserved characters stay; all others, DEL and NUL too, become upper-case hexadecimal of their bytes."""
    characters = [*map(chr, range(0x81)), "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
    assert _encoded(characters) == [quote(character, safe="") for character in characters]
    assert _encoded(["a b", "é", "%2C", "🙂"]) == ["a%20b", "%C3%A9", "%252C", "%F0%9F%99%82"]


def test_a_column_without_a_value_stays_one():
    """No row, or no value, is nothing to encode."""
    assert _encoded([]) == []
    assert _encoded([None, None]) == [None, None]
