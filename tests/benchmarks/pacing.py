"""How much of the allowed rate is used, and whether the vendor's own meter ever sees too much.

    python tests/benchmarks/pacing.py --seconds 30

Sends full calls of invented custom ids through `batch_update` to the emulator, from one process and then from four that
share the account's pace in one SQLite ledger. The share is what the settings allow in that time: the rate less the
headroom, and the bucket's burst once. The meter is the emulator's; below zero it would have been overdrawn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request

from etl.client import Client
from etl.destinations import connect
from etl.emulator.app import create_app
from etl.emulator.server import start
from etl.ledger import Ledger
from etl.pacing import Allowance, Pacer
from etl.settings import Connection

PROJECT = "project_bench"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=30)
    arguments.add_argument("--send", nargs=3, metavar=("URL", "LEDGER", "UNTIL"))
    given = arguments.parse_args()
    if given.send:
        url, ledger, until = given.send
        print(json.dumps(_send(url, ledger, float(until))))
        return
    print(f"{'processes':>9} {'rows':>8} {'share':>8} {'used':>7} {'lowest bucket level at the vendor':>34}")
    for processes in (1, 4):
        _measure(processes, given.seconds)


def _measure(processes: int, seconds: float) -> None:
    app = create_app(api_key="bench", project_keys=(PROJECT,))
    with start(app) as url, tempfile.TemporaryDirectory() as folder:
        ledger = f"sqlite:///{folder}/ledger.db"
        Ledger(ledger).close()
        until = time.time() + 4 + seconds
        command = [sys.executable, __file__, "--send", url, ledger, str(until)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(processes)]
        calls = [call for process in running for call in json.loads(process.communicate()[0])]
        state = json.loads(urllib.request.urlopen(f"{url}/_control/state", timeout=10).read())
    allowance = _allowance(_connection(url))
    rate = allowance.per_second or 0.0
    first, rows = min(at for at, _ in calls), sum(n for _, n in calls)
    # A call that would end after the time is not part of it: the share counts whole calls only.
    share = allowance.capacity + rate * (until - first)
    share -= share % allowance.rows_per_call
    level = _lowest(state)
    print(f"{processes:>9} {rows:>8,} {share:>8,.0f} {rows / share:>7.2%} {level:>34,.1f}", flush=True)


def _lowest(state: dict[str, object]) -> float:
    found = [value for key, value in _walk(state) if key == "lowest_level" and value is not None]
    return min(found)


def _walk(value: object):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _connection(url: str) -> Connection:
    parts = {"conn_type": "batch", "host": url, "password": "bench", "extra": {"project_key": PROJECT}}
    return Connection.from_parts("bench", parts)


def _allowance(connection: Connection) -> Allowance:
    with Client(timeout_s=10) as client:
        return Allowance.of(connect("batch_update", connection, client).limits, connection.headroom)


def _send(url: str, ledger_url: str, until: float) -> list[tuple[float, int]]:
    connection, ledger = _connection(url), Ledger(ledger_url)
    allowance = _allowance(connection)
    rows, calls = allowance.rows_per_call, []
    records = [f'{{"identifiers":{{"custom_id":"C{n}"}}}}'.encode() for n in range(rows)]
    with Client(timeout_s=10) as client:
        endpoint = connect("batch_update", connection, client)
        payload = endpoint.envelope.frame(records)

        def sleep(seconds: float) -> bool:
            left = until - time.time()
            time.sleep(max(0.0, min(seconds, left)))
            return seconds <= left

        pacer = Pacer(ledger, account=connection.account, endpoint=endpoint.name, allowance=allowance, sleep=sleep)
        while time.time() < until:
            reservation = pacer.wait_for(rows)
            if reservation is None:
                break
            sent = ledger.now()
            endpoint.submit(payload)
            calls.append((time.time(), rows))
            pacer.answered(reservation, sent=sent, answered_at=ledger.now())
    return calls


if __name__ == "__main__":
    main()
