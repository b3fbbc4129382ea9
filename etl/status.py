"""Status and doctor: what the ledger knows of the last runs, and whether this installation can work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from etl.destinations import ENDPOINTS
from etl.errors import EtlError
from etl.ledger import Ledger, Run
from etl.limits import documented, limits_of
from etl.model import BatchState
from etl.settings import Connection, Settings
from etl.storage import Place
from etl.syncs import SYNCS

_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The text of `profile-etl status`, and the number of batches that are under way now."""

    text: str
    sending: int


def last_runs(ledger: Ledger, sync: str | None) -> Status:
    """The last runs, their batches without a known end, and the rows sent in the endpoints' quota windows."""
    runs = ledger.runs(sync=sync, limit=_SHOWN)
    if not runs:
        return Status(text="No runs yet.", sending=0)
    lines, sending = ["day         exit  batches  unresolved  run"], 0
    for run in runs:
        batches = ledger.batches(run.run)
        counted = [b for b in batches if b.state not in {BatchState.SPLIT, BatchState.REPLACED}]
        unresolved = [b for b in counted if not b.state.is_settled]
        sending += sum(b.state is BatchState.SENDING for b in counted)
        code = "open" if run.exit_code is None else str(run.exit_code)
        lines.append(f"{run.day}  {code:>4}  {len(counted):>7}  {len(unresolved):>10}  {run.run}")
    lines += ["", *_quota(ledger, runs)]
    return Status(text="\n".join(lines), sending=sending)


def _quota(ledger: Ledger, runs: list[Run]) -> list[str]:
    lines = []
    for account in sorted({run.account for run in runs}):
        for endpoint in ENDPOINTS:
            limits = limits_of(endpoint)
            used = ledger.used(account, endpoint, limits.quota_hours)
            left = "no quota" if limits.quota is None else f"{limits.quota - used:,} left"
            lines.append(f"{account}  {endpoint}: {used:,} rows in {limits.quota_hours:g} hours, {left}")
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that has to be right."""

    what: str
    ok: bool
    found: str


def check_installation() -> list[Check]:
    """Settings, landing and work folders, limits, ledger, and the connection of each sync."""
    settings = Settings.from_environment()
    checks = [_check_landing(settings), _check_work(settings), _check_ledger(settings)]
    checks.append(Check(what="limits", ok=True, found=f"{len(documented())} endpoints documented"))
    return [*checks, *(_check_connection(sync.connection) for sync in SYNCS.values())]


def _check_landing(settings: Settings) -> Check:
    exports = [name for name in ("crm", "pos") if Place(settings.landing).names(name)]
    return Check(
        what="landing folder",
        ok="crm" in exports,
        found=f"{settings.landing} holds {' and '.join(exports) or 'no export'}",
    )


def _check_work(settings: Settings) -> Check:
    work = Place(settings.work)
    try:
        work.write_bytes("private/doctor", b"")
        work.remove("private/doctor")
    except (OSError, EtlError) as error:
        return Check(what="work folder", ok=False, found=f"{settings.work} cannot be written: {type(error).__name__}")
    mode = f", mode {work.path('private').stat().st_mode & 0o777:o}" if work.is_local else ""
    return Check(what="work folder", ok=True, found=f"{settings.work}{mode}")


def _check_ledger(settings: Settings) -> Check:
    try:
        ledger = Ledger(settings.ledger)
        newest = next(iter(ledger.runs(limit=1)), None)
    except Exception as error:  # noqa: BLE001  (whatever a database driver raises; its text may hold the password)
        return Check(what="ledger", ok=False, found=f"cannot be opened: {type(error).__name__}")
    when = f"last run {datetime.fromtimestamp(newest.started_at, UTC):%Y-%m-%d %H:%M}Z" if newest else "no runs yet"
    return Check(what="ledger", ok=True, found=when)


def _check_connection(name: str) -> Check:
    try:
        connection = Connection.from_environment(name)
    except EtlError as error:
        return Check(what=f"connection {name}", ok=False, found=str(error))
    return Check(what=f"connection {name}", ok=True, found=f"{connection.host}, account {connection.account}")
