"""What passes between the parts of the emulator: a call as its vendor read it, an answer, and how it leaves the socket.

An answer can also be cut short or not be given at all. That happens on the real connection: the server's protocol class
hands the connection's transport to the application, and such an answer is written to it past the HTTP machinery.
"""

from __future__ import annotations

import asyncio
import hashlib
import http
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

TRANSPORT = "emulator.transport"
PHRASES = {status.value: status.phrase for status in http.HTTPStatus}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What goes back. `body=None` stands for the vendor's own words for this status.

    `keep` cuts the body after so many bytes and closes the connection; `framing` says how the length of the body was
    announced. `drop` answers nothing and closes the connection, politely or with a reset.
    """

    status: int
    body: bytes | None = None
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    keep: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    drop: Literal["close", "reset"] | None = None

    @property
    def outcome(self) -> str:
        """What the caller got, in a word for counters and the page."""
        if self.drop is not None:
            return "dropped"
        return str(self.status) if self.keep is None else f"{self.status} cut"


class Body(NamedTuple):
    """A request's body: what was kept of it, its size in bytes, its digest."""

    kept: bytes
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as its vendor read it.

    `refusal` is the answer to a request that cannot be read or is not allowed, `account` who sent it (empty: nobody
    that the vendor knows), `rows` its operations, `host` its Host header, `parameters` what else its URL said. The
    fields from `rate_limit` on are set by faults.
    """

    path: str
    endpoint: str
    account: str
    arrived: float
    body: Body
    rows: Sequence[Any] = ()
    refusal: Answer | None = None
    host: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    rate_limit: bool = True
    refuse_call_with: frozenset[str] = frozenset()
    refuse_attribute: frozenset[tuple[str, str]] = frozenset()
    job: str = ""
    status_host: str = ""
    fail_id: frozenset[str] = frozenset()
    fail_rows: int = 0
    lose_rows: int = 0


class Vendor(Protocol):
    """One vendor's API. A new one is a module with such a class and a line in `app.create_app`."""

    name: str
    roots: tuple[str, ...]  # how its paths begin: an unknown path under them is answered in its words

    def serves(self, method: str, path: str) -> bool:
        """Whether this is one of the vendor's routes."""

    async def read(self, request: Request, arrived: float) -> Call:
        """Read a request whole; whatever is wrong with it stands in the call's `refusal`."""

    def answer(self, call: Call) -> Answer:
        """Judge the call, apply it, answer."""

    def record(self, call: Call, outcome: str) -> None:
        """Enter the call and its answer's `outcome` in the meter of its endpoint."""

    def error(self, status: int, message: str) -> Answer:
        """An error of this status in the vendor's words."""

    def state(self) -> list[dict[str, Any]]:
        """One JSON object an endpoint and account, with its meter."""

    def profiles(self, account: str | None = None) -> dict[str, dict[str, Any]]:
        """Profiles by id, the newest last; of the first account if none is named."""

    def jobs(self) -> list[dict[str, Any]]:
        """What the vendor works on after its answer, the newest last; JSON objects."""

    def reset(self) -> None:
        """Forget everything."""


async def read_body(request: Request, *, limit: int) -> Body:
    """Read a body to its end, so that its sender hears the answer; what is over the limit is not kept."""
    kept = bytearray()
    size = 0
    digest = hashlib.sha256()
    async for chunk in request.stream():
        size += len(chunk)
        digest.update(chunk)
        if size <= limit:
            kept += chunk
    return Body(bytes(kept), size, digest.hexdigest())


class Wire(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which also hands its transport to the application."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn itself
        super().connection_made(transport)
        app = self.app

        async def with_transport(scope: Any, receive: Any, send: Any) -> None:
            scope["extensions"] = {**scope.get("extensions", {}), TRANSPORT: transport}
            await app(scope, receive, send)

        self.app = with_transport


class WireResponse(Response):
    """Sends an Answer, whole or spoilt as it asks."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body, answer.status, dict(answer.headers), answer.content_type)
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.answer.drop is None and self.answer.keep is None:
            await super().__call__(scope, receive, send)
            return
        transport: asyncio.Transport = scope["extensions"][TRANSPORT]
        if self.answer.keep is not None:
            transport.write(cut(self.answer))
        if self.answer.drop == "reset":
            linger_not = struct.pack("ii", 1, 0)  # closing a socket that may not linger sends RST instead of FIN
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
            transport.abort()
        else:
            transport.close()
        while (await receive())["type"] != "http.disconnect":
            pass  # returning before the connection is gone would make uvicorn answer 500


def cut(answer: Answer) -> bytes:
    """The bytes of a response whose body stops after `keep` bytes; its head is whole."""
    body = answer.body or b""
    sent = body[: answer.keep]
    head = [("content-type", answer.content_type), *answer.headers]
    if answer.framing == "length":
        head.append(("content-length", str(len(body))))
    elif answer.framing == "chunked":
        head.append(("transfer-encoding", "chunked"))
        sent = b"%x\r\n%b" % (len(body), sent)
    else:
        head.append(("connection", "close"))
    lines = [
        f"HTTP/1.1 {answer.status} {PHRASES.get(answer.status, '')}",
        *(f"{name}: {value}" for name, value in head),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + sent
