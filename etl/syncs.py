"""SYNCS: what a user edits. Each entry becomes one Airflow Dag and one name on the command line.

Names, not objects, so that Airflow can read this file without importing polars. To carry your own columns, map the
header names of your export to ours; what a name means is in `docs/contracts.md`. An export that is written in cp1252,
separated by semicolons, with names of its own, is described so:

    crm=Export(columns={"CLIENT_NO": "customer_id", "MAIL": "email"}, delimiter=";", encoding="cp1252")

The same can stand in a file of your own, which `PROFILE_ETL_SYNCS` names and `profile-etl init` begins: its syncs are then
the only ones (`docs/own-export.md`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from etl.errors import ConfigError

# A day later the next export has landed.
_LONGEST_WAIT_HOURS = 24
_ROOT = Path(__file__).parents[1]
# What a setting may be in TOML, by the beginning of its annotation.
_KINDS: dict[str, Any] = {"str": str, "Literal": str, "bool": bool, "int": int, "float": (int, float), "Mapping": dict}


# The fields of a CRM row that a sync may handle in another way than by default. Not among them is what says who a
# customer is, which row is the newest, and what they have agreed to.
OPTIONAL = (
    *("email", "phone", "first_name", "last_name", "birthday", "language", "country", "registered_at", "subscribed_at"),
    *("tags", "subscriptions", "loyalty_tier", "city", "latitude", "longitude", "avatar_url"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """How one system writes its export files; `columns` maps its header names to ours."""

    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalise:
    """What is put right before the contract judges; nothing unless it is asked for, since the contract's job is to refuse.

    `phone_region`, such as FR: phone numbers as they are written in that country, or grouped by blanks, become E.164;
    `email`: the domain in small letters; `text`: every value of both exports is trimmed.
    """

    phone_region: str | None = None
    email: bool = False
    text: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """One CRM export and one POS export, carried to one destination every day.

    `attributes` are further columns of the CRM export, texts, by their header names: each is sent under the name that it
    has here. `pos` is None where there are no POS exports. `schedule` is a cron expression in `timezone`; a run covers the
    day before it. An export of at least 1,000 records of which more than `bad_share` are bad is not sent before somebody
    accepts it.

    `on_invalid` says of a CRM field what becomes of a row in which it is invalid: `quarantine` (default), or `drop_field`,
    which sends the row without it. `on_blank` says of a field what becomes of its value at the vendor when it is blank:
    `leave` (default), or `clear`, where the vendor can.

    `crm_mode` is full where each CRM export holds every customer, delta where it holds those who changed: all others are
    carried forward then, also on days without a CRM export, as long as the last one is at most `crm_max_age_days` old.
    `on_absent` says what becomes of a customer who has disappeared from a full export: `ignore` (default), or `unsubscribe`,
    which sends an opt-out and nothing else.

    With `wait_for_export_hours` a run waits so long, from when it was due, for its CRM export. `asset` names an Airflow
    asset whose events start runs in the place of `schedule`: one for each partition, whose key is the day
    (`docs/airflow.md`).
    """

    name: str
    destination: str
    connection: str
    crm: Export = field(default_factory=Export)
    pos: Export | None = field(default_factory=Export)
    attributes: Mapping[str, str] = field(default_factory=dict)
    timezone: str = "UTC"
    schedule: str = "0 2 * * *"
    owner: str = "data-engineering"
    bad_share: float = 0.2
    on_invalid: Mapping[str, str] = field(default_factory=dict)
    on_blank: Mapping[str, str] = field(default_factory=dict)
    normalise: Normalise = field(default_factory=Normalise)
    crm_mode: Literal["full", "delta"] = "full"
    crm_max_age_days: int = 0
    on_absent: Literal["ignore", "unsubscribe"] = "ignore"
    wait_for_export_hours: float | None = None
    asset: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a setting that cannot be meant."""
        if self.crm_mode not in {"full", "delta"}:
            raise ConfigError(f"sync {self.name}: crm_mode is full or delta, not {self.crm_mode!r}")
        if self.crm_max_age_days < 0 or (self.crm_max_age_days and self.crm_mode == "full"):
            raise ConfigError(f"sync {self.name}: crm_max_age_days is for crm_mode delta, and a number of days from 0")
        if self.on_absent not in {"ignore", "unsubscribe"}:
            raise ConfigError(f"sync {self.name}: on_absent is ignore or unsubscribe, not {self.on_absent!r}")
        if self.on_absent == "unsubscribe" and self.crm_mode == "delta":
            raise ConfigError(
                f"sync {self.name}: on_absent unsubscribe is for crm_mode full; who is not in an export of changes has not left"
            )
        hours = self.wait_for_export_hours
        if hours is not None and not 0 < hours <= _LONGEST_WAIT_HOURS:
            raise ConfigError(
                f"{self.name}: wait_for_export_hours is a number above 0, at most {_LONGEST_WAIT_HOURS}, or None"
            )
        if self.asset is not None and (not self.asset.strip() or self.asset in {self.landed, self.delivered}):
            raise ConfigError(f"{self.name}: asset names an Airflow asset, and not one that the sync emits itself")

        self._check("on_invalid", self.on_invalid, ("quarantine", "drop_field"))
        self._check("on_blank", self.on_blank, ("leave", "clear"))
        for name in self.cleared:
            if self.on_invalid.get(name) == "drop_field":
                raise ConfigError(
                    f"sync {self.name}: {name} would be cleared at the vendor when it is invalid: on_invalid drop_field and "
                    "on_blank clear do not go together"
                )

    @property
    def landed(self) -> str:
        """The asset that says that the day's exports are taken."""
        return f"{self.name}.landed"

    @property
    def delivered(self) -> str:
        """The asset that says that the day's profiles are delivered, and accounted for."""
        return f"{self.name}.delivered"

    @property
    def own(self) -> tuple[str, ...]:
        """The names of `attributes`, in an order that does not depend on how they were written down."""
        return tuple(sorted(self.attributes.values()))

    def header(self, export: str) -> Mapping[str, str]:
        """The header names of an export (`crm`, `pos`) that are not ours, with what they are here."""
        columns = {"crm": self.crm, "pos": self.pos or Export()}[export].columns
        return {**columns, **self.attributes} if export == "crm" else columns

    @property
    def cleared(self) -> tuple[str, ...]:
        """The fields whose blank is to clear them."""
        return tuple(name for name, word in self.on_blank.items() if word == "clear")

    def _check(self, setting: str, chosen: Mapping[str, str], words: tuple[str, ...]) -> None:
        for name, word in chosen.items():
            if name not in OPTIONAL or word not in words:
                raise ConfigError(
                    f"sync {self.name}: {setting} has {name!r}: {word!r}; a field is one of {', '.join(OPTIONAL)}, and "
                    f"it is {' or '.join(words)}"
                )


def read_syncs(path: Path) -> dict[str, Sync]:
    """The syncs of a TOML file, a table each, `pos = false` for none; raises ConfigError that says where it is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not tables:
        raise ConfigError(f"{path} has no sync: each is a table, as profile-etl init writes one")
    found = {}
    for name, table in tables.items():
        where = f"{path}, [{name}]"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not isinstance(table, dict):
            raise ConfigError(f"{where}: a sync is a table whose name has letters, digits, - and _ only")
        exports = {
            export: None
            if export == "pos" and table[export] is False
            else Export(**_settings(table[export], Export, f"{where}, {export}"))
            for export in ("crm", "pos")
            if export in table
        }
        parts: dict[str, Any] = dict(exports)
        if "normalise" in table:
            parts["normalise"] = Normalise(**_settings(table["normalise"], Normalise, f"{where}, normalise"))
        settings = _settings({"name": name, **table, **parts}, Sync, where)
        try:
            found[name] = Sync(**settings)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return found


def _settings(table: object, kind: type[Sync | Export | Normalise], where: str) -> dict[str, Any]:
    """The settings of a table, once each is known to be one, and of its kind."""
    known = {setting.name: str(setting.type).partition("[")[0].removesuffix(" | None") for setting in fields(kind)}
    if not isinstance(table, dict):
        raise ConfigError(f"{where} must be a table")
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"{where}: there is no setting {name!r}; there are: {', '.join(known)}")
        kind_of_value = _KINDS.get(known[name], object)
        if not isinstance(value, kind_of_value) or (isinstance(value, bool) and known[name] in {"int", "float"}):
            raise ConfigError(f"{where}: {name} must be of the kind {known[name]}")
        for key, entry in value.items() if isinstance(value, dict) else ():
            if not isinstance(entry, str):
                raise ConfigError(f"{where}: {name} has texts only, and {key!r} is none")
    if missing := sorted({"name", "destination", "connection"} & known.keys() - table.keys()):
        raise ConfigError(f"{where} lacks {' and '.join(missing)}")
    return table


_HERE = (
    Sync(name="crm_to_batch", destination="batch", connection="batch_default"),
    Sync(name="crm_to_adobe_target", destination="adobe_target", connection="adobe_target_default"),
    Sync(name="crm_to_releva", destination="releva", connection="releva_default"),
)
_ELSEWHERE = os.environ.get("PROFILE_ETL_SYNCS")
SYNCS: dict[str, Sync] = read_syncs(_ROOT / _ELSEWHERE) if _ELSEWHERE else {sync.name: sync for sync in _HERE}
