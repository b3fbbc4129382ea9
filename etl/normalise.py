"""Normalise: writes values of an export as the contract asks for them, before it judges, where a sync says so.

Nothing is guessed: a value that can be read in one way only is written in the contract's way, any other stays as it was.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import phonenumbers
import polars as pl
from phonenumbers import PhoneNumberFormat, ValidationResult

from etl.syncs import Normalise

_E164 = r"^\+[1-9][0-9]{1,14}$"
# Digits as people group them; with letters, there may be an extension, which E.164 has no place for.
_GROUPED = r"^\s*\(?\+?[0-9][0-9\s()./\p{Pd}]*$"


def normalised(how: Normalise, columns: Collection[str]) -> dict[str, pl.Expr]:
    """The columns that may change, as they are afterwards; of texts, in which a blank is null."""
    texts = {name: pl.col(name).str.strip_chars() if how.text else pl.col(name) for name in columns}
    changing = set(columns) if how.text else set()
    if how.phone_region and "phone" in columns:
        numbers = partial(_e164, region=how.phone_region)
        texts["phone"] = texts["phone"].map_batches(numbers, return_dtype=pl.String, is_elementwise=True)
        changing.add("phone")
    if how.email and "email" in columns:
        local, domain = texts["email"].str.extract(r"^(.*@)", 1), texts["email"].str.extract(r"@([^@]*)$", 1)
        texts["email"] = pl.coalesce(local + domain.str.to_lowercase(), texts["email"])
        changing.add("email")
    return {name: text for name, text in texts.items() if name in changing}


def _e164(texts: pl.Series, region: str) -> pl.Series:
    odd = texts.filter(texts.str.contains(_GROUPED) & ~texts.str.contains(_E164)).unique()
    return texts.replace(odd, pl.Series([_number(text, region) for text in odd], dtype=pl.String))


def _number(text: str, region: str) -> str:
    """A number of the region, or of another if it says so, in E.164; itself if it is not clearly a whole one."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return text
    is_whole = phonenumbers.is_possible_number_with_reason(number) == ValidationResult.IS_POSSIBLE
    # One that is a digit short is taken for whole if its prefix for calls within the country is counted.
    country = phonenumbers.region_code_for_country_code(number.country_code or 0)
    prefix = phonenumbers.ndd_prefix_for_region(country, True)
    has_prefix = bool(prefix) and phonenumbers.national_significant_number(number).startswith(str(prefix))
    return phonenumbers.format_number(number, PhoneNumberFormat.E164) if is_whole and not has_prefix else text
