"""What a text of an export means: the grammars, and the one way to read each of them.

Rules and transform share this module, so that whatever a contract accepts can be read. Each function gives an expression
over a text column; a text that breaks its grammar reads as null, and nothing here raises, as polars would print the
value. Patterns say `[0-9]`, never `\\d`, which in polars takes the digits of every script.
"""

import polars as pl

_DAY = (
    r"(?:(?:19|2[0-9])[0-9]{2}-"
    r"(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    r"|(?:(?:19|2[0-9])(?:0[48]|[2468][048]|[13579][26])|2[048]00)-02-29)"
)
DATE = f"^{_DAY}$"
"""A day that the calendar of the years 1900-2999 has, leap years included."""

INSTANT = (
    rf"^{_DAY}T(?:[01][0-9]|2[0-3])(?::[0-5][0-9]){{2}}(?:\.[0-9]{{1,9}})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""An RFC 3339 date-time of those years, seconds to 59, with up to nine digits of fraction."""

AMOUNT = r"^-?[0-9]{1,13}(?:\.[0-9]{1,2})?$"
"""Money. 13 digits before the point, so that the cents of 9,000 receipts still add up inside 64 bits."""

MAX_TEXT = 300
TEXT = rf"^\P{{Cc}}{{1,{MAX_TEXT}}}$"
"""Text without control characters; characters are counted, not bytes."""

MAX_ENTRIES = 25

_TO_SECONDS = 19  # characters of YYYY-MM-DDTHH:MM:SS
_OFFSET = 6  # characters of +HH:MM


def blank_to_null(frame: pl.DataFrame) -> pl.DataFrame:
    """Turn texts that are empty or white space only into null, in every column whose name has no `_` in front."""
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String and not name.startswith("_")]
    return frame.with_columns(pl.when(pl.col(name).str.contains(r"\S")).then(pl.col(name)) for name in texts)


def instant(column: str) -> pl.Expr:
    """Give the moment of an RFC 3339 text in nanoseconds since 1970: Int128, as 64 bits would end in the year 2262."""
    text = pl.col(column)
    seconds = _clock(text).dt.epoch("s") - _offset_minutes(_elsewhere(text)).fill_null(0) * 60
    digits = (
        pl.when(_is_utc(text)).then(text.str.head(-1)).otherwise(text.str.head(-_OFFSET)).str.slice(_TO_SECONDS + 1)
    )
    nanoseconds = digits.str.pad_end(9, "0").cast(pl.Int64, strict=False)
    return _where(INSTANT, column, seconds.cast(pl.Int128) * 1_000_000_000 + nanoseconds)


def utc_text(column: str) -> pl.Expr:
    """Give the same moment as RFC 3339 text in UTC with `Z`; a fraction keeps the digits it has in the source."""
    text = pl.col(column)
    elsewhere = _elsewhere(text)
    clock = _clock(elsewhere) - pl.duration(minutes=_offset_minutes(elsewhere), time_unit="us")
    fraction = elsewhere.str.slice(_TO_SECONDS).str.head(-_OFFSET)
    moved = pl.concat_str(clock.dt.to_string("%Y-%m-%dT%H:%M:%S"), fraction, pl.lit("Z"))
    return _where(INSTANT, column, pl.coalesce(moved, text))


def entries(column: str) -> pl.Expr:
    """Give the entries of a `;`-separated text, trimmed, without empty and repeated ones; null when none is left."""
    trimmed = pl.element().str.strip_chars()
    found = pl.col(column).str.split(";").list.eval(trimmed.filter(trimmed != "")).list.unique(maintain_order=True)
    return _where(r"[^;\s]", column, found)


def cents(column: str) -> pl.Expr:
    """Give a decimal amount of money as a whole number of cents, Int64."""
    return (_where(AMOUNT, column, pl.col(column)).cast(pl.Decimal(17, 2)) * 100).cast(pl.Int64)


def _where(grammar: str, column: str, reading: pl.Expr) -> pl.Expr:
    return pl.when(pl.col(column).str.contains(grammar)).then(reading)


def _is_utc(text: pl.Expr) -> pl.Expr:
    return text.str.ends_with("Z")


def _elsewhere(text: pl.Expr) -> pl.Expr:
    """Keep only the texts with an offset; they are few, and work on nulls costs next to nothing."""
    return pl.when(~_is_utc(text)).then(text)


def _clock(text: pl.Expr) -> pl.Expr:
    return text.str.head(_TO_SECONDS).str.to_datetime("%Y-%m-%dT%H:%M:%S", time_unit="us", strict=False)


def _offset_minutes(text: pl.Expr) -> pl.Expr:
    sign = pl.when(text.str.slice(-_OFFSET, 1) == "-").then(-1).otherwise(1)
    hours, minutes = text.str.slice(-_OFFSET + 1, 2), text.str.tail(2)
    return sign * (hours.cast(pl.Int64, strict=False) * 60 + minutes.cast(pl.Int64, strict=False))
