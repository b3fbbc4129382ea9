"""What tests of several rooms share: a clock in the test's hand, an emulator, an installation, a PostgreSQL server."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import requests
import sqlalchemy as sa

from etl import pipeline
from etl.emulator.adobe import DEMO_CLIENT
from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.releva import DEMO_SECRET_KEY
from etl.emulator.server import start
from etl.ledger import Ledger
from etl.model import RunReport
from etl.run import Options
from etl.settings import Connection, Settings
from etl.syncs import SYNCS, Sync
from soak import SOAK
from virtual_time import Clock, VirtualRun

# Examples that touch files or databases take as long as the machine is busy.
hypothesis.settings.register_profile("project", deadline=None)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=2_000)
hypothesis.settings.load_profile("project")

MONDAY = date(2026, 3, 2)
PROGRAM = ("-c", "from etl.cli import main; main()")
Customers = Mapping[str, Mapping[str, str]]
# The sample sync of each vendor, by what the names of its destinations begin with.
VENDOR_SYNCS = {"batch": "crm_to_batch", "adobe_target": "crm_to_adobe_target", "releva": "crm_to_releva"}
CREDENTIALS: dict[str, dict[str, Any]] = {
    "batch": {"password": DEMO_API_KEY, "extra": {"project_key": DEMO_PROJECT}},
    "adobe_target": {"login": DEMO_CLIENT, "extra": {}},
    "releva": {"password": DEMO_SECRET_KEY, "extra": {}},
}


@dataclass
class Emulator:
    """The emulator as a test sees it: its address, what arrived, and the faults to come."""

    url: str
    clock: Callable[[], float]
    session: requests.Session = field(default_factory=requests.Session)

    def faults(self, *specs: dict[str, Any]) -> None:
        """Adds faults as docs/emulator.md describes them."""
        self.session.post(f"{self.url}/_control/faults", json=list(specs), timeout=10).raise_for_status()

    def heal(self) -> None:
        """Takes all faults away."""
        self.session.delete(f"{self.url}/_control/faults", timeout=10).raise_for_status()

    def meter(self, path: str = "/profiles/update") -> dict[str, Any]:
        """The counters of one endpoint."""
        return next(entry for entry in self._get("state")["endpoints"] if entry["endpoint"] == path)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """Every call that was answered, in order."""
        return self._get("requests")["requests"]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        """Adobe's batches, in order."""
        return self._get("jobs")["jobs"]

    @property
    def profiles(self) -> dict[str, dict[str, Any]]:
        """Every profile at Batch: its attributes and the number of its updates."""
        return self.profiles_of("batch")

    def profiles_of(self, vendor: str) -> dict[str, dict[str, Any]]:
        """Every profile at a vendor."""
        return self._get(f"profiles?vendor={vendor}")["profiles"]

    def cities(self) -> dict[str, str]:
        """The attribute that the tests change, by customer."""
        return {key: profile["attributes"]["city"] for key, profile in self.profiles.items()}

    def duplicates(self) -> int:
        """Updates beyond the first of each profile."""
        return sum(profile["updates"] - 1 for profile in self.profiles.values())

    def _get(self, what: str) -> Any:
        answer = self.session.get(f"{self.url}/_control/{what}", timeout=10)
        answer.raise_for_status()
        return answer.json()


@dataclass(kw_only=True)
class Installation:
    """A landing folder, a work folder and an account, all of their own."""

    root: Path
    host: str
    clock: Clock
    destination: str = "batch_update"
    ledger: str | None = None
    work: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    ledgers: list[Ledger] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        work = self.work or str(self.root / "work")
        ledger = self.ledger or f"sqlite:///{work}/ledger.db"
        return Settings(landing=str(self.root / "landing"), work=work, ledger=ledger)

    @property
    def vendor(self) -> str:
        return next(vendor for vendor in VENDOR_SYNCS if self.destination.startswith(vendor))

    @property
    def sync(self) -> Sync:
        return SYNCS[VENDOR_SYNCS[self.vendor]]

    @property
    def connection_parts(self) -> dict[str, Any]:
        known = CREDENTIALS[self.vendor]
        extra = {**known["extra"], "headroom": 0, **self.extra}
        return {"conn_type": self.vendor, "host": self.host, **known, "extra": extra}

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this installation has to find."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "PROFILE_ETL_LANDING": self.settings.landing,
            "PROFILE_ETL_WORK": self.settings.work,
            f"AIRFLOW_CONN_{self.sync.connection.upper()}": json.dumps(self.connection_parts),
        }

    def land(self, customers: Customers | int, day: date = MONDAY, *, city: str = "Lyon") -> None:
        """Writes the CRM export of a day: some customers of one city, or just these."""
        if isinstance(customers, int):
            customers = {f"C-{number:05d}": {} for number in range(customers)}
        folder = self.root / "landing" / "crm" / str(day)
        folder.mkdir(parents=True, exist_ok=True)
        names = ("customer_id", "email", "phone", "city", "email_opt_in", "sms_opt_in", "updated_at")
        names = tuple(dict.fromkeys((*names, *chain.from_iterable(customers.values()))))
        with (folder / "customers.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            for key, values in customers.items():
                email = f"{key.strip().lower()}@example.org"
                known = {"customer_id": key, "email": email, "city": city, "updated_at": f"{day}T08:00:00Z"}
                writer.writerow(known | values)

    def context(self, day: date = MONDAY, *, run_id: str = "cli-1", **options: Any) -> VirtualRun:
        """A run by its own name, whose sleeps take no time."""
        ctx = VirtualRun(
            sync=self.sync,
            day=day,
            destination=self.destination,
            run_id=run_id,
            settings=self.settings,
            connection=Connection.from_parts(self.sync.connection, self.connection_parts),
            options=Options(**options),
            clock=self.clock,
        )
        self.ledgers.append(ctx.ledger)
        return ctx

    def run(self, day: date = MONDAY, **options: Any) -> RunReport:
        """A new run from beginning to end, in this process and in no time."""
        return pipeline.run(self.context(day, run_id=pipeline.new_run_id("cli"), **options))

    def start(self, day: date = MONDAY, *, program: Sequence[str] = PROGRAM) -> subprocess.Popen[str]:
        """The command `profile-etl run` as a process of its own, in real time; `program` is what stands for its name."""
        options = ("--date", str(day), "--destination", self.destination, "--json")
        return subprocess.Popen(
            (sys.executable, *program, "run", self.sync.name, *options),
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what only a soak has the time for."""
    left_out = [item for item in items if item.get_closest_marker("soak") and not SOAK]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that tests have recorded, a line for each table: numbers are summed, lists counted."""
    tables: dict[str, dict[str, Any]] = {}
    for report in (test for tests in terminalreporter.stats.values() for test in tests):
        for name, value in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
            if name == "figures":
                table = tables.setdefault(value["table"], {})
                for column, figure in value.items():
                    table[column] = figure if isinstance(figure, str) else table.get(column, type(figure)()) + figure
    for title, table in tables.items():
        terminalreporter.section(title)
        counted = {c: len(set(f)) if isinstance(f, list) else f for c, f in table.items() if c != "table"}
        terminalreporter.line("  ".join(f"{column} {figure:,}" for column, figure in counted.items()))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def emulator(clock: Clock) -> Iterator[Emulator]:
    """An emulator that lives in the test's time."""
    with start(clock=clock) as url:
        yield from _emulator(url, clock)


@pytest.fixture
def real_time_emulator() -> Iterator[Emulator]:
    """An emulator for processes that really sleep."""
    with start() as url:
        yield from _emulator(url, time.time)


def _emulator(url: str, clock: Callable[[], float]) -> Iterator[Emulator]:
    emulator = Emulator(url, clock)
    yield emulator
    emulator.session.close()


@pytest.fixture
def install(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., Installation]]:
    """Makes installations whose account is at an address."""
    made: list[Installation] = []

    def make(host: str, **fields: Any) -> Installation:
        made.append(Installation(root=tmp_path, host=host, clock=clock, **fields))
        return made[-1]

    yield make
    for installation in made:
        for ledger in installation.ledgers:
            ledger.close()


@pytest.fixture
def installation(install: Callable[..., Installation], emulator: Emulator) -> Installation:
    """An installation whose account is at the emulator."""
    return install(emulator.url)


@pytest.fixture(scope="session")
def postgres(wait_for_port: Callable[[int], None]) -> Iterator[str]:
    """The URL of a private PostgreSQL server on loopback, which ends with the tests."""
    initdb, server = shutil.which("initdb"), shutil.which("postgres")
    if initdb is None or server is None:
        pytest.skip("PostgreSQL's initdb and postgres are not on this machine")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv to run it as somebody else")
    somebody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="profile-etl-") as folder:  # pytest's own folders are closed to others
        if somebody:
            os.chown(folder, 65534, 65534)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = f"{folder}/data"
        subprocess.run(
            (*somebody, initdb, "-D", data, "-U", "etl", "-A", "trust", "-E", "UTF8", "--no-sync"),
            check=True, capture_output=True, cwd=folder,
        )  # fmt: skip
        process = subprocess.Popen(
            (*somebody, server, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"),
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for_port(port)
            yield f"postgresql+psycopg://etl@127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)  # a fast shutdown, which does not wait for clients
            process.wait()


@pytest.fixture
def postgres_url(postgres: str) -> str:
    """The URL of a new database on that server."""
    name = f"ledger_{uuid.uuid4().hex[:8]}"
    engine = sa.create_engine(f"{postgres}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{postgres}/{name}"


@pytest.fixture(scope="session")
def wait_for_port() -> Callable[[int], None]:
    """Returns when a server listens on a loopback port; fails after half a minute."""
    return _wait_for


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
