"""Batch: `POST /profiles/update` (small and quick) and `POST /profiles/mass-update` (large, once or twice a day).

Both take a JSON array of operations, one a Custom ID, and answer `202`. Oddities, from the vendor's pages:
- rates are counted in Custom IDs, not in calls;
- a `202` may say SUCCESS_WITH_PARTIAL_ERRORS: the listed attributes were dropped, the rest was taken;
- the type of a date or URL stands in its key: `date(x)`, `url(x)`;
- an attribute that is left out stays as it is; null erases it, and is sent only where the sync says so;
- there is no batch to wait for: `202` is "accepted", and nothing ever confirms it;
- no single profile can be read; an export of the whole project can be asked for, and downloaded in parts when it is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import polars as pl

from etl.client import Answer, Client, raise_for_status
from etl.destinations import json_text as js
from etl.destinations.base import NO_MEMORY, Envelope
from etl.errors import ConfigError, OutcomeUnknown
from etl.limits import documented, limits_of
from etl.model import Limits, Receipt, RowCode
from etl.settings import Connection

DEFAULT_API_VERSION = "2.11"
_ACCEPTED = 202
_PATHS = {"batch_update": "profiles/update", "batch_mass_update": "profiles/mass-update"}
_TYPED_NAME = re.compile(r"(?:date|url)\((.+)\)")
_OBJECT = re.compile(r"[^\s,\[\]]")
_SAFE_NAME = re.compile(r"\$?[a-z0-9_()]{1,40}")

_ARRAY = Envelope(prefix=b"[", separator=b",", suffix=b"]")
_CONSENT_WORD = {True: "subscribed", False: "unsubscribed"}

# One attribute a line, in the order in which they are sent.
_ATTRIBUTES = (
    js.text("$email_address", "email"),
    js.text("$phone_number", "phone"),
    js.word("$email_marketing", "email_opt_in", _CONSENT_WORD),
    js.word("$sms_marketing", "sms_opt_in", _CONSENT_WORD),
    js.text("$language", "language"),
    js.text("$region", "country"),
    js.text("first_name", "first_name"),
    js.text("last_name", "last_name"),
    js.text("date(birthday)", "birthday", suffix="T00:00:00Z"),
    js.text("date(registered_at)", "registered_at"),
    js.text("date(subscribed_at)", "subscribed_at"),
    js.text("consent", "consent"),
    js.texts("tags", "tags"),
    js.texts("subscriptions", "subscriptions"),
    js.text("loyalty_tier", "loyalty_tier"),
    js.text("city", "city"),
    js.number("latitude", "latitude"),
    js.number("longitude", "longitude"),
    js.text("url(avatar_url)", "avatar_url"),
    js.number("orders_30d", "orders_30d"),
    js.number("spend_30d", "spend_30d"),
    js.text("date(last_purchase_at)", "last_purchase_at"),
    js.text("last_store", "last_store"),
    js.text("favourite_category", "favourite_category"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEndpoint:
    """One of Batch's two endpoints, for one project; they differ in path and limits only."""

    name: str
    limits: Limits
    client: Client
    base: str
    headers: dict[str, str] = field(repr=False)
    attributes: tuple[js.Member, ...] = _ATTRIBUTES
    envelope: Envelope = _ARRAY
    identity: tuple[str, ...] = ("customer_id",)
    opt_ins: tuple[str, ...] = ("email_opt_in", "sms_opt_in")
    clears: tuple[str, ...] = tuple(member.column for member in _ATTRIBUTES)

    @classmethod
    def connect(cls, name: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> BatchEndpoint:
        """Raises ConfigError for what is missing in the connection."""
        project = str(connection.extra.get("project_key") or "")
        if connection.conn_type != "batch" or not project or not connection.password:
            raise ConfigError(
                f"connection {connection.id}: Batch needs conn_type batch, the REST API key as password, "
                "and extra.project_key"
            )
        version = str(connection.extra.get("api_version") or DEFAULT_API_VERSION)
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
            raise ConfigError(f"connection {connection.id}: extra.api_version looks like {DEFAULT_API_VERSION}")
        return cls(
            name=name,
            limits=limits_of(name, connection.limits_for(name)),
            client=client,
            base=f"{connection.host.rstrip('/')}/{version}",
            headers={
                "Authorization": f"Bearer {connection.password.reveal()}",
                "X-Batch-Project": project,
                "Content-Type": "application/json",
            },
            attributes=(*_ATTRIBUTES, *(js.text(column, column) for column in own)),
        )

    def render(self, profiles: pl.LazyFrame, clear: Collection[str] = ()) -> pl.LazyFrame:
        """One JSON operation a profile; more attributes than Batch takes, or more bytes than a call holds, is a reason."""
        said = js.cleared(self.attributes, clear, "null")
        attributes = pl.sum_horizontal(member.fragment.is_not_null() for member in said)
        record = pl.concat_str(
            pl.lit('{"identifiers":{"custom_id":"'),
            js.escaped(pl.col("customer_id")),
            pl.lit('"},"attributes":{'),
            js.members(said),
            pl.lit("}}"),
        )
        room = self.limits.bytes_per_call - self.envelope.size
        reason = (
            pl.when(pl.col("attributes") > (self.limits.attributes_per_row or len(self.attributes)))
            .then(pl.lit("too_many_attributes"))
            .when(pl.col("record").str.len_bytes() > room)
            .then(pl.lit("record_too_large"))
        )
        encoded = profiles.select("row", key="customer_id", record=record, attributes=attributes)
        return encoded.select("row", "key", "record", reason=reason, **NO_MEMORY)

    def finish(self, records: pl.DataFrame) -> pl.Series:
        """A record is sent as it was rendered."""
        return records["record"]

    def submit(self, payload: bytes) -> Receipt:
        """One call; only a complete, documented acknowledgement counts as taken."""
        answer = self.client.post(f"{self.base}/{_PATHS[self.name]}", body=payload, headers=self.headers)
        raise_for_status(answer)
        rows = _acknowledgement(answer)
        if rows is None:
            raise OutcomeUnknown(
                f"Batch answered {answer.status}, but not with its acknowledgement",
                code="no_acknowledgement",
                status=answer.status,
                request_id=answer.request_id,
            )
        return Receipt(request_id=answer.request_id, rows=rows)

    def check(self) -> None:
        """Asks for the newest export request, which needs the key and the project, and changes nothing."""
        raise_for_status(self.client.get(f"{self.base}/exports/list?limit=1", headers=self.headers))

    @property
    def questions_per_minute(self) -> float:
        """What the vendor allows of all calls that are no updates."""
        return float(documented()[self.name]["questions_per_minute"]["value"])

    def said(self, record: bytes, _head: bytes) -> dict[str, Any]:
        """The attributes of an operation, by their plain names."""
        return _plain(json.loads(record)["attributes"])

    def held(
        self, keys: Collection[str], attributes: Collection[str], pace: Callable[[], None]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Has the project exported, and reads what it says of these profiles; that takes the vendor minutes or hours."""
        asked = {"export_type": "ATTRIBUTES", "attributes": sorted(attributes), "identifiers": ["custom_id"]}
        pace()
        body = json.dumps(asked).encode()
        made = self.client.post(f"{self.base}/profiles/export", body=body, headers=self.headers)
        view = f"{self.base}/exports/view?id={_identity(_said(made))}"
        while (export := self._get(view, pace)).get("status") != "SUCCESS":
            if export.get("status") not in {"CREATED", "PENDING", "RUNNING"}:
                raise OutcomeUnknown("Batch could not make the export: audit again later", code="export_failed")
        files = export.get("files")
        for file in files if isinstance(files, list) else []:
            for profile in _objects(self._download(_identity(file), pace)):
                key = profile.get("identifiers", {}).get("custom_id")
                if key in keys:
                    yield key, _plain(profile.get("attributes", {}))

    def _get(self, url: str, pace: Callable[[], None]) -> dict[str, Any]:
        pace()
        return _said(self.client.get(url, headers=self.headers))

    def _download(self, file: str, pace: Callable[[], None]) -> str:
        """A file of an export: Batch answers with a signed link, to a host that is not to see the key."""
        pace()
        answer = self.client.get(f"{self.base}/exports/download?id={file}", headers=self.headers)
        if answer.status != HTTPStatus.TEMPORARY_REDIRECT or not answer.location:
            raise_for_status(answer)
            raise OutcomeUnknown("Batch gave no link to its export", code="no_link", status=answer.status)
        content = self.client.get(answer.location, headers={})
        raise_for_status(content)
        return content.body.decode()


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes without the type that stands in some keys."""
    return {(typed[1] if (typed := _TYPED_NAME.fullmatch(key)) else key): value for key, value in attributes.items()}


def _said(answer: Answer) -> dict[str, Any]:
    """The object that an answer holds; raises a DeliveryError, which does not quote it."""
    raise_for_status(answer)
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise OutcomeUnknown(f"Batch answered {answer.status}, but with no object", code="no_object")
    return found


def _identity(of: dict[str, Any]) -> str:
    """An id of the vendor's, which goes into an address."""
    found = str(of.get("id"))
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", found):
        raise OutcomeUnknown("Batch gave an id that is none", code="no_id")
    return found


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a file that is a JSON array, or has one on each line: which of them is not documented."""
    decoder, at = json.JSONDecoder(), 0
    while begins := _OBJECT.search(text, at):
        try:
            found, at = decoder.raw_decode(text, begins.start())
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):  # outside the except block: the error holds the whole text
            raise OutcomeUnknown("Batch gave an export that is not readable", code="export_unreadable")
        yield found


def _acknowledgement(answer: Answer) -> tuple[RowCode, ...] | None:
    """What the acknowledgement says of single rows; None when it is none.

    No error leads out of here: that of JSON holds the whole answer, which may repeat what it was sent.
    """
    try:
        said = json.loads(answer.body)
        if answer.status != _ACCEPTED or said["code"] not in {"SUCCESS", "SUCCESS_WITH_PARTIAL_ERRORS"}:
            return None
        errors = said["errors"] if said["code"] != "SUCCESS" else said.get("errors") or ()
        return tuple(_row_code(error) for error in errors)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _row_code(error: dict[str, Any]) -> RowCode:
    """One partial error; without a valid identifier nothing of the operation can have been taken."""
    index = error["bulk_index"]
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise ValueError("bulk_index")
    attribute = error.get("attribute")
    if error.get("category") == "identifier":
        return RowCode(index=index, code="identifier_refused", rejected=True)
    name = attribute if isinstance(attribute, str) and _SAFE_NAME.fullmatch(attribute) else "unnamed"
    return RowCode(index=index, code=f"field_refused_{name}", rejected=False)
