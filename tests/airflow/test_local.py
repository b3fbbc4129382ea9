"""`make airflow`: a scheduler with the local executor delivers, all of it on loopback, and nothing is left at the end.

Nor is anything lost where a worker is killed.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from canaries import found
from etl.airflow.identity import run_id
from etl.emulator.batch import DEMO_API_KEY
from etl.emulator.releva import DEMO_SECRET_KEY
from etl.settings import ROOT
from etl.syncs import SYNCS

pytestmark = pytest.mark.airflow

READY_S, RUN_S, END_S = 200.0, 180.0, 40.0
# Airflow's own hook for a cluster's rules: what failed is tried again in a second.
POLICY = """
from datetime import timedelta

def task_policy(task):
    task.retry_delay, task.retry_exponential_backoff = timedelta(seconds=1), 0
"""
# A task whose supervisor has been silent for so long is given up; Airflow's own default is five minutes.
MISSED = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
}


@dataclass
class Local:
    """A running `etl.airflow.local`."""

    process: subprocess.Popen[str]
    home: Path
    port: int
    emulator: str

    def api(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """One call of Airflow's public API."""
        base = f"http://127.0.0.1:{self.port}"
        with urlopen(f"{base}/auth/token", timeout=30) as answer:  # noqa: S310  (loopback)
            token = json.load(answer)["access_token"]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"{base}/api/v2{path}", data, headers), timeout=30) as answer:  # noqa: S310  (loopback)
            return json.load(answer)

    def end_of(self, dag: str, run: str) -> str:
        """The state in which a Dag run ends."""

        def found() -> str | None:
            state = str(self.api(f"/dags/{dag}/dagRuns/{run}")["state"])
            return state if state in {"success", "failed"} else None

        return str(_eventually(found, RUN_S, f"end of {run}"))

    def ended(self, count: int, run_type: str, dag: str = "crm_to_batch") -> list[dict[str, Any]]:
        """The Dag runs of a type, once there are `count` and all have ended."""

        def found() -> list[dict[str, Any]] | None:
            runs = self.api(f"/dags/{dag}/dagRuns?run_type={run_type}")["dag_runs"]
            done = [run for run in runs if run["state"] in {"success", "failed"}]
            return done if len(done) == count else None

        return _eventually(found, RUN_S, f"{count} {run_type} runs")

    def vendor(self, path: str, body: Any = None) -> Any:
        """One of the emulator's control routes."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(f"{self.emulator}/_control/{path}", data, timeout=30) as answer:  # noqa: S310  (loopback)
            return json.load(answer)

    def ledger(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with closing(sqlite3.connect(self.home / "work" / "ledger.db")) as db:
            return db.execute(query).fetchall()

    def reports(self, origin: str, dag: str = "crm_to_batch") -> list[dict[str, Any]]:
        """The reports of our runs whose Dag run ids begin so, by day."""
        paths = (self.home / "work" / dag).glob(f"*/*/airflow-{origin}__*/run_report.json")
        return [json.loads(path.read_text()) for path in sorted(paths)]

    def family(self) -> list[psutil.Process]:
        """The supervisor and every process below it."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """One Airflow for the tests that look at it; at the end, Ctrl-C leaves no process behind."""
    with _started(tmp_path_factory) as running:
        _ready(running)
        yield running
        _leaves_nothing(running, signal.SIGINT)


@pytest.fixture(scope="module")
def scheduled(local: Local) -> dict[str, Any]:
    """The report of the run that a fresh, unpaused Dag begins by itself; the other vendors' Dags have come to rest, too."""
    for dag in SYNCS:
        assert [run["state"] for run in local.ended(1, "scheduled", dag)] == ["success"]
    (report,) = local.reports("scheduled")
    return dict(report)


def test_a_scheduled_run_delivers_yesterday(scheduled: dict[str, Any]) -> None:
    """The newest whole interval, by the scheduler and its executor; the account balances."""
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    assert date.fromisoformat(scheduled["date"]) in {yesterday, yesterday - timedelta(days=1)}
    assert scheduled["exit_code"] in {0, 1}
    assert scheduled["balanced"]
    assert scheduled["rows"]["accepted"] > 0


def test_a_backfill_beside_a_daily_run_leaves_what_the_newest_day_says(local: Local, scheduled: dict[str, Any]) -> None:
    """By the command of the documentation, backwards, while a newer day's run goes on; a day without an export fails alone.

    What arrives for that day later is taken by running it again: what newer days speak of is superseded, and never sent.
    """
    dag, last = "crm_to_batch", date.fromisoformat(scheduled["date"])
    newest, (missing, *days) = last + timedelta(days=1), (str(last - timedelta(days=back)) for back in (2, 1))
    landed, hidden = local.home / "landing" / "crm" / missing, local.home / "late"
    landed.rename(hidden)
    known = local.vendor("profiles?vendor=batch")["profiles"]
    movers = sorted(key for key, profile in known.items() if profile["attributes"].get("city"))[:5]
    _land(local.home / "landing" / "crm" / str(newest), movers, city="Ushuaia", updated_at=f"{newest}T05:00:00Z")
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("airflow"), "backfill", "create", "--dag-id", dag, "--run-backwards"),
            *("--from-date", f"{missing}T00:00", "--to-date", f"{days[-1]}T23:59", "--max-active-runs", "2"),
        ],
        env=os.environ | _settings(local.home), check=False, timeout=60, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    conf = {"date": str(newest), "accept_volume": True}
    daily = local.api(f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
    backfilled = {run["logical_date"][:10]: run for run in local.ended(2, "backfill")}
    assert local.end_of(dag, daily) == "success"
    (moved,) = (report for report in local.reports("manual") if report["date"] == str(newest))
    assert (moved["rows"]["accepted"], moved["balanced"]) == (5, True)
    assert {day: run["state"] for day, run in backfilled.items()} == dict.fromkeys(days, "success") | {
        missing: "failed"
    }
    hidden.rename(landed)
    again = {"dag_run_id": backfilled[missing]["dag_run_id"], "dry_run": False, "only_failed": False}
    local.api(f"/dags/{dag}/clearTaskInstances", again | {"reset_dag_runs": True})
    assert local.end_of(dag, again["dag_run_id"]) == "success"
    for report in (reports := local.reports("backfill")):
        assert (report["balanced"], report["rows"]["accepted"], report["exit_code"] in {0, 1}) == (True, 0, True)
        assert report["rows"]["superseded"] > 0
    assert [report["date"] for report in reports] == [missing, *days]
    held = local.vendor("profiles?vendor=batch")["profiles"]
    assert {key for key, profile in held.items() if profile["attributes"].get("city") == "Ushuaia"} == {*movers}
    assert {*_changed(known, held)} == {*movers}


def test_the_triggerer_stays_with_batches_until_the_vendor_has_ended_them(local: Local) -> None:
    """A task that waits is away from its worker, asks in the triggerer, and comes back; its log has no secret."""
    (run,) = local.ended(1, "scheduled", "crm_to_adobe_target")
    (report,) = local.reports("scheduled", "crm_to_adobe_target")
    log = json.dumps(local.api(f"/dags/{run['dag_id']}/dagRuns/{run['dag_run_id']}/taskInstances/wait/logs/1"))
    assert run["state"] == "success"
    assert report["balanced"]
    assert report["rows"]["confirmed"] > 0
    assert "has not ended yet: 1" in log
    assert "'failed': None" in log
    assert "@example" not in log


def test_no_log_and_no_table_of_airflow_is_personal_or_secret(local: Local, scheduled: dict[str, Any]) -> None:
    """Of everything that the supervisor's processes write, only what is named private holds a customer, or a key."""
    with next((local.home / "landing" / "crm" / scheduled["date"]).glob("*.csv")).open(encoding="utf-8") as file:
        customers = [row for row in csv.DictReader(file) if row["email"] and row["phone"]][:20]
    looked_for = [customer[name] for customer in customers for name in ("email", "phone")]
    looked_for += [customer["customer_id"] for customer in customers if not customer["customer_id"].isdigit()]
    looked_for += [DEMO_API_KEY, DEMO_SECRET_KEY]
    # The emulator tells the keys that it takes.
    ours = {local.home / "landing", local.home / "env.sh", local.home / "processes" / "emulator.log"}
    written = [path for path in local.home.rglob("*") if path.is_file() and ours.isdisjoint((path, *path.parents))]
    is_private = {path: "private" in path.relative_to(local.home).parts for path in written}
    assert {"logs", "airflow.db", "work"} <= {path.relative_to(local.home).parts[0] for path in written}
    assert any(found(looked_for, path.read_bytes()) for path in written if is_private[path])
    log = local.home.parent / f"{local.home.name}.log"
    open_ = [log, *(path for path in written if not is_private[path])]
    assert {path: hits for path in open_ if (hits := found(looked_for, path.read_bytes()))} == {}


@pytest.mark.parametrize("conn_type", ["batch", "adobe_target", "releva"])
def test_the_button_of_a_connections_form_works(local: Local, conn_type: str) -> None:
    """The API server tries it, with what the form holds."""
    known = json.loads(_settings(local.home)[f"AIRFLOW_CONN_{conn_type.upper()}_DEFAULT"])
    filled_in = known | {"connection_id": "typed_in", "extra": json.dumps(known.get("extra", {}) | {"headroom": None})}
    assert local.api("/connections/test", filled_in)["status"]
    refused = local.api("/connections/test", filled_in | {"host": "http://127.0.0.1:9"})
    assert not refused["status"]
    assert "check the host of the connection" in refused["message"]


@pytest.mark.soak
def test_a_finished_dag_run_that_is_cleared_sends_nothing(local: Local, scheduled: dict[str, Any]) -> None:
    """Every task runs once more and finds its work done; the vendor is not even asked."""
    dag = "crm_to_adobe_target"
    (run,) = local.ended(1, "scheduled", dag)
    before = (local.reports("scheduled", dag), local.vendor("requests"))
    asked = {"dag_run_id": run["dag_run_id"], "dry_run": False, "only_failed": False, "reset_dag_runs": True}
    assert local.api(f"/dags/{dag}/clearTaskInstances", asked)["total_entries"] == 9
    assert local.end_of(dag, run["dag_run_id"]) == "success"
    assert (local.reports("scheduled", dag), local.vendor("requests")) == before


def _is_tried_again(local: Local, killed: Callable[[psutil.Process], list[psutil.Process]]) -> None:
    """Kills processes of a task that sends, given the one that does; what follows is as if nothing had been."""
    dag, limit = "crm_to_releva", 600
    (known,) = local.reports("scheduled", dag)
    before = local.vendor("profiles?vendor=releva")["profiles"]
    mine = "from attempts join batches on batches.id = batch where run like 'crm_to_releva/%/airflow-manual%'"
    done = len(local.ledger(f"select 1 {mine}"))
    local.vendor("faults", [{"path": "/api/v0/profiles", "delay": 3, "times": 4}])
    conf = {"date": known["date"], "full": True, "limit": limit}
    run = local.api(f"/dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"]
    _eventually(lambda: len(local.ledger(f"select 1 {mine}")) > done, RUN_S, "call")
    ((holder,),) = local.ledger("select holder from accounts where account like 'releva-%'")
    for process in killed(psutil.Process(int(holder.split(":")[1]))):
        process.kill()
    in_flight = sum(rows for (rows,) in local.ledger(f"select attempts.rows {mine} and outcome = 'sending'"))
    assert local.end_of(dag, run) == "success"
    report = json.loads(
        (local.home / "work" / dag / known["date"] / "releva" / run_id(run) / "run_report.json").read_text()
    )
    after = local.vendor("profiles?vendor=releva")["profiles"]
    assert (report["rows"]["accepted"], report["balanced"], report["exit_code"]) == (limit, True, 1)
    assert report["rows"]["deferred"] == known["rows"]["accepted"] - limit
    assert _changed(before, after) == []
    updates = sum(profile["updates"] - before[key]["updates"] for key, profile in after.items())
    assert 0 <= updates - limit - report["optouts_sent"] <= report["duplicates_possible"] <= in_flight
    fences = [fence for (fence,) in local.ledger(f"select fence {mine} order by started_at")][done:]
    assert fences == sorted(fences)
    assert local.api(f"/dags/{dag}/dagRuns/{run}/taskInstances/load")["try_number"] == 2


def test_a_task_that_is_killed_is_tried_again_and_loses_nothing(local: Local, scheduled: dict[str, Any]) -> None:
    """Its supervisor reports it, Airflow starts another one, and that one goes on."""
    _is_tried_again(local, lambda task: [task])


@pytest.mark.soak
@pytest.mark.parametrize("too", [True, False], ids=["with its task", "alone"])
def test_a_supervisor_that_is_killed_is_missed_and_loses_nothing(
    local: Local, scheduled: dict[str, Any], too: bool
) -> None:
    """Airflow hears nothing of the task any more and starts another one; a task that outlives its supervisor stops."""
    _is_tried_again(local, lambda task: [task.parent(), *([task] if too else [])])


def test_everything_listens_on_loopback_only(local: Local, scheduled: dict[str, Any]) -> None:
    """The UI, the emulator, and no log server on every interface."""
    sockets = []
    for process in local.family():
        with suppress(psutil.NoSuchProcess):  # a task's process ends when it likes
            sockets += process.net_connections(kind="inet")
    listening = {(socket.laddr.ip, socket.laddr.port) for socket in sockets if socket.status == psutil.CONN_LISTEN}
    assert len(listening) >= 2
    assert {address for address, _ in listening} == {"127.0.0.1"}
    assert local.port in {port for _, port in listening}


def test_a_taken_port_is_said_and_nothing_is_started(local: Local, tmp_path: Path) -> None:
    """An old server would answer in the place of the new one."""
    command = [sys.executable, "-m", "etl.airflow.local", "--home", str(tmp_path / "h"), "--port", str(local.port)]
    ended = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert f"port {local.port} is taken" in ended.stderr
    assert not (tmp_path / "h").exists()


@pytest.mark.soak
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_leaves_no_process_behind(
    tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    """Ctrl-C and kill both end everything."""
    with _started(tmp_path_factory) as running:
        _eventually(lambda: len(running.family()) > 8, READY_S, "workers of the scheduler")
        _leaves_nothing(running, number)


def _leaves_nothing(running: Local, number: signal.Signals) -> None:
    """A signal ends every process, also what Airflow puts into groups of its own."""
    family = running.family()
    assert len(family) > 8
    running.process.send_signal(number)
    assert running.process.wait(END_S) == 0
    assert psutil.wait_procs(family, timeout=1)[1] == []


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Whose attributes are not what they were, also of who has come or gone."""
    known = ({key: profile["attributes"] for key, profile in held.items()} for held in (before, after))
    was, is_ = map(dict, known)
    return sorted(key for key in was.keys() | is_ if was.get(key) != is_.get(key))


def _land(folder: Path, customers: Sequence[str], **values: str) -> None:
    """The CRM export of a day, of the columns that all of its customers have in common."""
    folder.mkdir()
    common = ",".join(values.values())
    rows = [f"{key},c{number}@example.org,{common}" for number, key in enumerate(customers)]
    (folder / "customers.csv").write_text("\n".join([f"customer_id,email,{','.join(values)}", *rows, ""]))


@contextmanager
def _started(folders: pytest.TempPathFactory) -> Iterator[Local]:
    home, (port, emulator_port), policy = folders.mktemp("local"), _free_ports(), folders.mktemp("policy")
    (policy / "airflow_local_settings.py").write_text(POLICY)
    paths = os.pathsep.join((str(policy), *filter(None, [os.environ.get("PYTHONPATH")])))
    options = ["--home", home, "--port", port, "--emulator-port", emulator_port]
    command = [sys.executable, "-m", "etl.airflow.local", *map(str, options)]
    with (home.parent / f"{home.name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **MISSED, "PYTHONPATH": paths}, stdout=log, stderr=log, text=True
        )
    try:
        yield Local(process=process, home=home, port=port, emulator=f"http://127.0.0.1:{emulator_port}")
    finally:
        process.terminate()
        process.wait(END_S)


def _ready(running: Local) -> None:
    log = running.home.parent / f"{running.home.name}.log"

    def is_ready() -> bool:
        assert running.process.poll() is None, log.read_text()
        return "ready:" in log.read_text()

    _eventually(is_ready, READY_S, "Airflow")


def _eventually(ask: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < deadline, f"no {what} after {seconds} s"
        time.sleep(0.5)
    return found


def _settings(home: Path) -> dict[str, str]:
    shell = ["sh", "-c", f". '{home}/env.sh'; env -0"]
    lines = subprocess.run(shell, check=True, capture_output=True, text=True, env={}).stdout.split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
