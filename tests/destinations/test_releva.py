"""Releva: the exact bytes that are sent, when a subscription counts as changed, and what its answers mean."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.client import Answer, Client
from etl.destinations.releva import Releva
from etl.errors import ConfigError, OutcomeUnknown, Refused, Rejected, Throttled
from etl.settings import Connection
from sample_profiles import FULL, STRANGER, profiles_of

GOLDEN = Path(__file__).parent / "golden"


def _connection(**parts: object) -> Connection:
    defaults = {"conn_type": "releva", "host": "https://releva.example.org/", "password": "secret-key"}
    return Connection.from_parts("releva_default", defaults | parts)


def _endpoint(client: Client | None = None, **limits: object) -> Releva:
    connection = _connection(extra={"limits": {"releva": limits}})
    return Releva.connect("releva", connection, client or Client(timeout_s=5))


def _rendered(*profiles: dict[str, object]) -> pl.DataFrame:
    return _endpoint().render(profiles_of(*profiles).lazy()).collect()


def _finished(rendered: pl.DataFrame, *known: int | None) -> list[str]:
    state = pl.Series("known", known or [None] * rendered.height, dtype=pl.UInt64)
    return _endpoint().finish(rendered.with_columns(**STRANGER | {"known": state})).to_list()


def _sent(profile: dict[str, object], before: dict[str, object] | None = None) -> dict[str, object]:
    """What is sent of a profile, if `before` is what was accepted last."""
    known = None if before is None else _rendered(before)["memory"][0]
    [text] = _finished(_rendered(profile), known)
    return json.loads(text)


SPARSE = {"customer_id": "00359881", "email": None, "phone": "+33639980002"}
OPTED_OUT = {**FULL, "customer_id": "C-1003", "email": "eva@example.net", "email_opt_in": False}


def test_the_bytes_of_a_call_are_the_golden_ones():
    """Every field of the spec's table, in its order; what has no value is left out, and the custom set is whole."""
    records = _finished(_rendered(FULL, SPARSE, OPTED_OUT))
    payload = _endpoint().envelope.frame([record.encode() for record in records])
    assert payload == (GOLDEN / "releva.json").read_bytes().rstrip(b"\n")
    assert json.loads(payload)["profiles"][1] == {
        "profile": {
            "phoneNumber": "+33639980002",
            "custom": {"string": [{"key": "customerId", "values": ["00359881"]}]},
        },
        "subscribedAtChanged": False,
    }


def test_a_profile_is_known_by_its_e_mail_address_else_by_its_phone():
    """The key under which an account's state keeps it."""
    assert _rendered(FULL, SPARSE)["key"].to_list() == ["ana@example.org", "+33639980002"]


def test_an_opt_out_has_no_subscription_left():
    """Neither a moment nor a list: they are cleared, also where the export names none."""
    for subscriptions in (["weekly"], None):
        profile = _sent({**FULL, "email_opt_in": False, "subscriptions": subscriptions})["profile"]
        assert "subscribedAt" not in profile
        assert profile["subscriptions"] == []


@pytest.mark.parametrize("opt_in", [True, None])
def test_a_blank_list_of_subscriptions_clears_nothing(opt_in):
    """It is left out: only an empty list clears, and only an opt-out sends one."""
    profile = _sent({**FULL, "email_opt_in": opt_in, "subscriptions": None})["profile"]
    assert "subscriptions" not in profile
    assert profile["subscribedAt"] == FULL["subscribed_at"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(st.lists(TEXT, min_size=1, max_size=5), TEXT, st.floats(-90, 90), st.floats(-180, 180))
def test_any_text_survives_the_way_into_json(texts, name, latitude, longitude):
    """What a JSON reader finds is what the profile held, for every character there is."""
    fields = {"email": name, "first_name": name, "customer_id": name, "city": name, "last_store": name}
    lists = {"tags": texts, "subscriptions": texts, "latitude": latitude, "longitude": longitude}
    profile = _sent(fields | lists)["profile"]
    assert {profile["email"], profile["firstName"]} == {name}
    assert profile["custom"]["string"] == [
        {"key": key, "values": [name]} for key in ("customerId", "city", "lastStore")
    ]
    assert profile["addTags"] == profile["subscriptions"] == texts
    assert profile["location"] == {"lat": latitude, "lon": longitude}


@given(st.integers(-(10**13), 10**13), st.integers(0, 10**6))
def test_custom_numbers_are_texts(cents, orders):
    """An amount has two decimals, a count none."""
    profile = _sent({"spend_30d": cents / 100, "orders_30d": orders})["profile"]
    values = {entry["key"]: entry["values"] for entry in profile["custom"]["string"]}
    assert values == {"customerId": ["C0"], "orders30d": [str(orders)], "spend30d": [f"{cents / 100:.2f}"]}


@given(st.lists(TEXT, min_size=1, max_size=3), st.none() | st.lists(TEXT, min_size=1, max_size=3))
def test_tags_that_are_gone_are_named_in_the_profile(gone, tags):
    """They are no part of the record, and whatever text they are, nothing else of it changes."""
    rendered = _endpoint().render(profiles_of({"tags": tags}).lazy(), ["tags"]).collect()
    assert rendered["tags"].to_list() == [tags or []]
    none, some = (
        json.loads(_endpoint().finish(rendered.with_columns(**STRANGER | {"gone": pl.Series([names])})).item())
        for names in (pl.Series([], dtype=pl.String), gone)
    )
    assert some == {**none, "profile": {**none["profile"], "removeTags": gone}}
    assert none["profile"].get("addTags") == tags


def test_half_a_location_is_none():
    """Both coordinates or neither."""
    assert "location" not in _sent({"latitude": 45.0})["profile"]


subscriptions = st.fixed_dictionaries(
    {
        "subscribed_at": st.sampled_from([None, "2026-11-20T09:30:00Z", "2026-11-21T09:30:00Z"]),
        "email_opt_in": st.sampled_from([None, True, False]),
    }
)


@given(st.none() | subscriptions, subscriptions, TEXT)
def test_a_subscription_has_changed_when_it_is_not_what_was_accepted(before, now, city):
    """At the first delivery: when there is one. No other field matters, whatever text it holds."""
    expected = before != now if before is not None else bool(now["subscribed_at"]) and now["email_opt_in"] is not False
    other = {"city": f'"subscribedAt":"{city}', "tags": ["subscribedAt", ":"]}
    assert _sent({**now, **other}, before)["subscribedAtChanged"] is expected


def test_a_changed_subscription_is_no_change_of_the_record():
    """The fingerprint is of the record, so that what was accepted once is unchanged from then on."""
    rendered = _rendered(FULL, FULL)
    texts = _finished(rendered, None, rendered["memory"][1])
    assert rendered["record"][0] == rendered["record"][1].replace("c1@", "c0@")
    assert [json.loads(text)["subscribedAtChanged"] for text in texts] == [True, False]


@pytest.mark.parametrize(
    ("profile", "expected"),
    [(FULL, 11101437469354125407), ({"email_opt_in": False}, 2104059068676702264), ({}, 15186167997665148113)],
    ids=["subscribed", "opted out", "nothing known"],
)
def test_the_memory_of_a_subscription_is_the_same_on_every_machine(profile, expected):
    """State files outlive versions and machines, and another number would be another subscription."""
    assert _rendered(profile)["memory"].to_list() == [expected]


def test_a_profile_that_no_call_can_hold_is_unsendable():
    """Measured in encoded bytes as they are sent, with the longer word of the two and what stands around a call."""
    profiles = profiles_of({"city": "é" * 100}, {"city": "e" * 10})
    [finished, _] = _finished(_endpoint().render(profiles.lazy()).collect())
    size = len(_endpoint().envelope.frame([finished.encode()]))
    assert finished.endswith("false}")
    fits = _endpoint(bytes_per_call=size)
    assert fits.render(profiles.lazy()).collect()["reason"].to_list() == [None, None]
    small = _endpoint(bytes_per_call=size - 1)
    assert small.render(profiles.lazy()).collect()["reason"].to_list() == ["record_too_large", None]


class Scripted(Client):
    """A client that gives one answer, and keeps what was posted."""

    def __init__(self, status: int, body: bytes = b"", retry_after: float | None = None) -> None:
        super().__init__(timeout_s=5)
        self._answer = Answer(status=status, body=body, retry_after=retry_after, request_id="r1", seconds=0.1)
        self.posted: list[tuple[str, bytes, dict[str, str]]] = []

    def post(self, url, *, body, headers):
        self.posted.append((url, body, dict(headers)))
        return self._answer


@pytest.mark.parametrize("body", [b"{}", b" { }\r\n", b"\xef\xbb\xbf{}", b"", b"\n"])
def test_202_with_nothing_to_say_is_a_receipt(body):
    """The page calls `{}` an empty body, so that an empty one is as good."""
    client = Scripted(202, body)
    receipt = _endpoint(client).submit(b'{"profiles":[]}')
    assert (receipt.request_id, receipt.rows, receipt.job) == ("r1", (), None)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer secret-key"}
    assert client.posted == [("https://releva.example.org/api/v0/profiles", b'{"profiles":[]}', headers)]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (202, b'{"message":"queued"}'),
        (202, b"[]"),
        (202, b"{"),
        (202, b"null"),
        (202, b"\xff\xfe\xff"),
        (202, b"[" * 100_000),
        (202, b"<html>sign in</html>"),
        (200, b"{}"),
        (204, b""),
    ],
)
def test_any_other_success_is_an_unknown_outcome(status, body):
    """A success status without the documented acknowledgement proves nothing."""
    with pytest.raises(OutcomeUnknown) as unknown:
        _endpoint(Scripted(status, body)).submit(b"")
    assert (unknown.value.code, unknown.value.status) == ("no_acknowledgement", status)


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, Rejected), (413, Rejected), (422, Rejected), (401, Refused), (403, Refused), (404, Refused),
     (429, Throttled), (500, OutcomeUnknown), (503, OutcomeUnknown), (302, OutcomeUnknown)],
)  # fmt: skip
def test_errors_by_reaction(status, error):
    """What the caller has to do is the type of the error; nothing of the vendor's message is repeated."""
    with pytest.raises(error) as raised:
        _endpoint(Scripted(status, b'{"message":"ana@example.org is wrong"}', retry_after=7)).submit(b"")
    assert raised.value.retry_after == 7
    assert "example.org" not in str(raised.value)


@pytest.mark.parametrize("status", [200, 202, 400, 422])
def test_an_account_is_let_in_when_its_request_is_read(status):
    """A call without profiles may be taken or refused: either way the key was good, and nobody was changed."""
    client = Scripted(status)
    _endpoint(client).check()
    assert [json.loads(body) for _, body, _ in client.posted] == [{"profiles": []}]


@pytest.mark.parametrize(("status", "error"), [(401, Refused), (403, Refused), (404, Refused), (503, OutcomeUnknown)])
def test_an_account_is_not_let_in(status, error):
    """Key, permission and address, or a vendor that is not there."""
    with pytest.raises(error):
        _endpoint(Scripted(status)).check()


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({"password": ""}, "password"),
        ({"conn_type": "http"}, "conn_type"),
        ({"extra": {"limits": {"releva": {"rows": 1}}}}, "rows"),
    ],
)
def test_a_connection_that_cannot_work_is_refused(broken, named):
    """Before anything is sent, with the name of what is missing."""
    with pytest.raises(ConfigError, match=named):
        Releva.connect("releva", _connection(**broken), Client(timeout_s=5))


def test_no_secret_in_a_repr():
    """The key is in a header, and headers are not shown."""
    assert "secret-key" not in repr(_endpoint()) + repr(_connection())
