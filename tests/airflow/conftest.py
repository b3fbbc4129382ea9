"""A real Airflow for these tests: a home of its own, set before the first import of airflow; folders and emulator a test."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl.airflow.home import environment, make_database
from etl.emulator.server import start
from etl.model import RunReport
from etl.report import read_report
from etl.sample import make_sample
from etl.settings import ROOT
from etl.storage import Place

DAY = date(2026, 11, 21)
# The first import of airflow reads the environment, so it is set before any test.
_HOME = Path(tempfile.mkdtemp(prefix="profile-etl-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_OURS = environment(_HOME, landing=_HOME / "landing", emulator="http://127.0.0.1:9")
os.environ.update({name: value for name, value in _OURS.items() if name.startswith("AIRFLOW_") and "CONN" not in name})
# Airflow's in-process API server warns about its own test client.
_THEIRS = "ignore:Using .httpx. with .starlette.testclient."


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings(_THEIRS))


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's database, with the pools."""
    make_database()


@pytest.fixture
def dags(database: None) -> dict[str, Any]:
    """The Dags as Airflow reads them; anew for each test, because a run in this process leaves its params in them."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags"))
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small landing folders whose last day is DAY."""
    landing = tmp_path_factory.mktemp("landing")
    make_sample(customers=60, receipts=120, days=3, crm_days=2, seed=1, out=landing, last_day=DAY)
    return landing


@dataclass
class Ran:
    """A Dag run that has ended: its state, the states and XComs of its tasks, and the report if there is one."""

    state: str
    tasks: dict[str, str]
    xcoms: dict[str, Any]
    reports: list[RunReport] = field(default_factory=list)


@dataclass
class Airflow:
    """Runs Dags to their end against an emulator, in folders of the test."""

    dags: dict[str, Any]
    work: Path
    emulator: str

    def run(self, conf: dict[str, Any] | None = None, *, dag: Any = None, **when: Any) -> Ran:
        """`when` has `logical_date` (if not, the run is one without any date) and `run_after`, as for `dag.test`."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        dag = dag or self.dags["crm_to_batch"]
        for task in dag.tasks:
            task.retry_delay = timedelta(0)
        before = signal.getsignal(signal.SIGTERM)
        ended = dag.test(run_conf=conf, **({"logical_date": None} | when))
        signal.signal(signal.SIGTERM, before)  # a task takes the signal to itself, here in this very process
        with create_session() as session:
            rows = session.query(XComModel).filter_by(run_id=ended.run_id, key="return_value")
            xcoms = {row.task_id: row.value for row in rows}
        return Ran(
            state=str(ended.state),
            tasks={ti.task_id: str(ti.state) for ti in ended.get_task_instances()},
            xcoms=xcoms,
            reports=self.reports(),
        )

    def reports(self) -> list[RunReport]:
        """All reports of the test, in the order of their days."""
        found = [read_report(Place(str(path.parent))) for path in sorted(self.work.rglob("run_report.json"))]
        return [report for report in found if report is not None]


@pytest.fixture
def airflow(
    dags: dict[str, Any], sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Airflow]]:
    """Makes an Airflow whose emulator has the given faults."""
    with ExitStack() as stack:

        def make(*faults: dict[str, Any], landing: Path = sample) -> Airflow:
            emulator = stack.enter_context(start(faults=faults))
            for name, value in environment(tmp_path, landing=landing, emulator=emulator).items():
                if name.startswith(("PROFILE_ETL_", "AIRFLOW_CONN_")):
                    monkeypatch.setenv(name, value)
            return Airflow(dags=dags, work=tmp_path / "work", emulator=emulator)

        yield make
