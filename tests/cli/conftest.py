"""The installed command, on a small installation beside an emulator."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from etl import cli
from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.server import start

COMMAND = (str(Path(sys.executable).with_name("profile-etl")),)
HEADER = "customer_id,email,phone,city,updated_at"


@dataclass(frozen=True)
class Shop:
    """An installation: folders, an account at an emulator, and the command, which a process may start through others."""

    root: Path
    url: str
    through: tuple[str, ...] = ()

    @property
    def work(self) -> Path:
        return self.root / "work"

    def environment(self, **changes: str | None) -> dict[str, str]:
        """What the command finds; None takes a variable away."""
        extra = {"project_key": DEMO_PROJECT, "headroom": 0, "limits": {"batch_update": {"rows_per_call": 20}}}
        connection = {"conn_type": "batch", "host": self.url, "password": DEMO_API_KEY, "extra": extra}
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PROFILE_ETL"))}
        ours |= {
            "PROFILE_ETL_LANDING": str(self.root / "landing"),
            "PROFILE_ETL_WORK": str(self.work),
            "AIRFLOW_CONN_BATCH_DEFAULT": json.dumps(connection),
        }
        return {name: value for name, value in (ours | changes).items() if value is not None}

    def land(self, day: str, *rows: str, header: str = HEADER) -> None:
        """The CRM export of a day."""
        path = self.root / "landing" / "crm" / day / "customers.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join((header, *rows, "")))

    def customers(self, day: str, count: int, *, city: str = "Lyon") -> None:
        """An export of good rows."""
        self.land(day, *(f"{day}-{n},c{n}@example.org,,{city},{day}T08:00:00Z" for n in range(count)))

    def popen(
        self, *arguments: str, environment: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Starts the command."""
        command = (*self.through, *COMMAND, *arguments)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(command, env=environment or self.environment(), **options)

    def process(self, *arguments: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        """Runs the command to its end, as a process of its own."""
        process = self.popen(*arguments, environment=self.environment(**changes))
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def __call__(self, *arguments: str, stdin: str = "", **changes: str | None) -> subprocess.CompletedProcess[str]:
        """Runs what the command runs, in this process, which saves the two seconds of its start."""
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name in os.environ.keys() - self.environment(**changes).keys():
                patch.delenv(name)
            for name, value in self.environment(**changes).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["profile-etl", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            try:
                cli.main()
            except SystemExit as end:
                code = end.code
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def report(self, day: str) -> dict[str, Any]:
        """The newest report of a day, as it stands on disk."""
        runs = sorted((self.work / "crm_to_batch" / day / "batch").glob("cli-*/run_report.json"))
        return json.loads(max(runs, key=lambda path: path.stat().st_mtime_ns).read_text())

    def faults(self, *specs: dict[str, Any]) -> None:
        """The emulator's faults from now on; none lifts them."""
        requests.delete(f"{self.url}/_control/faults", timeout=10).raise_for_status()
        if specs:
            requests.post(f"{self.url}/_control/faults", json=list(specs), timeout=10).raise_for_status()

    def calls(self) -> list[dict[str, Any]]:
        """Every call that the vendor has answered."""
        return requests.get(f"{self.url}/_control/requests", timeout=10).json()["requests"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """An installation for the tests of a module; each uses days of its own."""
    with start() as url:
        yield Shop(tmp_path_factory.mktemp("shop"), url)
