"""An emulator on loopback with a clock in the test's hand, and a small client for it."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.server import start

OTHER_PROJECT = "project_other000000000000000000000000000"
START = 1_795_312_800.0


@dataclass
class Clock:
    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Client:
    """Talks to the emulator as a caller of the vendor and, with `get` and `control`, as a test."""

    url: str
    clock: Clock
    session: requests.Session = field(default_factory=requests.Session)

    def headers(self, **overrides: str) -> dict[str, str]:
        known = {
            "Authorization": f"Bearer {DEMO_API_KEY}",
            "X-Batch-Project": DEMO_PROJECT,
            "Content-Type": "application/json",
        }
        return {**known, **{name.replace("_", "-"): value for name, value in overrides.items()}}

    def post(self, body: Any, path: str = "/2.11/profiles/update", **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(
            self.url + path, data=data, headers=self.headers(**headers), timeout=10, allow_redirects=False
        )

    def send(self, method: str, path: str, body: str | bytes = b"", **headers: str) -> requests.Response:
        """A call with no header of its own making but those given."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.session.request(
            method, self.url + path, data=body, headers=given, timeout=10, allow_redirects=False
        )

    def raw(self, body: Any, path: str = "/2.11/profiles/update") -> bytes:
        """All bytes that come back on a connection of its own, until the emulator ends it."""
        data = json.dumps(body).encode()
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers().items())
        request = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n{head}\r\n".encode() + data
        )
        address = urlsplit(self.url)
        with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
            connection.sendall(request)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        return received

    def get(self, path: str) -> Any:
        response = self.session.get(self.url + path, timeout=10)
        assert response.status_code == 200, response.text
        return response.json()

    def faults(self, *specs: dict[str, Any]) -> None:
        response = self.session.post(f"{self.url}/_control/faults", json=list(specs), timeout=10)
        assert response.status_code == 201, response.text

    def meter(self, endpoint: str = "/profiles/update", account: str = DEMO_PROJECT) -> dict[str, Any]:
        states = self.get("/_control/state")["endpoints"]
        return next(state for state in states if (state["endpoint"], state["account"]) == (endpoint, account))

    def attributes(self, identity: str, vendor: str = "batch") -> Any:
        return self.get(f"/_control/profiles/{identity}?vendor={vendor}")["attributes"]

    def held(self, vendor: str) -> dict[str, Any]:
        """The attributes of every profile of a vendor."""
        profiles = self.get(f"/_control/profiles?vendor={vendor}")["profiles"]
        return {identity: profile["attributes"] for identity, profile in profiles.items()}


@pytest.fixture(scope="session")
def shared_emulator():
    clock = Clock()
    with start(clock=clock, project_keys=(DEMO_PROJECT, OTHER_PROJECT)) as url:
        client = Client(url, clock)
        yield client
        client.session.close()


@pytest.fixture
def emulator(shared_emulator: Client) -> Client:
    """A fresh emulator: one server for all tests, reset before each."""
    shared_emulator.clock.now = START
    shared_emulator.session.post(f"{shared_emulator.url}/_control/reset", timeout=10)
    return shared_emulator


@pytest.fixture
def other_project() -> str:
    return OTHER_PROJECT
