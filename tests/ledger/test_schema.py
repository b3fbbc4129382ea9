"""The database is what the schema says, durable, and never touched by a version that does not know it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from etl.errors import ConfigError
from etl.ledger import Ledger, schema
from etl.ledger.schema import metadata

OPENER = "import sys; from etl.ledger import Ledger; ledger = Ledger(sys.argv[1]); ledger.runs(); ledger.close()"


def test_the_migrations_lead_to_the_schema(ledger):
    """A new database has exactly the tables, columns and indexes of `etl.ledger.schema`."""
    with ledger.engine.connect() as db:
        context = MigrationContext.configure(db, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_schema_names_the_newest_migration():
    """A migration that nobody names would never run."""
    migrations = Path(schema.__file__).parent / "migrations" / "versions"
    assert max(path.name[:4] for path in migrations.glob("[0-9]*.py")) == schema.REVISION


def test_opening_again_changes_nothing(open_ledger, open_run):
    """What one process wrote, the next one finds."""
    run = open_run()
    assert open_ledger().run(run.run) == run


def test_a_newer_schema_is_refused(ledger, open_ledger):
    """An old version says so and keeps its hands off a ledger that a newer one has migrated."""
    with ledger.transaction() as db:
        db.execute(sa.text("update alembic_version set version_num = '9999'"))
    with pytest.raises(ConfigError, match="newer profile-etl"):
        open_ledger()


def test_processes_may_open_a_new_ledger_at_once(url):
    """Four workers that start together on an empty database all get a ledger."""
    openers = [
        subprocess.Popen((sys.executable, "-c", OPENER, url), stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    errors = [opener.communicate()[1] for opener in openers]
    assert [(opener.returncode, error) for opener, error in zip(openers, errors, strict=True)] == [(0, "")] * 4


def test_sqlite_survives_a_power_cut(sqlite_url):
    """Write-ahead log, every commit synced to the disk, references checked: on every connection of the pool."""
    ledger = Ledger(sqlite_url)
    raw = [ledger.engine.raw_connection() for _ in range(3)]
    for connection in raw:
        names = ("journal_mode", "synchronous", "foreign_keys")
        found = [connection.cursor().execute(f"PRAGMA {name}").fetchone()[0] for name in names]
        assert found == ["wal", 2, 1]
        connection.close()
    ledger.close()


def test_the_folder_of_a_new_sqlite_ledger_is_made(tmp_path: Path):
    """A first run needs no preparation."""
    ledger = Ledger(f"sqlite:///{tmp_path}/a/b/ledger.db")
    ledger.close()
    assert stat.S_ISREG((tmp_path / "a/b/ledger.db").stat().st_mode)


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/x"])
def test_another_kind_of_database_is_refused(url):
    """The message names the setting, and never repeats the URL: it may hold a password."""
    with pytest.raises(ConfigError, match="PROFILE_ETL_LEDGER"):
        Ledger(url)


def test_the_ledgers_time_does_not_follow_this_machines_clock(url, monkeypatch):
    """Once open, a ledger counts monotonic seconds, so that a clock set forward or back moves no quota."""
    ledger = Ledger(url)
    before = ledger.now()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 <= ledger.now() - before < 60
    ledger.close()
