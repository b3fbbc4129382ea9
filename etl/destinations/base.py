"""The port: what every destination offers, and nothing else of it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import polars as pl

from etl.model import BatchStatus, Limits, Receipt

# What `render` says of a destination for which it is all the same what was sent before.
NO_MEMORY = {"memory": pl.lit(None, dtype=pl.UInt64), "tags": pl.lit(None, dtype=pl.List(pl.String))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What stands around and between the records of a payload."""

    prefix: bytes
    separator: bytes
    suffix: bytes

    @property
    def size(self) -> int:
        """Bytes around the records."""
        return len(self.prefix) + len(self.suffix)

    def wrap(self, joined: bytes) -> bytes:
        """The payload of records that are joined already."""
        return self.prefix + joined + self.suffix

    def frame(self, records: Sequence[bytes]) -> bytes:
        """The payload of single records."""
        return self.wrap(self.separator.join(records))

    def of(self, payload: bytes, sizes: Sequence[int]) -> Envelope:
        """This envelope as a payload really has it: its head may be of another sync of the account, or of last week."""
        records = sum(sizes) + len(self.separator) * (len(sizes) - 1)
        return replace(self, prefix=payload[: len(payload) - len(self.suffix) - records])

    def split(self, payload: bytes, sizes: Sequence[int]) -> list[bytes]:
        """The records of a payload, by their sizes in bytes: undoes `frame`."""
        at, records = len(self.prefix), []
        for size in sizes:
            records.append(payload[at : at + size])
            at += size + len(self.separator)
        return records


class Destination(Protocol):
    """One endpoint of one vendor account."""

    @property
    def name(self) -> str:
        """The endpoint's name in the registry, in `limits.toml` and in the ledger."""

    @property
    def limits(self) -> Limits:
        """What the vendor, or the connection, allows."""

    @property
    def envelope(self) -> Envelope:
        """How records become the bytes of one call."""

    @property
    def identity(self) -> tuple[str, ...]:
        """The profile columns that the vendor knows people by; the first that has a value is the profile's key."""

    @property
    def opt_ins(self) -> tuple[str, ...]:
        """The opt-ins of a profile for which the vendor has a field, so that an opt-out can be sent alone."""

    @property
    def clears(self) -> Collection[str]:
        """The optional fields of a CRM row whose values the vendor lets us clear."""

    def render(self, profiles: pl.LazyFrame, clear: Collection[str] = ()) -> pl.LazyFrame:
        """One encoded record a profile: `row`, `key`, `record`, `reason`, `memory`, `tags`.

        `record` is the whole of what will be said of the profile, and its fingerprint decides whether it has changed;
        `reason` is a code where the vendor would not take it. `memory` (64 bits or null) is given back with the
        profile's next record, once the vendor has accepted this one. Of the columns to `clear`, a null is said in words;
        where tags are only taken away by name, those of the profile are `tags`, else null.
        """

    def finish(self, records: pl.DataFrame) -> pl.Series:
        """The texts as they are sent, of `record`, `memory`, and what is known of earlier records of the profile.

        `known` is the memory of the one that was accepted last, `gone` the `tags` of earlier ones that this
        one lacks. Null where only another endpoint of the same records can send this one.
        """

    def submit(self, payload: bytes) -> Receipt:
        """One request; raises a DeliveryError unless the vendor acknowledged it."""

    def check(self) -> None:
        """One request that changes nothing; raises a DeliveryError unless the vendor lets this account in."""


@runtime_checkable
class AwaitsCompletion(Protocol):
    """A destination whose vendor goes on working after it took a batch, and can be asked how far it is."""

    def poll(self, job: str) -> BatchStatus:
        """One question about a job of a receipt; raises a DeliveryError where no answer came. Never sleeps."""


@runtime_checkable
class ReadsBack(Protocol):
    """A destination whose vendor can be asked what it holds of a profile."""

    @property
    def questions_per_minute(self) -> float:
        """How many requests of an audit the vendor may get."""

    def said(self, record: bytes, head: bytes) -> dict[str, Any]:
        """The attributes that a record has set, by the names that `held` gives them; `head` is what its payload begins with."""

    def held(
        self, keys: Collection[str], attributes: Collection[str], pace: Callable[[], None]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """The attributes of those profiles that the vendor has; a profile that it does not know is left out.

        Calls `pace` before each request. Raises a DeliveryError where the vendor does not say.
        """
