"""Values: what a text means, held against `datetime` and `decimal`."""

import datetime as dt
from decimal import Decimal

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from contracts.values import blank_to_null, cents, entries, instant, utc_text

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def _read(reading, texts):
    return pl.DataFrame({"text": texts}, schema={"text": pl.String}).select(reading("text")).to_series().to_list()


TIMES = st.times().map(lambda time: time.replace(microsecond=0))
OFFSETS = st.one_of(
    st.just("Z"), st.builds("{}{:02d}:{:02d}".format, st.sampled_from("+-"), st.integers(0, 23), st.integers(0, 59))
)
MOMENTS = st.tuples(
    st.builds(dt.datetime.combine, st.dates(dt.date(1900, 1, 1), dt.date(2999, 12, 31)), TIMES),
    st.from_regex(r"(\.[0-9]{1,9})?", fullmatch=True),
    OFFSETS,
)


def _text(moment):
    clock, fraction, offset = moment
    return f"{clock.isoformat()}{fraction}{offset}"


def _utc(moment):
    clock, _, offset = moment
    return dt.datetime.fromisoformat(f"{clock.isoformat()}{offset}").astimezone(dt.UTC)


@given(st.lists(MOMENTS, min_size=1, max_size=30))
def test_an_instant_is_the_exact_moment_in_nanoseconds(moments):
    """Offsets are taken off, and all nine digits of a fraction count."""
    expected = []
    for moment in moments:
        since = _utc(moment) - EPOCH
        seconds = since.days * 86_400 + since.seconds
        expected.append(seconds * 10**9 + int(moment[1].strip(".").ljust(9, "0")))
    assert _read(instant, [_text(moment) for moment in moments]) == expected


@given(st.lists(MOMENTS, min_size=1, max_size=30))
def test_utc_text_is_the_same_moment_with_the_fraction_of_the_source(moments):
    """The text ends in Z, keeps the digits of the fraction, and a text in UTC is not touched."""
    expected = [f"{_utc(moment).replace(tzinfo=None).isoformat()}{moment[1]}Z" for moment in moments]
    texts = [_text(moment) for moment in moments]
    assert _read(utc_text, texts) == expected
    assert all(out == text for out, text in zip(expected, texts, strict=True) if text.endswith("Z"))


@given(st.lists(st.one_of(st.none(), st.text(max_size=30)), min_size=1, max_size=20))
def test_what_breaks_its_grammar_reads_as_null(texts):
    """Junk is no moment and no money, and reading it raises nothing."""
    for reading in (instant, utc_text):
        assert _read(reading, texts) == [None] * len(texts)
    _read(cents, texts)


def test_huge_amounts_read_as_null():
    """More digits than money has are no amount; nothing overflows."""
    assert _read(cents, ["9" * 14, "9" * 40, "1.005", "1e3", "٣"]) == [None] * 5


@given(st.lists(st.from_regex(r"-?[0-9]{1,13}(\.[0-9]{1,2})?", fullmatch=True), min_size=1, max_size=30))
def test_cents_are_exact(texts):
    """Money is read as decimals, never through floating point."""
    assert _read(cents, texts) == [int(Decimal(text) * 100) for text in texts]


@given(st.lists(st.text(["a", "b", "é", ";", " ", "\n", "\u2003"]), min_size=1, max_size=20))
def test_entries_keep_the_order_in_which_they_first_stand(texts):
    """Entries are trimmed; empty and repeated ones are dropped; none at all is null."""
    expected = [
        list(dict.fromkeys(entry.strip() for entry in text.split(";") if entry.strip())) or None for text in texts
    ]
    assert _read(entries, texts) == expected


@given(
    st.lists(st.one_of(st.none(), st.text([" ", "\t", "\n", "\u00a0", "\u2003", "a", "0"], max_size=4)), max_size=20)
)
def test_blanks_become_null_and_other_text_stays_as_it_stands(texts):
    """Empty and white space only is no value; nothing else is trimmed or changed; our own columns are left alone."""
    frame = pl.DataFrame(
        {"text": texts, "_note": texts, "row": range(len(texts))},
        schema_overrides={"text": pl.String, "_note": pl.String},
    )
    expected = [text if text and text.strip() else None for text in texts]
    assert blank_to_null(frame).equals(frame.with_columns(text=pl.Series(expected, dtype=pl.String)))
