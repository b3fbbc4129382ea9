"""A TCP proxy on loopback that cuts, resets, stalls, dribbles or duplicates at a byte of an exchange, in either direction."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["request", "response"]
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is closed now is closed with RST


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What happens to an exchange once `at` bytes of one direction have passed.

    `stall` passes nothing more, `dribble` a byte every `pause_s`, `pause` goes on after `pause_s`. `at` is -1 for the
    moment at which the client has connected.
    """

    do: Literal["cut", "reset", "stall", "dribble", "pause"]
    way: Way
    at: int
    pause_s: float = 0.02


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request and its answer. `framing`: how the answer's end is told, as the server does it unless said otherwise.

    `duplicate` sends the whole request to the server once more, on a connection of its own. `passed` counts bytes.
    """

    fault: Fault | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    duplicate: bool = False
    passed: dict[Way, int] = field(default_factory=lambda: {"request": 0, "response": 0})
    request: bytearray = field(default_factory=bytearray)


class FaultProxy:
    """Stands before one server; `next_exchange` says what happens to the next request."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.exchange = Exchange()
        self._stop = threading.Event()
        self._links: set[asyncio.Task[None]] = set()

    def next_exchange(self, fault: Fault | None = None, **how: object) -> Exchange:
        """What is to happen to the next request, and what has passed of it."""
        self.exchange = Exchange(fault=fault, **how)
        return self.exchange

    @contextlib.contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Serves in a thread for as long as the block lasts."""
        thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fault proxy", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._accept, sock=self._listener):
            await asyncio.to_thread(self._stop.wait)
            for link in self._links:
                link.cancel()
            await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._links.add(asyncio.current_task())
        fault = self.exchange.fault
        try:
            if fault and fault.at < 0:
                await _end(writer, fault)
            else:
                await self._link(reader, writer)
        finally:
            await _end(writer)

    async def _link(self, from_client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self._server)
        current = self.exchange

        async def requests() -> None:
            nonlocal current
            while data := await from_client.read(65536):
                current = self.exchange
                current.request += data
                await _pass("request", data, current, to_server, to_client)

        async def answers() -> None:
            while head := await _head(from_server):
                if current.duplicate:
                    await self._send_again(bytes(current.request))
                body = await from_server.readexactly(_length(head))
                answer = _framed(head, body, current.framing)
                await _pass("response", answer, current, to_client, to_client)
                if current.framing == "close":
                    return

        ways = [asyncio.create_task(requests()), asyncio.create_task(answers())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            to_server.close()  # at once, as this task may be cancelled while it waits
            await asyncio.gather(*ways, return_exceptions=True)
            await _end(to_server)

    async def _send_again(self, request: bytes) -> None:
        reader, writer = await asyncio.open_connection(*self._server)
        writer.write(request)
        await reader.readexactly(_length(await _head(reader)))
        await _end(writer)


class _Over(ConnectionError):
    """The fault has ended the connection."""


async def _pass(
    way: Way, data: bytes, exchange: Exchange, to: asyncio.StreamWriter, to_client: asyncio.StreamWriter
) -> None:
    fault = exchange.fault
    left = max(0, fault.at - exchange.passed[way]) if fault and fault.way == way else len(data) + 1
    await _write(to, data[:left])
    exchange.passed[way] += len(data[:left])
    if left > len(data):
        return
    if fault.do in {"cut", "reset"}:
        await _end(to_client, fault)
        raise _Over
    if fault.do == "stall":
        await asyncio.Event().wait()
    pieces = [data[n : n + 1] for n in range(left, len(data))] if fault.do == "dribble" else [data[left:]]
    for piece in pieces:
        await asyncio.sleep(fault.pause_s)
        await _write(to, piece)
        exchange.passed[way] += len(piece)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def _end(writer: asyncio.StreamWriter, fault: Fault | None = None) -> None:
    if fault and fault.do == "reset":
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """The status line and headers of an answer; nothing at the end of the connection."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError):
        return b""


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)


def _framed(head: bytes, body: bytes, framing: str) -> bytes:
    if framing == "length":
        return head + body
    lines = [line for line in head.split(b"\r\n")[:-2] if not line.lower().startswith(b"content-length:")]
    if framing == "close":
        return b"\r\n".join([*lines, b"Connection: close", b"", b""]) + body
    halves = filter(None, (body[: len(body) // 2], body[len(body) // 2 :]))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(half), half) for half in halves)
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""]) + chunks + b"0\r\n\r\n"
