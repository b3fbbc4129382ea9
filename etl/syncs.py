"""SYNCS: what a user edits. Each entry becomes one Airflow Dag and one name on the command line.

Names, not objects, so that Airflow can read this file without importing polars. To carry your own columns, map the
header names of your export to ours; what a name means is in `docs/contracts.md`. An export that is written in cp1252,
separated by semicolons, with names of its own, is described so:

    crm=Export(columns={"CLIENT_NO": "customer_id", "MAIL": "email"}, delimiter=";", encoding="cp1252")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from etl.errors import ConfigError

# A day later the next export has landed.
_LONGEST_WAIT_HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """How one system writes its export files; `columns` maps its header names to ours."""

    columns: Mapping[str, str] = field(default_factory=dict)
    delimiter: str = ","
    encoding: str = "utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """One CRM export and one POS export, carried to one destination every day.

    `schedule` is a cron expression in `timezone`; a run covers the day before it. An export of at least 1,000 records of
    which more than `bad_share` are bad is not sent before somebody accepts it. With `wait_for_export_hours` a run waits so
    long, from when it was due, for its CRM export. `asset` names an Airflow asset whose events start runs in the place of
    `schedule`: one for each partition, whose key is the day (`docs/airflow.md`).
    """

    name: str
    destination: str
    connection: str
    crm: Export = field(default_factory=Export)
    pos: Export = field(default_factory=Export)
    timezone: str = "UTC"
    schedule: str = "0 2 * * *"
    owner: str = "data-engineering"
    bad_share: float = 0.2
    wait_for_export_hours: float | None = None
    asset: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a setting that cannot be meant."""
        hours = self.wait_for_export_hours
        if hours is not None and not 0 < hours <= _LONGEST_WAIT_HOURS:
            raise ConfigError(
                f"{self.name}: wait_for_export_hours is a number above 0, at most {_LONGEST_WAIT_HOURS}, or None"
            )
        if self.asset is not None and (not self.asset.strip() or self.asset in {self.landed, self.delivered}):
            raise ConfigError(f"{self.name}: asset names an Airflow asset, and not one that the sync emits itself")

    @property
    def landed(self) -> str:
        """The asset that says that the day's exports are taken."""
        return f"{self.name}.landed"

    @property
    def delivered(self) -> str:
        """The asset that says that the day's profiles are delivered, and accounted for."""
        return f"{self.name}.delivered"


SYNCS: dict[str, Sync] = {
    sync.name: sync
    for sync in (
        Sync(name="crm_to_batch", destination="batch", connection="batch_default"),
        Sync(name="crm_to_adobe_target", destination="adobe_target", connection="adobe_target_default"),
        Sync(name="crm_to_releva", destination="releva", connection="releva_default"),
    )
}
