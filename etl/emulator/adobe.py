"""Adobe Target's profile APIs: the single update, the bulk update (v1, v2) and its batch status, the fetch of one profile.

From the vendor's pages "Single Profile Update API", "Bulk Profile Update API" and "Profile fetch"; what those leave open is
decided here and listed in docs/emulator.md. Not played: mbox calls (a control route says that one happened), data that
the site adds, the expiry of profiles, rows that are lost by themselves.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from etl.emulator.rate import DAY, MINUTE, Meter, Window, most_calls_in_a_minute
from etl.emulator.wire import Answer, Call, read_body

DEMO_CLIENT: Final = "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number of these APIs in one place; KB and MB are read as thousands and millions of bytes."""

    file_bytes: int = 49_999_999  # "less than 50 MB"
    file_rows: int = 500_000
    calls_per_minute: int = 50  # all bulk and status calls together
    get_bytes: int = 8_000
    post_bytes: int = 60_000
    profile_bytes: int = 64_000
    rows_per_day: int = 1_000_000
    third_party_id_length: int = 128
    statuses_kept: int = 10
    status_seconds: int = DAY


LIMITS: Final = Limits()

SINGLE: Final = "/profile/update"
V1: Final = "/profile/batchUpdate"
V2: Final = "/v2/profile/batchUpdate"
STATUS: Final = "/profile/batchStatus"
FETCH: Final = "/rest/v1/profiles/thirdPartyId"
METHODS: Final = {SINGLE: {"GET", "POST"}, V2: {"POST"}, V1: {"POST"}, STATUS: {"GET"}, FETCH: {"GET"}}
_FILE: Final = {
    "items_per_call": LIMITS.file_rows,
    "body_bytes": LIMITS.file_bytes,
    "calls_per_minute": LIMITS.calls_per_minute,
    "rows_per_day": LIMITS.rows_per_day,
}
ALLOWED: Final[Mapping[str, Mapping[str, int]]] = {
    SINGLE: {"body_bytes": LIMITS.post_bytes, "rows_per_day": LIMITS.rows_per_day},
    V2: _FILE,
    V1: _FILE,
    STATUS: {"calls_per_minute": LIMITS.calls_per_minute},
}
PACED: Final = frozenset({V1, V2, STATUS})
ROUTE = re.compile(r"/m2/(?P<client>[^/]+)(?P<endpoint>(?:/v2)?/profile/(?:update|batchUpdate|batchStatus))")
FETCH_ROUTE = re.compile(rf"(?P<endpoint>{FETCH})/(?P<id>.+)", re.DOTALL)
FORM_TYPE = re.compile(r"application/x-www-form-urlencoded(\s*;.*)?", re.IGNORECASE)
BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
UNENCODED = re.compile(r"[^A-Za-z0-9\-._~!$'()*:@/?%,\n]|" + BAD_PERCENT.pattern)
NULLABLE: Final = frozenset({"complete_after_seconds", "daily_budget"})
PC_ID = "pcId/"  # begins the key of a profile known by its pcId; a third-party id can have no slash


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How bulk batches behave; a control route changes them.

    A batch completes at its nth poll or, if seconds are set, after so many. `daily_budget` is how many rows of bulk and how
    many single updates a rolling day allows, None for any number.
    """

    complete_after_polls: int = 2
    complete_after_seconds: float | None = None
    daily_budget: int | None = None
    consecutive_batches_override: bool = True

    def changed(self, given: Mapping[str, Any]) -> Settings:
        """Raises ValueError for what is no such setting."""
        for name, value in given.items():
            fits = name in asdict(self) and (isinstance(value, int | float) or (value is None and name in NULLABLE))
            if not fits:
                raise ValueError(f"the settings are {', '.join(asdict(self))}: numbers, true or false, some null")
        return replace(self, **given)


# --- the requests -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What is said of one visitor; `broken` if it can be said of nobody."""

    key: str
    values: Mapping[str, str]
    broken: bool


def row_of(kind: str, identity: str, values: Mapping[str, str]) -> Row:
    """A row; what has no value says nothing."""
    broken = "+" in identity or "/" in identity or len(identity) > LIMITS.third_party_id_length
    key = (PC_ID if kind in {"pcId", "mboxPC"} else "") + identity
    return Row(key, {name: value for name, value in values.items() if value}, broken)


def file_rows(body: bytes) -> list[Row]:
    """The rows of a batch file. Raises ValueError."""
    text = body.decode("latin-1")
    if not re.match(r"batch=(pcId|thirdPartyId)[,\n]", text):
        raise ValueError("Batch header must start with batch=pcId or batch=thirdPartyId")
    text = text.removeprefix("batch=")
    if stray := UNENCODED.search(text):
        raise ValueError(f"line {text.count(chr(10), 0, stray.start()) + 1}: not URL-encoded")
    header, *lines = text.removesuffix("\n").split("\n")
    if not 1 <= len(lines) <= LIMITS.file_rows:
        raise ValueError(f"a file has 1 to {LIMITS.file_rows} rows")
    kind, *names = cells_of(1, header)
    if len({kind, *names}) <= len(names) or any(not name.strip() or name.startswith("profile.") for name in names):
        raise ValueError("a header is empty, there twice, or not a mere name")
    return [file_row(number, kind, names, line) for number, line in enumerate(lines, 2)]


def file_row(number: int, kind: str, names: Sequence[str], line: str) -> Row:
    identity, *values = cells_of(number, line)
    if not identity.strip():
        raise ValueError(f"line {number}: no id")
    if len(values) > len(names):
        raise ValueError(f"line {number}: more values than headers")
    return row_of(kind, identity, dict(zip(names, values, strict=False)))


def cells_of(number: int, line: str) -> list[str]:
    cells = line.split(",")
    try:
        return [unquote(cell, errors="strict") if "%" in cell else cell for cell in cells]
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number}: not UTF-8") from error


def single_row(form: str) -> Row:
    """The row of a single update, of its query and body together. Raises ValueError."""
    if BAD_PERCENT.search(form):
        raise ValueError("not URL-encoded")
    pairs = parse_qsl(form, keep_blank_values=True, errors="strict")
    given = dict(pairs)
    if len(given) < len(pairs):
        raise ValueError("a parameter is there twice")
    kinds = given.keys() & {"mboxPC", "mbox3rdPartyId"}
    if len(kinds) != 1:
        raise ValueError("exactly one of mboxPC and mbox3rdPartyId is required")
    [kind] = kinds
    identity = given.pop(kind)
    values = {name.removeprefix("profile."): value for name, value in given.items() if name.startswith("profile.")}
    if not identity.strip() or not values or "" in values or len(values) < len(given):
        raise ValueError("an id and parameters such as profile.name are required, and nothing else")
    row = row_of(kind, identity, values)
    if row.broken:
        raise ValueError("no such id can be")
    return row


# --- the answers ------------------------------------------------------------------------------------------------------


def xml(status: int, *fields: tuple[str, object], inside: str = "") -> Answer:
    """An answer in XML; `inside` is XML already."""
    elements = "".join(f"<{tag}>{escape(str(value))}</{tag}>" for tag, value in fields)
    body = f"<response>{elements}{inside}</response>".encode()
    return Answer(status=status, body=body, content_type="text/xml;charset=UTF-8")


def refused(status: int, message: str) -> Answer:
    if status == 403:  # noqa: PLR2004  # which is not said in XML
        return Answer(status=status, body=b"Forbidden", content_type="text/plain")
    return xml(status, ("success", "false"), ("batchStatus", ""), ("message", message))


# --- the state --------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Job:
    """A batch that was submitted, and what became of it. `call` brought it, without its rows, but with its faults."""

    id: str
    version: int
    call: Call
    rows: Sequence[Row]
    size: int
    status: str
    polls: int = 0
    successful: int = 0
    not_found: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def consumed(self) -> int:
        return max(0, self.size - self.call.lose_rows)

    def view(self) -> dict[str, Any]:
        """The batch as JSON."""
        shown = ("id", "version", "polls", "status", "successful", "not_found")
        return {
            **{name: getattr(self, name) for name in shown},
            "rows": self.size,
            "failed": len(self.failed),
            "sha256": self.call.body.sha256,
            "submitted": self.call.arrived,
        }

    def report(self, word: str, *, details: bool) -> Answer:
        """The answer to a poll, spoilt as `word` says."""
        status = {"stuck": "stuck", "incomplete": "incomplete", "unknown_word": "paused"}.get(word, self.status)
        head = (("batchId", self.id + "9" * (word == "other_batch")), ("status", status), ("batchSize", self.size))
        if status != "complete" or not details or word == "no_counters":
            return xml(200, *head)
        counters = {
            **({"consumedCount": self.consumed} if self.version > 1 else {}),
            "successfulUpdates": self.successful,
            "profilesNotFound": self.not_found,
            "failedUpdates": len(self.failed),
        }
        said = [(name, -1 if word == "negative_counters" else count) for name, count in counters.items()]
        rows = (f"<profile><id>{escape(identity)}</id><status>failed</status></profile>" for identity in self.failed)
        return xml(200, *head, *said, inside="".join(rows) if self.version > 1 else "")


class Before(NamedTuple):
    """The attributes of a profile as they were before its latest v2 batch."""

    batch: str
    attributes: Mapping[str, str]


class AdobeTarget:
    """The APIs of one client code."""

    name = "Adobe Target"
    roots: tuple[str, ...] = ("/m2/", "/rest/")

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        client: str = DEMO_CLIENT,
        token: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._clock = clock
        self._client = client
        self._authorization = f"Bearer {token}".encode() if token else None
        self._settings_at_start = Settings().changed(settings or {})
        self.reset()

    def reset(self) -> None:
        self._settings = self._settings_at_start
        self._profiles: dict[str, dict[str, Any]] = {}
        self._before: dict[str, Before] = {}
        self._jobs: dict[str, Job] = {}
        self._calls = Window(MINUTE)
        self._bulk_day, self._single_day = Window(DAY), Window(DAY)
        counted = ("profiles_not_found", "failed_updates")
        self._meters = {
            endpoint: Meter(counts=Counter(dict.fromkeys(counted if endpoint != STATUS else (), 0)))
            for endpoint in METHODS
            if endpoint != FETCH
        }

    def serves(self, method: str, path: str) -> bool:
        route = ROUTE.fullmatch(path) or FETCH_ROUTE.fullmatch(path)
        return route is not None and method in METHODS.get(route["endpoint"], ())

    async def read(self, request: Request, arrived: float) -> Call:
        path = request.scope["path"]
        route = ROUTE.fullmatch(path) or FETCH_ROUTE.fullmatch(path)
        parameters = {**request.query_params, **(route.groupdict() if route else {})}
        call = Call(
            path=path,
            endpoint=parameters["endpoint"],
            account="",
            arrived=arrived,
            body=await read_body(request, limit=LIMITS.file_bytes),
            host=request.headers.get("host", ""),
            parameters=parameters,
        )
        if parameters.get("client") != self._client:
            return replace(call, refusal=refused(404, "no such client"))
        given = request.headers.get("authorization", "").encode()
        if self._authorization and not hmac.compare_digest(given, self._authorization):
            return replace(call, refusal=refused(403, ""))
        call = replace(call, account=self._client)
        query = request.scope["query_string"].decode("latin-1")
        if call.endpoint == SINGLE and request.method == "GET" and len(str(request.url)) > LIMITS.get_bytes:
            return replace(call, refusal=refused(414, f"a GET has at most {LIMITS.get_bytes} bytes"))
        if call.endpoint == SINGLE and len(query) + call.body.size > LIMITS.post_bytes:
            return replace(call, refusal=refused(413, f"a POST has at most {LIMITS.post_bytes} bytes"))
        try:
            return replace(call, rows=self._rows(call, query, request.headers))
        except ValueError as error:
            return replace(call, refusal=refused(400 if call.endpoint == SINGLE else 200, str(error)))

    def _rows(self, call: Call, query: str, headers: Mapping[str, str]) -> Sequence[Row]:
        """What the call says of visitors. Raises ValueError."""
        if call.endpoint in {STATUS, FETCH}:
            return ()
        if call.body.size and headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError("unknown Content-Encoding")
        if call.body.size and not FORM_TYPE.fullmatch(headers.get("content-type", "")):
            raise ValueError("the Content-Type is not application/x-www-form-urlencoded")
        if call.body.size > LIMITS.file_bytes:
            raise ValueError(f"a file has at most {LIMITS.file_bytes} bytes")
        if call.endpoint == SINGLE:
            return [single_row("&".join(filter(None, [query, call.body.kept.decode("latin-1")])))]
        return file_rows(call.body.kept)

    def answer(self, call: Call) -> Answer:
        now = self._clock()
        paced = call.account and call.endpoint in PACED and call.rate_limit
        if paced and not self._calls.take(1, now, at_most=LIMITS.calls_per_minute):
            return refused(503, f"over {LIMITS.calls_per_minute} calls a minute")
        if call.refusal is not None:
            return call.refusal
        if call.endpoint == FETCH:
            return self._fetch(call.parameters["id"])
        if call.endpoint == STATUS:
            return self._status(call)
        if any(row.key in call.refuse_call_with for row in call.rows):
            return refused(400 if call.endpoint == SINGLE else 200, "a row was refused by a fault")
        return self._single(call.rows[0], now) if call.endpoint == SINGLE else self._submit(call, now)

    def _single(self, row: Row, now: float) -> Answer:
        """Success in any case: the caller does not learn whether there is such a profile."""
        if not self._single_day.take(1, now, at_most=self._settings.daily_budget):
            return refused(429, "over the updates of a day")
        meter = self._meters[SINGLE]
        if row.key not in self._profiles:
            meter.counts["profiles_not_found"] += 1
        elif self._store(row):
            meter.rows_applied += 1
        else:
            meter.counts["failed_updates"] += 1
        return xml(200, ("success", "true"), ("pcId", ""), ("message", "Request successfully submitted"))

    def _submit(self, call: Call, now: float) -> Answer:
        """Takes a file; its rows are stored when the batch completes."""
        if not self._bulk_day.take(len(call.rows), now, at_most=self._settings.daily_budget):
            return refused(200, "over the rows of a day")
        job = Job(
            id=f"{self._client}-{int(now * 1000)}-{len(self._jobs) + 1:08}",
            version=2 if call.endpoint == V2 else 1,
            call=replace(call, rows=(), body=call.body._replace(kept=b"")),
            rows=call.rows,
            size=len(call.rows),
            status="stuck" if call.job == "stuck" else "incomplete",
        )
        self._jobs[job.id] = job
        self._settle()
        url = f"http://{call.status_host or call.host}/m2/{self._client}{STATUS}?batchId={job.id}"
        return xml(200, ("success", "true"), ("batchStatus", url), ("message", "Batch submitted for processing"))

    def _status(self, call: Call) -> Answer:
        job = self._jobs.get(call.parameters.get("batchId", ""))
        word = call.job or (job.call.job if job else "")
        if job is None or word == "lost" or not self._is_kept(job):
            return refused(404, "no such batch")
        job.polls += 1
        self._settle()
        return job.report(word, details=call.parameters.get("showDetails") == "true")

    def _fetch(self, identity: str) -> Answer:
        profile = self._profiles.get(identity)
        if profile is None:
            message = f"No profile found for client {self._client} with third party id={identity}"
            return Answer(status=404, body=json.dumps({"status": 404, "message": message}).encode())
        at = datetime.fromtimestamp(profile["updated"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        attributes = {name: {"value": value, "modifiedAt": at} for name, value in profile["attributes"].items()}
        found = {"client": self._client, "visitorId": identity, "modifiedAt": at, "profileAttributes": attributes}
        return Answer(status=200, body=json.dumps(found).encode())

    def _is_kept(self, job: Job) -> bool:
        latest = list(self._jobs)[-LIMITS.statuses_kept :]
        return job.id in latest and self._clock() - job.call.arrived <= LIMITS.status_seconds

    def _settle(self) -> None:
        """Complete the batches that are due, and those that nobody can poll any more."""
        settings = self._settings
        for job in self._jobs.values():
            if job.status != "incomplete" or job.call.job == "incomplete":
                continue
            if settings.complete_after_seconds is None:
                due = job.polls >= settings.complete_after_polls
            else:
                due = self._clock() - job.call.arrived >= settings.complete_after_seconds
            if due or not self._is_kept(job):
                self._complete(job)

    def _complete(self, job: Job) -> None:
        batch = job.id if job.version > 1 and self._settings.consecutive_batches_override else ""
        for index, row in enumerate(job.rows[: job.consumed]):
            if index < job.call.fail_rows or row.key in job.call.fail_id or row.broken:
                job.failed.append(row.key.removeprefix(PC_ID))
            elif job.version == 1 and row.key not in self._profiles:
                job.not_found += 1
            elif self._store(row, batch):
                job.successful += 1
            else:
                job.failed.append(row.key.removeprefix(PC_ID))
        job.rows, job.status = (), "complete"
        meter = self._meters[V1 if job.version == 1 else V2]
        meter.rows_applied += job.successful
        meter.counts.update(profiles_not_found=job.not_found, failed_updates=len(job.failed))

    def _store(self, row: Row, batch: str = "") -> bool:
        """Take over a row's values, or none if the profile would be too large.

        What a v2 `batch` says of a profile replaces what the one before it said, unless an mbox call came between.
        """
        if not row.values:
            return True
        now = self._clock()
        profile = self._profiles.get(row.key, {"attributes": {}, "updates": 0, "created": now})
        held = profile["attributes"]
        before = self._before.get(row.key)
        base = before.attributes if before and batch and before.batch != batch else held
        attributes = {**base, **row.values}
        if sum(len(name.encode()) + len(value.encode()) for name, value in attributes.items()) > LIMITS.profile_bytes:
            return False
        if batch:
            self._before[row.key] = Before(batch, before.attributes if before else held)
        elif before:
            self._before[row.key] = before._replace(attributes={**before.attributes, **row.values})
        self._profiles.pop(row.key, None)
        changed = {"attributes": attributes, "updates": profile["updates"] + 1, "updated": now}
        self._profiles[row.key] = {**profile, **changed}
        return True

    # --- what the emulator asks for ---

    def record(self, call: Call, outcome: str) -> None:
        if call.account and call.endpoint in self._meters:
            meter = self._meters[call.endpoint]
            meter.record(at=call.arrived, rows=len(call.rows), body_bytes=call.body.size, outcome=outcome)

    def error(self, status: int, message: str) -> Answer:
        return refused(status, message)

    def state(self) -> list[dict[str, Any]]:
        self._settle()
        now = self._clock()
        day = {SINGLE: self._single_day.used(now), V1: self._bulk_day.used(now)}
        paced = most_calls_in_a_minute(at for endpoint in PACED for at in self._meters[endpoint].arrivals)
        return [
            {
                "vendor": self.name,
                "account": self._client,
                "endpoint": endpoint,
                "profiles": len(self._profiles),
                **meter.view(),
                **({"most_calls_in_a_minute": paced} if endpoint in PACED else {}),
                **({"rows_in_a_day": day[SINGLE if endpoint == SINGLE else V1]} if endpoint != STATUS else {}),
                "limits": ALLOWED[endpoint],
            }
            for endpoint, meter in self._meters.items()
        ]

    def profiles(self, _: str | None = None) -> dict[str, dict[str, Any]]:
        self._settle()
        return self._profiles

    def jobs(self) -> list[dict[str, Any]]:
        self._settle()
        return [{"vendor": self.name, **job.view()} for job in self._jobs.values()]

    # --- control routes ---

    def control_routes(self) -> list[Route]:
        return [
            Route("/_control/adobe", self.control, methods=["GET", "POST"]),
            Route("/_control/adobe/mbox", self.mbox, methods=["POST"]),
        ]

    async def control(self, request: Request) -> Response:
        """Show the settings, changed first as a POST says."""
        if request.method == "POST":
            try:
                self._settings = self._settings.changed(json.loads(await request.body()))
            except (ValueError, AttributeError) as error:
                return JSONResponse({"error": str(error)}, 400)
        return JSONResponse(asdict(self._settings))

    async def mbox(self, _: Request) -> Response:
        """Every visitor came by: what was sent so far is merged into the profiles for good."""
        self._settle()
        self._before.clear()
        return JSONResponse({"status": "ok"})
