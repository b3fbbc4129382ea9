"""Seconds and memory of a day whose export is bad from the first row to the last; nothing may be sent.

    python tests/benchmarks/bad_rows.py --rows 10000000

A listener stands at the account's address and counts who comes. The whole run, from export to report, is a process of
its own; each row breaks three rules, with values that differ from row to row.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DAY = "2026-11-21"
BLOCK = 100_000
RUN = ("-c", "from etl.cli import main; main()", "run", "crm_to_batch", "--date", DAY, "--json")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=10_000_000)
    rows = arguments.parse_args().rows
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as vendor:
        size = _export(Path(folder), rows)
        host = f"http://127.0.0.1:{vendor.getsockname()[1]}"
        connection = {"conn_type": "batch", "host": host, "password": "not-used", "extra": {"project_key": "project_b"}}
        environment = os.environ | {
            "PROFILE_ETL_LANDING": f"{folder}/landing",
            "PROFILE_ETL_WORK": f"{folder}/work",
            "AIRFLOW_CONN_BATCH_DEFAULT": json.dumps(connection),
        }
        with Path(folder, "report.json").open("w") as out:
            began = time.perf_counter()
            process = subprocess.Popen((sys.executable, *RUN), env=environment, stdout=out, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - began
        report = json.loads(Path(folder, "report.json").read_text())
        print(f"{rows:,} bad rows, {size / 1e6:,.0f} MB of CSV")
        print(f"{seconds:.0f} s, peak {used.ru_maxrss / 1024:,.0f} MB, {_visitors(vendor)} requests")
        print(f"exit code {os.waitstatus_to_exitcode(status)}, balanced: {report['balanced']}")
        print({name: count for name, count in report["rows"].items() if count}, report["reasons"][:10])


def _export(folder: Path, rows: int) -> int:
    path = folder / "landing" / "crm" / DAY / "customers.csv"
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        file.write("customer_id,email,phone,first_name,birthday,language,country,city,updated_at\n")
        for first in range(0, rows, BLOCK):
            file.writelines(
                f"C-{n},nobody {n},06 {n},Ann,31/12/1990,fr,FR,Lyon,{DAY}T08:00:00Z\n"
                for n in range(first, min(first + BLOCK, rows))
            )
    return path.stat().st_size


def _visitors(listener: socket.socket) -> int:
    listener.setblocking(False)
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


if __name__ == "__main__":
    main()
