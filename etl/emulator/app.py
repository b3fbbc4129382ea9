"""The application: vendors behind their faults, a log of what arrived, control routes, and the page at /."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from etl.emulator import adobe, batch, page, releva
from etl.emulator.faults import Faults
from etl.emulator.wire import Answer, Call, Vendor, WireResponse, read_body

REQUESTS_KEPT: Final = 10_000
SHOWN: Final = 15


def steady_clock() -> Callable[[], float]:
    """Seconds since 1970 that never step back while this process lives."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


def create_app(
    *,
    api_key: str = batch.DEMO_API_KEY,
    project_keys: Sequence[str] = (batch.DEMO_PROJECT,),
    adobe_client: str = adobe.DEMO_CLIENT,
    adobe_token: str | None = None,
    adobe_settings: Mapping[str, Any] | None = None,
    releva_key: str = releva.DEMO_SECRET_KEY,
    faults: Sequence[Mapping[str, Any]] = (),
    clock: Callable[[], float] | None = None,
) -> Starlette:
    """An emulator with its own state. Faults and settings are as in docs/emulator.md; ValueError if one is none."""
    clock = clock or steady_clock()
    target = adobe.AdobeTarget(clock=clock, client=adobe_client, token=adobe_token, settings=adobe_settings or {})
    vendors: list[Vendor] = [
        batch.Batch(clock=clock, api_key=api_key, projects=project_keys),
        target,
        releva.Releva(clock=clock, secret_key=releva_key),
    ]
    emulator = Emulator(vendors=vendors, faults=faults, clock=clock)
    return Starlette(routes=[*target.control_routes(), *emulator.routes()])


class Emulator:
    """Everything between the socket and the vendors."""

    def __init__(
        self,
        *,
        vendors: Sequence[Vendor],
        faults: Sequence[Mapping[str, Any]],
        clock: Callable[[], float],
    ) -> None:
        self._vendors = {vendor.name.lower().replace(" ", "_"): vendor for vendor in vendors}
        self._faults_at_start = faults
        self._faults = Faults(faults)
        self._clock = clock
        self._requests: deque[dict[str, Any]] = deque(maxlen=REQUESTS_KEPT)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/_control/health", self.health),
            Route("/_control/reset", self.reset, methods=["POST"]),
            Route("/_control/state", self.state),
            Route("/_control/requests", self.requests),
            Route("/_control/jobs", self.jobs),
            Route("/_control/profiles", self.profiles),
            Route("/_control/profiles/{identity:path}", self.profile),
            Route("/_control/faults", self.add_faults, methods=["POST"]),
            Route("/_control/faults", self.clear_faults, methods=["DELETE"]),
            Route("/{path:path}", self.call, methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ]

    # --- the vendors' side ---

    async def call(self, request: Request) -> Response:
        """Any route that is not the emulator's own."""
        arrived = self._clock()
        path = request.scope["path"]
        vendor = next(vendor for vendor in reversed(self._vendors.values()) if path.startswith(vendor.roots))
        if not vendor.serves(request.method, path):
            call = Call(path=path, endpoint="", account="", arrived=arrived, body=await read_body(request, limit=0))
            answer = vendor.error(404, "no such route")
        else:
            call = await vendor.read(request, arrived)

            async def handle(call: Call) -> Answer:
                return vendor.answer(call)

            answer = await self._faults.strike(path)(handle)(call)
            if answer.body is None:
                words = vendor.error(answer.status, "answered by a fault")
                body = words.body if answer.status >= 400 else b""  # noqa: PLR2004  # where HTTP's errors begin
                answer = replace(answer, body=body, content_type=words.content_type)
            vendor.record(call, answer.outcome)
        self._requests.append(
            {
                "at": arrived,
                "method": request.method,
                "path": path,
                "status": answer.status or None,
                "outcome": answer.outcome,
                "rows": len(call.rows),
                "bytes": call.body.size,
                "sha256": call.body.sha256,
            },
        )
        return WireResponse(answer)

    # --- the control side ---

    async def health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def reset(self, _: Request) -> Response:
        """Back to how the emulator started, its first faults included."""
        for vendor in self._vendors.values():
            vendor.reset()
        self._requests.clear()
        self._faults = Faults(self._faults_at_start)
        return JSONResponse({"status": "ok"})

    async def state(self, _: Request) -> Response:
        return JSONResponse({"endpoints": self._endpoints(), "faults": self._faults.view()})

    async def requests(self, _: Request) -> Response:
        return JSONResponse({"requests": list(self._requests)})

    async def jobs(self, _: Request) -> Response:
        return JSONResponse({"jobs": self._jobs()})

    async def profiles(self, request: Request) -> Response:
        found = self._profiles(request)
        return JSONResponse({"count": len(found), "profiles": found})

    async def profile(self, request: Request) -> Response:
        found = self._profiles(request).get(request.path_params["identity"])
        if found is None:
            raise HTTPException(404, "no such profile")
        return JSONResponse(found)

    async def add_faults(self, request: Request) -> Response:
        """Take one specification or a list of them, all or none."""
        try:
            given = json.loads(await request.body())
            self._faults.add(given if isinstance(given, list) else [given])
        except (ValueError, AttributeError) as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"faults": self._faults.view()}, 201)

    async def clear_faults(self, _: Request) -> Response:
        self._faults.clear()
        return JSONResponse({"faults": []})

    async def page(self, _: Request) -> Response:
        endpoints = self._endpoints()
        accounts = dict.fromkeys(
            (vendor, state["account"]) for vendor in self._vendors.values() for state in vendor.state()
        )
        newest = [
            {"vendor": vendor.name, "id": identity, **profile}
            for vendor, account in accounts
            for identity, profile in islice(reversed(vendor.profiles(account).items()), SHOWN)
        ]
        html = page.render(
            endpoints=endpoints,
            jobs=self._jobs()[: -SHOWN - 1 : -1],
            requests=list(islice(reversed(self._requests), SHOWN)),
            profiles=sorted(newest, key=lambda profile: -float(profile["updated"]))[:SHOWN],
            faults=self._faults.view(),
        )
        return HTMLResponse(html, headers=page.HEADERS)

    def _endpoints(self) -> list[dict[str, Any]]:
        return [state for vendor in self._vendors.values() for state in vendor.state()]

    def _jobs(self) -> list[dict[str, Any]]:
        return [job for vendor in self._vendors.values() for job in vendor.jobs()]

    def _profiles(self, request: Request) -> dict[str, dict[str, Any]]:
        """The profiles that a control route asks for: `vendor`, `project`."""
        vendor = self._vendors.get(request.query_params.get("vendor", "batch"))
        if vendor is None:
            raise HTTPException(404, f"no such vendor; there are {', '.join(self._vendors)}")
        return vendor.profiles(request.query_params.get("project"))
