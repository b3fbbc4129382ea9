"""What the tests of steps share: landing folders, the spec written down once more, an object store on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.run import RunContext
from etl.sample import SampleSummary, make_sample
from etl.settings import Connection, Settings
from etl.syncs import SYNCS

DAY = date(2026, 3, 31)
COMMITTED = Path(__file__).parents[2] / "data" / "landing"
# Landing folders of four days of customers that end with 2026-11-21; the first is the one in the repository.
SAMPLES: dict[str, dict[str, Any]] = {
    "committed": {"customers": 2000, "receipts": 6000, "days": 35, "seed": 2026},
    "another": {"customers": 300, "receipts": 1500, "days": 31, "seed": 7},
    "spoiled": {"customers": 300, "receipts": 900, "days": 33, "seed": 11, "defect_share": 0.4},
}


@pytest.fixture(scope="session")
def s3(wait_for_port: Callable[[int], None]) -> Iterator[str]:
    """The URL of an empty bucket of a private S3 server, which ends with the tests."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = (sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "invented")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "invented")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port)
            import fsspec

            fsspec.filesystem("s3", use_listings_cache=False).mkdir("exports")
            yield "s3://exports"
        finally:
            server.terminate()
            server.wait()


@dataclass(frozen=True)
class Landing:
    """A landing folder, and runs that read it; `host` is the address of their account, at which nobody listens."""

    root: Path
    host: str = "http://127.0.0.1:9"
    made: list[RunContext] = field(default_factory=list)

    def write(self, name: str, content: str | bytes) -> Path:
        """A file, named from the landing folder on."""
        path = self.root / "landing" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def context(self, run_id: str = "cli-1", *, host: str | None = None, **places: str) -> RunContext:
        """A run of the day; `places` are other settings than the folders beside the landing folder."""
        extra = {"project_key": DEMO_PROJECT}
        parts = {"conn_type": "batch", "host": host or self.host, "password": DEMO_API_KEY, "extra": extra}
        folders = {name: str(self.root / name) for name in ("landing", "work")}
        ctx = RunContext(
            sync=SYNCS["crm_to_batch"],
            day=DAY,
            destination="batch_update",
            run_id=run_id,
            settings=Settings(**{**folders, "ledger": f"sqlite:///{self.root}/ledger.db", **places}),
            connection=Connection.from_parts("batch_default", parts),
        )
        self.made.append(ctx)
        return ctx


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    """An empty landing folder."""
    landing = Landing(tmp_path)
    yield landing
    for ctx in landing.made:
        ctx.ledger.close()


@dataclass(frozen=True)
class Sample:
    """A landing folder as users make one, and what its maker says of it."""

    landing: Path
    summary: SampleSummary


@pytest.fixture(scope="session")
def sample_named(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Sample]:
    """Makes each of the samples once."""

    @cache
    def make(name: str) -> Sample:
        made = tmp_path_factory.mktemp(name) / "landing"
        summary = make_sample(**SAMPLES[name], last_day=date(2026, 11, 21), out=made)
        return Sample(COMMITTED if name == "committed" else made, summary)

    return make


@pytest.fixture(scope="session", params=SAMPLES)
def sample(request: pytest.FixtureRequest, sample_named: Callable[[str], Sample]) -> Sample:
    """Each of the samples."""
    return sample_named(request.param)


@pytest.fixture(scope="session")
def expect() -> Callable[[Path, date], Any]:
    """What a run of a landing folder's day must find, by `oracle.py`, which no package leads to."""
    spec = spec_from_file_location("steps_oracle", Path(__file__).with_name("oracle.py"))
    assert spec is not None
    assert spec.loader is not None
    oracle = module_from_spec(spec)
    sys.modules[spec.name] = oracle
    spec.loader.exec_module(oracle)
    return cache(oracle.expect)
