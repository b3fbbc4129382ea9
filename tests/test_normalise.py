"""Normalise: what can be read in one way only is written in the contract's way; all else is left for the contract."""

from __future__ import annotations

import phonenumbers
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import contracts
from etl.normalise import normalised
from etl.syncs import Normalise

EVERYTHING = Normalise(phone_region="FR", email=True, text=True)


def _one(column: str, text: str, how: Normalise = EVERYTHING) -> str:
    frame = pl.DataFrame({column: [text]})
    return frame.with_columns(**normalised(how, frame.columns))[column].item()


@pytest.mark.parametrize(
    ("text", "number"),
    {
        "0639981234": "+33639981234",
        "06 39 98 12 34": "+33639981234",
        "06.39.98-12/34": "+33639981234",
        "00 33 6 39 98 12 34": "+33639981234",
        "+33 (0)6 39 98 12 34": "+33639981234",
        "+44 7700 900123": "+447700900123",
        "+1 (212) 555-0123": "+12125550123",
    }.items(),
)
def test_numbers_as_people_write_them_become_e164(text, number):
    """In the default region's way, or with a country code and grouped."""
    assert _one("phone", text) == number
    assert _one("phone", number) == number


@pytest.mark.parametrize(
    "text",
    [
        "063998123",
        "06399812345678",
        "0639981234 ext 5",
        "0639981234x5",
        "1-800-FLOWERS",
        "12",
        "+",
        "n/a",
        "٠٦٣٩٩٨١٢٣٤",
    ],
)
def test_what_is_no_whole_number_is_left_as_it_is(text):
    """Too short, too long, with an extension or letters: the contract refuses it, with the value that was read."""
    assert _one("phone", text) == text


def test_a_local_number_is_not_taken_for_a_whole_one():
    """Without its area code nobody knows whose it is."""
    assert _one("phone", "555-0123", Normalise(phone_region="US")) == "555-0123"


@given(st.text(alphabet="+0123456789 ().-/x\u00a0", max_size=18))
def test_whatever_becomes_of_a_number_is_one_that_the_contract_takes(text):
    """A changed number is possible E.164, says the same digits at its end, and changes no further."""
    after = _one("phone", text, Normalise(phone_region="FR"))
    if after != text:
        assert phonenumbers.is_possible_number(phonenumbers.parse(after))
        digits = "".join(filter(str.isdigit, text))
        assert digits.endswith(after[-4:])
        assert _one("phone", after) == after


@pytest.mark.parametrize(
    ("text", "address"),
    {
        "Ada.L@Example.ORG": "Ada.L@example.org",
        '"a@B"@EXAMPLE.org': '"a@B"@example.org',
        "no address": "no address",
        "ADA@": "ADA@",
    }.items(),
)
def test_the_domain_of_an_address_is_lower_cased_alone(text, address):
    """Before the @ capitals may mean something."""
    assert _one("email", text) == address


@given(st.text(min_size=1))
def test_trimming_takes_blanks_at_both_ends_only(text):
    """Just those that the contract would call blanks."""
    frame = contracts.blank_to_null(pl.DataFrame({"city": [text]}))
    after = frame.with_columns(**normalised(Normalise(text=True), ["city"]))["city"].item()
    assert after == (frame["city"].item() and text.strip(_blanks(text)))


def _blanks(text: str) -> str:
    return "".join(c for c in set(text) if pl.Series([c]).str.contains(r"^\s$").item())


def test_unless_it_is_asked_for_nothing_changes():
    """Each of the three by itself, and none by default."""
    columns = ["phone", "email", "city"]
    assert normalised(Normalise(), columns) == {}
    assert set(normalised(Normalise(phone_region="FR"), columns)) == {"phone"}
    assert set(normalised(Normalise(email=True), columns)) == {"email"}
