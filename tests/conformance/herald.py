"""Herald, an invented vendor, as a sixth destination: `POST /v1/people`, a line of JSON a person.

It is here to show what another vendor needs. Its oddities: lines instead of an array, an acknowledgement that counts, and
single persons that are refused by the number of their line.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import polars as pl

from etl.client import Client, raise_for_status
from etl.destinations import json_text as js
from etl.destinations.base import NO_MEMORY, Envelope
from etl.errors import ConfigError, OutcomeUnknown
from etl.limits import limits_of
from etl.model import Limits, Receipt, RowCode
from etl.settings import Connection

_OK = 200
_LINES = Envelope(prefix=b"", separator=b"\n", suffix=b"\n")
_FACTS = (
    js.text("mail", "email"),
    js.text("phone", "phone"),
    js.text("tier", "loyalty_tier"),
    js.text("city", "city"),
    js.texts("labels", "tags"),
    js.number("orders", "orders_30d"),
    js.number("spent", "spend_30d"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Herald:
    """The people of one account."""

    name: str
    limits: Limits
    client: Client
    base: str
    headers: dict[str, str] = field(repr=False)
    facts: tuple[js.Member, ...]
    envelope: Envelope = _LINES
    identity: tuple[str, ...] = ("customer_id",)
    opt_ins: tuple[str, ...] = ()
    clears: tuple[str, ...] = ()

    @classmethod
    def connect(cls, name: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> Herald:
        """Raises ConfigError for a connection of another vendor, or one without a key."""
        if connection.conn_type != "herald" or not connection.password:
            raise ConfigError(f"connection {connection.id}: Herald needs conn_type herald, and the key as password")
        return cls(
            name=name,
            limits=limits_of(name, connection.limits_for(name)),
            client=client,
            base=f"{connection.host.rstrip('/')}/v1",
            headers={"X-Herald-Key": connection.password.reveal(), "Content-Type": "application/x-ndjson"},
            facts=(*_FACTS, *(js.text(column, column) for column in own)),
        )

    def render(self, profiles: pl.LazyFrame, clear: Collection[str] = ()) -> pl.LazyFrame:
        """One line a person; more bytes than a call holds are a reason."""
        key = js.escaped(pl.col("customer_id"))
        record = pl.concat_str(pl.lit('{"id":"'), key, pl.lit('","facts":{'), js.members(self.facts), pl.lit("}}"))
        encoded = profiles.select("row", key="customer_id", record=record)
        too_large = pl.col("record").str.len_bytes() > self.limits.bytes_per_call - self.envelope.size
        reason = pl.when(too_large).then(pl.lit("record_too_large"))
        return encoded.with_columns(reason=reason, **NO_MEMORY)

    def finish(self, records: pl.DataFrame) -> pl.Series:
        """A record is sent as it was rendered."""
        return records["record"]

    def submit(self, payload: bytes) -> Receipt:
        """One call; an acknowledgement accounts for every line."""
        answer = self.client.post(f"{self.base}/people", body=payload, headers=self.headers)
        raise_for_status(answer)
        try:
            said = json.loads(answer.body)
            refused = [int(line) for line in said["refused"]]
            is_whole = answer.status == _OK and said["taken"] + len(refused) == payload.count(b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            is_whole = False
        if not is_whole:
            known = {"status": answer.status, "request_id": answer.request_id}
            raise OutcomeUnknown("Herald did not account for every line", code="no_acknowledgement", **known)
        return Receipt(
            request_id=answer.request_id,
            rows=tuple(RowCode(index=line, code="person_refused", rejected=True) for line in refused),
        )

    def check(self) -> None:
        """Asks for the account, which needs the key, and changes nothing."""
        raise_for_status(self.client.get(f"{self.base}/account", headers=self.headers))
