"""Releva: `POST /api/v0/profiles`, which creates and updates profiles by e-mail address or phone number.

The body is `{"profiles":[{"profile":{...},"subscribedAtChanged":true},...]}`. Oddities, from the vendor's page "Profile
Upsert":
- people are known by their address, so the customer_id travels as a custom value, and nothing looks anybody up by it;
- `subscribedAtChanged` stands beside `profile`, not in it, and says that the subscription is not what it was. It is no
  part of the record: saying true again may count as a second subscription, and is no change of the profile;
- `addTags` only adds, and `removeTags` takes away by name; the same tag never stands in both. What the sync clears is removed
  from what was accepted, which is no part of the record: once it is gone, nothing is to be repeated;
- `subscriptions: null` does nothing, `[]` clears them: null is never sent, and `[]` only to opt somebody out, or where the sync
  clears blanks;
- custom values of a later push without the same keys are overwritten. Whether an upsert merges or replaces them is not
  said, so that the whole set is sent every time; `string` is the only group that is known;
- success is `202` with "an empty response body ({})", read as either; an error is a 4xx or 5xx for the whole call;
- updates are "backfill events", which start no campaign, and there is nothing to ask whether one was processed.

Assumed, as the page does not say: an omitted field stays as it is, `addTags` behaves as a set, and an opt-out is a
profile without `subscribedAt` and without subscriptions.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import polars as pl
import polars_hash as plh

from etl.client import Answer, Client, raise_for_status
from etl.destinations import json_text as js
from etl.destinations.base import NO_MEMORY, Envelope
from etl.errors import ConfigError, OutcomeUnknown
from etl.limits import limits_of
from etl.model import Limits, Receipt
from etl.settings import Connection

_PROFILES = Envelope(prefix=b'{"profiles":[', separator=b",", suffix=b"]}")
_CHANGED = ',"subscribedAtChanged":true}'
_SAME = ',"subscribedAtChanged":false}'
_MONEY = pl.Decimal(scale=2)
# Only a key can stand in a record like this: inside a text, a quotation mark has a backslash before it.
_SUBSCRIBED = '"subscribedAt":"'
_REMOVED = js.texts("removeTags", "gone").fragment


def _custom(key: str, column: str, dtype: pl.DataType | type[pl.DataType] = pl.String) -> js.Member:
    """One entry of the group `string`: the column as text, by way of `dtype`."""
    value = js.escaped(pl.col(column).cast(dtype).cast(pl.String))
    return js.Member(column, pl.concat_str(pl.lit(f'{{"key":"{key}","values":["'), value, pl.lit('"]}')))


_CUSTOM = (
    _custom("customerId", "customer_id"),
    _custom("language", "language"),
    _custom("country", "country"),
    _custom("loyaltyTier", "loyalty_tier"),
    _custom("city", "city"),
    _custom("orders30d", "orders_30d"),
    _custom("spend30d", "spend_30d", _MONEY),
    _custom("lastPurchaseAt", "last_purchase_at"),
    _custom("lastStore", "last_store"),
    _custom("favouriteCategory", "favourite_category"),
)
# One field a line, in the order in which they are sent.
_FIELDS = (
    js.text("email", "email"),
    js.text("phoneNumber", "phone"),
    js.text("firstName", "first_name"),
    js.text("lastName", "last_name"),
    js.text("birthday", "birthday"),
    js.text("registeredAt", "registered_at"),
    js.text("subscribedAt", "subscribed_at"),
    js.text("consent", "consent"),
    js.whole("location", (js.number("lat", "latitude"), js.number("lon", "longitude"))),
    js.texts("addTags", "tags"),
    js.texts("subscriptions", "subscriptions"),
)


def _fields(custom: Sequence[js.Member]) -> tuple[js.Member, ...]:
    """A field a line, in the order in which they are sent; an empty set of values is left out, as it may clear others."""
    group = pl.concat_str(pl.lit('"custom":{"string":['), js.members(custom), pl.lit("]}"))
    return (*_FIELDS, js.Member("customer_id", pl.when(js.members(custom) != "").then(group)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Releva:
    """The upsert of one account."""

    name: str
    limits: Limits
    client: Client
    url: str
    headers: dict[str, str] = field(repr=False)
    fields: tuple[js.Member, ...] = _fields(_CUSTOM)
    envelope: Envelope = _PROFILES
    identity: tuple[str, ...] = ("email", "phone")
    opt_ins: tuple[str, ...] = ("email_opt_in",)
    clears: tuple[str, ...] = ("subscriptions", "tags")

    @classmethod
    def connect(cls, name: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> Releva:
        """Raises ConfigError for what is missing in the connection."""
        if connection.conn_type != "releva" or not connection.password:
            raise ConfigError(
                f"connection {connection.id}: Releva needs conn_type releva, and the secret key as password"
            )
        return cls(
            name=name,
            limits=limits_of(name, connection.limits_for(name)),
            client=client,
            url=f"{connection.host.rstrip('/')}/api/v0/profiles",
            headers={
                "Authorization": f"Bearer {connection.password.reveal()}",
                "Content-Type": "application/json",
            },
            fields=_fields((*_CUSTOM, *(_custom(column, column) for column in own))),
        )

    def render(self, profiles: pl.LazyFrame, clear: Collection[str] = ()) -> pl.LazyFrame:
        """One JSON profile each, still without what `finish` adds: `subscribedAtChanged`, by `memory`, and `removeTags`.

        `memory` is a hash of `subscribed_at` and `email_opt_in`; a profile that no call can hold has a reason.
        """
        opted_out = ~pl.col("email_opt_in")
        said = profiles.with_columns(
            subscribed_at=pl.when(opted_out).then(None).otherwise("subscribed_at"),
            subscriptions=pl.when(opted_out).then(pl.lit([], pl.List(pl.String))).otherwise("subscriptions"),
            memory=_subscription(),
        )
        members = js.members(js.cleared(self.fields, set(clear) - {"tags"}, "[]"))
        record = pl.concat_str(pl.lit('{"profile":{'), members, pl.lit("}"))
        room = self.limits.bytes_per_call - self.envelope.size - len(_SAME)
        too_large = pl.col("record").str.len_bytes() > room
        tags = pl.col("tags").fill_null(pl.lit([], pl.List(pl.String))) if "tags" in clear else NO_MEMORY["tags"]
        encoded = said.select("row", "memory", key=pl.coalesce(self.identity), record=record, tags=tags)
        reason = pl.when(too_large).then(pl.lit("record_too_large")).alias("reason")
        return encoded.select("row", "key", "record", reason, "memory", "tags")

    def finish(self, records: pl.DataFrame) -> pl.Series:
        """The record without the tags that are gone, and whether its subscription has changed; at first, whether there is one."""
        subscribed = pl.col("record").str.contains(_SUBSCRIBED, literal=True)
        changed = pl.when(pl.col("known").is_null()).then(subscribed).otherwise(pl.col("memory") != pl.col("known"))
        end = pl.when(changed).then(pl.lit(_CHANGED)).otherwise(pl.lit(_SAME))
        less = pl.concat_str(pl.col("record").str.strip_suffix("}"), pl.lit(","), _REMOVED, pl.lit("}"))
        return records.select(pl.when(pl.col("gone").list.len() > 0).then(less).otherwise("record") + end).to_series()

    def submit(self, payload: bytes) -> Receipt:
        """One call, taken or refused as a whole; only the documented acknowledgement counts as taken."""
        answer = self.client.post(self.url, body=payload, headers=self.headers)
        raise_for_status(answer)
        if not _is_acknowledgement(answer):
            raise OutcomeUnknown(
                f"Releva answered {answer.status}, but not with its acknowledgement",
                code="no_acknowledgement",
                status=answer.status,
                request_id=answer.request_id,
            )
        return Receipt(request_id=answer.request_id)

    def check(self) -> None:
        """Posts no profile at all, which needs the key and changes nothing; whoever complains of that has let us in."""
        answer = self.client.post(self.url, body=self.envelope.frame([]), headers=self.headers)
        if answer.status not in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise_for_status(answer)


def _subscription() -> pl.Expr:
    """64 bits of what `subscribedAtChanged` is about, the same in every version and on every machine (xxh3)."""
    parts = (pl.col(name).cast(pl.String).fill_null("") for name in ("subscribed_at", "email_opt_in"))
    bits: pl.Expr = plh.concat_str(*parts, separator="|").nchash.xxh3_64()
    return bits


def _is_acknowledgement(answer: Answer) -> bool:
    text = answer.body.strip()
    if answer.status != HTTPStatus.ACCEPTED or not (text or answer.framed):  # unframed, it may be cut before its `{}`
        return False
    try:
        said: object = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return False
    return said == {}
