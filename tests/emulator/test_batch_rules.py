"""Batch's rules for identifiers, attributes and JSON, without a server."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.emulator.batch import LIMITS, attribute_problem, edited, identifier_problem
from etl.emulator.strict import parse


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("city", "Paris"),
        ("city", "é" * 300),
        ("a" * 30, "x"),
        ("age", 26),
        ("age", 2**63 - 1),
        ("age", -(2**63)),
        ("score", 3.99),
        ("vip", False),
        ("plan", None),
        ("date(birthday)", "1989-07-20T00:00:00Z"),
        ("date(birthday)", "2024-02-29T23:59:59.123456789Z"),
        ("date(birthday)", None),
        ("url(website)", "https://example.org"),
        ("url(website)", "https://example.org/" + "a" * 2028),
        ("interests", ["bikes"] * 25),
        ("interests", {"$add": ["bikes"]}),
        ("interests", {"$add": ["bikes"], "$remove": ["cinema"]}),
        ("$email_address", "ana@example.org"),
        ("$email_address", None),
        ("$email_marketing", "unsubscribed"),
        ("$phone_number", "+33199000001"),
        ("$sms_marketing", "subscribed"),
        ("$language", "fr"),
        ("$region", "FR"),
        ("$timezone", "Europe/Paris"),
        ("$topic_preferences", ["news"]),
    ],
)
def test_what_the_vendor_documents_is_taken(key, value):
    """Every documented type passes, at its limits too."""
    assert attribute_problem(key, value) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "x"),
        ("City", "x"),
        ("a" * 31, "x"),
        ("city\n", "x"),
        ("ville-1", "x"),
        ("$unknown", "x"),
        ("number(age)", 1),
        ("date()", "1989-07-20T00:00:00Z"),
        ("city", ""),
        ("city", " \t"),
        ("city", "x" * 301),
        ("city", "one\ntwo"),
        ("city", "one\rtwo"),
        ("age", 2**63),
        ("age", -(2**63) - 1),
        ("score", float("inf")),
        ("date(birthday)", "1989-07-20"),
        ("date(birthday)", "1989-07-20T00:00:00+02:00"),
        ("date(birthday)", "1989-07-20t00:00:00z"),
        ("date(birthday)", "2023-02-29T00:00:00Z"),
        ("date(birthday)", "2023-01-01T24:01:00Z"),
        ("date(birthday)", 0),
        ("url(website)", "example.org"),
        ("url(website)", "mailto:ana@example.org"),
        ("url(website)", "https:///path"),
        ("url(website)", "https://example.org/a b"),
        ("url(website)", "https://example.org/" + "a" * 2029),
        ("interests", []),
        ("interests", ["x"] * 26),
        ("interests", ["x", ""]),
        ("interests", ["x", 1]),
        ("interests", ["x", None]),
        ("interests", [["x"]]),
        ("interests", {}),
        ("interests", {"$set": ["x"]}),
        ("interests", {"$add": "x"}),
        ("interests", {"$add": []}),
        ("$email_address", "ana"),
        ("$email_address", "ana@exämple.org"),
        ("$email_address", "a" * 245 + "@example.org"),
        ("$email_marketing", True),
        ("$email_marketing", "yes"),
        ("$phone_number", "0199000001"),
        ("$phone_number", "+3319900000100000"),
        ("$language", "FR"),
        ("$language", "fra"),
        ("$region", "fr"),
        ("$timezone", "Paris"),
        ("$timezone", ["Europe/Paris"]),
    ],
)
def test_what_breaks_a_rule_is_named(key, value):
    """A broken attribute gets a reason."""
    assert attribute_problem(key, value)


@pytest.mark.parametrize(
    "identifiers", [{"custom_id": "crm-1"}, {"custom_id": "é" * 512}, {"installation": {"apikey": "a"}}]
)
def test_one_identifier_is_enough(identifiers):
    """A Custom ID or an installation identifies a profile."""
    assert identifier_problem(identifiers) is None


@pytest.mark.parametrize(
    "identifiers",
    [
        None,
        "crm-1",
        {},
        {"custom_id": "a", "installation": {}},
        {"custom_id": "a", "email": "b"},
        {"custom_id": ""},
        {"custom_id": "  "},
        {"custom_id": 7},
        {"custom_id": ["a"]},
        {"custom_id": "a" * 513},
        {"custom_id": "NULL"},
        {"custom_id": "[object Object]"},
        {"custom_id": "-Infinity"},
        {"installation": "abc"},
    ],
)
def test_any_other_identifier_is_refused(identifiers):
    """None, two, unknown, too long and block-listed identifiers are refused."""
    assert identifier_problem(identifiers)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[NaN]",
        b"[-Infinity]",
        b'[{"a":1,"a":2}]',
        b'["\xff"]',
        b'\xef\xbb\xbf["a"]',
        b'["\\ud800"]',
        b"[" * 100_000,
        b"[1],",
        '["a"]'.encode("utf-16"),
        b"[" + b"9" * 5_000 + b"]",
    ],
)
def test_json_is_read_strictly(body):
    """What RFC 8259 does not allow, or leaves to luck, is no JSON here."""
    with pytest.raises(ValueError, match=r"."):
        parse(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_all_valid_json_is_read_as_it_was_written(document):
    """Strictness costs no document."""
    assert parse(json.dumps(document).encode()) == document


@given(st.text(), JSON)
def test_every_attribute_is_judged(key, value):
    """No key and no value makes the rules fail."""
    assert attribute_problem(key, value) is None or attribute_problem(key, value)


words = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=5)


@given(words, words, words)
def test_edited_arrays_are_sets(held, added, removed):
    """Adding and removing again changes nothing, and what was removed is not there."""
    edit = {"$add": added, "$remove": removed}
    once = edited(held, edit)
    assert set(once or []) == (set(held) | set(added)) - set(removed)
    assert edited(once, edit) == once


def test_lengths_stand_in_one_place():
    """The limits are the vendor's documented numbers."""
    assert (LIMITS.string_length, LIMITS.url_length, LIMITS.array_items) == (300, 2_048, 25)
