"""What the tests of steps share: a landing folder, and an object store on loopback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest

from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.run import RunContext
from etl.settings import Connection, Settings
from etl.syncs import SYNCS

DAY = date(2026, 3, 31)


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
