"""Hooks: a vendor account by its Airflow connection, for our tasks, for the button *Test*, and for people's own Dags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from etl.errors import ConfigError, EtlError
from etl.settings import Connection

if TYPE_CHECKING:
    from airflow.sdk import Connection as AirflowConnection

    from etl.destinations.base import Destination


class VendorHook(BaseHook):
    """One vendor account. A subclass names its connection type, and the endpoint that is asked to try a connection.

    What the connection's form shows stands in `etl.airflow.provider`.
    """

    conn_name_attr = "conn_id"
    default_conn_name: str
    conn_type: str
    hook_name: str
    first_endpoint: str

    def __init__(self, conn_id: str | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id or self.default_conn_name

    def get_conn(self) -> Connection:
        """The account, as every part of profile-etl sees it; raises ConfigError."""
        return connection(self.conn_id)

    @contextmanager
    def endpoint(self, name: str | None = None) -> Iterator[Destination]:
        """One endpoint of the account, the first one unless it is named, connected until the block ends.

        A call of it is exactly one request: nothing paces it, repeats it or notes it in the ledger. Raises ConfigError.
        """
        from etl.client import Client
        from etl.destinations import ENDPOINTS, connect

        name = name or self.first_endpoint
        if name not in ENDPOINTS:
            raise ConfigError(f"no endpoint named {name!r}; known: {', '.join(ENDPOINTS)}")
        account = self.get_conn()
        with Client(timeout_s=account.timeout_s) as client:
            yield connect(name, account, client)

    def test_connection(self) -> tuple[bool, str]:
        """What the button *Test* of the connection's form shows: one request that changes nothing."""
        try:
            with self.endpoint() as endpoint:
                endpoint.check()
        except EtlError as error:
            # Airflow tries a connection under a random name, which would tell nobody anything.
            return False, str(error).removeprefix(f"connection {self.conn_id}: ")
        return True, f"{self.hook_name} answers, and lets this account in"


class BatchHook(VendorHook):
    """A project at Batch."""

    conn_type = "batch"
    hook_name = "Batch"
    default_conn_name = "batch_default"
    first_endpoint = "batch_update"


class AdobeTargetHook(VendorHook):
    """A client of Adobe Target."""

    conn_type = "adobe_target"
    hook_name = "Adobe Target"
    default_conn_name = "adobe_target_default"
    first_endpoint = "adobe_target_bulk"


class RelevaHook(VendorHook):
    """An account at Releva."""

    conn_type = "releva"
    hook_name = "Releva"
    default_conn_name = "releva_default"
    first_endpoint = "releva"


def connection(conn_id: str) -> Connection:
    """The connection as Airflow has it, which masks its password in every log from here on; raises ConfigError."""
    with _missing_is_named(conn_id):
        return _ours(BaseHook.get_connection(conn_id))


async def connection_for_trigger(conn_id: str) -> Connection:
    """The same in a triggerer, whose loop nobody may block; raises ConfigError."""
    with _missing_is_named(conn_id):
        return _ours(await BaseHook.aget_connection(conn_id))


def _ours(found: AirflowConnection) -> Connection:
    names = ("conn_type", "host", "login", "password", "extra")
    return Connection.from_parts(found.conn_id, {name: getattr(found, name) for name in names})


@contextmanager
def _missing_is_named(conn_id: str) -> Iterator[None]:
    try:
        yield
    except AirflowNotFoundException:
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        raise ConfigError(f"no connection {conn_id}: add it in Airflow, or set {variable} for the workers") from None
