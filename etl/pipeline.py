"""The steps of a run, in order: the same functions for Airflow's tasks, the command line and the tests.

    extract    landing files        -> snapshot
    validate   snapshot             -> valid rows, quarantine
    transform  valid rows           -> profiles
    pack       profiles             -> staged payloads, without what the account knows already
    plan       payloads             -> calls, bytes, seconds, quota
    load       payloads             -> vendor, each batch noted in the ledger before and after
    wait       accepted batches     -> confirmed ones, where the vendor confirms
    reconcile  files and ledger     -> one end for every row
    report     all of it            -> run_report.json

A step reads what the steps before it wrote, and writes `<step>.json` last. Run again, it finds that file and does
nothing; so a run that died goes on where it stopped.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, date, datetime
from typing import Any

from etl import extract, load, pack, plan, reconcile, report, validate, wait
from etl.destinations import DESTINATIONS, connect_all
from etl.errors import ConfigError, ExportError
from etl.ledger import Ledger, Run
from etl.model import BatchState, Bucket, RunReport
from etl.run import PURGED, Options, RunContext
from etl.settings import Connection, Settings
from etl.storage import Place
from etl.sync_rules import problems
from etl.syncs import SYNCS, Sync
from etl.transform import step as transform

Step = Callable[[RunContext], dict[str, Any]]


def _pack(ctx: RunContext) -> dict[str, Any]:
    return pack.render(ctx) | pack.stage(ctx, plan=1)


STEPS: dict[str, Step] = {
    "extract": extract.extract,
    "validate": validate.validate,
    "transform": transform.transform,
    "pack": _pack,
    "plan": plan.plan,
    "load": load.load,
    "wait": wait.wait,
    "reconcile": reconcile.reconcile,
}
PREPARE = ("extract", "validate", "transform", "pack", "plan")
DELIVER = ("load", "wait", "reconcile")
# These look at the ledger and the vendor, so they are done anew each time; what is settled there they leave alone.
_ALWAYS = frozenset(DELIVER)
# How a batch can end after its run: the vendor says so, it was sent once more, or something newer was.
_LATE_ENDS = (
    BatchState.COMPLETE, BatchState.STUCK, BatchState.UNREPORTED, BatchState.ACCEPTED, BatchState.SUPERSEDED,
)  # fmt: skip
_OPEN = (BatchState.PROCESSING, BatchState.UNKNOWN, BatchState.SENDING)
_COMMAND_LINE = "cli"
_SHORTEST_PAUSE_S = 0.05
# What load is stopped by, and a run that waits goes on after; meanwhile the account is anybody's.
_PASSING = (load.AWAITING, "quota")
_ASKED = "options.json"


def sync_named(name: str) -> Sync:
    """A sync by name; raises ConfigError that lists the known ones."""
    if name not in SYNCS:
        raise ConfigError(f"no sync named {name!r}; known: {', '.join(SYNCS)}")
    return SYNCS[name]


def context(
    sync: Sync,
    day: date,
    *,
    run_id: str,
    destination: str | None = None,
    options: Options | None = None,
    settings: Settings | None = None,
    connection: Connection | None = None,
    **more: Any,
) -> RunContext:
    """A run of a sync; settings and connection come from the environment unless they are given."""
    chosen = destination or sync.destination
    if chosen not in DESTINATIONS:
        raise ConfigError(f"no destination named {chosen!r}; known: {', '.join(DESTINATIONS)}")
    if wrong := problems(replace(sync, destination=chosen)):
        raise ConfigError(f"the sync {sync.name} cannot run: {'; '.join(wrong)}")
    ctx = RunContext(
        sync=sync,
        day=day,
        destination=chosen,
        run_id=run_id,
        settings=settings or Settings.from_environment(),
        connection=connection or Connection.from_environment(sync.connection),
        options=options or Options(),
        **more,
    )
    with ctx.client() as client:  # a connection that cannot work is found out before a file is read
        connect_all(chosen, ctx.connection, client)
    return ctx


@contextmanager
def resume_or_new(ctx: RunContext) -> Iterator[RunContext]:
    """The run of the command line that died last for this sync, day and destination, or a new one.

    One that was asked for something else (`full`, `limit` and so on) is left alone: what it sent is known, and what it
    did not send is the new run's. The run's folder is held meanwhile, so that a second command for the same day makes a
    run of its own.
    """
    with ExitStack() as held:
        runs = ctx.ledger.runs(sync=ctx.sync.name, day=str(ctx.day), destination=ctx.destination, limit=1)
        for newest in runs:
            dead = replace(ctx, run_id=newest.run_id)
            is_open = newest.finished_at is None and newest.run_id.startswith(_COMMAND_LINE)
            is_ours = is_open and newest.account == ctx.connection.account and _asked_for(dead) == _asked(ctx)
            if is_ours and held.enter_context(dead.place.hold("running")):
                yield dead
                return
        fresh = replace(ctx, run_id=new_run_id(_COMMAND_LINE))
        held.enter_context(fresh.place.hold("running"))
        yield fresh


def new_run_id(origin: str) -> str:
    """A name that sorts by time and is never given twice."""
    return f"{origin}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"


def begin(ctx: RunContext) -> None:
    """Notes in the ledger that the run began, or goes on, and in its folder what it was asked for."""
    ctx.place.write_json(_ASKED, _asked(ctx))
    ctx.ledger.open_run(
        Run(
            run=ctx.name, sync=ctx.sync.name, day=str(ctx.day), destination=ctx.destination, run_id=ctx.run_id,
            account=ctx.connection.account, started_at=ctx.ledger.now(),
        )
    )  # fmt: skip


def _asked(ctx: RunContext) -> dict[str, Any]:
    """The options that decide what is sent."""
    options = asdict(ctx.options)
    del options["wait"]
    return options


def _asked_for(ctx: RunContext) -> dict[str, Any] | None:
    return ctx.place.read_json(_ASKED)


def do(ctx: RunContext, step: str) -> dict[str, Any]:
    """One step, unless it is done already. Its result is a small value: paths, counts, ids; never rows.

    Raises ConfigError for a run whose files `profile-etl purge` has removed.
    """
    if ctx.place.exists(PURGED):
        raise ConfigError(f"profile-etl purge has removed the files of {ctx.name}: start a new run of the day")
    done: dict[str, Any] | None = None if step in _ALWAYS else ctx.place.read_json(f"{step}.json")
    if done is None:
        ctx.progress(step, 0, 0)
        done = STEPS[step](ctx)
        ctx.place.write_json(f"{step}.json", done)
    return done


def prepare(ctx: RunContext) -> dict[str, Any]:
    """Everything before the first call: stages the payloads and returns the plan; sends nothing."""
    for step in PREPARE:
        done = do(ctx, step)
    return done


def run(ctx: RunContext) -> RunReport:
    """All steps, and the report. A file that cannot be used ends the run with a report that says so."""
    begin(ctx)
    try:
        prepare(ctx)
    except ExportError as error:
        return refuse(ctx, error)
    return deliver(ctx)


def retry(ctx: RunContext) -> RunReport | None:
    """Sends what did not get through before; None, with nothing noted anywhere, when there is no such thing.

    `ctx` has the option `retry`. Of a batch with losses that the vendor did not name, every row is sent again. Raises
    ConfigError for a day that was never run, and ExportError.
    """
    if not ctx.ledger.runs(sync=ctx.sync.name, day=str(ctx.day), destination=ctx.destination, limit=1):
        raise ConfigError(f"{ctx.sync.name} was not run to {ctx.destination} for {ctx.day} yet: use profile-etl run")
    planned = prepare(ctx)
    if not planned["rows"] and Bucket.PROCESSING not in ctx.result("pack")["kept"]:
        return None
    begin(ctx)
    return deliver(ctx)


def deliver(ctx: RunContext) -> RunReport:
    """The steps of a prepared run, and the report."""
    while (sent := do(ctx, "load"))["stopped"] in _PASSING and sent["wait"] is not None and _stays(ctx, sent["wait"]):
        pass
    return follow(ctx)


def follow(ctx: RunContext) -> RunReport:
    """What comes after load: waits until the vendor has done with the run's batches, unless it is not to, and reports."""
    while (waited := do(ctx, "wait"))["pending"] and _stays(ctx, waited["wait"]):
        pass
    do(ctx, "reconcile")
    made = report.report(ctx)
    renew(ctx)
    return made


def renew(ctx: RunContext) -> None:
    """Brings the reports of earlier runs up to date whose batches have come to an end meanwhile."""
    for run in ctx.ledger.runs_with_batches(*_LATE_ENDS, account=ctx.connection.account, exit_code=3):
        if run.run != ctx.name and run.sync in SYNCS:
            earlier = replace(
                ctx,
                sync=SYNCS[run.sync],
                day=date.fromisoformat(run.day),
                destination=run.destination,
                run_id=run.run_id,
            )
            made = report.read_report(earlier.place)
            is_open = made is not None and (
                made.rows[Bucket.PROCESSING]
                or made.rows[Bucket.UNKNOWN]
                or any(b["state"] in _OPEN for b in made.batches)
            )
            if is_open and not earlier.place.exists(PURGED):
                do(earlier, "reconcile")
                report.report(earlier)


def unfinished(sync: str | None = None) -> list[RunContext]:
    """The runs whose batches the vendor still works on, newest last, as far as their syncs and connections are here."""
    settings = Settings.from_environment()
    found = []
    for run in Ledger(settings.ledger).runs_with_batches(BatchState.PROCESSING, sync=sync):
        if run.sync in SYNCS:
            with suppress(ConfigError):
                ctx = context(
                    SYNCS[run.sync], date.fromisoformat(run.day), run_id=run.run_id, destination=run.destination
                )
                has_sent = ctx.place.exists("load.json")  # else its process died, and the next run goes on with it
                found += [ctx] if has_sent and ctx.connection.account == run.account else []
    return found


def _stays(ctx: RunContext, seconds: float) -> bool:
    """Sleeps until the vendor is to be asked again; False when the run does not wait, or is to stop."""
    return ctx.options.wait and ctx.sleep(max(seconds, _SHORTEST_PAUSE_S))


def refuse(ctx: RunContext, error: ExportError) -> RunReport:
    """Closes a run whose export cannot be used; the next try of the same run reads the landing folder anew."""
    for step in PREPARE:
        ctx.place.remove(f"{step}.json")
    return report.report_refusal(ctx, error)


def newest_report(sync: Sync, day: date, destination: str | None = None) -> RunReport:
    """The report of the newest run of a day that has one; raises ConfigError when there is none."""
    settings = Settings.from_environment()
    chosen = destination or sync.destination
    for found in Ledger(settings.ledger).runs(sync=sync.name, day=str(day), destination=chosen):
        if (made := report.read_report(Place(settings.work) / found.run)) is not None:
            return made
    raise ConfigError(f"no run of {sync.name} to {chosen} for {day} has a report yet")
