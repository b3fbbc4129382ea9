"""Rules: what each accepts and refuses, held against the standard library and plain Python."""

import datetime as dt
import re
import unicodedata
from decimal import Decimal
from urllib.parse import urlsplit

import pycountry
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from contracts import iso, pos, rules

TODAY = dt.datetime.now(dt.UTC).date()
WHITE_SPACE = "".join(
    c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f"
)  # as Unicode has it
NOTHING = {
    "null",
    "undefined",
    "nil",
    "none",
    "nan",
    "true",
    "false",
    "infinity",
    "-infinity",
    "(null)",
    "[object object]",
}
SMUGGLED_DIGITS = "١٢٣"  # digits to `\d`, not to the contract

ACCEPTED = {
    "CUSTOMER_ID": ["1", "x" * 128, "007", "a b", "C/1+2@3", "Zoë", "👩‍🚀", "nullable", "é" * 128],
    "EMAIL": ["ada@example.org", "a+b@sub.example.com", "_@x-y.fr", "zoë@example.org", "ada@exämple.org"],
    "PHONE": ["+33639980001", "+447700900123", "+12025550123", "+390612345678"],
    "BIRTHDAY": ["1900-01-01", "2000-02-29", str(TODAY), "1999-12-31"],
    "INSTANT": [
        "1900-01-01T00:00:00Z",
        "2999-12-31T23:59:59.123456789+23:59",
        "2024-02-29T12:00:00.5-00:00",
        "2400-02-29T00:00:00Z",
    ],
    "LANGUAGE": ["fr", "en"],
    "COUNTRY": ["FR", "GB"],
    "OPT_IN": ["true", "false"],
    "CONSENT": ["legitimateInterest", "privacyPolicy", "mandatoryCookies", "cookiesPolicy"],
    "ENTRIES": ["a", "a;b", " a ;; b ", ";", ";".join(f"t{n}" for n in range(25)), "a;" * 400, "é" * 300, "a;\nb"],
    "LATITUDE": ["0", "-0", "90", "-90.000", "48.8566", "007.5", "89.99999999999999999999"],
    "LONGITUDE": ["180", "-180.0", "179.999", "99", "0.1"],
    "URL": ["https://example.org", "HTTP://example.org:8080/a?b#c", "https://a@b/ü", "http://x/" + "y" * 2039],
    "MONEY": ["0", "-12.5", "12.50", "9999999999999.99", "-0"],
    "COUNT": ["0", "12", "9" * 18],
    "TEXT": ["x", "é" * 300, "👩‍🚀", "O'Neil \u200b", " padded "],
}
REFUSED = {
    "CUSTOMER_ID": [
        "",
        "x" * 129,
        " a",
        "a ",
        "a\u00a0",
        "a\tb",
        "a\x85b",
        "NaN",
        "None",
        "(NULL)",
        "[object Object]",
        "-Infinity",
    ],
    "EMAIL": [
        "ada",
        "ada@",
        "@example.org",
        "ada@localhost",
        "ada@x.test",
        "ada@example.org ",
        "a..b@example.org",
        "Ada <ada@example.org>",
    ],
    "PHONE": [
        "33639980001",
        "+0639980001",
        "+33 639980001",
        "+3",
        "+1234567890123456",
        "+999123456",
        "+331",
        f"+3363998{SMUGGLED_DIGITS}",
    ],
    "BIRTHDAY": [
        "1899-12-31",
        str(TODAY + dt.timedelta(2)),
        "2023-02-29",
        "1900-02-29",
        "2000-1-1",
        "01.02.2000",
        "2000-01-01\n",
        f"1999-12-{SMUGGLED_DIGITS[:2]}",
    ],
    "INSTANT": [
        "2024-01-01",
        "2024-01-01 00:00:00Z",
        "2024-01-01T00:00:00",
        "2024-01-01t00:00:00z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T23:59:60Z",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00.1234567890Z",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+0100",
        "1899-12-31T23:59:59Z",
        "3000-01-01T00:00:00Z",
        "2100-02-29T00:00:00Z",
    ],
    "LANGUAGE": ["FR", "fra", "xx"],
    "COUNTRY": ["fr", "FRA", "UK", "XX"],
    "OPT_IN": ["True", "1", "yes", " true"],
    "CONSENT": ["PrivacyPolicy", "none"],
    "ENTRIES": [";".join(f"t{n}" for n in range(26)), "x" * 301, "a;b\nc", "a;\x00"],
    "LATITUDE": ["90.1", "-91", "1e1", "+1", ".5", "5.", "4,5", "NaN", "90.00000000000000000001", SMUGGLED_DIGITS[:2]],
    "LONGITUDE": ["180.1", "181", "200", "inf"],
    "URL": [
        "example.org",
        "ftp://example.org",
        "https://",
        "https:///a",
        "https://a b",
        "https://a/\x00",
        "http://:80/",
        "http://x/" + "y" * 2040,
    ],
    "MONEY": ["1.234", "1,5", "+1", ".5", "1.", "1e3", "10000000000000", SMUGGLED_DIGITS],
    "COUNT": ["-1", "1.0", "+1", "9" * 19, SMUGGLED_DIGITS],
    "TEXT": ["x" * 301, "a\nb", "a\x9f"],
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_a_rule_is_for_keeps_it(keeps, name):
    """Values that the rule means, its limits included, are accepted."""
    assert keeps(getattr(rules, name), ACCEPTED[name]) == [True] * len(ACCEPTED[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_comes_close_breaks_the_rule(keeps, name):
    """Values just outside, and shapes that parsers elsewhere would forgive, are refused."""
    assert keeps(getattr(rules, name), REFUSED[name]) == [False] * len(REFUSED[name])


def test_only_the_currencies_of_the_contract_are_accepted(receipts):
    """The sample contract adds up euros, so no other currency gets in."""
    assert pos.CURRENCIES == ("EUR",)
    codes = contracts.check(contracts.Pos, receipts({}, {"currency": "USD"}, {"currency": "eur"})).codes
    assert codes.to_list() == [None, ["currency_invalid"], ["currency_invalid"]]


def test_the_iso_codes_are_those_of_pycountry():
    """The embedded sets are the standards' sets."""
    assert {language.alpha_2 for language in pycountry.languages if hasattr(language, "alpha_2")} == iso.LANGUAGES
    assert {country.alpha_2 for country in pycountry.countries} == iso.COUNTRIES


def _texts(*shapes):
    """Lists of texts: of the given shapes, of any characters, and of the given shapes with one character changed."""
    shaped = st.one_of(*shapes)
    changed = st.builds(
        lambda text, at, character: text[: at % (len(text) + 1)] + character + text[at % (len(text) + 1) + 1 :],
        shaped,
        st.integers(0, 60),
        st.sampled_from([*"0123456789-+.:TZtz/ @#\n\x00é\u0661", ""]),
    )
    return st.lists(st.one_of(shaped, changed, st.text(max_size=20)).filter(bool), min_size=1, max_size=30)


DATES = st.one_of(st.dates().map(str), st.from_regex(r"[0-9]{4}-[0-3][0-9]-[0-3][0-9]", fullmatch=True))


@given(_texts(DATES, st.dates(TODAY - dt.timedelta(400), TODAY).map(str)))
def test_birthdays_are_what_the_standard_library_can_read(keeps, texts):
    """A birthday is a date to `datetime` (which forgives more shapes than ours), from 1900 to today."""

    def is_birthday(text):
        try:
            day = dt.date.fromisoformat(text)
        except ValueError:
            return False
        return text == day.isoformat() and dt.date(1900, 1, 1) <= day <= TODAY

    assert keeps(rules.BIRTHDAY, texts) == [is_birthday(text) for text in texts]


INSTANTS = st.builds(
    "{:%Y-%m-%dT%H:%M:%S}{}{}".format,
    st.datetimes(dt.datetime(1890, 1, 1), dt.datetime(3010, 1, 1)),  # noqa: DTZ001 - the zone is drawn apart
    st.from_regex(r"(\.[0-9]{1,10})?", fullmatch=True),
    st.from_regex(r"Z|[+-][0-2][0-9]:[0-6][0-9]", fullmatch=True),
)
RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")


@given(_texts(INSTANTS))
def test_instants_are_what_the_standard_library_can_read(keeps, texts):
    """A date-time is RFC 3339 by its grammar and a moment to `datetime`, with an offset below 24 hours."""

    def is_instant(text):
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError:
            return False
        return bool(RFC_3339.fullmatch(text)) and 1900 <= moment.year <= 2999 and not re.search(r":[6-9][0-9]$", text)

    assert keeps(rules.INSTANT, texts) == [is_instant(text) for text in texts]


@given(_texts(st.decimals(-200, 200, places=3).map("{:f}".format), st.integers(-181, 181).map(str)))
def test_coordinates_are_plain_decimals_in_range(keeps, texts):
    """The patterns draw exactly the lines of the decimal numbers."""

    def is_within(text, limit):
        return bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)) and abs(Decimal(text)) <= limit

    assert keeps(rules.LATITUDE, texts) == [is_within(text, 90) for text in texts]
    assert keeps(rules.LONGITUDE, texts) == [is_within(text, 180) for text in texts]


@given(
    _texts(
        st.text(max_size=140),
        st.text("x", min_size=296, max_size=304),
        st.sampled_from([" x", "Nil", *sorted(NOTHING)]),
    )
)
def test_texts_and_identifiers_count_characters_and_have_no_control_character(keeps, texts):
    """Length is in characters; control characters are those of Unicode category Cc, wherever they stand."""

    def is_text(text, longest):
        return len(text) <= longest and not any(unicodedata.category(character) == "Cc" for character in text)

    def is_identifier(text):
        return is_text(text, 128) and text == text.strip() and text.casefold() not in NOTHING

    assert keeps(rules.TEXT, texts) == [is_text(text, 300) for text in texts]
    assert keeps(rules.CUSTOMER_ID, texts) == [is_identifier(text) for text in texts]


@given(
    _texts(
        st.text(["a", "b", ";", " ", "\n", "é"]),
        st.lists(st.integers(0, 30), max_size=40).map(lambda ns: ";".join(map(str, ns))),
    )
)
def test_entries_are_counted_once_trimmed(keeps, texts):
    """Empty and repeated entries do not count, blanks around an entry do not either."""

    def are_entries(text):
        entries = {entry.strip(WHITE_SPACE) for entry in text.split(";")} - {""}
        plain = all(not any(unicodedata.category(c) == "Cc" for c in entry) for entry in entries)
        return len(entries) <= 25 and max(map(len, entries), default=0) <= 300 and plain

    assert keeps(rules.ENTRIES, texts) == [are_entries(text) for text in texts]


HOSTS = st.sampled_from(
    ["example.org", "EXAMPLE.com:8080", "[::1]:80", "ada@example.org", ":80", "", "a:b@example.org"]
)


@given(
    _texts(
        st.builds(
            "{}://{}{}".format,
            st.sampled_from(["http", "https", "HTTPS", "ftp"]),
            HOSTS,
            st.sampled_from(["", "/", "/a?b", "#", "?q=é", "/a b"]),
        )
    )
)
def test_web_addresses_have_a_scheme_and_a_host_to_the_standard_library(keeps, texts):
    """What the rule accepts, `urllib` can split into http or https and a host."""
    for text in (text for text, kept in zip(texts, keeps(rules.URL, texts), strict=True) if kept):
        parts = urlsplit(text)
        assert parts.scheme in {"http", "https"}
        assert parts.hostname
