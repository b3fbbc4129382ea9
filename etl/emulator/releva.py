"""Releva's Profile Upsert API: /api/v0/profiles.

From the vendor's page "Profile Upsert"; what it leaves open is decided here and listed in docs/emulator.md. Not played: the
other calls of the family, the events themselves (they are counted), the delay after a 202.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final

from starlette.requests import Request

from etl.emulator.rate import MINUTE, Meter, Window
from etl.emulator.strict import Rule, header_problem, parse, shaped
from etl.emulator.wire import Answer, Call, read_body

DEMO_SECRET_KEY: Final = "demo-secret-key"  # noqa: S105  # everybody may know it
ROUTE: Final = "/api/v0/profiles"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every number of this API in one place. The vendor documents none: all are assumed."""

    profiles_per_call: int = 100
    body_bytes: int = 1_000_000
    calls_per_minute: int = 60


LIMITS: Final = Limits()
CONSENTS: Final = ("legitimateInterest", "privacyPolicy", "mandatoryCookies", "cookiesPolicy")
INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})")
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


# --- the rules of a profile -------------------------------------------------------------------------------------------


def dated(pattern: re.Pattern[str], what: str, read: Callable[[str], object]) -> Rule:
    """The rule of a string with one shape that is also in the calendar."""
    shape_problem = shaped(pattern, what)

    def problem(value: Any) -> str | None:
        if found := shape_problem(value):
            return found
        try:
            read(value)
        except ValueError:
            return "no such date or time"
        return None

    return problem


def text_problem(value: Any) -> str | None:
    return None if isinstance(value, str) else "not a string"


def texts_problem(value: Any) -> str | None:
    fits = isinstance(value, list) and all(isinstance(entry, str) and entry.strip() for entry in value)
    return None if fits else "not an array of strings"


def subscriptions_problem(value: Any) -> str | None:
    return None if value is None else texts_problem(value)


def location_problem(value: Any) -> str | None:
    if not isinstance(value, dict) or value.keys() != {"lat", "lon"}:
        return "not an object of lat and lon"
    bounds = {"lat": 90, "lon": 180}
    fits = all(type(value[name]) in {int, float} and abs(value[name]) <= bound for name, bound in bounds.items())
    return None if fits else "not a latitude and a longitude"


def custom_problem(value: Any) -> str | None:
    """Only the group `string` is documented: an array of objects of `key` and `values`."""
    if not isinstance(value, dict) or not value.keys() <= {"string"}:
        return "a group other than string"
    fields = value.get("string", [])
    if not isinstance(fields, list) or any(not isinstance(entry, dict) for entry in fields):
        return "string is not an array of objects"
    for entry in fields:
        if entry.keys() != {"key", "values"} or not isinstance(entry["key"], str) or not entry["key"].strip():
            return "a custom field is not an object of key and values"
        if problem := texts_problem(entry["values"]):
            return problem
    return None if len({entry["key"] for entry in fields}) == len(fields) else "a custom key is there twice"


RULES: Final[Mapping[str, Rule]] = {
    "email": shaped(re.compile(r"[^@\s]+@[^@\s]+"), "an e-mail address"),
    "phoneNumber": shaped(re.compile(r"\+[0-9]+"), "a + and digits"),
    "firstName": text_problem,
    "lastName": text_problem,
    "registeredAt": dated(INSTANT, "an ISO 8601 date-time", datetime.fromisoformat),
    "subscribedAt": dated(INSTANT, "an ISO 8601 date-time", datetime.fromisoformat),
    "birthday": dated(DAY, "an ISO 8601 date", date.fromisoformat),
    "consent": shaped(re.compile("|".join(CONSENTS)), "a consent"),
    "unsubscribeLink": text_problem,
    "location": location_problem,
    "addTags": texts_problem,
    "removeTags": texts_problem,
    "subscriptions": subscriptions_problem,
    "custom": custom_problem,
}


def entry_problem(entry: Any) -> str | None:
    """What is wrong with one of the profiles of a call, or None."""
    if not isinstance(entry, dict) or entry.keys() != {"profile", "subscribedAtChanged"}:
        return "not an object of profile and subscribedAtChanged"
    if not isinstance(entry["subscribedAtChanged"], bool):
        return "subscribedAtChanged is not true or false"
    profile = entry["profile"]
    if not isinstance(profile, dict):
        return "profile is not an object"
    if not profile.keys() & {"email", "phoneNumber"}:
        return "email or phoneNumber is required"
    for name, value in profile.items():
        problem = RULES[name](value) if name in RULES else "no such field"
        if problem:
            return f"{name if name in RULES else 'a field'}: {problem}"
    both = set(profile.get("addTags", [])) & set(profile.get("removeTags", []))
    return "a tag is both added and removed" if both else None


def key_of(entry: Mapping[str, Any]) -> str:
    """By what the vendor knows the profile: the e-mail address, else the phone number."""
    profile = entry["profile"]
    return str(profile.get("email") or profile["phoneNumber"])


def upserted(held: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's attributes after an upsert: what is omitted stays, `custom` and `subscriptions` are replaced."""
    given = {name: value for name, value in profile.items() if name not in {"addTags", "removeTags"}}
    if given.get("subscriptions", ()) is None:
        del given["subscriptions"]
    tags = dict.fromkeys([*held.get("tags", []), *profile.get("addTags", [])])
    kept = [tag for tag in tags if tag not in profile.get("removeTags", [])]
    return {**held, **given, **({"tags": kept} if kept or "tags" in held else {})}


# --- the calls --------------------------------------------------------------------------------------------------------


def refused(status: int, message: str) -> Answer:
    """A refusal of the whole call in Releva's words."""
    return Answer(status=status, body=json.dumps({"message": message}).encode())


class Releva:
    """The API of one account."""

    name = "Releva"
    roots: tuple[str, ...] = ("/api/",)
    account = "default"

    def __init__(self, *, clock: Callable[[], float], secret_key: str = DEMO_SECRET_KEY) -> None:
        self._clock = clock
        self._authorization = f"Bearer {secret_key}".encode()
        self.reset()

    def reset(self) -> None:
        self._profiles: dict[str, dict[str, Any]] = {}
        self._calls = Window(MINUTE)
        self._meter = Meter(counts=Counter(backfill_events=0, subscription_changes=0))

    def serves(self, method: str, path: str) -> bool:
        return (method, path) == ("POST", ROUTE)

    async def read(self, request: Request, arrived: float) -> Call:
        body = await read_body(request, limit=LIMITS.body_bytes)
        call = Call(path=ROUTE, endpoint=ROUTE, account="", arrived=arrived, body=body)
        if not hmac.compare_digest(request.headers.get("authorization", "").encode(), self._authorization):
            return replace(call, refusal=refused(401, "the secret key is not valid"))
        rows, refusal = self._judge(call, request.headers)
        return replace(call, account=self.account, rows=rows, refusal=refusal)

    def _judge(self, call: Call, headers: Mapping[str, str]) -> tuple[Sequence[Any], Answer | None]:
        """The profiles of a call, and the refusal if nothing of it can be taken."""
        if problem := header_problem(headers):
            return (), refused(400, problem)
        if call.body.size > LIMITS.body_bytes:
            return (), refused(413, f"the body is over {LIMITS.body_bytes} bytes")
        try:
            document = parse(call.body.kept)
        except ValueError as error:
            return (), refused(400, f"not strict JSON: {error}")
        entries = document.get("profiles") if isinstance(document, dict) and len(document) == 1 else None
        if not isinstance(entries, list) or not entries:
            return (), refused(400, "the body is not an object of profiles, an array of at least one")
        if len(entries) > LIMITS.profiles_per_call:
            return entries, refused(413, f"over {LIMITS.profiles_per_call} profiles")
        problems = (
            f"profile {index}: {found}" for index, entry in enumerate(entries) if (found := entry_problem(entry))
        )
        first = next(problems, None)
        return entries, refused(400, first) if first else None

    def answer(self, call: Call) -> Answer:
        now = self._clock()
        if call.account and call.rate_limit and not self._calls.take(1, now, at_most=LIMITS.calls_per_minute):
            return refused(429, f"over {LIMITS.calls_per_minute} calls a minute")
        if call.refusal is not None:
            return call.refusal
        if any(
            entry["profile"].get(name) in call.refuse_call_with
            for entry in call.rows
            for name in ("email", "phoneNumber")
        ):
            return refused(400, "a profile was refused by a fault")
        for entry in call.rows:
            self._upsert(entry, call.arrived)
        self._meter.rows_applied += len(call.rows)
        return Answer(status=202, body=b"{}")

    def _upsert(self, entry: Mapping[str, Any], now: float) -> None:
        key = key_of(entry)
        held = self._profiles.pop(key, {"attributes": {}, "updates": 0, "subscription_changes": 0, "created": now})
        self._profiles[key] = {
            **held,
            "attributes": upserted(held["attributes"], entry["profile"]),
            "updates": held["updates"] + 1,
            "subscription_changes": held["subscription_changes"] + entry["subscribedAtChanged"],
            "updated": now,
        }
        self._meter.counts.update(backfill_events=1, subscription_changes=int(entry["subscribedAtChanged"]))

    def record(self, call: Call, outcome: str) -> None:
        if call.account:
            self._meter.record(at=call.arrived, rows=len(call.rows), body_bytes=call.body.size, outcome=outcome)

    def error(self, status: int, message: str) -> Answer:
        return refused(status, message)

    def state(self) -> list[dict[str, Any]]:
        limits = {
            "items_per_call": LIMITS.profiles_per_call,
            "body_bytes": LIMITS.body_bytes,
            "calls_per_minute": LIMITS.calls_per_minute,
        }
        return [
            {
                "vendor": self.name,
                "account": self.account,
                "endpoint": ROUTE,
                "profiles": len(self._profiles),
                **self._meter.view(),
                "limits": limits,
            },
        ]

    def profiles(self, _: str | None = None) -> dict[str, dict[str, Any]]:
        return self._profiles

    def jobs(self) -> list[dict[str, Any]]:
        return []
