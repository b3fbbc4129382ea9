"""The demo: every sync's real Dag, one sample day, end to end against the emulator; `python -m etl.airflow.demo`.

Exit code 0 only if every Dag run succeeded and every report balances.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from etl.airflow.home import environment, make_database
from etl.emulator.server import start
from etl.errors import ConfigError
from etl.settings import ROOT
from etl.syncs import SYNCS

HOME = ROOT / "data" / "work" / "demo"
DAY = "2026-11-21"


def main() -> int:
    """Runs the demo; the result is the exit code."""
    shutil.rmtree(HOME, ignore_errors=True)
    HOME.mkdir(parents=True)
    log = HOME / "airflow.log"
    with start() as emulator:
        os.environ.update(environment(HOME, landing=ROOT / "data" / "landing", emulator=emulator))
        say("profile-etl demo: invented customers, a local emulator, no account and no network")
        say(f"  exports    {ROOT / 'data' / 'landing'}, day {DAY}")
        say(f"  emulator   {emulator} (its page shows what arrives, as long as the demo runs)")
        say(f"  Airflow    {HOME}, log in {log.name}")
        with quiet(log):
            say("==> starting Airflow")
            make_database()
            results = [run(name) for name in SYNCS]
    say("")
    say("To look further, at the ledger of every call and at the rows that break the contract:")
    say(f"  export PROFILE_ETL_WORK={os.path.relpath(HOME / 'work', ROOT)}")
    say("  .venv/bin/profile-etl status")
    say(f"  .venv/bin/profile-etl quarantine list {next(iter(SYNCS))} --date {DAY}")
    good = all(results)
    say("The demo is through: every report balances." if good else f"The demo FAILED; Airflow's log is {log}")
    return 0 if good else 1


def run(name: str) -> bool:
    """One sync's Dag for the sample day; True when the Dag run succeeded and its report balances."""
    from airflow.dag_processing.dagbag import DagBag

    from etl import pipeline
    from etl.report import REPORT, as_text

    say(f"==> Dag {name} for {DAY}")
    dag: Any = DagBag(dag_folder=str(ROOT / "dags")).dags[name]
    for task in dag.tasks:
        task.retry_delay = timedelta(0)  # whoever watches should not wait for a failure
    with steps_shown():
        dag_run = dag.test(logical_date=None, run_conf={"date": DAY})
    try:
        report = pipeline.newest_report(SYNCS[name], date.fromisoformat(DAY))
    except ConfigError as error:
        say(f"  {error}")
        return False
    say(f"\n{as_text(report)}\n")
    say(
        f"The files of this run are in {HOME / 'work' / report.sync / report.date / report.destination / report.run_id}"
    )
    say(f"  {REPORT:34}the report above, for machines")
    say("  private/validated/crm/quarantine  the rows that break the contract, with their original values")
    say("  private/plan-001/payloads         the exact bytes that were sent")
    return bool(report.balanced and dag_run.state == "success")


def say(text: str) -> None:
    """A line for the person at the terminal, also while Airflow is kept quiet."""
    os.write(_TERMINAL, f"{text}\n".encode())


_TERMINAL = os.dup(1)


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Sends everything that Airflow and its libraries print to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    before = os.dup(1), os.dup(2)
    with log.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield
        finally:
            for descriptor, kept in zip((1, 2), before, strict=True):
                os.dup2(kept, descriptor)


@contextmanager
def steps_shown() -> Iterator[None]:
    """Says which task begins; one that comes back after a pause is the same one."""
    from airflow.listeners import hookimpl
    from airflow.sdk.listener import get_listener_manager

    class Shown:
        """Airflow calls the function by its name."""

        newest = ""

        @hookimpl
        def on_task_instance_running(self, task_instance: Any) -> None:
            if task_instance.task_id != self.newest:
                self.newest = task_instance.task_id
                say(f"  {self.newest}")

    listeners: Any = get_listener_manager()
    shown = Shown()
    listeners.add_listener(shown)
    try:
        yield
    finally:
        listeners.pm.unregister(shown)


if __name__ == "__main__":
    sys.exit(main())
