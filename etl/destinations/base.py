"""The port: what every destination offers, and nothing else of it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from etl.model import Limits, Receipt


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

    def render(self, profiles: pl.LazyFrame) -> pl.LazyFrame:
        """One encoded record a profile: `row`, `key`, `record`, and `reason` where the vendor would not take it."""

    def submit(self, payload: bytes) -> Receipt:
        """One request; raises a DeliveryError unless the vendor acknowledged it."""
