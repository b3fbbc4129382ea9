"""The emulator on a socket: as a command until it is stopped, or in a thread for as long as a test needs it."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.types import ASGIApp
from uvicorn import Config, Server

from etl.emulator import adobe, batch, releva
from etl.emulator.app import create_app
from etl.emulator.faults import parse_fault
from etl.emulator.wire import Wire


def run_server(host: str, port: int, faults: Sequence[str] = (), *, allow_remote: bool = False) -> None:
    """Serve until interrupted; port 0 takes a free one. The first line printed ends with the address.

    Raises ValueError for a fault that cannot be read, and for a host that other machines can reach unless
    `allow_remote`; OSError if the port is taken.
    """
    app = create_app(faults=[parse_fault(text) for text in faults])
    with _listen(host, port, allow_remote=allow_remote) as listener:
        sys.stdout.write(f"emulator on {_url(listener)}\n")
        for name, connection in connections(_url(listener)).items():
            sys.stdout.write(f"export {name}='{connection}'\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            _server(app).run([listener])


def connections(url: str) -> dict[str, str]:
    """How syncs are pointed at an emulator with the demo keys, as environment variables want it."""
    given: dict[str, dict[str, Any]] = {
        "batch": {"password": batch.DEMO_API_KEY, "extra": {"project_key": batch.DEMO_PROJECT}},
        "adobe_target": {"login": adobe.DEMO_CLIENT, "extra": {"polling": {"first_s": 1, "max_s": 5}}},
        "releva": {"password": releva.DEMO_SECRET_KEY},
    }
    return {
        f"AIRFLOW_CONN_{kind.upper()}_DEFAULT": json.dumps({"conn_type": kind, "host": url, **parts})
        for kind, parts in given.items()
    }


@contextlib.contextmanager
def start(app: ASGIApp | None = None, **options: Any) -> Iterator[str]:
    """Serve in a background thread on a free loopback port, and yield the address.

    `options` are those of `create_app`, which makes the application if none is given.
    """
    with _listen("127.0.0.1", 0) as listener:
        server = _server(app or create_app(**options))
        thread = threading.Thread(target=server.run, args=([listener],), name="emulator", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        try:
            yield _url(listener)
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def _server(app: ASGIApp) -> Server:
    return Server(
        Config(
            app,
            http=Wire,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=1,
        ),
    )


def _listen(host: str, port: int, *, allow_remote: bool = False) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    family, kind, protocol, _, address = found[0]
    if not allow_remote and not ipaddress.ip_address(address[0]).is_loopback:
        raise ValueError(f"{host} can be reached from other machines; the emulator keeps to 127.0.0.1")
    # Not socket.create_server: asyncio sets TCP_NODELAY only where the protocol is named, else each answer takes 40 ms.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
