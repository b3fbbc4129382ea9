"""A ledger on each of the two databases, a run in it, and batches to send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from etl.ledger import Ledger, Run
from etl.model import Batch

ACCOUNT = "batch-0001"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a database that holds nothing yet."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture
def open_ledger(url: str, clock):
    """Opens the test's database in the test's time."""
    opened: list[Ledger] = []

    def make() -> Ledger:
        opened.append(Ledger(url, clock=clock))
        return opened[-1]

    yield make
    for ledger in opened:
        ledger.close()


@pytest.fixture
def ledger(open_ledger) -> Ledger:
    return open_ledger()


@pytest.fixture
def batch() -> Callable[..., Batch]:
    """Makes batches that differ in what a test says of them."""

    def make(name: str = "b1", **overrides) -> Batch:
        known = {
            "run": "r1", "endpoint": "batch_update", "plan": 1, "ordinal": 0, "file": "payloads", "offset": 0,
            "size": 100, "sha256": "00", "first": 0, "rows": 10,
        }  # fmt: skip
        return Batch(id=name, **known | overrides)

    return make


@pytest.fixture
def sending(ledger: Ledger, batch):
    """Opens a run, adopts its batches and takes the lease; gives what intends a batch under that lease."""

    def make(*batches: Batch, run: str = "r1", plan: int = 1) -> int:
        ledger.open_run(_run(run))
        fence = ledger.take_lease(ACCOUNT, holder=f"elsewhere:1:{run}", until=ledger.now() + 60, is_dead={})
        assert fence is not None
        ledger.adopt_plan(run, plan=plan, account=ACCOUNT, fence=fence, planned=batches or [batch()])
        return fence

    return make


@pytest.fixture
def intend(ledger: Ledger):
    """Commits the intent to send a batch; without a quota unless a test says so."""

    def make(batch: Batch, fence: int, *, quota: int | None = None, hours: float = 24) -> int:
        (number,) = ledger.intend([batch], account=ACCOUNT, fence=fence, quota=quota, quota_hours=hours)
        return number

    return make


@pytest.fixture
def account() -> str:
    return ACCOUNT


@pytest.fixture
def open_run(ledger: Ledger) -> Callable[..., Run]:
    """Notes a run in the ledger."""

    def make(name: str = "r1", **fields) -> Run:
        run = _run(name, **fields)
        ledger.open_run(run)
        return run

    return make


def _run(name: str, **fields) -> Run:
    known = {
        "sync": "crm_to_batch", "day": "2026-03-02", "destination": "batch", "run_id": name, "account": ACCOUNT,
        "started_at": 0.0,
    }  # fmt: skip
    return Run(run=name, **known | fields)
