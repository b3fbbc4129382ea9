"""Adobe Target: the Bulk Profile Update API (a file of profiles) and the Single Profile Update API (one profile a call).

Both say the same of a profile, so its record is the same: the bulk file's row, of which a single call's form is made.
Oddities, from the vendor's pages:
- names and values are percent-encoded, which leaves no comma, line end or `&` in them;
- an empty cell leaves the attribute as it is, and nothing can erase one; personal data is not to be sent;
- a second bulk batch may override what the first one set, so a row holds every attribute, but for an opt-out of a row in
  quarantine, which goes alone: attributes come back with the next good row, a mail that should not have been sent does not;
- `batch=` at the head of the file is the name of a form's field, not decoration;
- failure is `<success>false</success>`, under whatever status, and success is "submitted", not "stored";
- single never creates a profile, and answers success all the same; bulk v2 creates it, v1 counts it as not found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote
from xml.etree.ElementTree import Element

import polars as pl

from etl.client import Answer, Client, raise_for_status
from etl.destinations import adobe_answers as answers
from etl.destinations.base import NO_MEMORY, Envelope
from etl.destinations.percent_text import percent_encoded
from etl.errors import ConfigError, OutcomeUnknown, Redirected, Rejected
from etl.limits import documented, limits_of
from etl.model import BatchStatus, JobState, Limits, Receipt
from etl.settings import Connection

_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_CLIENT_CODE = re.compile(r"[A-Za-z0-9_-]+")
_NO_PROFILE = re.compile(rb'"message"\s*:\s*"No profile found')
_BULK_PATHS = {"v1": "profile/batchUpdate", "v2": "v2/profile/batchUpdate"}
# What the customer_id is called: in `extra.id` and in a file, and in a single update.
_IDS = {"thirdPartyId": "mbox3rdPartyId", "pcId": "mboxPC"}
_MONEY = pl.Decimal(scale=2)

# One attribute a line, in the order of the row's cells; what can hold no reserved character is not encoded.
_ATTRIBUTES: Mapping[str, pl.Expr] = {
    "language": percent_encoded(pl.col("language")),
    "country": percent_encoded(pl.col("country")),
    "registeredAt": percent_encoded(pl.col("registered_at")),
    "subscribedAt": percent_encoded(pl.col("subscribed_at")),
    "emailOptIn": pl.col("email_opt_in").cast(pl.String),
    "smsOptIn": pl.col("sms_opt_in").cast(pl.String),
    "tags": percent_encoded(pl.col("tags").list.join("|")),
    "loyaltyTier": percent_encoded(pl.col("loyalty_tier")),
    "city": percent_encoded(pl.col("city")),
    "orders30d": pl.col("orders_30d").cast(pl.String),
    "spend30d": pl.col("spend_30d").cast(_MONEY).cast(pl.String),
    "lastPurchaseAt": percent_encoded(pl.col("last_purchase_at")),
    "lastStore": percent_encoded(pl.col("last_store")),
    "favouriteCategory": percent_encoded(pl.col("favourite_category")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """What both endpoints need of a connection."""

    host: str
    client_code: str
    id: str
    headers: dict[str, str] = field(repr=False)

    @classmethod
    def of(cls, connection: Connection) -> _Account:
        """Raises ConfigError for a connection that is not Adobe Target's."""
        if connection.conn_type != "adobe_target" or not _CLIENT_CODE.fullmatch(connection.login):
            raise ConfigError(
                f"connection {connection.id}: Adobe Target needs conn_type adobe_target, and the client code as login "
                "(letters, digits, - and _)"
            )
        token = connection.password
        return cls(
            host=connection.host.rstrip("/"),
            client_code=connection.login,
            id=_option(connection, "id", *_IDS),
            headers={"Authorization": f"Bearer {token.reveal()}"} if token else {},
        )

    def url(self, path: str) -> str:
        return f"{self.host}/m2/{self.client_code}/{path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoint:
    """What the endpoints have in common."""

    name: str
    limits: Limits
    envelope: Envelope
    client: Client
    account: _Account
    url: str
    attributes: Mapping[str, pl.Expr]
    identity: tuple[str, ...] = ("customer_id",)
    opt_ins: tuple[str, ...] = ("email_opt_in", "sms_opt_in")
    clears: tuple[str, ...] = ()

    def check(self) -> None:
        """Asks for a profile that nobody has: the vendor says so to those that it lets in."""
        known_to_nobody = f"thirdPartyId/profile-etl-connection-check?client={self.account.client_code}"
        url = f"{self.account.host}/rest/v1/profiles/{known_to_nobody}"
        answer = self.client.get(url, headers=self.account.headers)
        if answer.status != HTTPStatus.NOT_FOUND or not _NO_PROFILE.search(answer.body):
            raise_for_status(answer)

    def _records(self, profiles: pl.LazyFrame) -> pl.LazyFrame:
        """`row`, `key`, and as `record` the encoded id and a cell for every attribute."""
        cells = [percent_encoded(pl.col("customer_id")), *self.attributes.values()]
        record = pl.concat_str([cell.fill_null("") for cell in cells], separator=",")
        return profiles.select("row", key="customer_id", record=record)

    @property
    def questions_per_minute(self) -> float:
        """A careful share of the million fetches a day that an older page allows."""
        return float(documented()[self.name]["questions_per_minute"]["value"])

    def held(
        self, keys: Collection[str], _attributes: Collection[str], pace: Callable[[], None]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Fetches the profiles one by one."""
        if self.account.id != "thirdPartyId":
            raise ConfigError("Adobe Target can be asked for profiles by thirdPartyId, and extra.id says pcId")
        for key in keys:
            pace()
            asked = f"thirdPartyId/{quote(key, safe='')}?client={self.account.client_code}"
            answer = self.client.get(f"{self.account.host}/rest/v1/profiles/{asked}", headers=self.account.headers)
            if answer.status == HTTPStatus.NOT_FOUND and _NO_PROFILE.search(answer.body):
                continue
            raise_for_status(answer)
            yield key, _fetched(answer)

    def _judged(self, records: pl.LazyFrame, reasons: Mapping[str, pl.Expr]) -> pl.LazyFrame:
        """What `render` returns; of several reasons, the first."""
        if self.account.id == "thirdPartyId":
            reasons = {"id_not_allowed": pl.col("key").str.contains("[+/@]"), **reasons}
        reason = pl.coalesce(pl.when(applies).then(pl.lit(code)) for code, applies in reasons.items())
        return records.select("row", "key", "record", reason=reason, **NO_MEMORY)


class AdobeBulk(_Endpoint):
    """The endpoint for files, which are worked on after they were taken, and can be asked about."""

    __slots__ = ()

    @classmethod
    def connect(cls, name: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> AdobeBulk:
        """Raises ConfigError for a connection, or an `extra` of it, that cannot be used."""
        account = _Account.of(connection)
        version = _option(connection, "bulk_version", "v2", "v1")
        if account.id == "pcId" and version == "v2":
            raise ConfigError(
                f"connection {connection.id}: extra.id pcId needs extra.bulk_version v1, or the destination "
                "adobe_target_single"
            )
        attributes = _with_own(own)
        header = ",".join((account.id, *attributes))
        return cls(
            name=name,
            limits=limits_of(name, connection.limits_for(name)),
            envelope=Envelope(prefix=f"batch={header}\n".encode(), separator=b"\n", suffix=b"\n"),
            client=client,
            account=account,
            url=account.url(_BULK_PATHS[version]),
            attributes=attributes,
        )

    def render(self, profiles: pl.LazyFrame, clear: Collection[str] = ()) -> pl.LazyFrame:  # noqa: ARG002  (cannot)
        """One row of the file a profile; an id, or a size, that the vendor does not take is a reason."""
        size = pl.col("record").str.len_bytes()
        reasons = {
            "profile_too_large": size > self.limits.bytes_per_row,
            "record_too_large": size > self.limits.bytes_per_call - self.envelope.size,
        }
        return self._judged(self._records(profiles), reasons)

    def finish(self, records: pl.DataFrame) -> pl.Series:
        """A record is sent as it was rendered."""
        return records["record"]

    def submit(self, payload: bytes) -> Receipt:
        """One upload; the receipt's job is the address to ask for its status, where that is one that may be asked."""
        answer = self.client.post(self.url, body=payload, headers=self.account.headers | _FORM)
        given = answers.text_of(_acknowledgement(answer), "batchStatus")
        if not given:
            return Receipt(request_id=answer.request_id, code="status_url_missing")
        job = answers.status_url(given, self.account.host)
        return Receipt(request_id=answer.request_id, job=job, code=None if job else "status_url_refused")

    def said(self, record: bytes, head: bytes) -> dict[str, Any]:
        """The attributes of a row that have a value, by the names in the first line of its file."""
        names, cells = (line.decode().strip().split(",")[1:] for line in (head, record))
        return {name: unquote(cell) for name, cell in zip(names, cells, strict=True) if cell}

    def poll(self, job: str) -> BatchStatus:
        """One question about a batch; raises a DeliveryError where neither a status nor a clear "no" came back."""
        if answers.status_url(job, self.account.host) != job:
            return BatchStatus(state=JobState.UNREADABLE, code="status_url_refused")
        answer = self.client.get(job, headers=self.account.headers)
        if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            return BatchStatus(state=JobState.GONE)
        try:
            raise_for_status(answer)
        except Redirected:
            return BatchStatus(state=JobState.UNREADABLE, code="redirected")
        return answers.batch_status(answer.body, job)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdobeSingle(_Endpoint):
    """The endpoint for one profile a call, as a form, or with `extra.single_method` GET as an address."""

    by_get: bool

    @classmethod
    def connect(cls, name: str, connection: Connection, client: Client, own: Sequence[str] = ()) -> AdobeSingle:
        """Raises ConfigError for a connection, or an `extra` of it, that cannot be used."""
        account = _Account.of(connection)
        url = account.url("profile/update")
        by_get = _option(connection, "single_method", "POST", "GET") == "GET"
        limits = limits_of(name, connection.limits_for(name))
        if by_get:
            bytes_per_get = documented()[name]["bytes_per_get"]["value"]
            limits = replace(limits, bytes_per_call=min(limits.bytes_per_call, bytes_per_get))
        return cls(
            name=name,
            limits=limits,
            envelope=Envelope(prefix=f"{url}?".encode() if by_get else b"", separator=b"\n", suffix=b""),
            client=client,
            account=account,
            url=url,
            attributes=_with_own(own),
            by_get=by_get,
        )

    def render(self, profiles: pl.LazyFrame, clear: Collection[str] = ()) -> pl.LazyFrame:  # noqa: ARG002  (cannot)
        """The same records; an id, a size, or a lack of attributes that the vendor does not take is a reason."""
        reasons = {
            "record_too_large": pl.col("form").str.len_bytes() > self.limits.bytes_per_call - self.envelope.size,
            "no_attributes": self._says_nothing(),
        }
        return self._judged(self._with_form(self._records(profiles)), reasons)

    def finish(self, records: pl.DataFrame) -> pl.Series:
        """The record as a form: the id, and the attributes that have a value; null where none has one."""
        form = pl.when(~self._says_nothing()).then("form")
        return self._with_form(records.lazy()).select(form).collect().to_series()

    def submit(self, payload: bytes) -> Receipt:
        """One profile; the acknowledgement says that it was submitted, and there is nothing to ask later."""
        if self.by_get:
            # Whatever was staged: the token goes to this account's address only.
            address = self.envelope.prefix + payload.removeprefix(self.envelope.prefix)
            answer = self.client.get(address.decode(), headers=self.account.headers)
        else:
            answer = self.client.post(self.url, body=payload, headers=self.account.headers | _FORM)
        _acknowledgement(answer)
        return Receipt(request_id=answer.request_id)

    def _says_nothing(self) -> pl.Expr:
        return pl.col("record").str.ends_with("," * len(self.attributes))

    def said(self, record: bytes, _head: bytes) -> dict[str, Any]:
        """The attributes of a form."""
        fields = parse_qsl(record.decode(), strict_parsing=True)
        return {name.removeprefix("profile."): value for name, value in fields if name.startswith("profile.")}

    def _with_form(self, records: pl.LazyFrame) -> pl.LazyFrame:
        cells = pl.col("record").str.split_exact(",", len(self.attributes))
        names = (_IDS[self.account.id], *(f"profile.{name}" for name in self.attributes))
        fields = [
            pl.when(pl.col(f"field_{at}") != "").then(pl.concat_str(pl.lit(f"{name}="), f"field_{at}"))
            for at, name in enumerate(names)
        ]
        taken_apart = records.with_columns(cells=cells).unnest("cells")
        return taken_apart.with_columns(form=pl.concat_str(fields, separator="&", ignore_nulls=True))


def _with_own(columns: Sequence[str]) -> Mapping[str, pl.Expr]:
    return {**_ATTRIBUTES, **{column: percent_encoded(pl.col(column)) for column in columns}}


def _fetched(answer: Answer) -> dict[str, Any]:
    """The attributes of a profile that was fetched; no error leads out of here, since that of JSON holds the answer."""
    try:
        attributes = json.loads(answer.body)["profileAttributes"]
        return {name: attribute["value"] for name, attribute in attributes.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise OutcomeUnknown(f"Adobe Target answered {answer.status}, but with no profile", code="no_profile")


def _acknowledgement(answer: Answer) -> Element:
    """The vendor's "taken"; raises a DeliveryError for anything else. Its message is not quoted: it may hold values."""
    said = answers.response(answer.body)
    success = None if said is None else answers.text_of(said, "success")
    known: dict[str, Any] = {"status": answer.status, "request_id": answer.request_id}
    refused = success == "false"
    try:
        raise_for_status(answer)
    except Rejected:
        if not refused:
            raise
    if refused:
        raise Rejected(f"HTTP {answer.status}: Adobe Target refuses the payload", code="refused_by_vendor", **known)
    if said is None or success != "true":
        raise OutcomeUnknown(
            f"Adobe Target answered {answer.status}, but not with its acknowledgement",
            code="html_answer" if answers.is_html(answer.body) else "no_acknowledgement",
            **known,
        )
    return said


def _option(connection: Connection, name: str, *values: str) -> str:
    """One of the values that an `extra` may have; the first where it is missing."""
    value = connection.extra.get(name) or values[0]
    if value not in values:
        raise ConfigError(f"connection {connection.id}: extra.{name} is one of {', '.join(values)}")
    return str(value)
