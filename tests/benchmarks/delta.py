"""What a day costs on which little has changed: from the account's state to the decision on every profile, to the next state.

    python tests/benchmarks/delta.py --profiles 10000000 --changed 0.01

The records are those of a run's folder as far as the delta reads them; the changed ones are delivered in the ledger only.
The figures are of one process that begins with the state on disk and ends with the next generation there. Exits with 1
when they are beyond the goal.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from etl import delta, parts, state
from etl.destinations.base import NO_MEMORY
from etl.ends import REFERENCES, plan_folder
from etl.ledger import Ending, Ledger, Run, lease
from etl.model import AttemptOutcome, Batch, BatchState
from etl.storage import Place

ACCOUNT, DAY = "batch-bench", date(2026, 11, 21)
GOAL_S, GOAL_MB = 15, 1_500
_PART = 100_000
_JUDGED = ["key", "fingerprint", "opt_out", "said_on", *delta.OPT_INS]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--profiles", type=int, default=10_000_000)
    arguments.add_argument("--changed", type=float, default=0.01)
    arguments.add_argument("--work", type=Path, default=Path("data/work/bench-delta"))
    arguments.add_argument("--inside", choices=["prepare", "measure"])
    given = arguments.parse_args()
    root = given.work / f"{given.profiles}-{given.changed}"
    if given.inside:
        work, ledger = Place(str(root.resolve())), Ledger(f"sqlite:///{root.resolve()}/ledger.db")
        if given.inside == "prepare":
            _prepare(work, ledger, given.profiles, given.changed)
        else:
            _measure(work, ledger)
    else:
        shutil.rmtree(root, ignore_errors=True)
        _inside("prepare", given)
        print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print(f"{given.profiles:,} profiles, {given.changed:.1%} of them changed\n")
        wall, cpu, peak = _inside("measure", given)
        shutil.rmtree(root)
        print(f"\n{'in all':16} {wall:6.1f} s wall, {cpu:6.1f} s CPU, peak {peak:,.0f} MB")
        print(f"the goal is {GOAL_S} s and {GOAL_MB:,} MB for 10,000,000")
        sys.exit(wall > GOAL_S or peak > GOAL_MB)


def _inside(what: str, given: argparse.Namespace) -> tuple[float, float, float]:
    options = {"--profiles": given.profiles, "--changed": given.changed, "--work": given.work, "--inside": what}
    command = [sys.executable, __file__, *(str(word) for pair in options.items() for word in pair)]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{what} failed")
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def _prepare(work: Place, ledger: Ledger, profiles: int, changed: float) -> None:
    """Yesterday's state, and today's records, of which some differ; the differing ones are delivered."""
    every = round(1 / changed)
    for day, is_today in ((DAY - timedelta(days=1), False), (DAY, True)):
        run = Run(
            run=f"bench/{day}/batch/{day}", sync="bench", day=str(day), destination="batch", run_id=str(day),
            account=ACCOUNT, started_at=ledger.now(),
        )  # fmt: skip
        ledger.open_run(run)
        records, sent = work.path(f"{run.run}/private/records"), work.path(f"{plan_folder(run.run, 1)}/references")
        taken = []
        for number, first in enumerate(range(0, profiles, _PART)):
            part = _records(first, min(_PART, profiles - first), every if is_today else 0)
            parts.write(records, number, part)
            wanted = part.filter(pl.col("row") % every == 0) if is_today else part
            parts.write(sent, number, wanted.select(*REFERENCES))
            taken.append(wanted.height)
        _deliver(work, ledger, run.run, taken)


def _records(first: int, rows: int, every: int) -> pl.DataFrame:
    row = pl.int_range(first, first + rows, dtype=pl.UInt64, eager=True).alias("row")
    is_changed = (pl.col("row") % every == 0) if every else pl.lit(value=False)
    # Customers do not come in the order of their ids' digits: shuffled numbers compress and sort as badly as real ones.
    key = pl.format("C-{}", (pl.col("row") * 2_654_435_761 % 10_000_000_019).cast(pl.String).str.zfill(11))
    return row.to_frame().with_columns(
        key=key,
        fingerprint=pl.col("row").hash() ^ is_changed.cast(pl.UInt64),
        **NO_MEMORY,
        opt_out=pl.lit(value=False),
        said_on=pl.lit(None, dtype=pl.Date),
        email_opt_in=pl.col("row") % 3 == 0,
        sms_opt_in=pl.when(pl.col("row") % 2 == 0).then(pl.col("row") % 5 == 0),
        size=pl.lit(300, dtype=pl.UInt32),
    )


def _deliver(work: Place, ledger: Ledger, run: str, taken: list[int]) -> None:
    """Notes in the ledger that the vendor has accepted a batch for each part."""
    with lease(ledger, ACCOUNT, patience_s=1, sleep=lambda _: False) as fence:
        firsts = [sum(taken[:number]) for number in range(len(taken))]
        batches = [
            Batch(
                id=f"{run}-{n}", run=run, endpoint="batch_mass_update", plan=1, ordinal=n, file="", offset=0, size=0,
                sha256="", first=first, rows=rows,
            )
            for n, (first, rows) in enumerate(zip(firsts, taken, strict=True))
        ]  # fmt: skip
        ledger.adopt_plan(run, plan=1, account=ACCOUNT, fence=fence, planned=batches)
        numbers = ledger.intend(batches, account=ACCOUNT, fence=fence, quota=None, quota_hours=24)
        ledger.settle(
            *(
                Ending(batch=b, n=n, outcome=AttemptOutcome.ACCEPTED, state=BatchState.ACCEPTED)
                for b, n in zip(batches, numbers, strict=True)
            )
        )
        if run.endswith(str(DAY - timedelta(days=1))):
            state.absorb(work, ledger, ACCOUNT, fence=fence)


def _measure(work: Place, ledger: Ledger) -> None:
    run, kept = f"bench/{DAY}/batch/{DAY}", "bench/kept"
    said = _Said()
    known = state.load_state(work, ledger, ACCOUNT)
    said("load the state")
    wanted = 0
    for number, part in enumerate(parts.frames(work, f"{run}/private/records", _JUDGED)):
        decided = part.hstack(delta.decide(part, known, DAY))
        wanted += decided.filter(pl.col("bucket").is_null()).height
        parts.write(
            work.path(kept), number, decided.filter(pl.col("bucket").is_not_null()).select("key", "fingerprint")
        )
    said("decide")
    del known
    with lease(ledger, ACCOUNT, patience_s=1, sleep=lambda _: False) as fence:
        seen = delta.Seen.of(DAY, parts.frames(work, kept))
        state.absorb(work, ledger, ACCOUNT, fence=fence, seen=[seen])
    said("next state")
    print(f"{wanted:,} are sent")


class _Said:
    """Tells what a phase has cost since the one before."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def __call__(self, what: str) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        spent = f"{wall - self._wall:6.1f} s wall, {cpu - self._cpu:6.1f} s CPU"
        print(f"{what:16} {spent}, peak so far {peak:,.0f} MB", flush=True)
        self._wall, self._cpu = wall, cpu


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
