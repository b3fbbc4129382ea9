"""The command line: thin; its commands call the functions that Airflow's tasks call."""

from __future__ import annotations

import io
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from etl.errors import Busy, ConfigError, EtlError, unforeseen
from etl.model import RunReport
from etl.run import Options, RunContext
from etl.terminal import progress

if TYPE_CHECKING:
    from etl.quarantine import Quarantined

app = typer.Typer(
    name="profile-etl",
    help="Carries daily CRM and POS exports to a customer-profile API, with an account of every row.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

_MARKS = {True: "ok  ", False: "FAIL", None: "-   "}

quarantine = typer.Typer(help="Rows that break the contract.", no_args_is_help=True)
app.add_typer(quarantine, name="quarantine")

SyncName = Annotated[
    str, typer.Argument(metavar="SYNC", help="A name of etl/syncs.py, or of the file that PROFILE_ETL_SYNCS names.")
]
Day = Annotated[str, typer.Option("--date", metavar="YYYY-MM-DD", help="The day that the exports cover.")]
Destination = Annotated[str | None, typer.Option(help="Another destination than the sync's, for this run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Full = Annotated[bool, typer.Option("--full", help="Send unchanged profiles too.")]
Limit = Annotated[int | None, typer.Option(min=0, help="Deliver the first N changed profiles only.")]
Export = Annotated[str, typer.Option(help="The export whose rows: crm or pos.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until the vendor confirms.")]
AcceptVolume = Annotated[
    bool,
    typer.Option(
        "--accept-volume",
        help="Let an export pass that looks wrong as a whole: its number of records, its bad ones, its opt-ins.",
    ),
]


@app.command()
def run(
    sync: SyncName,
    day: Day,
    *,
    destination: Destination = None,
    full: Full = False,
    limit: Limit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Stage the payloads, print the plan, send nothing.")
    ] = False,
    no_wait: NoWait = False,
    accept_volume: AcceptVolume = False,
    as_json: AsJson = False,
) -> None:
    """Carry one day's exports to the destination, and account for every row."""
    from etl import pipeline

    options = Options(full=full, limit=limit, wait=not no_wait, accept_volume=accept_volume)
    if dry_run:
        _plan(sync, day, destination, options, as_json=as_json)
        return
    with pipeline.resume_or_new(_context(sync, day, destination, options)) as named, _running(named) as ctx:
        made = pipeline.run(ctx)
    _show(made, as_json=as_json, files=ctx.place.root)


@app.command()
def plan(sync: SyncName, day: Day, *, destination: Destination = None, as_json: AsJson = False) -> None:
    """Say how many calls, bytes and minutes a run would take, and the quota before and after; send nothing."""
    _plan(sync, day, destination, Options(), as_json=as_json)


@app.command()
def status(
    sync: Annotated[str | None, typer.Argument(metavar="[SYNC]", help="Only this sync.")] = None,
    *,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Stay until no batch is under way any more, and the vendors have done with them."),
    ] = False,
) -> None:
    """Show the last runs, batches without a known end, and what is left of the quota."""
    from etl import pipeline
    from etl.ledger import Ledger
    from etl.settings import Settings
    from etl.status import last_runs

    if sync is not None:
        pipeline.sync_named(sync)
    ledger = Ledger(Settings.from_environment().ledger)
    for left in pipeline.unfinished(sync) if wait else []:
        with _running(left) as ctx:
            pipeline.follow(ctx)
    while True:
        shown = last_runs(ledger, sync)
        if not (wait and shown.sending):
            break
        time.sleep(1)
    _print(shown.text)


@app.command()
def retry(
    sync: SyncName,
    day: Day,
    *,
    destination: Destination = None,
    no_wait: NoWait = False,
    accept_volume: AcceptVolume = False,
    as_json: AsJson = False,
) -> None:
    """Send again what did not get through: rows that were rejected, failed, not found, stuck, unreported or never sent."""
    from etl import pipeline

    options = Options(retry=True, wait=not no_wait, accept_volume=accept_volume)
    named = _context(sync, day, destination, options, run_id=pipeline.new_run_id("retry"))
    with _running(named) as ctx:
        made = pipeline.retry(ctx)
    if made is None:
        _print("nothing to do")
        return
    _show(made, as_json=as_json, files=ctx.place.root)


@app.command()
def explain(
    *, id_: Annotated[str, typer.Option("--id", metavar="-", help="Always -: the id is read from stdin.")]
) -> None:
    """Tell what happened to one customer, run by run; the id comes on stdin, where no shell keeps it."""
    from etl.explain import explain
    from etl.settings import Settings

    found = 0
    for line in explain(Settings.from_environment(), _customer_id(id_)):
        found += 1
        _print(line)
    if not found:
        _print("no run that is still there has a record of this customer")


@app.command()
def report(
    sync: SyncName,
    day: Day,
    *,
    destination: Destination = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="Write it as a page to this file, too.")] = None,
) -> None:
    """Print the newest run report of a day again."""
    from etl import pipeline, report_page

    made = pipeline.newest_report(pipeline.sync_named(sync), _day(day), destination)
    if html is not None:
        with _writing(html):
            report_page.write(made, html)
    _show(made, as_json=as_json)


@app.command()
def audit(
    sync: SyncName,
    day: Day,
    *,
    size: Annotated[int, typer.Option("--sample", min=1, help="How many profiles are compared.")] = 1000,
    destination: Destination = None,
    as_json: AsJson = False,
) -> None:
    """Compare a sample of what a day delivered with what the vendor holds, and say how much loss that excludes."""
    import random
    from dataclasses import asdict

    from etl.audit import as_text, audit, most_loss

    named = _context(sync, day, destination, Options())
    with _running(named) as ctx:
        found = audit(ctx, sample=size, chance=random.SystemRandom())
    if as_json:
        _print_json(asdict(found) | {"most_loss": most_loss(found.missed, found.sample) if found.sample else None})
    else:
        _print(as_text(found))
    raise typer.Exit(1 if found.missed else 0)


@quarantine.command("list")
def list_quarantine(sync: SyncName, day: Day, *, destination: Destination = None, export: Export = "crm") -> None:
    """Say how many rows broke which rules, and where they stand; no value of a row is shown."""
    from etl.quarantine import listing

    for line in listing(_quarantined(sync, day, destination, export)):
        _print(line)


@quarantine.command("export")
def export_quarantine(
    sync: SyncName,
    day: Day,
    *,
    output: Annotated[Path, typer.Option(help="The CSV file to write; it holds personal data.")],
    destination: Destination = None,
    export: Export = "crm",
) -> None:
    """Write the rows with all their original values to a CSV that a spreadsheet opens safely."""
    from etl.quarantine import unreleased, write_csv

    found = _quarantined(sync, day, destination, export)
    if mended := unreleased(output, found):
        raise ConfigError(
            f"{output} has {mended:,} mended rows that are not released: release them, or name another file"
        )
    with _writing(output):
        write_csv(found.rows, output)
    _print(f"{found.rows.height:,} rows in {output}, readable by you only")


@quarantine.command("release")
def release_quarantine(
    sync: SyncName,
    day: Day,
    *,
    input_: Annotated[Path, typer.Option("--input", help="The CSV of quarantine export, with rows put right.")],
    destination: Destination = None,
    no_wait: NoWait = False,
    accept_volume: AcceptVolume = False,
    as_json: AsJson = False,
) -> None:
    """Run the day again with the rows of an exported CSV as they were put right there."""
    from etl import corrections, pipeline
    from etl.quarantine import put_right

    found = _quarantined(sync, day, destination, "crm")
    fixes = put_right(input_, found)
    if fixes.is_empty():
        _print("nothing to do: no row was changed")
        return
    options = Options(wait=not no_wait, accept_volume=accept_volume)
    named = _context(sync, day, destination, options, run_id=pipeline.new_run_id("release"))
    with _running(named) as ctx:
        corrections.note(ctx, fixes)
        made = pipeline.run(ctx)
    _show(made, as_json=as_json, files=ctx.place.root)


@app.command()
def purge(
    *,
    days: Annotated[int, typer.Option(min=0, help="Only runs that are over for so many days.")] = 30,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="-", help="Erase one customer instead: the id on stdin; old addresses on further lines."
        ),
    ] = None,
) -> None:
    """Remove the personal data of old runs, or of one customer from all runs; what may still be needed is left, and named."""
    from etl.erase import erase
    from etl.ledger import Ledger
    from etl.purge import purge
    from etl.settings import Settings
    from etl.storage import Place

    settings = Settings.from_environment()
    work = Place(settings.work)
    if id_ is None:
        done = purge(Ledger(settings.ledger), work, days=days)
        _print(
            f"removed: the private files of {done.runs:,} runs, {done.snapshots:,} copies of exports, "
            f"{done.leftovers:,} half-written ones; {done.bytes:,} bytes"
        )
        _print(f"left: {done.young:,} runs of the last {days:,} days, and {len(done.left):,} older ones")
        for line in done.left:
            _print(f"  {line}")
        return
    customer_id = _customer_id(id_)
    gone = erase(Ledger(settings.ledger), work, customer_id, iter(lambda: sys.stdin.readline().strip(), ""))
    _print(
        f"erased from {gone.runs:,} runs and the state of {gone.states:,} accounts; "
        f"{gone.snapshots:,} copies of exports removed"
    )
    for line in gone.left:
        _print(f"  left: {line}")
    if not (gone.runs or gone.states):
        _print("no run and no account of this work folder knows that id: is it written as in the export?")
    _print("Not touched: the landing folder, the vendors, CSV files of quarantine export. Clean these yourself.")
    if gone.left:
        raise typer.Exit(3)


@app.command()
def sample(
    *,
    customers: Annotated[int, typer.Option(min=1)] = 2000,
    receipts: Annotated[int, typer.Option(min=0)] = 6000,
    days: Annotated[int, typer.Option(min=1)] = 35,
    seed: Annotated[int, typer.Option()] = 2026,
    out: Annotated[Path, typer.Option(help="A folder without crm and pos folders.")],
) -> None:
    """Write invented landing folders, with every kind of defect in a known share."""
    from etl.sample import make_sample

    made = make_sample(customers=customers, receipts=receipts, days=days, seed=seed, out=out)
    _print(f"{len(made.files)} files, {sum(made.files.values()):,} records in {out}")


@app.command()
def emulator(
    *,
    host: Annotated[str, typer.Option(help="A loopback address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8099,
    faults: Annotated[
        list[str] | None, typer.Option(help="For example status=503:every=4; see docs/emulator.md.")
    ] = None,
) -> None:
    """Play the three vendors on this machine, until Ctrl-C; a page at / shows what arrived."""
    from etl.emulator.server import run_server

    try:
        run_server(host, port, faults or [])
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except OSError:
        raise ConfigError(f"port {port} is taken: end what listens there, or choose another with --port") from None


@app.command()
def init(
    *, output: Annotated[Path, typer.Option(help="The file to write; one that is there is left.")] = Path("syncs.toml")
) -> None:
    """Write a file with a sync for an export of your own, to be changed."""
    from etl.start import write_start

    write_start(output)
    _print(f"{output} describes a sync. Make it yours (docs/own-export.md), then:")
    _print(f"  export PROFILE_ETL_SYNCS={shlex.quote(str(output.resolve()))}")
    _print("  profile-etl doctor")


@app.command()
def doctor(
    *,
    rebuild_state: Annotated[
        bool,
        typer.Option(
            "--rebuild-state", help="First make the states anew that are lost or damaged, from the runs' files."
        ),
    ] = False,
) -> None:
    """Check settings, folders, ledger, syncs and connections; send nothing."""
    from etl.status import check_installation

    if rebuild_state:
        _rebuild_state()

    checks = check_installation()
    for check in checks:
        _print(f"{_MARKS[check.ok]}  {check.what}: {check.found}")
    raise typer.Exit(2 if any(check.ok is False for check in checks) else 0)


def main() -> None:
    """The command `profile-etl`: errors become a sentence on stderr and an exit code (spec section 7)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ConfigError as error:
        _fail(str(error), 2)
    except Busy as error:
        _fail(f"{error}. Nothing is lost; run it again in {error.wait / 60:.0f} minutes or later.", 3)
    except EtlError as error:
        _fail(str(error), 3)
    except Exception as error:  # noqa: BLE001  (the outer edge; a foreign error's text may hold a value of a row)
        _fail(f"{unforeseen(error)}. Nothing is lost; run it again, or report it.", 3)


def _rebuild_state() -> None:
    from etl.ledger import Ledger
    from etl.settings import Settings
    from etl.state import rebuild_unsound
    from etl.storage import Place

    settings = Settings.from_environment()
    made = list(rebuild_unsound(Place(settings.work), Ledger(settings.ledger)))
    for each in made:
        _print(f"rebuilt: the state of {each.account}, {each.profiles:,} profiles")
        if each.lost_runs:
            _print(f"  the files of {each.lost_runs:,} runs are purged: what only these can tell of is sent again")
    if not made:
        _print("every state is there and can be read: nothing to rebuild")


def _customer_id(id_: str) -> str:
    if id_ != "-":
        raise ConfigError("--id takes -, and the id itself on stdin: an argument would stand in the shell's history")
    customer_id = sys.stdin.readline().rstrip("\r\n")
    if not customer_id:
        raise ConfigError("no customer id came on stdin")
    return customer_id


def _quarantined(sync: str, day: str, destination: str | None, export: str) -> Quarantined:
    from etl import pipeline
    from etl.ledger import Ledger
    from etl.quarantine import newest
    from etl.settings import Settings
    from etl.storage import Place

    if export not in {"crm", "pos"}:
        raise ConfigError("--export is crm or pos")
    found, settings = pipeline.sync_named(sync), Settings.from_environment()
    return newest(
        Place(settings.work), Ledger(settings.ledger), sync=sync, day=str(_day(day)),
        destination=destination or found.destination, export=export,
    )  # fmt: skip


def _show(made: RunReport, *, as_json: bool, files: str | None = None) -> NoReturn:
    """Prints a report, and ends with its exit code."""
    from etl.report import as_text

    if as_json:
        _print_json(made.as_dict())
    else:
        _print(as_text(made))
        if files:
            _print(f"Files of this run: {files}")
    raise typer.Exit(made.exit_code)


def _plan(sync: str, day: str, destination: str | None, options: Options, *, as_json: bool) -> None:
    from etl import pipeline
    from etl.plan import as_text

    ctx = _context(sync, day, destination, replace(options, dry_run=True), run_id=pipeline.new_run_id("plan"))
    with _running(ctx) as ctx:
        made = pipeline.prepare(ctx)
    if as_json:
        _print_json(made)
    else:
        _print(as_text(made))
        _print(f"Nothing was sent. The payloads are staged in {ctx.place.root}")


def _context(sync: str, day: str, destination: str | None, options: Options, *, run_id: str = "cli") -> RunContext:
    from etl import pipeline

    return pipeline.context(
        pipeline.sync_named(sync), _day(day), run_id=run_id, destination=destination, options=options
    )


@contextmanager
def _running(ctx: RunContext) -> Iterator[RunContext]:
    """Shows progress, and turns Ctrl-C and SIGTERM into a stop after the calls under way; the second one does not wait."""

    def stop(_signal: int, _frame: object) -> None:
        if ctx.stop.is_set():
            sys.exit(3)
        ctx.stop.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with progress() as shown:
            yield replace(ctx, progress=shown)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Says which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from None


def _day(text: str) -> date:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise ConfigError("--date is a day, written YYYY-MM-DD") from None
    if str(day) != text:
        raise ConfigError("--date is a day, written YYYY-MM-DD")
    return day


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=1, ensure_ascii=False))


def _fail(text: str, code: int) -> None:
    sys.stderr.write(f"profile-etl: {text}\n")
    sys.exit(code)
