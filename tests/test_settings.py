"""Settings and connections: what cannot be used is said by the name of its variable, and a secret is never said."""

from __future__ import annotations

import copy
import json
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.client import Client
from etl.destinations import connect
from etl.errors import ConfigError
from etl.settings import ROOT, Connection, Secret, Settings, is_loopback

KEY = "rest-key-that-nobody-may-see"
VARIABLE = "AIRFLOW_CONN_BATCH_DEFAULT"


def _parts(**changes):
    parts = {"conn_type": "batch", "host": "https://api.batch.com", "password": KEY, "extra": {"project_key": "p-1"}}
    return parts | changes


def _connection(**changes) -> Connection:
    return Connection.from_environment("batch_default", {VARIABLE: json.dumps(_parts(**changes))})


def _refusal(**changes) -> str:
    with pytest.raises(ConfigError) as caught:
        _connection(**changes)
    shown = "".join(traceback.format_exception(caught.value))
    assert KEY not in shown
    assert VARIABLE in str(caught.value)
    return str(caught.value)


# --- places ------------------------------------------------------------------------------------------------------------


def test_places_have_defaults_beside_the_code():
    """Relative paths mean the folder that holds `etl/`, wherever the command is started."""
    for environment in ({}, {"PROFILE_ETL_LANDING": "", "PROFILE_ETL_WORK": "", "PROFILE_ETL_LEDGER": ""}):
        settings = Settings.from_environment(environment)
        assert settings.landing == str(ROOT / "data" / "landing")
        assert settings.work == str(ROOT / "data" / "work")
        assert settings.ledger == f"sqlite:///{ROOT}/data/work/ledger.db"


def test_places_are_taken_from_the_environment():
    """Paths become absolute; URLs stay as they are, but for a slash at the end."""
    settings = Settings.from_environment(
        {
            "PROFILE_ETL_LANDING": "s3://exports/daily/",
            "PROFILE_ETL_WORK": "/srv/../srv/work/",
            "PROFILE_ETL_LEDGER": "x",
        }
    )
    assert (settings.landing, settings.work, settings.ledger) == ("s3://exports/daily", "/srv/work", "x")


def test_a_file_url_is_a_path():
    """Private files are private on every local disk, however its place is written."""
    assert Settings.from_environment({"PROFILE_ETL_WORK": "file:///srv/work"}).work == "/srv/work"


def test_a_shared_work_place_needs_a_shared_ledger():
    """Several machines cannot meet in a file of one of them."""
    with pytest.raises(ConfigError, match="PROFILE_ETL_LEDGER"):
        Settings.from_environment({"PROFILE_ETL_WORK": "s3://bucket/work"})
    ledger = "postgresql+psycopg://db.example.org/ledger"
    environment = {"PROFILE_ETL_WORK": "s3://bucket/work", "PROFILE_ETL_LEDGER": ledger}
    assert Settings.from_environment(environment).ledger == ledger


# --- connections -------------------------------------------------------------------------------------------------------


def test_a_connection_has_airflows_json_form():
    """`extra` may be an object, or its JSON text, as Airflow's own page stores it."""
    extra = {"project_key": "p-1", "headroom": 0.25, "timeout_s": 5}
    for given_extra in (extra, json.dumps(extra)):
        connection = _connection(extra=given_extra)
        assert (connection.headroom, connection.timeout_s) == (0.25, 5.0)
        assert connection.password.reveal() == KEY
    assert (_connection().headroom, _connection().timeout_s) == (0.1, 60.0)


def test_a_missing_connection_names_its_variable():
    """So that nobody has to guess what to set."""
    for environment in ({}, {VARIABLE: ""}):
        with pytest.raises(ConfigError, match=VARIABLE):
            Connection.from_environment("batch_default", environment)


@pytest.mark.parametrize("text", ["{", "[]", "null", '"text"', f'{{"password": "{KEY}"'])
def test_a_connection_that_is_no_json_object_names_its_variable(text):
    """And does not repeat what stands in it."""
    with pytest.raises(ConfigError, match=VARIABLE) as caught:
        Connection.from_environment("batch_default", {VARIABLE: text})
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "host",
    [
        "http://api.batch.com", "http://127.0.0.1.example.org", "http://10.0.0.1", "http://0.0.0.0", "http://[::2]",
        "http://localhost.example.org", "ftp://127.0.0.1", "api.batch.com", "", "https://", "https://[::1", "https://a:b",
        f"https://user:{KEY}@api.batch.com", f"https://{KEY}@api.batch.com", f"https://api.batch.com?key={KEY}",
        f"https://api.batch.com#{KEY}", "https://api.batch.com:0", "http:/127.0.0.1", "//127.0.0.1",
    ],
)  # fmt: skip
def test_an_address_that_others_could_read_is_refused(host):
    """Only https leaves this machine, and nothing secret stands in an address."""
    _refusal(host=host)


@pytest.mark.parametrize("host", ["http://127.0.0.1:8099", "http://localhost:1", "http://[::1]:80", "http://127.9.9.9"])
def test_plain_http_is_for_this_machine_only(host):
    """The emulator's address."""
    assert _connection(host=host).host == host


@given(st.ip_addresses())
def test_loopback_is_what_the_address_says(address):
    """Of all addresses, only those that never leave the machine; no name but localhost is asked for."""
    assert is_loopback(str(address)) == address.is_loopback


@pytest.mark.parametrize(
    "extra",
    [
        {"headroom": 1}, {"headroom": -0.1}, {"headroom": "0.1"}, {"headroom": True}, {"headroom": float("nan")},
        {"timeout_s": 0}, {"timeout_s": 1e9}, {"timeout_s": [60]}, {"limits": []}, {"limits": {"batch_update": 200}},
        {"limits": {"batch_update": None}}, "{", "[]", "7", ["a"],
    ],
)  # fmt: skip
def test_extra_settings_are_checked_at_once(extra):
    """Not when the first call is under way."""
    _refusal(extra=extra)


@pytest.mark.parametrize("empty", [None, ""])
def test_an_extra_setting_that_is_empty_is_as_if_it_were_not_there(empty):
    """Airflow's form stores null for a field that nobody filled in; the account's name must not depend on that."""
    names = ("project_key", "api_version", "bulk_version", "id", "headroom", "timeout_s", "polling", "limits")
    bare = Connection.from_parts("c", _parts(extra=None))
    for extra in (dict.fromkeys(names, empty), json.dumps(dict.fromkeys(names, empty))):
        stored = Connection.from_parts("c", _parts(extra=extra))
        assert stored == bare
        assert (stored.headroom, stored.timeout_s, stored.polling) == (bare.headroom, bare.timeout_s, bare.polling)
        assert stored.account == bare.account


@pytest.mark.parametrize("part", ["host", "login", "project_key", "conn_type"])
def test_another_account_has_another_name(part):
    """State, leases and rates of the emulator and a real account never mix; the key may change."""
    changes = {part: "https://other.example.org"} if part != "project_key" else {"extra": {"project_key": "p-2"}}
    assert _connection(**changes).account != _connection().account
    assert _connection(password="another").account == _connection().account
    assert _connection(host="https://API.batch.com/").account == _connection().account


# --- secrets -----------------------------------------------------------------------------------------------------------


def test_a_secret_is_never_shown():
    """Not by any way in which Python or a logger turns a value into text."""
    secret = Secret(KEY)
    shown = [
        repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s %r" % (secret, secret), "{}".format(secret),  # noqa: UP031, UP032
        repr([secret]), repr({"password": secret}), repr(copy.deepcopy(secret)), str(vars(type(secret)).get("x")),
    ]  # fmt: skip
    assert not [text for text in shown if KEY in text]
    with pytest.raises(TypeError):
        json.dumps({"password": secret})


def test_secrets_are_equal_by_their_text():
    """A connection that is read twice is the same connection."""
    assert Secret(KEY) == Secret(KEY)
    assert Secret(KEY) != Secret("other")
    assert hash(Secret(KEY)) == hash(Secret(KEY))
    assert (bool(Secret(KEY)), bool(Secret(""))) == (True, False)


def test_settings_do_not_show_the_password_of_the_ledger():
    """They stand in the repr of every run."""
    assert KEY not in repr(
        Settings(landing="/in", work="/out", ledger=f"postgresql+psycopg://etl:{KEY}@db.example.org/x")
    )


def test_what_holds_a_secret_does_not_show_it():
    """Connections, endpoints, and the errors that are raised while one is made."""
    connection = _connection(extra={"project_key": "p-1", "token": KEY})
    with Client() as client:
        endpoint = connect("batch_update", connection, client)
        assert KEY in endpoint.headers["Authorization"]
        assert KEY not in f"{connection} {connection!r} {endpoint} {endpoint!r}"
        for changes in ({"extra": {}}, {"conn_type": "x"}, {"extra": {"project_key": "p", "api_version": KEY}}):
            with pytest.raises(ConfigError) as caught:
                connect("batch_update", _connection(**changes), client)
            assert KEY not in "".join(traceback.format_exception(caught.value))
