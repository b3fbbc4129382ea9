"""What the conformance suite knows of each endpoint, a `Stand`, and an account there with nothing in it.

The suite itself knows no vendor. Another destination joins it by one more entry in STANDS.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
import requests
from starlette.types import ASGIApp

import contracts
from etl import destinations, limits, pack, parts, pipeline
from etl.client import Client
from etl.destinations.base import AwaitsCompletion, Destination
from etl.emulator.adobe import DEMO_CLIENT
from etl.emulator.app import create_app
from etl.emulator.batch import DEMO_PROJECT
from etl.emulator.server import start
from etl.model import Batch, RunReport
from etl.run import Options
from etl.settings import Connection, Settings
from etl.syncs import Sync
from etl.transform import folders
from sample_profiles import STRANGER
from virtual_time import Clock, VirtualRun

SECRET = "canary-secret-0123456789"
MONDAY = date(2026, 3, 2)
COLUMNS = {name: column.dtype.type for name, column in contracts.Profiles.to_schema().columns.items()}
CRM = [name for name in contracts.Crm.to_schema().columns if name in COLUMNS]


def _sibling(name: str) -> Any:
    """A module beside this one, which no package leads to."""
    spec = spec_from_file_location(f"conformance_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


herald, herald_vendor = _sibling("herald"), _sibling("herald_vendor")


# --- what there is to know of an endpoint -----------------------------------------------------------------------------


def _the_emulator(clock: Callable[[], float]) -> ASGIApp:
    keys = {"api_key": SECRET, "adobe_token": SECRET, "releva_key": SECRET}
    return create_app(clock=clock, adobe_settings={"complete_after_polls": 0}, **keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """An endpoint as the suite meets it.

    `connection`: how its account connects, but for host and password. `read`: the `customer_id`, `city`, `loyalty_tier`
    and `tags` of a profile, from its id and attributes at the vendor. `introduce` makes profiles known (by customer id)
    to a vendor whose endpoint creates none. `ids_without`: characters that no id of a sent profile may hold.
    `empty_success`: the statuses under which an empty body is the documented acknowledgement. `rows_are_single`: its
    calls hold one row, and that is no setting. `connect` and `limits_entry`: what stands neither in the registry nor in
    limits.toml.
    """

    endpoint: str
    connection: Mapping[str, Any]
    read: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    app: Callable[[Callable[[], float]], ASGIApp] = _the_emulator
    introduce: Callable[[str, Iterable[str]], None] = lambda _url, _ids: None
    ids_without: str = ""
    empty_success: frozenset[int] = frozenset()
    rows_are_single: bool = False
    connect: Callable[..., Destination] | None = None
    limits_entry: Mapping[str, Mapping[str, Any]] | None = None

    def rows(self, number: int) -> int:
        """So many rows a call, or as many as there can be."""
        return 1 if self.rows_are_single else number

    def __str__(self) -> str:
        return "-".join((self.endpoint, *self.connection.get("extra", {}).values())).removesuffix(f"-{DEMO_PROJECT}")


def _of_batch(key: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {"customer_id": key} | {name: attributes.get(name) for name in ("city", "loyalty_tier", "tags")}


def _of_adobe(key: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "customer_id": key,
        "city": attributes.get("city"),
        "loyalty_tier": attributes.get("loyaltyTier"),
        "tags": attributes["tags"].split("|") if "tags" in attributes else None,
    }


def _of_releva(_: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    custom = {entry["key"]: entry["values"][0] for entry in attributes["custom"]["string"]}
    names = {"customer_id": "customerId", "city": "city", "loyalty_tier": "loyaltyTier"}
    return {name: custom.get(key) for name, key in names.items()} | {"tags": attributes.get("tags")}


def _of_herald(key: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = {"city": "city", "loyalty_tier": "tier", "tags": "labels"}
    return {"customer_id": key} | {name: attributes.get(theirs) for name, theirs in names.items()}


def _introduce_to_adobe(url: str, ids: Iterable[str]) -> None:
    rows = "".join(f"{quote(key, safe='')},yes\n" for key in ids if not set(key) & set("+/@"))
    if not rows:
        return
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Bearer {SECRET}"}
    path = f"/m2/{DEMO_CLIENT}/v2/profile/batchUpdate"
    answer = requests.post(url + path, data=f"batch=thirdPartyId,seen\n{rows}", headers=headers, timeout=10)
    assert "<success>true" in answer.text


_BATCH = {"conn_type": "batch", "extra": {"project_key": DEMO_PROJECT}}
_ADOBE = {"conn_type": "adobe_target", "login": DEMO_CLIENT}
_SINGLE: dict[str, Any] = {
    "endpoint": "adobe_target_single", "read": _of_adobe, "introduce": _introduce_to_adobe, "ids_without": "+/@",
    "rows_are_single": True,
}  # fmt: skip

STANDS = (
    Stand(endpoint="batch_update", connection=_BATCH, read=_of_batch),
    Stand(endpoint="batch_mass_update", connection=_BATCH, read=_of_batch),
    Stand(connection=_ADOBE, **_SINGLE),
    Stand(connection=_ADOBE | {"extra": {"single_method": "GET"}}, **_SINGLE),
    Stand(endpoint="adobe_target_bulk", connection=_ADOBE, read=_of_adobe, ids_without="+/@"),
    Stand(
        endpoint="releva",
        connection={"conn_type": "releva"},
        read=_of_releva,
        empty_success=frozenset({202}),  # the vendor calls `{}` an empty body
    ),
    Stand(
        endpoint="herald",
        connection={"conn_type": "herald"},
        read=_of_herald,
        app=lambda clock: herald_vendor.create_app(clock=clock, key=SECRET),
        connect=herald.Herald.connect,
        limits_entry={
            "rows_per_call": {"value": 50},
            "bytes_per_call": {"value": 100_000},
            "calls_per_minute": {"value": 120},
        },
    ),
)


# --- an account there -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """What pack has made of profiles: the batches and their payloads, the rows of them, and the rows that stay."""

    batches: list[Batch]
    payloads: list[bytes]
    sent: pl.DataFrame
    records: pl.DataFrame


def _joined(ctx: VirtualRun, folder: str, empty: Any) -> pl.DataFrame:
    return pl.concat([pl.DataFrame(schema=empty), *parts.frames(ctx.place, folder)], how="diagonal_relaxed")


@dataclass(kw_only=True)
class Account:
    """An account at a stand's vendor, and an installation that has sent it nothing yet."""

    stand: Stand
    url: str
    clock: Clock
    root: Path
    session: requests.Session
    made: list[VirtualRun] = field(default_factory=list)

    def connection(self, *, password: str = SECRET, **extra: Any) -> Connection:
        known = self.stand.connection
        more = {**known.get("extra", {}), "headroom": 0, **extra}
        return Connection.from_parts("a_stand", {**known, "host": self.url, "password": password, "extra": more})

    @contextmanager
    def endpoint(self, *, password: str = SECRET, patient: bool = True) -> Iterator[Destination]:
        """The endpoint by itself; one that is not patient gives a request up before a fault's delay of a second is over."""
        with Client(timeout_s=20 if patient else 0.6) as client:
            yield destinations.connect(self.stand.endpoint, self.connection(password=password), client)

    def context(self, **limits: Any) -> VirtualRun:
        """A new run of the one day that there is."""
        ctx = VirtualRun(
            sync=Sync(name="stand", destination=self.stand.endpoint, connection="a_stand"),
            day=MONDAY,
            destination=self.stand.endpoint,
            run_id=f"cli-{len(self.made)}",
            settings=Settings(
                landing=f"{self.root}/landing", work=f"{self.root}/work", ledger=f"sqlite:///{self.root}/ledger.db"
            ),
            connection=self.connection(limits={self.stand.endpoint: limits}),
            options=Options(),
            clock=self.clock,
        )
        self.made.append(ctx)
        return ctx

    def land(self, customers: Iterable[Mapping[str, str]]) -> None:
        """Writes the day's CRM export; the vendor knows its customers, where it has to."""
        customers = list(customers)
        self.stand.introduce(self.url, [customer["customer_id"] for customer in customers])
        path = self.root / "landing" / "crm" / str(MONDAY) / "customers.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, CRM)
            writer.writeheader()
            writer.writerows({"updated_at": f"{MONDAY}T08:00:00Z", **customer} for customer in customers)

    def run(self, **limits: Any) -> RunReport:
        """A run from beginning to end, in no time."""
        return pipeline.run(self.context(**limits))

    def stage(self, profiles: pl.DataFrame, *, part_rows: int, **limits: Any) -> Staged:
        """What pack makes of profiles that come in parts of some size; nothing is sent."""
        ctx = self.context(**limits)
        with ctx.place.staged(folders.FOLDER) as folder:
            (folder / "profiles").mkdir(parents=True)
            for number, part in enumerate(profiles.iter_slices(part_rows)):
                parts.write(folder / "profiles", number, part)
        ctx.place.write_json("extract.json", {"files": []})
        ctx.place.write_json("validate.json", {"crm": {"files": []}})
        pack.render(ctx)
        pack.stage(ctx, plan=1)
        ctx.ledger.close()
        batches = list(pack.batches(ctx, pack.manifest(ctx, 1)))
        file = ctx.place.read_bytes("private/plan-001/payloads")
        return Staged(
            batches=batches,
            payloads=[file[batch.offset : batch.offset + batch.size] for batch in batches],
            sent=_joined(ctx, "private/plan-001/references", {"key": pl.String, "size": pl.UInt32}),
            records=_joined(ctx, pack.RECORDS, {"key": pl.String, "reason": pl.String}),
        )

    def deliver(self, profiles: pl.DataFrame) -> pl.DataFrame:
        """Sends profiles, call by call, without a run; returns the rendered records."""
        self.stand.introduce(self.url, profiles["customer_id"])
        with self.endpoint() as endpoint:
            rendered = endpoint.render(profiles.lazy()).collect()
            sendable = rendered.filter(pl.col("reason").is_null()).with_columns(**STRANGER)
            for part in sendable.iter_slices(endpoint.limits.rows_per_call):
                self.clock.now += 60  # a pace that no vendor minds
                texts = [text.encode() for text in endpoint.finish(part)]
                receipt = endpoint.submit(endpoint.envelope.frame(texts))
                assert receipt.rows == ()
                if isinstance(endpoint, AwaitsCompletion):
                    assert receipt.job is not None
                    endpoint.poll(receipt.job)
        return rendered

    def faults(self, *specs: Mapping[str, Any]) -> None:
        """Lets these faults stand, as docs/emulator.md describes them, and no others; and a minute passes."""
        self.clock.now += 60
        self.session.delete(f"{self.url}/_control/faults", timeout=10).raise_for_status()
        self.session.post(f"{self.url}/_control/faults", json=list(specs), timeout=10).raise_for_status()

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every call that brought profiles, in order."""
        log = self.session.get(f"{self.url}/_control/requests", timeout=10).json()["requests"]
        return [call for call in log if call["rows"]]

    @property
    def people(self) -> list[dict[str, Any]]:
        """What the vendor knows of everybody, as the stand reads it."""
        vendor = self.stand.connection["conn_type"]
        answer = self.session.get(f"{self.url}/_control/profiles?vendor={vendor}", timeout=10).json()
        return [self.stand.read(key, profile["attributes"]) for key, profile in answer["profiles"].items()]

    @property
    def cities(self) -> dict[str, str]:
        """The city of every customer who has one at the vendor."""
        return {person["customer_id"]: person["city"] for person in self.people if person["city"]}


@pytest.fixture(params=list(map(str, STANDS)))
def stand(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Each endpoint in turn; one that the registry does not have is entered into it."""
    stand = next(stand for stand in STANDS if str(stand) == request.param)
    if stand.connect is not None:
        monkeypatch.setitem(destinations.ENDPOINTS, stand.endpoint, stand.connect)
        monkeypatch.setitem(destinations.DESTINATIONS, stand.endpoint, stand.endpoint)
        monkeypatch.setitem(limits.documented(), stand.endpoint, stand.limits_entry)
    return stand


@pytest.fixture
def account(stand: Stand, tmp_path: Path) -> Iterator[Account]:
    """A new account of the stand."""
    clock = Clock()
    serving: AbstractContextManager[str] = start(stand.app(clock))
    with serving as url, requests.Session() as session:
        account = Account(stand=stand, url=url, clock=clock, root=tmp_path, session=session)
        yield account
        for ctx in account.made:
            ctx.ledger.close()


@pytest.fixture(scope="session")
def stands() -> tuple[Stand, ...]:
    """All of them."""
    return STANDS


@pytest.fixture(scope="session")
def frame_of() -> Callable[[Iterable[Mapping[str, Any]]], pl.DataFrame]:
    """Makes profiles, as transform promises them, of the columns that matter to a test."""

    def make(profiles: Iterable[Mapping[str, Any]]) -> pl.DataFrame:
        common = {"updated_at": f"{MONDAY}T08:00:00Z"}
        rows = [dict.fromkeys(COLUMNS) | common | {"row": n} | dict(p) for n, p in enumerate(profiles)]
        return pl.DataFrame(rows, schema=COLUMNS)

    return make
