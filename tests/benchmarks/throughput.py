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
NOWHERE = {"host": "http://127.0.0.1:9", "login": "bench", "password": "not-used"}
CONNECTIONS = {
    "AIRFLOW_CONN_BATCH_DEFAULT": {"conn_type": "batch", **NOWHERE, "extra": {"project_key": "project_bench"}},
    "AIRFLOW_CONN_ADOBE_TARGET_DEFAULT": {"conn_type": "adobe_target", **NOWHERE},
    "AIRFLOW_CONN_RELEVA_DEFAULT": {"conn_type": "releva", **NOWHERE},
}
BATCH = ("crm_to_batch", "batch")
OTHERS = (("crm_to_adobe_target", "adobe_target_bulk"), ("crm_to_releva", "releva"))


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--customers", type=int, default=1_000_000)
    arguments.add_argument("--receipts", type=int, default=3_000_000)
    arguments.add_argument("--work", type=Path, default=Path("data/work/bench"))
    arguments.add_argument("--inside", choices=["steps", "whole", "bare"])
    arguments.add_argument("--step")
    arguments.add_argument("--to", nargs=2, default=BATCH, metavar=("SYNC", "DESTINATION"))
    given = arguments.parse_args()
    if given.inside:
        _inside(given.inside, given.step, given.work, tuple(given.to))
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
    print(f"{'step':23} {'rows/s':>12} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
    records = given.customers + given.receipts
    for leftover in (work / "run", work / "whole"):
        shutil.rmtree(leftover, ignore_errors=True)
    for step in ("extract", "validate", "transform", "pack", "plan"):
        _line(step, records, _measure(work / "run", "steps", step, landing))
    for to in OTHERS:
        _share_profiles(work / "run", to)
        _line(f"pack, {to[1]}", records, _measure(work / "run", "steps", "pack", landing, to))
    bare = _line("bare Polars", records, _measure(work / "bare", "bare", "", landing))
    whole = _line("whole way", records, _measure(work / "whole", "whole", "", landing))
    print(f"\nratio of processor time, whole way to bare Polars: {whole / bare:.2f}")


def _share_profiles(work: Path, to: tuple[str, str]) -> None:
    """Gives a run to another destination the results of the steps before pack."""
    mine, theirs = (work / sync / str(DAY) / destination / "bench" for sync, destination in (BATCH, to))
    (theirs / "private").mkdir(parents=True)
    for name in ("extract.json", "validate.json", "transform.json", "private/validated", "private/transformed"):
        (theirs / name).symlink_to((mine / name).resolve())


def _measure(work: Path, inside: str, step: str, landing: Path, to: tuple[str, str] = BATCH) -> dict[str, float]:
    environment = os.environ | {
        "PROFILE_ETL_LANDING": str(landing.resolve()),
        "PROFILE_ETL_WORK": str(work.resolve()),
        **{name: json.dumps(connection) for name, connection in CONNECTIONS.items()},
    }
    command = [sys.executable, __file__, "--inside", inside, "--step", step, "--work", str(work), "--to", *to]
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
    print(f"{name:23} {rate:12,.0f} {found['wall']:8.2f} {found['cpu']:8.2f} {found['peak']:8,.0f}", flush=True)
    return found["cpu"]


def _inside(kind: str, step: str, work: Path, to: tuple[str, ...]) -> None:
    if kind == "bare":
        _bare(work)
        return
    from etl import pipeline

    sync, destination = to
    ctx = pipeline.context(pipeline.sync_named(sync), DAY, run_id="bench", destination=destination)
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
