"""Calls a second of `adobe_target_single`, beside a bare loop that posts the same forms and keeps no books.

    python tests/benchmarks/single.py --profiles 2000

Both go to the emulator in a process of its own, which answers at once, or after a pause as a server across a network
would. The bare loop is one `requests` session in each of as many threads as the endpoint has calls under way.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import requests

from etl import pipeline
from etl.emulator.adobe import DEMO_CLIENT
from etl.limits import limits_of
from etl.settings import Connection, Settings

DAY = date(2026, 3, 2)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
COMMAND = (sys.executable, "-c", "from etl.cli import main; main()", "emulator", "--port", "0")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--profiles", type=int, default=2_000)
    profiles = arguments.parse_args().profiles
    print(
        f"{'answer after ms':>15} {'bare calls/s':>13} {'ours calls/s':>13} {'ours / bare':>12} {'CPU ms a call':>14}"
    )
    for pause in (0.0, 0.02, 0.05):
        _measure(profiles, pause)


def _measure(profiles: int, pause: float) -> None:
    command = [*COMMAND, "--faults", f"delay={pause}"] if pause else [*COMMAND]
    emulator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert emulator.stdout is not None
        url = emulator.stdout.readline().split()[-1]
        with tempfile.TemporaryDirectory() as folder:
            ctx = _staged(Path(folder), url, profiles)
            payloads = ctx.work.read_bytes(f"{ctx.name}/private/plan-001/payloads").splitlines()
            bare = _bare(url, payloads)
            started, cpu = time.perf_counter(), time.process_time()
            pipeline.do(ctx, "load")
            ours, spent = time.perf_counter() - started, time.process_time() - cpu
            ctx.ledger.close()
    finally:
        emulator.terminate()
        emulator.wait()
    print(
        f"{pause * 1e3:>15.0f} {profiles / bare:>13,.0f} {profiles / ours:>13,.0f} {bare / ours:>12.2f} "
        f"{1e3 * spent / profiles:>14.2f}"
    )


def _staged(folder: Path, url: str, profiles: int) -> pipeline.RunContext:
    """A run of invented profiles up to its staged payloads."""
    landing = folder / "landing" / "crm" / str(DAY)
    landing.mkdir(parents=True)
    with (landing / "customers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("customer_id", "email", "city", "loyalty_tier", "updated_at"))
        writer.writerows(
            (f"C-{n:07}", f"c{n}@example.org", "Saint-Étienne", "gold", f"{DAY}T08:00:00Z") for n in range(profiles)
        )
    os.environ["AIRFLOW_CONN_ADOBE_TARGET_DEFAULT"] = json.dumps(
        {"conn_type": "adobe_target", "host": url, "login": DEMO_CLIENT, "extra": {"headroom": 0}}
    )
    ctx = pipeline.context(
        pipeline.sync_named("crm_to_adobe_target"),
        DAY,
        run_id="bench",
        destination="adobe_target_single",
        settings=Settings(
            landing=str(folder / "landing"), work=str(folder / "work"), ledger=f"sqlite:///{folder}/ledger.db"
        ),
        connection=Connection.from_environment("adobe_target_default"),
    )
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    return ctx


def _bare(url: str, payloads: list[bytes]) -> float:
    """Seconds that the bare loop takes."""
    workers = limits_of("adobe_target_single").calls_at_once

    def post(part: list[bytes]) -> None:
        with requests.Session() as session:
            session.trust_env = False
            for payload in part:
                answer = session.post(f"{url}/m2/{DEMO_CLIENT}/profile/update", data=payload, headers=FORM, timeout=60)
                answer.raise_for_status()

    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(post, [payloads[first::workers] for first in range(workers)]))
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
