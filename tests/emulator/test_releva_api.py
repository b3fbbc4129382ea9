"""Releva's endpoint over loopback."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from etl.emulator.releva import DEMO_SECRET_KEY

ROUTE = "/api/v0/profiles"


def entry(email: str = "ana@example.org", *, changed: bool = False, **profile):
    return {"profile": {"email": email, **profile}, "subscribedAtChanged": changed}


@pytest.fixture
def post(emulator):
    """Posts profiles, or any body, with the key of the demo."""

    def send(body: Any, **headers: str) -> requests.Response:
        text = body if isinstance(body, bytes) else json.dumps({"profiles": body}).encode()
        known = {"Authorization": f"Bearer {DEMO_SECRET_KEY}", "Content_Type": "application/json"}
        return emulator.send("POST", ROUTE, text, **{**known, **headers})

    return send


def test_good_profiles_are_taken(emulator, post):
    """202 with an empty object; profiles are kept by e-mail, else by phone, and backfill events are counted."""
    phone = {"profile": {"phoneNumber": "+33199000001", "subscriptions": []}, "subscribedAtChanged": False}
    response = post([entry(firstName="Ana", addTags=["a"], changed=True), phone])
    assert (response.status_code, response.content) == (202, b"{}")
    assert emulator.held("releva") == {
        "ana@example.org": {"email": "ana@example.org", "firstName": "Ana", "tags": ["a"]},
        "+33199000001": {"phoneNumber": "+33199000001", "subscriptions": []},
    }
    meter = emulator.meter(ROUTE, "default")
    assert (meter["rows_applied"], meter["backfill_events"], meter["subscription_changes"]) == (2, 2, 1)


def test_a_profile_that_comes_again_is_updated(emulator, post):
    """And each change of its subscription is counted."""
    post([entry(firstName="Ana", changed=True)])
    emulator.clock.now += 5
    post([entry(lastName="Li", changed=True), entry(lastName="Lee")])
    profile = emulator.get("/_control/profiles/ana@example.org?vendor=releva")
    assert profile["attributes"] == {"email": "ana@example.org", "firstName": "Ana", "lastName": "Lee"}
    assert (profile["updates"], profile["subscription_changes"]) == (3, 2)
    assert profile["updated"] - profile["created"] == 5


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ([], {}),
        (b"{", {}),
        (b"[]", {}),
        (b'{"profiles":{}}', {}),
        (b'{"profiles":[{"profile":{"email":"a@example.org"},"subscribedAtChanged":true,}]}', {}),
        (b'{"profiles":[],"more":1}', {}),
        ([entry(), entry("b@example.org", consent="no")], {}),
        ([entry()], {"Content_Type": "text/plain"}),
        ([entry()], {"Content_Encoding": "gzip"}),
    ],
)
def test_one_bad_profile_refuses_the_call(emulator, post, body, headers):
    """400 with a message that quotes no value; nothing is kept."""
    response = post(body, **headers)
    assert response.status_code == 400
    assert list(response.json()) == ["message"]
    assert "example" not in response.text
    assert emulator.held("releva") == {}


@pytest.mark.parametrize("key", ["", DEMO_SECRET_KEY, "Bearer other"])
def test_the_key_must_be_right(emulator, post, key):
    """401, and nothing is metered."""
    response = post([entry()], Authorization=key)
    assert (response.status_code, list(response.json())) == (401, ["message"])
    assert emulator.meter(ROUTE, "default")["calls"] == 0


def test_too_much_is_413(post):
    """100 profiles and 1,000,000 bytes are allowed."""
    assert post([entry(f"a{n}@example.org") for n in range(100)]).status_code == 202
    assert post([entry(f"a{n}@example.org") for n in range(101)]).status_code == 413
    room = 1_000_000 - len(json.dumps({"profiles": [entry(firstName="")]}))
    assert post([entry(firstName="x" * room)]).status_code == 202
    assert post([entry(firstName="x" * (room + 1))]).status_code == 413


def test_sixty_calls_a_minute_and_no_more(emulator, post):
    """The 61st is 429; refused calls do not count."""
    statuses = [post([entry()]).status_code for _ in range(61)]
    assert statuses == [202] * 60 + [429]
    emulator.clock.now += 60
    assert post([entry()]).status_code == 202
    assert emulator.meter(ROUTE, "default")["most_calls_in_a_minute"] == 60


@pytest.mark.parametrize(("method", "path"), [("GET", ROUTE), ("POST", "/api/v0/register"), ("POST", f"{ROUTE}/")])
def test_another_route_is_404(emulator, method, path):
    """In Releva's words."""
    response = emulator.send(method, path)
    assert (response.status_code, list(response.json())) == (404, ["message"])


def test_a_call_with_a_poisoned_profile_can_be_refused_whole(emulator, post):
    """By e-mail or phone number."""
    emulator.faults({"refuse_call_with": ["b@example.org", "+33199000009"]})
    calls = [[entry(), entry("b@example.org")], [entry(phoneNumber="+33199000009")], [entry()]]
    assert [post(call).status_code for call in calls] == [400, 400, 202]


def test_a_status_by_fault_comes_in_relevas_words(emulator, post):
    """And the vendor does not see the call."""
    emulator.faults({"status": 500})
    response = post([entry()])
    assert (response.status_code, list(response.json())) == (500, ["message"])
    assert emulator.held("releva") == {}
