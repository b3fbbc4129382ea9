"""The registry: what a sync may name as its destination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from etl.client import Client
from etl.destinations.adobe_target import AdobeBulk, AdobeSingle
from etl.destinations.base import Destination
from etl.destinations.batch import BatchEndpoint
from etl.destinations.releva import Releva
from etl.errors import ConfigError
from etl.settings import Connection

Connect = Callable[[str, Connection, Client, Sequence[str]], Destination]

ENDPOINTS: Mapping[str, Connect] = {
    "batch_update": BatchEndpoint.connect,
    "batch_mass_update": BatchEndpoint.connect,
    "adobe_target_single": AdobeSingle.connect,
    "adobe_target_bulk": AdobeBulk.connect,
    "releva": Releva.connect,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A destination that picks one of two endpoints of the same records.

    `small` is for no more rows than its limit `rows_by_choice` says, or else than one call of `large` takes; with
    `only_confirmed`, for profiles only that `large` has confirmed not long ago.
    """

    small: str
    large: str
    only_confirmed: bool = False


# Each endpoint by its own name, and the two that choose.
DESTINATIONS: Mapping[str, str | Choice] = {
    **{endpoint: endpoint for endpoint in ENDPOINTS},
    "batch": Choice(small="batch_update", large="batch_mass_update"),
    "adobe_target": Choice(small="adobe_target_single", large="adobe_target_bulk", only_confirmed=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """An endpoint, and the sentence that says why it was taken."""

    endpoint: Destination
    why: str


def connect(endpoint: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> Destination:
    """An endpoint by its own name; `own` are further text columns of the profiles that it renders."""
    return ENDPOINTS[endpoint](endpoint, connection, client, own)


def connect_all(destination: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> list[Destination]:
    """Every endpoint that a destination may use, the one that renders its records first.

    Raises ConfigError for an unknown destination, and for a connection that does not fit it.
    """
    entry = DESTINATIONS.get(destination)
    if entry is None:
        raise ConfigError(f"unknown destination {destination!r}; known: {', '.join(DESTINATIONS)}")
    if strange := sorted(set(connection.extra.get("limits", {})) - set(ENDPOINTS)):
        raise ConfigError(f"connection {connection.id}: extra.limits names no endpoint: {', '.join(strange)}")
    names = [entry] if isinstance(entry, str) else [entry.large, entry.small]
    return [connect(name, connection, client, own) for name in names]


def choose(
    destination: str,
    rows: int,
    connection: Connection,
    client: Client,
    *,
    unconfirmed: int = 0,
    own: Sequence[str] = (),
) -> Chosen:
    """The endpoint for a number of changed rows, `unconfirmed` of which the large endpoint has not confirmed lately."""
    endpoints = connect_all(destination, connection, client, own)
    entry = DESTINATIONS[destination]
    if isinstance(entry, str):
        return Chosen(endpoint=endpoints[0], why=f"{entry} is the destination")
    large, small = endpoints
    if entry.only_confirmed and unconfirmed:
        return Chosen(
            endpoint=large,
            why=f"{unconfirmed:,} of {rows:,} profiles were not confirmed by {large.name} lately, and {small.name} "
            "cannot create one",
        )
    up_to = small.limits.rows_by_choice or large.limits.rows_per_call
    if rows > up_to:
        return Chosen(endpoint=large, why=f"{rows:,} profiles are more than {small.name} is used for ({up_to:,})")
    return Chosen(endpoint=small, why=f"{rows:,} profiles are no more than {small.name} is used for ({up_to:,})")
