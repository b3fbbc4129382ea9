"""Judges: the quick patterns accept nothing that a library refuses, and the whole rule is the library's."""

import email_validator
import phonenumbers
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

from contracts import judges, rules


def _library_takes_email(text):
    try:
        email_validator.validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return False
    return True


def _library_takes_phone(text):
    digits = text[1:]
    if not (text[:1] == "+" and 2 <= len(digits) <= 15 and digits.isascii() and digits.isdigit() and digits[0] != "0"):
        return False
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text, None))
    except phonenumbers.NumberParseException:
        return False


LABELS = st.one_of(
    st.from_regex(r"[A-Za-z0-9-]{1,8}", fullmatch=True),
    st.sampled_from(["example", "xn--bcher-kva", "ab--c", "é", "x" * 63, "y" * 64, "-a", "a-", ""]),
)
ENDS = st.sampled_from(
    ["org", "com", "fr", "info", "c", "1", "a1", *email_validator.SPECIAL_USE_DOMAIN_NAMES, "TEST", "Local"]
)
ADDRESSES = st.builds(
    lambda local, labels, end: f"{local}@{'.'.join([*labels, end])}",
    st.one_of(
        st.from_regex(r"[A-Za-z0-9._!#$%&'*+/=?^`{|}~\"@ -]{0,12}", fullmatch=True),
        st.sampled_from(["ada", "x" * 64, "x" * 250, "é", '"a b"']),
    ),
    st.lists(LABELS, max_size=4),
    ENDS,
)


@given(st.lists(st.one_of(ADDRESSES, st.emails(), st.text(max_size=12)).filter(bool), min_size=1, max_size=30))
def test_addresses_are_judged_as_email_validator_does(keeps, texts):
    """The rule and the library agree on every address, plain or odd."""
    assert keeps(rules.EMAIL, texts) == [_library_takes_email(text) for text in texts]


def test_numbers_of_every_calling_code_are_judged_as_libphonenumber_does(keeps):
    """Every length of every calling code, with first digits that look like national prefixes, is the library's call."""
    starts = ["0", "00", "1", "15", "2", "3", "49", "8", "9", "90", "911"]
    texts = [
        f"+{code}{(start + '2345678901234567')[:length]}"
        for code in COUNTRY_CODE_TO_REGION_CODE
        for start in starts
        for length in range(1, 15)
    ]
    kept = dict(zip(texts, keeps(rules.PHONE, texts), strict=True))
    assert [text for text in texts if kept[text] != _library_takes_phone(text)] == []


PREFIXES = st.sampled_from([f"+{code}" for code in COUNTRY_CODE_TO_REGION_CODE])
NUMBERS = st.builds(str.__add__, PREFIXES, st.text("0123456789", max_size=13))


@given(st.lists(st.one_of(NUMBERS, st.text("+0123456789 -x\u0661", max_size=16)).filter(bool), min_size=1, max_size=50))
def test_numbers_are_judged_as_libphonenumber_does(keeps, texts):
    """The rule and the library agree on any digits, and on what is no E.164 number at all."""
    assert keeps(rules.PHONE, texts) == [_library_takes_phone(text) for text in texts]


def test_plain_values_do_not_cost_a_library_call(monkeypatch):
    """Ordinary addresses and numbers are accepted, and what has not their shape refused, without the slow libraries."""
    monkeypatch.setattr(judges, "_library_takes_email", lambda _: pytest.fail("asked"))
    monkeypatch.setattr(judges, "_library_takes_phone", lambda _: pytest.fail("asked"))
    assert all(judges._are_emails(pl.Series(["ada.l@example.org", "b+c@shop.example.com"])))
    assert all(judges._are_phones(pl.Series(["+33639980001", "+447700900123", "+12025550123", "+5511987654321"])))
    assert not any(judges._are_emails(pl.Series(["nobody", "ada.example.org"])))
    assert not any(judges._are_phones(pl.Series(["0639980001", "+33 6 39 98 00 01", "+0123456", "+1234567890123456"])))
