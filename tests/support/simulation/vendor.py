"""A vendor and the network before it: what arrived, what it made of it, and whether any limit was broken."""

from __future__ import annotations

import json
import re
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from etl.client import Answer
from etl.errors import NotSent, OutcomeUnknown
from simulation.kernel import Hub, Process

LATENCY_S = 0.02
DAY_S = 86_400.0


@dataclass(kw_only=True)
class Limits:
    """What the vendor enforces by counting: all of it is a violation, none of it a refusal."""

    rows_per_call: int
    per_second: float | None = None
    burst: float = 0.0
    strict: bool = False
    calls_per_minute: float | None = None
    quota: int | None = None


@dataclass(kw_only=True)
class Vendor:
    """One account at a vendor that takes bodies whole; `poison` ids make it refuse the body that holds one."""

    hub: Hub
    limits: Limits
    poison: frozenset[str] = frozenset()
    profiles: dict[str, str] = field(default_factory=dict)
    taken: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    posts: int = 0
    jobs: dict[str, tuple[float, int]] = field(default_factory=dict)
    _arrivals: deque[tuple[float, int]] = field(default_factory=deque)
    _level: float | None = None
    _level_at: float = 0.0

    def take(self, body: bytes) -> tuple[int, bytes]:
        """A delivery: status and body of the answer."""
        rows = rows_of(body)
        self.posts += 1
        self._count(len(rows))
        if self.poison & rows.keys():
            return 400, b'{"code":"MALFORMED"}'
        self.taken[sha256(body).hexdigest()] += 1
        if not body.startswith(b"batch="):
            self.profiles |= rows
            return 202, b"{}" if body.startswith(b"{") else b'{"code":"SUCCESS"}'
        job = f"acme-1-{len(self.jobs):08}"
        seconds = self.hub.random.uniform(1, 120)
        self.jobs[job] = (self.hub.now + seconds, len(rows))
        self.hub.at(seconds, lambda: self.profiles.update(rows))
        url = f"https://acme.tt.omtrdc.net/m2/acme/profile/batchStatus?batchId={job}"
        return 200, _xml(success="true", batchStatus=url, message="taken")

    def status(self, url: str) -> tuple[int, bytes]:
        """A question about a job."""
        [job] = parse_qs(urlsplit(url).query)["batchId"]
        done_at, rows = self.jobs[job]
        if self.hub.now < done_at:
            return 200, _xml(batchId=job, status="incomplete", batchSize=rows)
        return 200, _xml(
            batchId=job, status="complete", batchSize=rows, consumedCount=rows, successfulUpdates=rows,
            failedUpdates=0, profilesNotFound=0,
        )  # fmt: skip

    def _count(self, rows: int) -> None:
        now, limits = self.hub.now, self.limits
        self._arrivals.append((now, rows))
        while self._arrivals[0][0] <= now - DAY_S:
            self._arrivals.popleft()
        if rows > limits.rows_per_call:
            self.violations.append(f"a call of {rows} rows")
        if limits.quota is not None and sum(n for _, n in self._arrivals) > limits.quota:
            self.violations.append("over the quota")
        minute = sum(at > now - 60 for at, _ in self._arrivals)
        if limits.calls_per_minute is not None and minute > limits.calls_per_minute:
            self.violations.append(f"{minute} calls in a minute")
        if limits.per_second is None:
            return
        if limits.strict:
            if sum(n for at, n in self._arrivals if at > now - 1) > limits.per_second:
                self.violations.append("over the rows of a second")
            return
        level = limits.burst if self._level is None else self._level + (now - self._level_at) * limits.per_second
        self._level, self._level_at = min(limits.burst, level) - rows, now
        if self._level < -0.01:
            self.violations.append(f"the bucket is overdrawn by {-self._level:.2f}")


@dataclass(kw_only=True)
class Weather:
    """How likely each trouble of the network is, in a call."""

    refused: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    broken: float = 0.0
    throttled: float = 0.0
    redirected: float = 0.0
    denied: float = 0.0
    outage: bool = False


@dataclass(kw_only=True)
class Network:
    """The way of a process to the vendor, with the methods of `etl.client.Client`."""

    process: Process
    vendor: Vendor
    weather: Weather

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def post(self, url: str, *, body: bytes, headers: Mapping[str, str]) -> Answer:
        return self._exchange(lambda: self.vendor.take(body))

    def get(self, url: str, *, headers: Mapping[str, str]) -> Answer:
        return self._exchange(lambda: self.vendor.status(url))

    def _exchange(self, handle: Any) -> Answer:
        hub, weather = self.process.hub, self.weather
        # A machine that stands still between its last look at the clock and the first byte is beyond what anybody can mend.
        self.process.breathe(may_freeze=False)
        fates = {
            "refused": weather.refused, "lost": weather.lost, "cut": weather.cut, "broken": weather.broken,
            "throttled": weather.throttled, "redirected": weather.redirected, "denied": weather.denied,
        }  # fmt: skip
        rest = max(0.0, 1 - sum(fates.values()))
        fate = "outage" if weather.outage else hub.random.choices([*fates, "fine"], [*fates.values(), rest])[0]
        if fate in {"refused", "outage"}:
            raise NotSent("", code="connect_failed")
        answers: list[tuple[int, bytes]] = []
        if fate in {"fine", "cut"} or (fate == "broken" and hub.random.random() < 1 / 2):
            # What has left arrives, whatever becomes of its sender.
            hub.at(hub.random.uniform(0, LATENCY_S), lambda: answers.append(handle()))
        self.process.sleep(LATENCY_S * 2)
        if fate == "lost":
            self.process.sleep(60)
            raise OutcomeUnknown("", code="timeout")
        if fate == "cut":
            raise OutcomeUnknown("", code="answer_cut")
        words = {"broken": 503, "throttled": 429, "redirected": 302, "denied": 401}
        status, body = answers[0] if fate == "fine" else (words[fate], b"")
        asked = hub.random.choice([None, 1.0, 30.0]) if fate in {"broken", "throttled"} else None
        return Answer(status=status, body=body, retry_after=asked, request_id=None, seconds=0.0)


def rows_of(body: bytes) -> dict[str, str]:
    """The text of each profile in a body, by its id."""
    if body.startswith(b"["):
        return {row["identifiers"]["custom_id"]: json.dumps(row) for row in json.loads(body)}
    if body.startswith(b"batch="):
        return {line.split(",", 1)[0]: line for line in body.decode().splitlines()[1:]}
    found = {}
    for row in json.loads(body)["profiles"]:
        row["subscribedAtChanged"] = None  # an event; what is stored is the same with and without it
        found[_customer(row)] = json.dumps(row)
    return found


def _customer(row: dict[str, Any]) -> str:
    match = re.search(r'"customerId", "values": \["([^"]*)"\]', json.dumps(row))
    assert match is not None
    return match[1]


def _xml(**fields: object) -> bytes:
    return ("<response>" + "".join(f"<{n}>{v}</{n}>" for n, v in fields.items()) + "</response>").encode()
