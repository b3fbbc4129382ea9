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
class Sync:
    """One CRM export and one POS export, carried to one destination every day.

    `schedule` is a cron expression in `timezone`; a run covers the day before it. An export of at least 1,000 records of
    which more than `bad_share` are bad is not sent before somebody accepts it. `on_invalid` says of a CRM field what becomes
    of a row in which it is invalid: `quarantine` (default), or `drop_field`, which sends the row without it. `on_blank` says of a field what becomes of
    its value at the vendor when it is blank: `leave` (default), or `clear`, where the vendor can.
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
    on_invalid: Mapping[str, str] = field(default_factory=dict)
    on_blank: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError for a field or a word that does not exist."""
        self._check("on_invalid", self.on_invalid, ("quarantine", "drop_field"))
        self._check("on_blank", self.on_blank, ("leave", "clear"))
        for name in self.cleared:
            if self.on_invalid.get(name) == "drop_field":
                raise ConfigError(
                    f"sync {self.name}: {name} would be cleared at the vendor when it is invalid: on_invalid drop_field and "
                    "on_blank clear do not go together"
                )

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


SYNCS: dict[str, Sync] = {
    sync.name: sync
    for sync in (
        Sync(name="crm_to_batch", destination="batch", connection="batch_default"),
        Sync(name="crm_to_adobe_target", destination="adobe_target", connection="adobe_target_default"),
        Sync(name="crm_to_releva", destination="releva", connection="releva_default"),
    )
}
