"""The registry: what a sync may name as its destination."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from etl.client import Client
from etl.destinations.base import Destination
from etl.destinations.batch import BatchEndpoint
from etl.errors import ConfigError
from etl.settings import Connection

Connect = Callable[[str, Connection, Client], Destination]

ENDPOINTS: Mapping[str, Connect] = {
    "batch_update": BatchEndpoint.connect,
    "batch_mass_update": BatchEndpoint.connect,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A destination that picks one of two endpoints: `large` from more rows on than one of its calls takes."""

    small: str
    large: str


DESTINATIONS: Mapping[str, str | Choice] = {
    "batch_update": "batch_update",
    "batch_mass_update": "batch_mass_update",
    "batch": Choice(small="batch_update", large="batch_mass_update"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """An endpoint, and the sentence that says why it was taken."""

    endpoint: Destination
    why: str


def connect(endpoint: str, connection: Connection, client: Client) -> Destination:
    """An endpoint by its own name."""
    return ENDPOINTS[endpoint](endpoint, connection, client)


def choose(destination: str, rows: int, connection: Connection, client: Client) -> Chosen:
    """The endpoint for a number of changed rows; raises ConfigError for an unknown destination."""
    entry = DESTINATIONS.get(destination)
    if entry is None:
        raise ConfigError(f"unknown destination {destination!r}; known: {', '.join(DESTINATIONS)}")
    if isinstance(entry, str):
        return Chosen(endpoint=connect(entry, connection, client), why=f"{entry} was asked for by name")
    large = connect(entry.large, connection, client)
    full_call = large.limits.rows_per_call
    if rows > full_call:
        return Chosen(
            endpoint=large, why=f"{rows:,} profiles are more than one full call of {entry.large} ({full_call:,})"
        )
    small = connect(entry.small, connection, client)
    return Chosen(
        endpoint=small, why=f"{rows:,} profiles are no more than one full call of {entry.large} takes ({full_call:,})"
    )
