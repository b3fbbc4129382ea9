"""Brings a ledger's database to the schema of this version, and refuses one that a newer version has made."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from etl.errors import ConfigError
from etl.ledger.schema import REVISION

_LOCK = 7_270_011  # any number that nobody else locks in the same PostgreSQL database


def migrate(db: sa.Connection) -> None:
    """Migrates within the caller's transaction; raises ConfigError for a schema that this version does not know."""
    if db.dialect.name == "postgresql":
        db.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    found = None
    if sa.inspect(db).has_table("alembic_version"):
        found = db.execute(sa.text("select version_num from alembic_version")).scalar_one_or_none()
    if found != REVISION:
        _upgrade(db, found)


def _upgrade(db: sa.Connection, found: str | None) -> None:
    # Alembic takes half a second to import, and a ledger is nearly always up to date.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise ConfigError(f"the ledger is of a newer profile-etl (schema {found}); update this one")
    config.attributes["connection"] = db
    command.upgrade(config, REVISION)
