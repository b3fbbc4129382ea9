"""Batch's profile API: /profiles/update and /profiles/mass-update; exports of the profiles' attributes, by /profiles/export,
/exports/view, /exports/download and /exports/list.

From the vendor's pages "Profiles", "Update profile" and "Mass update profile" (doc.batch.com); what those leave open is
decided here and listed in docs/emulator.md. Not played: events, installations, deletion, exports of anything else, the
asynchronous processing after a 202 (what is accepted is applied at once).
"""

from __future__ import annotations

import hmac
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from zoneinfo import available_timezones

from starlette.requests import Request

from etl.emulator.rate import Bucket, Meter, Rate
from etl.emulator.strict import Rule, header_problem, parse, shaped
from etl.emulator.wire import Answer, Call, read_body

DEMO_API_KEY: Final = "demo-rest-key"
DEMO_PROJECT: Final = "project_demo0000000000000000000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number of this API in one place; lengths in characters."""

    endpoints: Mapping[str, Rate]
    body_bytes: int = 5_000_000
    custom_id_length: int = 512
    attributes_per_operation: int = 50
    string_length: int = 300
    url_length: int = 2_048
    email_length: int = 256
    array_items: int = 25
    integer_bits: int = 64


LIMITS: Final = Limits(
    endpoints={
        "/profiles/update": Rate(items_per_call=200, per_second=300, bucket=1_000),
        "/profiles/mass-update": Rate(items_per_call=10_000, per_second=10_000, bucket=10_000),
    },
)

BLOCKED_IDS: Final = frozenset(
    ["undefined", "null", "nil", "(null)", "[object object]", "true", "false", "nan", "infinity", "-infinity"],
)
EXPORT: Final = "/profiles/export"
# The last one is the signed link, which is for whoever has it.
LINK: Final = "/exports/link"
EXPORTS: Final = ("/exports/view", "/exports/download", "/exports/list", LINK)
VIEWS_UNTIL_DONE: Final = 2
ROUTE = re.compile(r"/[0-9]{1,2}\.[0-9]{1,2}(/(?:profiles|exports)/[a-z-]+)")
CUSTOM_KEY = re.compile(r"[a-z0-9_]{1,30}")
TYPED_KEY = re.compile(r"(date|url)\(([a-z0-9_]{1,30})\)")
DATE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?Z")
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#]+\S*")
EMAIL = re.compile(r"[^@\s]+@[A-Za-z0-9.-]+\.[A-Za-z0-9]+")
ERROR_CODES: Final = {
    400: "MALFORMED_REQUEST",
    401: "AUTHENTICATION_INVALID",
    404: "ROUTE_NOT_FOUND",
    413: "REQUEST_TOO_LARGE",
    429: "TOO_MANY_REQUESTS",
    500: "SERVER_ERROR",
    503: "MAINTENANCE",
}


def text_problem(value: Any) -> str | None:
    if not isinstance(value, str):
        return "not a string"
    if not value.strip():
        return "empty string"
    if len(value) > LIMITS.string_length:
        return f"string over {LIMITS.string_length} characters"
    if "\n" in value or "\r" in value:
        return "line break in a string"
    return None


def array_problem(value: Any) -> str | None:
    if not isinstance(value, list):
        return "not an array"
    if not 1 <= len(value) <= LIMITS.array_items:
        return f"an array holds 1 to {LIMITS.array_items} strings"
    return next((problem for problem in map(text_problem, value) if problem), None)


def edit_problem(value: Any) -> str | None:
    """Arrays are replaced by an array, or edited by an object of `$add` and `$remove`."""
    if not isinstance(value, dict):
        return array_problem(value)
    if not value or not value.keys() <= {"$add", "$remove"}:
        return "an object holds $add, $remove or both"
    return next((problem for problem in map(array_problem, value.values()) if problem), None)


def value_problem(value: Any) -> str | None:
    """The rule of an attribute whose key names no type."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return text_problem(value)
    if isinstance(value, int):
        bound = 1 << (LIMITS.integer_bits - 1)
        return None if -bound <= value < bound else f"integer over {LIMITS.integer_bits} bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "number out of range"
    return edit_problem(value)


def date_problem(value: Any) -> str | None:
    match = DATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return "not a UTC date-time by RFC 3339"
    try:
        datetime.fromisoformat(match[1])
    except ValueError:
        return "no such date or time"
    return None


def timezone_problem(value: Any) -> str | None:
    return None if isinstance(value, str) and value in time_zones() else "not an IANA time zone"


@lru_cache(maxsize=1)
def time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


consent_problem = shaped(re.compile("subscribed|unsubscribed"), "subscribed or unsubscribed")
TYPED: Final[Mapping[str, Rule]] = {
    "date": date_problem,
    "url": shaped(URL, f"a URL of at most {LIMITS.url_length} characters", at_most=LIMITS.url_length),
}
NATIVE: Final[Mapping[str, Rule]] = {
    "$email_address": shaped(EMAIL, "an e-mail address", at_most=LIMITS.email_length),
    "$email_marketing": consent_problem,
    "$phone_number": shaped(re.compile(r"\+[0-9]{1,15}"), "a phone number by E.164"),
    "$sms_marketing": consent_problem,
    "$language": shaped(re.compile("[a-z]{2}"), "a language by ISO 639-1"),
    "$region": shaped(re.compile("[A-Z]{2}"), "a region by ISO 3166-1"),
    "$timezone": timezone_problem,
    "$topic_preferences": edit_problem,
}


@lru_cache(maxsize=10_000)
def rule_of(key: str) -> Rule | None:
    """The rule for an attribute's value, by its key; None if there can be no such attribute."""
    if typed := TYPED_KEY.fullmatch(key):
        return TYPED[typed[1]]
    return value_problem if CUSTOM_KEY.fullmatch(key) else NATIVE.get(key)


def attribute_problem(key: str, value: Any) -> str | None:
    """What is wrong with one attribute, or None; no rule ever sees null, which erases."""
    rule = rule_of(key)
    if rule is None:
        return "no such attribute name"
    return None if value is None else rule(value)


def identifier_problem(identifiers: Any) -> str | None:
    """What is wrong with the identifiers of an operation, or None."""
    if not isinstance(identifiers, dict) or identifiers.keys() not in ({"custom_id"}, {"installation"}):
        return "exactly one of custom_id and installation is required"
    if "installation" in identifiers:
        return None if isinstance(identifiers["installation"], dict) else "installation is not an object"
    custom_id = identifiers["custom_id"]
    if not isinstance(custom_id, str) or not custom_id.strip():
        return "custom_id is empty or not a string"
    if len(custom_id) > LIMITS.custom_id_length:
        return f"custom_id over {LIMITS.custom_id_length} characters"
    return "custom_id is on the block list" if custom_id.lower() in BLOCKED_IDS else None


# --- the request ------------------------------------------------------------------------------------------------------


def shape_problem(operations: Any, rate: Rate) -> str | None:
    """What is wrong with the array as a whole, so that nothing of it is taken; or None."""
    if not isinstance(operations, list) or not operations:
        return "the body is not an array of at least one operation"
    if len(operations) > rate.items_per_call:
        return f"over {rate.items_per_call} operations"
    for index, operation in enumerate(operations):
        if not isinstance(operation, dict) or not operation.keys() <= {"identifiers", "attributes", "events"}:
            return f"operation {index} is not an object of identifiers, attributes and events"
        if not isinstance(operation.get("attributes", {}), dict):
            return f"the attributes of operation {index} are not an object"
    return None


# --- the state --------------------------------------------------------------------------------------------------------


def edited(old: Any, value: Any) -> Any:
    """The value of an attribute after an update, None if it has gone; edited arrays are sets that keep their order."""
    if not isinstance(value, dict):
        return value
    kept = dict.fromkeys([*(old if isinstance(old, list) else []), *value.get("$add", [])])
    return [entry for entry in kept if entry not in value.get("$remove", [])] or None


@dataclass(slots=True, kw_only=True)
class Export:
    """One request for the profiles' attributes: done, and its content fixed, when it is viewed for the second time."""

    id: str
    request: Mapping[str, Any]
    views: int = 0
    content: bytes | None = None

    def view(self, base: str) -> dict[str, Any]:
        file = f"file_{self.id}"
        files = (
            [{"id": file, "part": 1, "size": len(self.content), "url": f"{base}/exports/download?id={file}"}]
            if self.content is not None
            else []
        )
        status = "RUNNING" if self.content is None else "SUCCESS"
        return {"id": self.id, "scope": "PROFILE_ATTRIBUTES", "status": status, "request": self.request, "files": files}


def export_problem(request: Any) -> str | None:
    """What is wrong with an export request, or None."""
    if not isinstance(request, dict) or not request.keys() <= {"export_type", "attributes", "identifiers"}:
        return "an export is an object of export_type, attributes and identifiers"
    wanted = [request.get("attributes", []), request.get("identifiers", [])]
    if request.get("export_type") != "ATTRIBUTES" or not any(wanted):
        return "export_type is ATTRIBUTES, and attributes or identifiers are named"
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in wanted):
        return "attributes and identifiers are arrays of strings"
    return None if set(wanted[1]) <= {"custom_id"} else "no such identifier"


@dataclass(slots=True)
class Project:
    """What one project holds: profiles by Custom ID (the newest last), and per endpoint a bucket and a meter."""

    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(
        default_factory=lambda: {path: Bucket(rate.per_second, rate.bucket) for path, rate in LIMITS.endpoints.items()},
    )
    exports: list[Export] = field(default_factory=list)
    meters: dict[str, Meter] = field(
        default_factory=lambda: {
            path: Meter(rate, counts=Counter(partial_errors=0)) for path, rate in LIMITS.endpoints.items()
        },
    )

    def exported(self, request: Mapping[str, Any]) -> bytes:
        """The file of an export, a profile a line; an attribute goes by its plain name, whatever its type."""
        wanted = set(request.get("attributes", []))
        lines = []
        for custom_id, profile in self.profiles.items():
            plain = {TYPED_KEY.sub(r"\2", key): value for key, value in profile["attributes"].items()}
            kept = {key: value for key, value in plain.items() if key in wanted}
            lines.append(json.dumps({"identifiers": {"custom_id": custom_id}, "attributes": kept}, ensure_ascii=False))
        return "\n".join(lines).encode()

    def apply(self, index: int, operation: Mapping[str, Any], call: Call) -> list[dict[str, Any]]:
        """Take over one operation but for its broken parts, which are returned as partial errors."""
        identifiers = operation.get("identifiers")
        attributes = operation.get("attributes", {})
        if problem := identifier_problem(identifiers):
            return [partial_error(index, "identifier", problem)]
        if len(attributes) > LIMITS.attributes_per_operation:
            return [partial_error(index, "attribute", f"over {LIMITS.attributes_per_operation} attributes")]
        errors = [partial_error(index, "event", "the emulator takes no events")] if operation.get("events") else []
        if not isinstance(identifiers, dict) or "custom_id" not in identifiers:
            return errors
        custom_id = identifiers["custom_id"]
        profile = self.profiles.pop(custom_id, None) or {"attributes": {}, "updates": 0, "created": call.arrived}
        self.profiles[custom_id] = profile
        profile["updates"] += 1
        profile["updated"] = call.arrived
        held = profile["attributes"]
        for key, value in attributes.items():
            new = None
            problem = attribute_problem(key, value)
            if (custom_id, key) in call.refuse_attribute:
                problem = "refused by a fault"
            elif problem is None:
                new = edited(held.get(key), value)
                if isinstance(new, list) and len(new) > LIMITS.array_items:
                    problem = f"the array would hold over {LIMITS.array_items} strings"
            if problem:
                errors.append(partial_error(index, "attribute", problem, attribute=key))
            elif new is None:
                held.pop(key, None)
            else:
                held[key] = new
        return errors


def partial_error(index: int, category: str, reason: str, **attribute: str) -> dict[str, Any]:
    return {"category": category, "bulk_index": index, "reason": reason, **attribute}


class Batch:
    """The API of one company: its REST key opens all of its projects."""

    name = "Batch"
    roots: tuple[str, ...] = ("",)

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        api_key: str = DEMO_API_KEY,
        projects: Sequence[str] = (DEMO_PROJECT,),
    ) -> None:
        self._clock = clock
        self._authorization = f"Bearer {api_key}".encode()
        self._projects = {key: Project() for key in projects}

    def reset(self) -> None:
        self._projects = {key: Project() for key in self._projects}

    def serves(self, method: str, path: str) -> bool:
        route = ROUTE.fullmatch(path)
        if route is None:
            return False
        return route[1] in {*LIMITS.endpoints, EXPORT} if method == "POST" else method == "GET" and route[1] in EXPORTS

    async def read(self, request: Request, arrived: float) -> Call:
        path = request.url.path
        body = await read_body(request, limit=LIMITS.body_bytes)
        account = self._account(request.headers)
        call = Call(
            path=path,
            endpoint=path[path.index("/", 1) :],
            account=account,
            arrived=arrived,
            body=body,
            host=request.headers.get("host", ""),
            parameters=dict(request.query_params),
        )
        if call.endpoint == LINK:
            has_key = "authorization" in request.headers
            return replace(call, refusal=refused(400, "a signed link takes no key")) if has_key else call
        rows, refusal = self._judge(call, request.headers)
        return replace(call, rows=rows, refusal=refusal)

    def _judge(self, call: Call, headers: Mapping[str, str]) -> tuple[Sequence[Any], Answer | None]:
        """The operations of a call, and the refusal if nothing of it can be taken."""
        if not call.account:
            return (), refused(401, "the REST key or the project key is not valid")
        if call.endpoint in EXPORTS:
            return (), None
        if problem := header_problem(headers):
            return (), refused(400, problem)
        if call.body.size > LIMITS.body_bytes:
            return (), refused(413, f"the body is over {LIMITS.body_bytes} bytes")
        try:
            operations = parse(call.body.kept)
        except ValueError as error:
            return (), refused(400, f"not strict JSON: {error}")
        if call.endpoint == EXPORT:
            problem = export_problem(operations)
        else:
            problem = shape_problem(operations, LIMITS.endpoints[call.endpoint])
        return operations if isinstance(operations, list) else (), refused(400, problem) if problem else None

    def answer(self, call: Call) -> Answer:
        if call.refusal is not None:
            return call.refusal
        if call.endpoint not in LIMITS.endpoints:
            return self._export(call)
        if any(row.get("identifiers") == {"custom_id": one} for row in call.rows for one in call.refuse_call_with):
            return refused(400, "an operation was refused by a fault")
        project = self._projects[call.account]
        if call.rate_limit and not project.buckets[call.endpoint].take(len(call.rows), self._clock()):
            return refused(429, "more Custom IDs than the rate limit allows")
        kept = call.rows[: len(call.rows) - call.lose_rows]
        errors = [error for index, row in enumerate(kept) for error in project.apply(index, row, call)]
        meter = project.meters[call.endpoint]
        meter.rows_applied += len(kept)
        meter.counts["partial_errors"] += len(errors)
        body = {"code": "SUCCESS_WITH_PARTIAL_ERRORS", "errors": errors} if errors else {"code": "SUCCESS"}
        return Answer(status=202, body=json.dumps(body).encode())

    def _export(self, call: Call) -> Answer:
        """The request for an export, a look at it, or at all of them."""
        base = f"http://{call.host}{call.path.removesuffix(call.endpoint)}"
        if call.endpoint in {"/exports/download", LINK}:
            return self._file(call, base)
        project = self._projects[call.account]
        made = project.exports
        if call.endpoint == EXPORT:
            export = Export(id=f"export_{len(made) + 1:028}", request=parse(call.body.kept))
            made.append(export)
            return told(202, {"id": export.id})
        if call.endpoint == "/exports/list":
            return told(200, {"exports": [export.view(base) for export in made], "count": len(made), "has_more": False})
        found = next((export for export in made if export.id == call.parameters.get("id")), None)
        if found is None:
            return refused(404, "no such export")
        found.views += 1
        if found.views == VIEWS_UNTIL_DONE:
            found.content = project.exported(found.request)
        return told(200, found.view(base))

    def _file(self, call: Call, base: str) -> Answer:
        """The signed link to an export's file, or what the link leads to, without a key."""
        projects = [self._projects[call.account]] if call.account else self._projects.values()
        made = [export for project in projects for export in project.exports]
        wanted = call.parameters.get("id", "").removeprefix("file_")
        found = next((export for export in made if export.id == wanted), None)
        if found is None or found.content is None:
            return refused(404 if found is None else 400, "no such file, or not yet")
        if call.endpoint == LINK:
            return Answer(status=200, body=found.content)
        return Answer(status=307, body=b"", headers=(("location", f"{base}{LINK}?id={wanted}"),))

    def record(self, call: Call, outcome: str) -> None:
        if call.account and call.endpoint in LIMITS.endpoints:
            meter = self._projects[call.account].meters[call.endpoint]
            meter.record(at=call.arrived, rows=len(call.rows), body_bytes=call.body.size, outcome=outcome)

    def error(self, status: int, message: str) -> Answer:
        return refused(status, message)

    def state(self) -> list[dict[str, Any]]:
        now = self._clock()
        return [
            {
                "vendor": self.name,
                "account": key,
                "endpoint": path,
                "profiles": len(project.profiles),
                **project.meters[path].view(),
                "level": round(project.buckets[path].refill(now), 1),
                "limits": {**asdict(rate), "body_bytes": LIMITS.body_bytes},
            }
            for key, project in self._projects.items()
            for path, rate in LIMITS.endpoints.items()
        ]

    def profiles(self, account: str | None = None) -> dict[str, dict[str, Any]]:
        project = self._projects.get(account or next(iter(self._projects)))
        return project.profiles if project else {}

    def jobs(self) -> list[dict[str, Any]]:
        return []

    def _account(self, headers: Mapping[str, str]) -> str:
        """The project that the two headers open together, or nothing."""
        given = headers.get("authorization", "").encode()
        project = headers.get("x-batch-project", "")
        return project if hmac.compare_digest(given, self._authorization) and project in self._projects else ""


def told(status: int, value: Mapping[str, Any]) -> Answer:
    return Answer(status=status, body=json.dumps(value).encode())


def refused(status: int, message: str) -> Answer:
    """A refusal of the whole call in Batch's words."""
    body = {"error_code": ERROR_CODES.get(status, "ERROR"), "error_message": message}
    return Answer(status=status, body=json.dumps(body).encode())
