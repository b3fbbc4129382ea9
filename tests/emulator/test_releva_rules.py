"""Releva's rules of a profile, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.emulator.releva import entry_problem, key_of, upserted


def entry(**profile):
    return {"profile": {"email": "ana@example.org", **profile}, "subscribedAtChanged": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phoneNumber", "+33199000001"),
        ("firstName", "Ana"),
        ("lastName", ""),
        ("registeredAt", "2019-08-18T05:48:42.419Z"),
        ("subscribedAt", "2019-08-18T05:48:42+02:00"),
        ("birthday", "1988-02-29"),
        ("consent", "legitimateInterest"),
        ("consent", "cookiesPolicy"),
        ("unsubscribeLink", "http://example.org/unsubscribe"),
        ("location", {"lat": 39.9352959, "lon": -23}),
        ("addTags", ["available"]),
        ("removeTags", []),
        ("subscriptions", ["weekly", "promo"]),
        ("subscriptions", []),
        ("subscriptions", None),
        ("custom", {"string": [{"key": "gender", "values": ["M"]}, {"key": "age", "values": ["30-40"]}]}),
        ("custom", {}),
    ],
)
def test_what_the_vendor_documents_is_taken(name, value):
    """Every field of the page."""
    assert entry_problem(entry(**{name: value})) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("email", ""),
        ("email", "ana"),
        ("email", "ana@example.org "),
        ("email", None),
        ("phoneNumber", "33199000001"),
        ("phoneNumber", "+33 1 99"),
        ("phoneNumber", "+٣٣١٩٩"),
        ("firstName", 7),
        ("lastName", None),
        ("registeredAt", "2019-08-18"),
        ("registeredAt", "2019-02-30T00:00:00Z"),
        ("subscribedAt", "2019-08-18T05:48:42"),
        ("birthday", "1986-01-17T00:00:00Z"),
        ("birthday", "1986-13-17"),
        ("birthday", "17/01/1986"),
        ("consent", "LegitimateInterest"),
        ("consent", ""),
        ("location", {"lat": 39.9}),
        ("location", {"lat": "39.9", "lon": 1}),
        ("location", {"lat": 91, "lon": 1}),
        ("location", {"lat": True, "lon": 1}),
        ("addTags", "available"),
        ("addTags", [""]),
        ("removeTags", [1]),
        ("subscriptions", "weekly"),
        ("custom", {"numeric": []}),
        ("custom", {"string": {}}),
        ("custom", {"string": [{"key": "gender"}]}),
        ("custom", {"string": [{"key": "gender", "values": "M"}]}),
        ("custom", {"string": [{"key": "a", "values": ["1"]}, {"key": "a", "values": ["2"]}]}),
        ("subscribedAtChanged", True),
        ("id", "crm-1"),
        ("Email", "ana@example.org"),
    ],
)
def test_anything_else_is_refused(name, value):
    """Wrong types and shapes, dates that are none, fields that are not on the page."""
    assert entry_problem(entry(**{name: value}))


@pytest.mark.parametrize(
    "given",
    [
        [],
        {},
        {"profile": {"email": "ana@example.org"}},
        {"profile": {"email": "ana@example.org"}, "subscribedAtChanged": None},
        {"profile": {"email": "ana@example.org"}, "subscribedAtChanged": 1},
        {"profile": {"email": "ana@example.org"}, "subscribedAtChanged": True, "more": 1},
        {"profile": [], "subscribedAtChanged": True},
        {"profile": {}, "subscribedAtChanged": True},
        {"profile": {"firstName": "Ana"}, "subscribedAtChanged": True},
        {"profile": {"email": "a@example.org", "addTags": ["x"], "removeTags": ["x"]}, "subscribedAtChanged": True},
    ],
)
def test_an_entry_is_a_profile_and_whether_its_subscription_changed(given):
    """Side by side, both required; the profile with an address; no tag both added and removed."""
    assert entry_problem(given)


def test_a_profile_is_known_by_its_email_else_its_phone():
    """Whatever else it says."""
    assert key_of(entry(phoneNumber="+33199000001")) == "ana@example.org"
    assert key_of({"profile": {"phoneNumber": "+33199000001"}}) == "+33199000001"


lists = st.lists(st.sampled_from("abcd"), unique=True)


@given(lists, lists, lists)
def test_tags_are_sets(held, added, removed):
    """Added once, removed if there, and sending the same again changes nothing."""
    profile = {"addTags": [tag for tag in added if tag not in removed], "removeTags": removed}
    once = upserted({"tags": held}, profile)
    assert set(once["tags"]) == (set(held) | set(added)) - set(removed)
    assert len(once["tags"]) == len(set(once["tags"]))
    assert upserted(once, profile) == once


def test_an_upsert_replaces_what_it_carries_and_leaves_the_rest():
    """`custom` and `subscriptions` as a whole; null subscriptions have no effect, an empty list clears."""
    held = {"firstName": "Ana", "subscriptions": ["a"], "custom": {"string": [{"key": "k", "values": ["1"]}]}}
    assert upserted(held, {}) == held
    assert upserted(held, {"subscriptions": None}) == held
    assert upserted(held, {"subscriptions": [], "lastName": "Li"}) == {**held, "subscriptions": [], "lastName": "Li"}
    assert upserted(held, {"custom": {"string": []}})["custom"] == {"string": []}
