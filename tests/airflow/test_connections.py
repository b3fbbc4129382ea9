"""Connection types: what Airflow's form shows, what its button *Test* says, and what a hook gives to anybody's Dag."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from typing import Any

import jsonschema
import pytest

from etl.airflow.home import connections
from etl.airflow.provider import get_provider_info
from etl.emulator.server import start
from etl.errors import ConfigError
from etl.settings import ROOT, Connection

# Airflow's own button warns of the way in which it finds a hook.
pytestmark = [
    pytest.mark.airflow,
    pytest.mark.filterwarnings("ignore:ProvidersManager.hooks is deprecated"),
]

TYPES = {"batch": "Batch", "adobe_target": "Adobe Target", "releva": "Releva"}
KEY = "a-secret-that-nobody-may-see"


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    with start() as url:
        yield url


def _parts(conn_type: str, emulator: str, **changes: Any) -> dict[str, Any]:
    """The demo's connection of a type."""
    return json.loads(connections(emulator)[f"AIRFLOW_CONN_{conn_type.upper()}_DEFAULT"]) | changes


def _try(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str]:
    """What the form's button does: the connection goes into the environment, as a URI, under a name of the moment."""
    from airflow.models.connection import Connection as Stored

    stored = Stored(conn_id="aQ7x", **parts | {"extra": json.dumps(parts.get("extra", {}))})
    monkeypatch.setenv("AIRFLOW_CONN_AQ7X", stored.get_uri())
    return stored.test_connection()


# --- the form ----------------------------------------------------------------------------------------------------------


def test_airflow_finds_the_connection_types_without_importing_a_hook() -> None:
    """The API server reads the forms from metadata; in a process of its own, so that nothing was imported before."""
    code = (
        "import sys; from airflow.providers_manager import ProvidersManager;"
        "found = {t.connection_type: t.hook_name for t in ProvidersManager().iter_connection_type_hook_ui_metadata()};"
        f"sys.exit(not ({TYPES!r}.items() <= found.items() and 'etl.airflow.hooks' not in sys.modules))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_the_metadata_is_what_airflow_asks_of_a_provider() -> None:
    """By Airflow's own schema for a connection type."""
    schema = json.loads(resources.files("airflow").joinpath("provider.yaml.schema.json").read_text())
    jsonschema.validate(get_provider_info()["connection-types"], schema["properties"]["connection-types"])


@pytest.mark.parametrize("conn_type", TYPES)
def test_a_hook_is_the_one_that_its_form_belongs_to(conn_type: str) -> None:
    """Airflow makes it with the connection's id."""
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    info = ProvidersManagerTaskRuntime().hooks[conn_type]
    assert info is not None
    assert (info.hook_name, info.connection_type, info.connection_testable) == (TYPES[conn_type], conn_type, True)


@pytest.mark.parametrize(
    ("conn_type", "labels", "extra"),
    [
        ("batch", {"host": "Address", "password": "REST API key"}, {"project_key", "api_version"}),
        (
            "adobe_target",
            {"host": "Address", "login": "Client code", "password": "Token (only if required)"},
            {"bulk_version", "id"},
        ),
        ("releva", {"host": "Address", "login": "Name of the account", "password": "Secret key"}, set()),
    ],
)
def test_a_form_asks_for_what_the_vendor_needs_in_the_vendors_words(
    conn_type: str, labels: dict[str, str], extra: set[str]
) -> None:
    """A field that is not used is not shown; the address has an example."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (form,) = [form for form in HookMetaService.hook_meta_data() if form.connection_type == conn_type]
    assert form.standard_fields is not None
    fields = {"url_schema": None} | dict(form.standard_fields)
    assert {name: field.title for name, field in fields.items() if field and not field.hidden} == labels
    assert {name for name, field in fields.items() if field and field.hidden} >= {"port", "url_schema"}
    assert fields["host"].placeholder.startswith("https://")
    assert set(form.extra_fields or {}) == extra | {"headroom", "timeout_s"}


# --- the button --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conn_type", TYPES)
def test_the_button_says_that_a_good_connection_works(
    conn_type: str, emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one request that changes nothing, at the emulator as at the vendor."""
    good, says = _try(_parts(conn_type, emulator), monkeypatch)
    assert good, says
    assert TYPES[conn_type] in says


@pytest.mark.parametrize(
    ("conn_type", "changes", "says"),
    [
        ("batch", {"password": KEY}, "HTTP 401"),
        ("batch", {"password": f"{KEY}\n"}, "header"),
        ("batch", {"extra": {"api_version": "2.11"}}, "^Batch needs"),
        ("batch", {"extra": {"project_key": "p", "headroom": 2}}, "^headroom must be"),
        ("batch", {"host": "http://127.0.0.1:9"}, "."),
        ("batch", {"host": f"https://user:{KEY}@example.org"}, "nothing secret in it"),
        ("batch", {"host": ""}, "host must look like"),
        ("adobe_target", {"login": ""}, "."),
        ("releva", {"password": KEY}, "HTTP 40[13]"),
        ("releva", {"password": ""}, "."),
    ],
)
def test_the_button_says_what_is_wrong_without_a_secret(
    conn_type: str, changes: dict[str, Any], says: str, emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence for whoever fills in the form, also where no request could be made."""
    good, said = _try(_parts(conn_type, emulator, **changes), monkeypatch)
    assert not good
    assert re.search(says, said)
    assert KEY not in said
    assert "aQ7x" not in said


# --- the hook ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conn_type", TYPES)
def test_inside_and_outside_airflow_a_connection_is_the_same(
    conn_type: str, emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variable, read by Airflow's hook and by the command line: the same account, to the last field."""
    from airflow.sdk import BaseHook

    conn_id = f"{conn_type}_default"
    for name, value in connections(emulator).items():
        monkeypatch.setenv(name, value)
    assert BaseHook.get_hook(conn_id).get_conn() == Connection.from_environment(conn_id)


def test_a_hook_gives_any_endpoint_of_its_account(emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected as long as the block lasts; the first endpoint unless one is named."""
    from etl.airflow.hooks import BatchHook

    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(_parts("batch", emulator)))
    hook = BatchHook("shop")
    with hook.endpoint() as first, hook.endpoint("batch_mass_update") as named:
        assert (first.name, named.name) == ("batch_update", "batch_mass_update")
        named.check()


@pytest.mark.parametrize("name", ["no_such", "batch"])
def test_an_endpoint_that_there_is_not_is_an_error_that_lists_them(name: str) -> None:
    """`batch` is a choice between two endpoints, not an endpoint."""
    from etl.airflow.hooks import BatchHook

    with pytest.raises(ConfigError, match="batch_update"), BatchHook().endpoint(name):
        pass


def test_a_missing_connection_is_an_error_of_configuration_that_names_its_variable() -> None:
    """A retry cannot mend it, and the message is that of the command line."""
    from etl.airflow.hooks import BatchHook

    with pytest.raises(ConfigError, match="AIRFLOW_CONN_NO_SUCH"):
        BatchHook("no_such").get_conn()


def test_the_example_of_the_documentation_runs(emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there; its task asks the vendor."""
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "airflow.md").read_text(), re.DOTALL)
    for name, value in connections(emulator).items():
        monkeypatch.setenv(name, value)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/airflow.md", "exec"), names)  # noqa: S102  (our own documentation)
    (task,) = names["before_the_night"]().tasks
    task.python_callable()
