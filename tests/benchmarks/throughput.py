"""How much processor time and memory each step takes, against a bare Polars job on the same files.

    python tests/benchmarks/throughput.py --customers 1000000 --receipts 3000000

Each step runs in a process of its own, so that its processor time and peak memory are its own. The ratio compares the
whole way from export to staged payloads, in one process, with a job that reads the same CSV files as text and writes
them as NDJSON; both include the start of Python.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

DAY = date(2026, 11, 21)
CONNECTION = {
    "conn_type": "batch",
    "host": "http://127.0.0.1:9",
    "password": "not-used",
    "extra": {"project_key": "project_bench"},
}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--customers", type=int, default=1_000_000)
    arguments.add_argument("--receipts", type=int, default=3_000_000)
    arguments.add_argument("--work", type=Path, default=Path("data/work/bench"))
    arguments.add_argument("--inside", choices=["steps", "whole", "bare"])
    arguments.add_argument("--step")
    given = arguments.parse_args()
    if given.inside:
        _inside(given.inside, given.step, given.work)
    else:
        _outside(given)


def _outside(given: argparse.Namespace) -> None:
    work = given.work / f"{given.customers}-{given.receipts}"
    landing = work / "landing"
    if not landing.exists():
        from etl.sample import make_sample

        print(f"making {given.customers:,} customers and {given.receipts:,} receipts ...", flush=True)
        make_sample(
            customers=given.customers, receipts=given.receipts, days=30, seed=1, out=landing, crm_days=1, plain=True
        )
    size = sum(file.stat().st_size for file in landing.rglob("*.csv"))
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{given.customers:,} customers, {given.receipts:,} receipts, {size / 1e6:,.0f} MB of CSV\n")
    print(f"{'step':12} {'rows/s':>12} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
    records = given.customers + given.receipts
    for leftover in (work / "run", work / "whole"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in ("extract", "validate", "transform", "pack", "plan"):
        _line(step, records, _measure(work / "run", "steps", step, landing))
    bare = _line("bare Polars", records, _measure(work / "bare", "bare", "", landing))
    whole = _line("whole way", records, _measure(work / "whole", "whole", "", landing))
    print(f"\nratio of processor time, whole way to bare Polars: {whole / bare:.2f}")


def _measure(work: Path, inside: str, step: str, landing: Path) -> dict[str, float]:
    environment = os.environ | {
        "PROFILE_ETL_LANDING": str(landing.resolve()),
        "PROFILE_ETL_WORK": str(work.resolve()),
        "AIRFLOW_CONN_BATCH_DEFAULT": json.dumps(CONNECTION),
    }
    command = [sys.executable, __file__, "--inside", inside, "--step", step, "--work", str(work)]
    began = time.perf_counter()
    process = subprocess.Popen(command, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{inside} {step} failed")
    return {
        "wall": time.perf_counter() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss / 1024,
    }


def _line(name: str, records: int, found: dict[str, float]) -> float:
    rate = records / found["wall"]
    print(f"{name:12} {rate:12,.0f} {found['wall']:8.2f} {found['cpu']:8.2f} {found['peak']:8,.0f}", flush=True)
    return found["cpu"]


def _inside(kind: str, step: str, work: Path) -> None:
    if kind == "bare":
        _bare(work)
        return
    from etl import pipeline

    ctx = pipeline.context(pipeline.sync_named("crm_to_batch"), DAY, run_id="bench")
    if kind == "steps":
        pipeline.do(ctx, step)
    else:
        pipeline.prepare(ctx)


def _bare(work: Path) -> None:
    import polars as pl

    work.mkdir(parents=True, exist_ok=True)
    landing = Path(os.environ["PROFILE_ETL_LANDING"])
    for export in ("crm", "pos"):
        files = sorted((landing / export).rglob("*.csv"))
        # Polars cannot read a file with the planted quotes at all, so quotes are plain characters to the bare job.
        lines = pl.scan_csv(files, infer_schema=False, truncate_ragged_lines=True, quote_char=None)
        lines.sink_ndjson(work / f"{export}.ndjson")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
