"""The rules that the exports share, each with its words for people. Spec section 3 is where they come from."""

import re
from datetime import UTC, datetime

import polars as pl

from contracts import iso, values
from contracts.declare import matches, one_of, rule
from contracts.judges import is_email, is_entries, is_phone

_IDENTIFIER = r"^[^\s\p{Cc}](?:\P{Cc}{0,126}[^\s\p{Cc}])?$"
_NOTHING = (
    *("null", "undefined", "nil", "none", "nan", "true", "false"),
    *("infinity", "-infinity", "(null)", "[object object]"),
)
"""What programs write where an identifier is absent: each would merge strangers into one profile."""
_IS_NOTHING = rf"(?i)^(?:{'|'.join(map(re.escape, _NOTHING))})$"

_HOST = r"[^\s\p{Cc}/?#@:\[\]\\]+(?::[0-9]*)?"
_URL = rf"^(?i:https?)://(?:[^\s\p{{Cc}}/?#@\[\]\\]*@)?{_HOST}(?:[/?#][^\s\p{{Cc}}]*)?$"
_URL_LENGTH = 2048


def _is_past_day(text: pl.Expr) -> pl.Expr:
    today = datetime.now(UTC).date().isoformat()
    return text.str.contains(values.DATE) & (text <= today)


CUSTOMER_ID = rule(
    "1 to 128 characters, with no control character and no blank at either end, and in whatever letter case none of: "
    + " ".join(_NOTHING),
    lambda text: text.str.contains(_IDENTIFIER) & ~text.str.contains(_IS_NOTHING),
)
EMAIL = rule("a valid e-mail address", is_email)
PHONE = rule(
    "a phone number as +, country code and number, 2 to 15 digits without blanks, of a possible length", is_phone
)
BIRTHDAY = rule("a date written YYYY-MM-DD, not before 1900 and not in the future", _is_past_day)
INSTANT = matches(
    "a date and time written YYYY-MM-DDTHH:MM:SS, with up to 9 digits of fraction if any, then Z or an offset such as +02:00, of the years 1900 to 2999",
    values.INSTANT,
)
LANGUAGE = one_of("a language code of ISO 639-1, two small letters", iso.LANGUAGES)
COUNTRY = one_of("a country code of ISO 3166-1, two capital letters", iso.COUNTRIES)
OPT_IN = one_of("true or false, in small letters", ("true", "false"))
CONSENT = one_of(
    "legitimateInterest, privacyPolicy, mandatoryCookies or cookiesPolicy",
    ("legitimateInterest", "privacyPolicy", "mandatoryCookies", "cookiesPolicy"),
)
ENTRIES = rule(
    f"at most {values.MAX_ENTRIES} entries separated by semicolons, each at most {values.MAX_TEXT} characters with no control character",
    is_entries,
)
LATITUDE = matches("a plain decimal from -90 to 90", r"^-?0*(?:[0-8]?[0-9](?:\.[0-9]+)?|90(?:\.0+)?)$")
LONGITUDE = matches(
    "a plain decimal from -180 to 180", r"^-?0*(?:(?:[0-9]?[0-9]|1[0-7][0-9])(?:\.[0-9]+)?|180(?:\.0+)?)$"
)
URL = rule(
    f"a web address with http or https and a host name, at most {_URL_LENGTH} characters, with no blank and no control character",
    lambda text: text.str.contains(_URL) & (text.str.len_chars() <= _URL_LENGTH),
)
MONEY = matches(
    "a plain decimal with at most 13 digits before the point and 2 after it; a minus marks a return", values.AMOUNT
)
COUNT = matches("a whole number from 0, at most 18 digits", r"^[0-9]{1,18}$")
TEXT = matches(f"at most {values.MAX_TEXT} characters, with no control character", values.TEXT)
