"""Batch: the exact bytes that are sent, and what its answers mean."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.client import Answer, Client
from etl.destinations import choose, connect
from etl.errors import ConfigError, OutcomeUnknown, Refused, Rejected, Throttled
from etl.settings import Connection
from sample_profiles import FULL, profiles_of

GOLDEN = Path(__file__).parent / "golden"
ENDPOINTS = ("batch_update", "batch_mass_update")


def _connection(**extra: object) -> Connection:
    parts = {"conn_type": "batch", "host": "https://api.example.org", "password": "rest-key"}
    return Connection.from_parts("batch_default", {**parts, "extra": {"project_key": "project_x", **extra}})


def _endpoint(name: str = "batch_update", **extra: object):
    return connect(name, _connection(**extra), Client(timeout_s=5))


SPARSE = {"customer_id": "00359881", "email": None, "phone": "+33639980002", "email_opt_in": False, "spend_30d": 0.0}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_bytes_of_a_call_are_the_golden_ones(name):
    """Every field of the spec's table, in its order; what has no value is left out; dates and URLs have typed keys."""
    endpoint = _endpoint(name)
    records = endpoint.render(profiles_of(FULL, SPARSE).lazy()).collect()["record"]
    payload = endpoint.envelope.frame([record.encode() for record in records])
    assert payload == (GOLDEN / "batch.json").read_bytes().rstrip(b"\n")
    assert json.loads(payload)[1]["attributes"] == {
        "$phone_number": "+33639980002",
        "$email_marketing": "unsubscribed",
        "spend_30d": 0.0,
    }


def test_numbers_keep_their_type():
    """A whole float keeps its point, an integer has none."""
    record = _endpoint().render(profiles_of(FULL).lazy()).collect()["record"][0]
    assert '"latitude":45.0,' in record
    assert '"orders_30d":3,' in record


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(st.lists(TEXT, min_size=1, max_size=5), TEXT, st.floats(-90, 90), st.integers(0, 2**53))
def test_any_text_survives_the_way_into_json(tags, name, latitude, orders):
    """What a JSON reader finds is what the profile held, for every character there is."""
    profile = {"tags": tags, "first_name": name, "latitude": latitude, "orders_30d": orders, "customer_id": name}
    record = _endpoint().render(profiles_of(profile).lazy()).collect()["record"][0]
    read = json.loads(record)
    assert read["identifiers"] == {"custom_id": name}
    for key in ("tags", "first_name", "latitude", "orders_30d"):
        assert read["attributes"][key] == profile[key]


def test_a_profile_that_no_call_can_hold_is_unsendable():
    """Measured in encoded bytes, with the array's brackets."""
    profiles = profiles_of({"city": "é" * 100}, {"city": "e" * 10})
    size = len(_endpoint().render(profiles.lazy()).collect()["record"][0].encode())
    fits = _endpoint(limits={"batch_update": {"bytes_per_call": size + 2}})
    assert fits.render(profiles.lazy()).collect()["reason"].to_list() == [None, None]
    small = _endpoint(limits={"batch_update": {"bytes_per_call": size + 1}})
    assert small.render(profiles.lazy()).collect()["reason"].to_list() == ["record_too_large", None]


class Scripted(Client):
    """A client that gives one answer, whatever is posted."""

    def __init__(self, status: int, body: bytes, retry_after: float | None = None) -> None:
        super().__init__(timeout_s=5)
        self._answer = Answer(status=status, body=body, retry_after=retry_after, request_id="r1", seconds=0.1)

    def post(self, url, *, body, headers):
        return self._answer


def _submit(status: int, body: object, retry_after: float | None = None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return connect("batch_update", _connection(), Scripted(status, raw, retry_after)).submit(b"[]")


def test_202_success_is_a_receipt():
    """The documented acknowledgement, and nothing to say about rows."""
    assert _submit(202, {"code": "SUCCESS"}).rows == ()


def test_partial_errors_name_rows_and_fields():
    """A refused attribute leaves the row delivered; a refused identifier does not. An index may come several times."""
    errors = [
        {"category": "attribute", "bulk_index": 1, "attribute": "city", "reason": "x"},
        {"category": "attribute", "bulk_index": 1, "attribute": "date(birthday)", "reason": "x"},
        {"category": "identifier", "bulk_index": 2, "reason": "x"},
        {"category": "attribute", "bulk_index": 3, "attribute": "ana@example.org said <b>", "reason": "x"},
    ]
    rows = _submit(202, {"code": "SUCCESS_WITH_PARTIAL_ERRORS", "errors": errors}).rows
    assert [(row.index, row.code, row.rejected) for row in rows] == [
        (1, "field_refused_city", False),
        (1, "field_refused_date(birthday)", False),
        (2, "identifier_refused", True),
        (3, "field_refused_unnamed", False),
    ]


def test_errors_count_under_either_code():
    """An error that is listed was made, whatever the code beside it says."""
    errors = [{"category": "attribute", "bulk_index": 0, "attribute": "city"}]
    assert [row.code for row in _submit(202, {"code": "SUCCESS", "errors": errors}).rows] == ["field_refused_city"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (202, b""),
        (202, b"{}"),
        (202, b"[]"),
        (202, b'{"code":"SUCC'),
        (202, {"code": "MAYBE"}),
        (202, {"code": "SUCCESS_WITH_PARTIAL_ERRORS"}),
        (202, {"code": "SUCCESS_WITH_PARTIAL_ERRORS", "errors": [{"bulk_index": "1"}]}),
        (202, {"code": "SUCCESS_WITH_PARTIAL_ERRORS", "errors": [{"bulk_index": -1}]}),
        (200, {"code": "SUCCESS"}),
        (200, b"<html>sign in</html>"),
        (503, {"error_code": "MAINTENANCE"}),
        (302, b""),
    ],
)
def test_anything_else_is_an_unknown_outcome(status, body):
    """A success status without the documented acknowledgement proves nothing."""
    with pytest.raises(OutcomeUnknown):
        _submit(status, body)


def test_errors_by_reaction():
    """What the caller has to do is the type of the error."""
    with pytest.raises(Throttled) as throttled:
        _submit(429, {}, retry_after=7)
    assert throttled.value.retry_after == 7
    with pytest.raises(Refused):
        _submit(401, {"error_code": "AUTHENTICATION_INVALID"})
    with pytest.raises(Rejected):
        _submit(400, {"error_code": "MALFORMED_REQUEST"})


def test_the_endpoint_is_chosen_by_volume():
    """Up to one full call of mass-update goes through update; a named endpoint is taken as it is."""
    client = Client(timeout_s=5)
    assert choose("batch", 10_000, _connection(), client).endpoint.name == "batch_update"
    large = choose("batch", 10_001, _connection(), client)
    assert large.endpoint.name == "batch_mass_update"
    assert "10,001" in large.why
    assert choose("batch_update", 10**6, _connection(), client).endpoint.name == "batch_update"


@pytest.mark.parametrize(
    "extra", [{"project_key": ""}, {"api_version": "2.11/../x"}, {"limits": {"batch_update": {"rows": 1}}}]
)
def test_a_connection_that_cannot_work_is_refused(extra):
    """Before anything is sent, as a matter of configuration."""
    with pytest.raises(ConfigError):
        _endpoint(**extra)


def test_no_secret_in_a_repr():
    """The key is in a header, and headers are not shown."""
    assert "rest-key" not in repr(_endpoint()) + repr(_connection())
