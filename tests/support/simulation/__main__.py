"""`python -m simulation`: many schedules, in as many processes as there are cores, and one table."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # frames of nine rows gain nothing from a second thread


def main() -> None:
    """Plays the schedules of consecutive seeds; ends with 1 if one of them showed something wrong."""
    from simulation.schedule import figures, run_schedule

    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--schedules", type=int, default=10_000)
    arguments.add_argument("--first", type=int, default=0, help="the first seed")
    asked = arguments.parse_args()
    began = time.monotonic()
    results = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # polars and fork do not mix
        seeds: Iterable[int] = range(asked.first, asked.first + asked.schedules)
        for result in pool.map(run_schedule, seeds, chunksize=20):
            results.append(result)
            for wrong in result.wrong:
                print(f"seed {result.seed}: {wrong}", flush=True)
            if len(results) % 10_000 == 0:
                print(f"{len(results):,} schedules, {time.monotonic() - began:.0f} s", flush=True)
    print("  ".join(f"{title} {figure:,}" for title, figure in figures(results).items()))
    sys.exit(any(result.wrong for result in results))


if __name__ == "__main__":
    main()
