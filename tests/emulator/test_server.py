"""The emulator as a server: where it listens, how it starts and stops, what it may import."""

from __future__ import annotations

import ast
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from etl import emulator
from etl.emulator.app import create_app
from etl.emulator.server import connections, run_server, start


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104  # that is what must be refused
def test_it_keeps_to_loopback(host):
    """A host that other machines can reach is refused before anything listens."""
    with pytest.raises(ValueError, match="other machines"):
        run_server(host, 0)


def test_a_fault_that_cannot_be_read_stops_the_start():
    """Before anything listens."""
    with pytest.raises(ValueError, match="a fault"):
        run_server("127.0.0.1", 0, ["often"])


def test_each_start_has_its_own_address_and_state():
    """Two at once do not meet; after the end nobody listens."""
    with start() as one, start(create_app(faults=[{"status": 503}])) as two:
        assert one != two
        assert requests.get(f"{one}/_control/state", timeout=10).json()["faults"] == []
        assert requests.get(f"{two}/_control/state", timeout=10).json()["faults"][0]["status"] == 503
    with pytest.raises(requests.ConnectionError):
        requests.get(one, timeout=10)


def test_it_stops_quickly_even_with_calls_on_hand():
    """A call that waits for its delay does not hold up the end."""
    with start(faults=[{"delay": 60}]) as url, requests.Session() as session:
        with pytest.raises(requests.Timeout):
            session.post(f"{url}/2.11/profiles/update", json=[], timeout=0.05)
        ending = time.perf_counter()
    assert time.perf_counter() - ending < 2


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_as_a_command_it_prints_its_address_serves_and_ends_on_a_signal(stop):
    """The first line ends with the address; nothing is written to stderr."""
    code = "from etl.emulator.server import run_server; run_server('127.0.0.1', 0, ['status=503:every=2'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        url = re.search(r"http://127\.0\.0\.1:\d+$", process.stdout.readline().strip())[0]
        exports = [process.stdout.readline() for _ in range(3)]
        assert exports == [f"export {name}='{value}'\n" for name, value in connections(url).items()]
        assert exports[0].startswith("export AIRFLOW_CONN_BATCH_DEFAULT=")
        assert requests.get(f"{url}/_control/health", timeout=10).status_code == 200
        process.send_signal(stop)
        _, errors = process.communicate(timeout=10)
    assert errors == ""
    assert process.returncode in {0, -stop}


def test_a_port_that_is_taken_is_an_error():
    """OSError, as from any server."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        run_server("127.0.0.1", taken.getsockname()[1])


def test_it_shares_no_code_with_the_rest():
    """Of this project it imports only itself, and no dataframe library."""
    for source in Path(emulator.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith("etl.emulator") or name.split(".")[0] not in {
                    "etl",
                    "contracts",
                    "polars",
                    "dags",
                }
