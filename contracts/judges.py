"""What no pattern can say alone: e-mail addresses, phone numbers, lists of entries.

`email-validator` and libphonenumber are the law here, and cost 12 to 18 microseconds a value. So plain values are
accepted by a pattern, what has not even the shape is refused by another, and only the rest is judged with care, each
distinct value once. Tests hold the patterns against the libraries: they may decide nothing that a library does not.
"""

import functools
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import email_validator
import phonenumbers
import polars as pl
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

from contracts import values

_ATOM = r"[A-Za-z0-9_!#$%&'*+/=?^`{|}~-]+"
_LABEL = r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"  # no two hyphens in a row, so no Punycode either
_PLAIN_EMAIL = rf"^{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+[A-Za-z]{{2,}}$"
_EMAIL_SHAPE = "@"
_PLAIN_EMAIL_LENGTH = 64  # too short for a label over DNS's 63 characters or an address over 254
_RESERVED_DOMAIN = rf"(?i)\.(?:{'|'.join(map(re.escape, email_validator.SPECIAL_USE_DOMAIN_NAMES))})$"

_E164_DIGITS = 15
_E164 = rf"^\+[1-9][0-9]{{1,{_E164_DIGITS - 1}}}$"

_PLAIN_ENTRIES = rf"^(?:[^;\p{{Cc}}]*;){{0,{values.MAX_ENTRIES - 1}}}[^;\p{{Cc}}]*$"


def is_email(text: pl.Expr) -> pl.Expr:
    """Tell which texts are addresses to `email-validator`, without deliverability."""
    return text.map_batches(_are_emails, return_dtype=pl.Boolean, is_elementwise=True)


def is_phone(text: pl.Expr) -> pl.Expr:
    """Tell which texts are E.164 numbers that libphonenumber holds possible."""
    return text.map_batches(_are_phones, return_dtype=pl.Boolean, is_elementwise=True)


def is_entries(text: pl.Expr) -> pl.Expr:
    """Tell which `;`-separated texts hold, once trimmed and without repeats, few enough entries that are short enough."""
    return text.map_batches(_are_entries, return_dtype=pl.Boolean, is_elementwise=True)


def _are_emails(texts: pl.Series) -> pl.Series:
    plain = texts.str.contains(_PLAIN_EMAIL) & (texts.str.len_bytes() <= _PLAIN_EMAIL_LENGTH)
    plain &= ~texts.str.contains(_RESERVED_DOMAIN)
    return _accept(texts, plain, _each(_library_takes_email), shape=_EMAIL_SHAPE)


def _are_phones(texts: pl.Series) -> pl.Series:
    return _accept(texts, texts.str.contains(possible_numbers()), _each(_library_takes_phone), shape=_E164)


def _are_entries(texts: pl.Series) -> pl.Series:
    plain = texts.str.contains(_PLAIN_ENTRIES) & (texts.str.len_bytes() <= values.MAX_TEXT)
    return _accept(texts, plain, _entries_fit)


def _accept(
    texts: pl.Series, plain: pl.Series, judge: Callable[[pl.Series], pl.Series], *, shape: str = ""
) -> pl.Series:
    odd = texts.filter(~plain & texts.str.contains(shape)).unique()
    return plain | texts.is_in(odd.filter(judge(odd)).implode())


def _each(judge: Callable[[str], bool]) -> Callable[[pl.Series], pl.Series]:
    return lambda texts: pl.Series([judge(text) for text in texts], dtype=pl.Boolean)


def _library_takes_email(text: str) -> bool:
    try:
        email_validator.validate_email(text, check_deliverability=False)
    except ValueError:  # EmailNotValidError is one, and so are the errors of the IDNA library below it
        return False
    return True


def _library_takes_phone(text: str) -> bool:
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text))
    except phonenumbers.NumberParseException:
        return False


def _entries_fit(texts: pl.Series) -> pl.Series:
    found = texts.to_frame("text").select(values.entries("text")).to_series()
    fit = (found.list.len() <= values.MAX_ENTRIES) & found.list.eval(pl.element().str.contains(values.TEXT)).list.all()
    return fit.fill_null(value=True)  # separators without entries: no value


@functools.cache
def possible_numbers() -> str:
    """Build the pattern of E.164 numbers that are surely possible: a calling code, then a possible count of digits.

    The count is all that libphonenumber asks for, but before it counts it may take off a national prefix or rewrite
    the number. It does so only where enough digits are left, so a possible count stays possible unless the rewriting
    inserts so many that the number grows too long; where it might, the library is asked. Reading the metadata of all
    calling codes takes 0.2 s, hence not at import.
    """
    codes_by_counts = defaultdict(list)
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        plan: Any = PhoneMetadata.metadata_for_region_or_calling_code(code, regions[0])
        inserted = len(re.sub(r"\\[0-9]", "", plan.national_prefix_transform_rule or ""))
        most = min(_E164_DIGITS - len(str(code)), max(plan.general_desc.possible_length) - inserted)
        counts = {*plan.general_desc.possible_length, *plan.general_desc.possible_length_local_only}
        codes_by_counts[tuple(sorted(count for count in counts if count <= most))].append(code)
    return r"^\+(?:" + "|".join(_numbers(codes, counts) for counts, codes in codes_by_counts.items() if counts) + ")$"


def _numbers(codes: list[int], counts: tuple[int, ...]) -> str:
    return f"(?:{'|'.join(map(str, codes))})(?:{'|'.join(f'[0-9]{{{count}}}' for count in counts)})"
