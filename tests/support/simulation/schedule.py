"""One schedule: a few days' runs of one account by one to eight processes, first in chaos, then healed; and what must hold."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache, cached_property, partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import sqlalchemy as sa

from etl import pack, parts, pipeline, storage
from etl.client import Client
from etl.destinations import connect
from etl.errors import Busy
from etl.ledger import Ledger, LostLeaseError, lease
from etl.ledger.migrate import migrate
from etl.ledger.schema import attempts, batches, metadata
from etl.ledger.store import _engine
from etl.model import AttemptOutcome, BatchState, RunReport
from etl.run import Options, RunContext
from etl.settings import Connection, Settings
from etl.storage import Place
from etl.syncs import Sync
from etl.transform import folders
from sample_profiles import STRANGER, profiles_of
from simulation.kernel import MIDNIGHT, Calls, Hub, Process, beating, running
from simulation.vendor import Limits, Network, Vendor, Weather, rows_of

MONDAY = date(2026, 3, 2)
CANARY = "canary"
CUSTOMERS = 9
CHAOS_S, DAY_S, HEALED_S = 900.0, 90_000.0, 100_000.0
_MOST_WORKERS = 8
_DOUBTFUL = (AttemptOutcome.UNKNOWN, AttemptOutcome.CRASHED, AttemptOutcome.SENDING)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A destination with limits small enough to be felt."""

    destination: str
    connection: dict[str, Any]
    limits: Limits
    overrides: dict[str, Any]
    may_refuse_rows: bool = True


_BATCH = {"conn_type": "batch", "host": "https://api.batch.com", "password": "x", "extra": {"project_key": "project_p"}}
STAGES = (
    Stage(
        destination="batch_update",
        connection=_BATCH,
        limits=Limits(rows_per_call=3, per_second=4, burst=8, quota=24),
        overrides={"rows_per_call": 3, "per_second": 4, "burst": 8, "quota": 24},
    ),
    Stage(
        destination="batch_mass_update",
        connection=_BATCH,
        limits=Limits(rows_per_call=4, per_second=4, strict=True),
        overrides={"rows_per_call": 4, "per_second": 4, "burst": None},
    ),
    Stage(
        destination="releva",
        connection={"conn_type": "releva", "host": "https://releva.ai", "password": "x"},
        limits=Limits(rows_per_call=3, calls_per_minute=20),
        overrides={"rows_per_call": 3, "calls_per_minute": 20},
    ),
    Stage(
        destination="adobe_target_bulk",
        connection={"conn_type": "adobe_target", "host": "https://acme.tt.omtrdc.net", "login": "acme"},
        limits=Limits(rows_per_call=4, calls_per_minute=30, quota=24),
        # A refresh would be a duplicate to the invariant that counts them.
        overrides={"rows_per_call": 4, "calls_per_minute": 30, "quota": 24, "refresh_days": None},
        may_refuse_rows=False,
    ),
)


@dataclass(frozen=True, kw_only=True)
class SimulatedRun(RunContext):
    """A run whose doors lead into the simulation."""

    process: Process
    network: Network
    database: sa.Engine

    @cached_property
    def ledger(self) -> Ledger:
        return SimulatedLedger(self.process, self.database)

    def sleep(self, seconds: float) -> bool:
        self.process.sleep(seconds)
        return True

    def chance(self) -> float:
        return self.process.hub.random.random()

    def client(self) -> Network:  # type: ignore[override]
        return self.network

    def calls(self, at_once: int) -> Calls:  # type: ignore[override]
        return Calls(self.process)

    def lease(self) -> AbstractContextManager[int]:
        return lease(
            self.ledger, self.connection.account, patience_s=self.patience_s, sleep=self.sleep,
            beat=partial(beating, self.process),
        )  # fmt: skip


class SimulatedLedger(Ledger):
    """The ledger of a process: its database outlives it, and around each transaction it may die."""

    def __init__(self, process: Process, database: sa.Engine) -> None:
        self.url, self.engine, self.now = "sqlite://", database, lambda: process.hub.now
        self._process = process
        self._db: sa.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        self._process.check()
        if self._db is not None:
            yield self._db
            return
        self._process.breathe()
        with self.engine.begin() as db:
            self._db, self._process.is_in_transaction = db, True
            try:
                yield db
            finally:
                self._db, self._process.is_in_transaction = None, False
        self._process.breathe()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        self._process.check()
        if self._db is not None:
            yield self._db
            return
        with self.engine.connect() as db:
            yield db


@dataclass(kw_only=True)
class Result:
    """What one schedule showed; `wrong` is empty where every invariant held."""

    seed: int
    crashes: int
    posts: int
    unknowns: int
    lost: int
    duplicates: int
    bound: int
    violations: int
    wrong: list[str] = field(default_factory=list)


def figures(results: Sequence[Result]) -> dict[str, int]:
    """What schedules showed, summed."""
    counted = {
        "crashes": "crashes", "POSTs": "posts", "unknowns": "unknowns", "lost": "lost", "duplicates": "duplicates",
        "bound": "bound", "limit violations": "violations",
    }  # fmt: skip
    sums = {title: sum(getattr(result, name) for result in results) for title, name in counted.items()}
    return {"schedules": len(results), **sums}


def run_schedule(seed: int) -> Result:
    """Everything that one seed makes happen."""
    with simulated_files(), tempfile.TemporaryDirectory(dir=_shared()) as root:
        return _Schedule(seed, Path(root)).play()


class _Schedule:
    def __init__(self, seed: int, root: Path) -> None:
        self.hub = Hub(seed)
        self.seed, self.root = seed, root
        dice = self.dice = self.hub.random
        self.stage = dice.choice(STAGES)
        self.template = dice.randrange(_TEMPLATES)
        self.days = [MONDAY + timedelta(days=n) for n in range(dice.choice([1, 2, 2, 3]))]
        poison = (
            frozenset({_name(dice.randrange(CUSTOMERS))})
            if self.stage.may_refuse_rows and dice.random() < 0.2
            else frozenset()
        )
        self.vendor = Vendor(hub=self.hub, limits=self.stage.limits, poison=poison)
        self.chaos = dice.choice([0.0, 0.01, 0.03, 0.06])
        self.weather = Weather(**{
            name: dice.choice([0.0, 0.0, 0.05, 0.2])
            for name in ("refused", "lost", "cut", "broken", "throttled")
        }, **{name: dice.choice([0.0, 0.0, 0.0, 0.02]) for name in ("redirected", "denied")})  # fmt: skip
        self.settings = Settings(landing=f"{root}/landing", work=f"{root}/work", ledger="sqlite://")
        extra = self.stage.connection.get("extra", {})
        self.connection = Connection.from_parts(
            "simulated",
            self.stage.connection
            | {"extra": {**extra, "headroom": 0, "limits": {self.stage.destination: self.stage.overrides}}},
        )
        self.processes: list[Process] = []
        self.reports: dict[str, RunReport] = {}
        self.is_over: set[str] = set()
        self.wrong: list[str] = []
        self.database = _database()
        self.newest: dict[str, str] = {}
        for day in self.days:
            self.newest |= _texts(self.stage.destination, self.template, day)

    def play(self) -> Result:
        dice = self.dice
        wanted = [(day, f"scheduled-{day}") for day in self.days]
        wanted += [(dice.choice(self.days), f"other-{n}") for n in range(dice.choice([0, 0, 1, 2]))]
        morning = [(day, f"morning-{day}") for day in self.days]  # the quota of the night is free again
        for day, run_id in wanted:
            for _ in range(dice.choice([1, 1, 2])):  # Airflow gave one up too early
                self.hub.at(dice.uniform(0, CHAOS_S / 3), partial(self.start, day, run_id))
        if dice.random() < 0.15:
            self.hub.at(dice.uniform(0, CHAOS_S / 3), lambda: setattr(self.weather, "outage", True))
        self.hub.at(CHAOS_S, self.heal)
        take = self.vendor.take
        self.vendor.take = lambda body: (self.arrived(body), take(body))[1]  # type: ignore[method-assign]
        try:
            self.hub.run(MIDNIGHT + CHAOS_S)
            for process in self.processes:  # whoever still stands still goes on now, and has successors
                process.frozen_until = min(process.frozen_until, self.hub.now + 1)
            for moment, run in [(0, run) for run in wanted] + [(DAY_S + n, run) for n, run in enumerate(morning)]:
                self.hub.at(moment, partial(self.start, *run))
            self.hub.run(MIDNIGHT + HEALED_S)
            wanted += morning
            self.check_the_end(wanted)
        finally:
            for process in self.processes:
                process.sweep()
        return self.result()

    def heal(self) -> None:
        self.chaos = 0.0
        self.weather.__init__()  # type: ignore[misc]

    # --- processes ---

    def start(self, day: date, run_id: str) -> None:
        """A worker of Airflow: it does the rest of the run, and is replaced when it dies."""
        if sum(process.alive for process in self.processes) < _MOST_WORKERS:
            process = Process(self.hub, lambda: self.chaos)
            self.processes.append(process)
            process.start(partial(self.work, process, day, run_id))

    def work(self, process: Process, day: date, run_id: str) -> None:
        ctx = SimulatedRun(
            sync=Sync(name="simulated", destination=self.stage.destination, connection="simulated"),
            day=day, destination=self.stage.destination, run_id=run_id, settings=self.settings,
            connection=self.connection, options=Options(), patience_s=0, process=process, database=self.database,
            network=Network(process=process, vendor=self.vendor, weather=self.weather),
        )  # fmt: skip
        _prepare(ctx, self.stage, self.template)
        pipeline.begin(ctx)
        while True:
            wait = 60.0
            try:
                pipeline.do(ctx, "pack")
                pipeline.do(ctx, "plan")
                made = pipeline.deliver(ctx)
                self.account(ctx, made)
                if made.exit_code < 3:
                    self.is_over.add(run_id)
                    process.alive = False
                    return
                wait = ctx.result("load")["wait"] or 60.0
            except Busy as busy:
                wait = busy.wait
            except LostLeaseError:
                pass
            except Exception as error:  # noqa: BLE001  (whatever it is, no schedule may lead to it)
                self.wrong.append(f"internal error: {type(error).__name__}: {error}")
                process.alive = False
                return
            process.sleep(wait)

    # --- what must hold ---

    def account(self, ctx: RunContext, made: RunReport) -> None:
        """I1, I2, I12: every row has one end, in every report; I4: what it says was taken was taken."""
        self.reports[ctx.run_id] = made
        records = made.rows["records_in"]
        if not made.balanced or sum(made.rows.values()) != 2 * records:
            self.wrong.append(f"I1/I2/I12: {ctx.run_id} does not balance")
        taken = {BatchState.ACCEPTED, BatchState.COMPLETE, BatchState.PROCESSING}
        said = [batch for batch in ctx.ledger.batches(ctx.name) if batch.state in taken]
        if not all(self.vendor.taken[batch.sha256] for batch in said):
            self.wrong.append(f"I4: {ctx.run_id} says accepted of what the vendor never took")

    def arrived(self, body: bytes) -> None:
        """I3: an intent stands before every POST; I8: and just these bytes were planned."""
        with self.database.connect() as db:
            query = (
                sa.select(sa.func.count()).select_from(attempts).join(batches, batches.c.id == attempts.c.batch)
                .where(batches.c.sha256 == sha256(body).hexdigest(), attempts.c.started_at <= self.hub.now)
            )  # fmt: skip
            if not db.execute(query).scalar_one():
                self.wrong.append("I3/I8: a POST without an intent, or with other bytes")

    def check_the_end(self, wanted: list[tuple[date, str]]) -> None:
        with self.database.connect() as db:
            tried = db.execute(sa.select(attempts).order_by(attempts.c.started_at, attempts.c.fence)).all()
            fences = [row.fence for row in tried]
            if fences != sorted(fences):
                self.wrong.append("O3: an intent with an old fence")
            for table in metadata.sorted_tables:
                if any(CANARY in str(row) for row in db.execute(sa.select(table))):
                    self.wrong.append(f"I11: personal data in the table {table.name}")
            open_states = [state.value for state in BatchState if not state.is_settled]
            left = db.execute(sa.select(batches).where(batches.c.state.in_(open_states))).all()
        if left or {run_id for _, run_id in wanted} - self.is_over:
            states = {r: self.reports[r].rows for r in self.reports if r not in self.is_over}
            self.wrong.append(f"I9: not all runs came to an end: {states}")
        if self.vendor.violations:
            self.wrong.append(f"I6: {self.vendor.violations[0]}")
        if self.duplicates() > self.bound():
            self.wrong.append(f"I5: {self.duplicates()} duplicates, at most {self.bound()}")
        self.wrong += [f"I7: {key} is not as the newest day says" for key in self.stale()]
        self.wrong += [f"I1: {key} never arrived" for key in self.missing()]

    def stale(self) -> list[str]:
        """I7: customers whose profile at the vendor is not the newest payload that was delivered of them.

        Nobody can tell where even in the morning the quota has put customers off, as bad rows have used it up.
        """
        if any(report.rows["deferred"] for run_id, report in self.reports.items() if run_id.startswith("morning")):
            return []
        found = self.vendor.profiles.items()
        return [key for key, text in found if key not in self.vendor.poison and text != self.newest.get(key)]

    def missing(self) -> list[str]:
        return sorted(self.newest.keys() - self.vendor.profiles.keys() - self.vendor.poison)

    def duplicates(self) -> int:
        return sum(self.rows(sha) * (times - 1) for sha, times in self.vendor.taken.items() if times > 1)

    def rows(self, sha: str) -> int:
        with self.database.connect() as db:
            found = db.execute(sa.select(batches.c.rows).where(batches.c.sha256 == sha).limit(1))
            return int(found.scalar_one_or_none() or 0)

    def bound(self) -> int:
        with self.database.connect() as db:
            query = sa.select(sa.func.coalesce(sa.func.sum(attempts.c.rows), 0))
            return int(db.execute(query.where(attempts.c.outcome.in_(_DOUBTFUL))).scalar_one())

    def result(self) -> Result:
        with self.database.connect() as db:
            outcomes = [row.outcome for row in db.execute(sa.select(attempts.c.outcome))]
        return Result(
            seed=self.seed, crashes=self.hub.crashes, posts=self.vendor.posts,
            unknowns=sum(outcome in _DOUBTFUL for outcome in outcomes), lost=len(self.missing()),
            duplicates=self.duplicates(), bound=self.bound(), violations=len(self.vendor.violations), wrong=self.wrong,
        )  # fmt: skip


# --- exports, made once for all schedules -----------------------------------------------------------------------------

_TEMPLATES = 4


def _name(number: int) -> str:
    return f"{CANARY}-{number}"


def _export(template: int, day: date) -> pl.DataFrame:
    """The customers of a day: some are missing, some are as they were."""
    dice = Random(f"{template} {day}")  # noqa: S311  (an export, not a secret)
    profiles: list[dict[str, object]] = []
    for number in range(CUSTOMERS):
        if dice.random() < 0.85:
            city = dice.choice([f"city of {day}", f"city {(day - MONDAY).days % 2}", "always"])
            profiles.append({"customer_id": _name(number), "email": f"{CANARY}{number}@example.org", "city": city})
    return profiles_of(*profiles)


@cache
def _rendered(stage: str, template: int, day: date) -> Path:
    """The folder of a run as it stands before its first plan."""
    folder = Path(tempfile.mkdtemp(prefix="profile-etl-", dir=_shared()))
    known = next(s for s in STAGES if s.destination == stage)
    ctx = RunContext(
        sync=Sync(name="simulated", destination=stage, connection="simulated"), day=day, destination=stage,
        run_id="r", settings=Settings(landing="", work=str(folder), ledger="sqlite://"),
        connection=Connection.from_parts("simulated", known.connection),
    )  # fmt: skip
    export = _export(template, day)
    with ctx.place.staged(folders.FOLDER) as path:
        (path / "profiles").mkdir(parents=True)
        parts.write(path / "profiles", 0, export)
        pl.DataFrame(schema={"row": pl.UInt64}).write_parquet(path / "deduplicated.parquet")
    pos = dict.fromkeys(("records_in", "unparsable", "quarantined", "deduplicated", "anonymous", "orphaned", "used"), 0)
    counts: dict[str, Any] = {
        "records": export.height,
        "files": [],
        "notices": [],
        "unparsable": 0,
        "quarantined": 0,
        "carried": 0,
    }
    ctx.place.write_json("extract.json", {"files": [], "pos_gaps": [], "pos_incomplete": False, "ignored": []})
    ctx.place.write_json("validate.json", {"crm": counts, "pos": counts | {"records": 0}})
    ctx.place.write_json("transform.json", {"pos": pos, "newer_quarantined": 0})
    pack.render(ctx)
    return Path(ctx.place.root)


def _prepare(ctx: RunContext, stage: Stage, template: int) -> None:
    """Gives a run what the steps before pack leave behind; once."""
    if not Path(ctx.place.root).exists():
        shutil.copytree(_rendered(stage.destination, template, ctx.day), ctx.place.root)


@cache
def _texts(stage: str, template: int, day: date) -> dict[str, str]:
    """What the vendor holds of each customer when it holds this day's payload."""
    known = next(s for s in STAGES if s.destination == stage)
    with Client() as client:
        endpoint = connect(stage, Connection.from_parts("simulated", known.connection), client)
        [records] = parts.frames(Place(str(_rendered(stage, template, day))), pack.RECORDS)
        texts = endpoint.finish(records.with_columns(**STRANGER))
        return rows_of(endpoint.envelope.frame([text.encode() for text in texts]))


@cache
def _shared() -> Path:
    """A folder for what all schedules of this process share."""
    folder = tempfile.mkdtemp(prefix="profile-etl-simulation-", dir=_memory())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _memory() -> str | None:
    """A file system in memory, where there is one: schedules write many small files."""
    memory = "/dev/shm"  # noqa: S108  (a folder of our own is made in it)
    return memory if Path(memory).is_dir() else None


@cache
def _engine_of_all() -> sa.Engine:
    engine = _engine("sqlite://")
    with engine.begin() as db:
        migrate(db)
    return engine


def _database() -> sa.Engine:
    """An empty ledger in memory."""
    engine = _engine_of_all()
    with engine.begin() as db:
        for table in reversed(metadata.sorted_tables):
            db.execute(sa.delete(table))
    return engine


@contextmanager
def simulated_files() -> Iterator[None]:
    """While this holds, a process may die around each file that it publishes, and nothing is synced to a disk."""
    publish, sync = Place.publish, storage._sync

    def breathing(place: Place, temporary: Path, name: str, **options: bool) -> None:
        process = running()
        if process is not None:
            process.breathe()
        publish(place, temporary, name, **options)
        if process is not None:
            process.breathe()

    Place.publish, storage._sync = breathing, lambda _path: None  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Place.publish, storage._sync = publish, sync  # type: ignore[method-assign]
