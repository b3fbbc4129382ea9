"""Status and doctor: what the ledger knows of the last runs, and whether this installation can work."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from etl.client import Client
from etl.destinations import ENDPOINTS, connect, connect_all
from etl.errors import ConfigError, EtlError
from etl.extract import format_of
from etl.ledger import Ledger, Run
from etl.model import BatchState
from etl.reading import read_export_file
from etl.settings import Connection, Settings
from etl.storage import Place
from etl.sync_rules import problems
from etl.syncs import SYNCS, Sync
from etl.validate import EXPORTS

_SHOWN = 10
_DAY_HOURS = 24


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
        counted = [b for b in batches if b.state.keeps_its_rows]
        unresolved = [b for b in counted if not b.state.is_settled or b.state is BatchState.PROCESSING]
        sending += sum(b.state is BatchState.SENDING for b in counted)
        code = "open" if run.exit_code is None else str(run.exit_code)
        lines.append(f"{run.day}  {code:>4}  {len(counted):>7}  {len(unresolved):>10}  {run.run}")
    lines += ["", *_quota(ledger, runs)]
    return Status(text="\n".join(lines), sending=sending)


def _quota(ledger: Ledger, runs: list[Run]) -> list[str]:
    """What is used of each account's endpoints; those of an account whose connection is not set here, if it is anything."""
    lines, known = [], _connections()
    with Client() as client:
        for account in sorted({run.account for run in runs}):
            for endpoint in ENDPOINTS:
                if account not in known:
                    if used := ledger.used(account, endpoint, _DAY_HOURS):
                        unknown = "its quota is not known without its connection"
                        lines.append(f"{account}  {endpoint}: {used:,} rows in {_DAY_HOURS} hours, {unknown}")
                    continue
                with suppress(ConfigError):  # an endpoint of another vendor
                    limits = connect(endpoint, known[account], client).limits
                    used = ledger.used(account, endpoint, limits.quota_hours)
                    ours = limits.our_quota(known[account].headroom)
                    left = "no quota" if ours is None else f"{ours - used:,} left for us"
                    lines.append(f"{account}  {endpoint}: {used:,} rows in {limits.quota_hours:g} hours, {left}")
    return lines


def _connections() -> dict[str, Connection]:
    """The connections that are set here, by their accounts."""
    found = {}
    for name in {sync.connection for sync in SYNCS.values()}:
        with suppress(ConfigError):
            connection = Connection.from_environment(name)
            found[connection.account] = connection
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that has to be right; `ok` is None for a connection that is not set while another one is."""

    what: str
    ok: bool | None
    found: str


def check_installation() -> list[Check]:
    """Landing and work folders, ledger, the syncs and their connections; raises ConfigError for the settings."""
    settings = Settings.from_environment()
    return [
        _check("landing folder", lambda: _landing(settings)),
        _check("work folder", lambda: _work(settings)),
        _check("ledger", lambda: _ledger(settings)),
        *(_check(f"sync {sync.name}", partial(_sync, sync, settings)) for sync in SYNCS.values()),
        *_check_connections(),
    ]


def _check_connections() -> list[Check]:
    """Nobody uses every vendor: a connection that is not set is a fault only where none is."""
    users: dict[str, list[str]] = {}
    for sync in SYNCS.values():
        users.setdefault(sync.connection, []).append(sync.name)
    variables = {name: f"AIRFLOW_CONN_{name.upper()}" for name in users}
    one_is_set = any(os.environ.get(variable) for variable in variables.values())
    return [
        Check(
            what=f"connection {name}", ok=None, found=f"not set, so {' and '.join(users[name])} cannot run: {variable}"
        )
        if one_is_set and not os.environ.get(variable)
        else _check(f"connection {name}", partial(_connection, name))
        for name, variable in variables.items()
    ]


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what=what, ok=True, found=look())
    except EtlError as error:
        return Check(what=what, ok=False, found=str(error))
    except Exception as error:  # noqa: BLE001  (whatever a driver raises; its text may hold a password)
        return Check(what=what, ok=False, found=f"cannot be used: {type(error).__name__}")


def _landing(settings: Settings) -> str:
    if not Place(settings.landing).exists(""):
        raise ConfigError(
            f"{settings.landing} is not there: make it, or set PROFILE_ETL_LANDING to where the exports land"
        )
    exports = [name for name in ("crm", "pos") if Place(settings.landing).names(name)]
    if "crm" not in exports:
        raise ConfigError(
            f"{settings.landing} holds no CRM export: set PROFILE_ETL_LANDING, or run profile-etl sample --out DIR"
        )
    return f"{settings.landing} holds {' and '.join(exports)}"


def _sync(sync: Sync, settings: Settings) -> str:
    """What is written of it, and whether the newest CRM export looks as it says."""
    if wrong := problems(sync):
        raise ConfigError("; ".join(wrong))
    landing = Place(settings.landing)
    days = sorted(landing.names("crm")) if landing.is_local else []
    files = [f"crm/{day}/{name}" for day in days for name in sorted(landing.names(f"crm/{day}")) if format_of(name)]
    if not files:
        return f"to {sync.destination}"
    header = sync.header("crm")
    read = read_export_file(
        landing.path(files[-1]),
        format=format_of(files[-1]) or "csv",
        columns=header,
        wanted=list(dict.fromkeys(header.values())) or ["customer_id"],
        required=EXPORTS["crm"].required,
        delimiter=sync.crm.delimiter,
        encoding=sync.crm.encoding,
        name=files[-1],
    )
    next(iter(read), None)
    if absent := [notice.message for notice in read.notices if notice.code == "columns_absent"]:
        raise ConfigError("; ".join(absent))
    return f"to {sync.destination}; {files[-1]} looks as it says"


def _work(settings: Settings) -> str:
    work = Place(settings.work)
    work.write_bytes("private/doctor", b"")
    work.remove("private/doctor")
    mode = f", private files in mode {work.path('private').stat().st_mode & 0o777:o}" if work.is_local else ""
    return f"{settings.work}{mode}"


def _ledger(settings: Settings) -> str:
    ledger = Ledger(settings.ledger)
    ledger.check()
    newest = next(iter(ledger.runs(limit=1)), None)
    return f"last run {datetime.fromtimestamp(newest.started_at, UTC):%Y-%m-%d %H:%M}Z" if newest else "no runs yet"


def _connection(name: str) -> str:
    connection = Connection.from_environment(name)
    with Client() as client:
        for sync in SYNCS.values():
            if sync.connection == name:
                connect_all(sync.destination, connection, client)
    return f"{connection.host}, account {connection.account}; nothing was sent to try it"
