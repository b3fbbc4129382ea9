"""Herald's API as the emulator would play it: what a sixth vendor's emulator module looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request

from etl.emulator.app import Emulator
from etl.emulator.wire import Answer, Call, read_body

ROUTES = {("POST", "/v1/people"), ("GET", "/v1/account")}


def create_app(*, clock: Callable[[], float], key: str) -> Starlette:
    """The vendor behind the emulator's faults and control routes."""
    return Starlette(routes=Emulator(vendors=[HeraldVendor(key)], faults=(), clock=clock).routes())


def _answer(status: int, **body: Any) -> Answer:
    return Answer(status=status, body=json.dumps(body).encode())


class HeraldVendor:
    """One account."""

    name = "Herald"
    roots = ("/",)

    def __init__(self, key: str) -> None:
        self._key = key
        self.reset()

    def reset(self) -> None:
        self._people: dict[str, dict[str, Any]] = {}

    def serves(self, method: str, path: str) -> bool:
        return (method, path) in ROUTES

    async def read(self, request: Request, arrived: float) -> Call:
        path = request.scope["path"]
        body = await read_body(request, limit=100_000)
        call = Call(path=path, endpoint=path, account="", arrived=arrived, body=body)
        if request.headers.get("x-herald-key") != self._key:
            return replace(call, refusal=self.error(401, "unknown key"))
        try:
            rows = [json.loads(line) for line in body.kept.split(b"\n")[:-1]]
        except ValueError:
            return replace(call, refusal=self.error(400, "not lines of JSON"))
        return replace(call, account="default", rows=rows)

    def answer(self, call: Call) -> Answer:
        if call.refusal is not None:
            return call.refusal
        if any(row["id"] in call.refuse_call_with for row in call.rows):
            return self.error(422, "a person was refused by a fault")
        for row in call.rows:
            held = self._people.get(row["id"], {"attributes": {}, "updates": 0})
            attributes = {**held["attributes"], **row["facts"]}
            self._people[row["id"]] = {"attributes": attributes, "updates": held["updates"] + 1}
        return _answer(200, taken=len(call.rows), refused=[])

    def error(self, status: int, message: str) -> Answer:
        return _answer(status, message=message)

    def record(self, call: Call, outcome: str) -> None: ...

    def state(self) -> list[dict[str, Any]]:
        return []

    def jobs(self) -> list[dict[str, Any]]:
        return []

    def profiles(self, _: str | None = None) -> dict[str, dict[str, Any]]:
        return self._people
