"""A ledger that cannot be relied on is refused with a sentence, wherever that shows."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from etl.errors import ConfigError, LedgerError
from etl.ledger import Ledger
from etl.ledger.store import insert_rows
from etl.ledger.trouble import network_file_system, trouble

SQLITE = sa.make_url("sqlite:////var/lib/etl/ledger.db")
POSTGRES = sa.make_url("postgresql+psycopg://etl:s3cret@db.example.org:5432/etl")
MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
srv:/export /mnt/nfs nfs4 rw,vers=4.2 0 0
/dev/sdb1 /mnt/nfs/local ext4 rw 0 0
//srv/share /mnt/with\\040blank cifs rw 0 0
/dev/sdc1 /mnt/covered ext4 rw 0 0
srv:/late /mnt/covered nfs rw 0 0
etl@srv:/ /mnt/ssh fuse.sshfs rw 0 0
overlay /mnt/overlay fuse.fuse-overlayfs rw 0 0
host /mnt/host 9p rw,trans=virtio 0 0
"""


class DriversError(Exception):
    """An error as a driver raises it, with a text that is not to be repeated."""

    def __init__(self, name: str) -> None:
        super().__init__("Could not decode to UTF-8 column 'code' with text 'c1@example.org'")
        self.sqlite_errorname = name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SQLITE_NOTADB", "is damaged, or no ledger at all"),
        ("SQLITE_CORRUPT_INDEX", "is damaged"),
        ("SQLITE_READONLY_DIRECTORY", "cannot be written"),
        ("SQLITE_CANTOPEN", "cannot be opened"),
        ("SQLITE_FULL", "no room on its disk"),
        ("SQLITE_BUSY_SNAPSHOT", "held by another process"),
        ("SQLITE_IOERR_WRITE", "disk reports an error"),
        ("SQLITE_ERROR", "cannot be reached or used (SQLITE_ERROR)"),
    ],
)
def test_every_trouble_has_a_sentence(name, says):
    """It names the file, what is wrong, and what that means; the driver's text stays behind."""
    said = str(trouble(SQLITE, DriversError(name)))
    assert said.startswith(f"the ledger {SQLITE.database} ")
    assert says in said
    assert said.endswith("Nothing more is sent without it.")
    assert "example.org" not in said


def test_a_server_out_of_reach_is_named_without_its_password():
    """Host, port and database tell a person where to look."""
    said = str(trouble(POSTGRES, OSError("s3cret")))
    assert "db.example.org:5432/etl" in said
    assert "s3cret" not in said
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1:9/etl cannot be reached"):
        Ledger("postgresql+psycopg://etl@127.0.0.1:9/etl")


def test_a_mistake_of_ours_is_no_trouble_of_the_ledger(ledger, sending, batch):
    """Whoever breaks a rule of the schema has to see that, and not be sent to look at a disk."""
    sending(batch())
    with pytest.raises(sa.exc.IntegrityError), ledger.transaction() as db:
        insert_rows(db, sa.table("runs", sa.column("run")), [{"run": None}])


def test_damage_to_any_page_is_found(sqlite_url, tmp_path):
    """Half a page of other bytes, wherever it stands: opening or checking says so."""
    _checked(sqlite_url)
    sound = (tmp_path / "ledger.db").read_bytes()
    size = int.from_bytes(sound[16:18], "big")
    for number in range(len(sound) // size):
        folder = tmp_path / str(number)
        folder.mkdir()
        at = number * size
        (folder / "ledger.db").write_bytes(sound[:at] + b"X" * (size // 2) + sound[at + size // 2 :])
        with pytest.raises(LedgerError, match="is damaged"):
            _checked(f"sqlite:///{folder}/ledger.db")
        shutil.rmtree(folder)


def _checked(url: str) -> None:
    ledger = Ledger(url)
    try:
        ledger.check()
    finally:
        ledger.close()


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
def test_a_sound_ledger_passes_its_check(request, url):
    """On either database; so does one that is new."""
    _checked(request.getfixturevalue(url))
    _checked(request.getfixturevalue(url))


def test_a_folder_that_cannot_be_made_is_a_setting_to_mend(tmp_path):
    """A file stands where the ledger's folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be made"):
        Ledger(f"sqlite:///{tmp_path}/file/folder/ledger.db")


# --- network file systems ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/etl/ledger.db", None),
        ("/mnt/nfs/work/ledger.db", "nfs4"),
        ("/mnt/nfs/local/ledger.db", None),
        ("/mnt/nfsother/ledger.db", None),
        ("/mnt/with blank/ledger.db", "cifs"),
        ("/mnt/covered/ledger.db", "nfs"),
        ("/mnt/ssh/ledger.db", "fuse.sshfs"),
        ("/mnt/overlay/ledger.db", None),
        ("/mnt/host/ledger.db", None),
    ],
)
def test_a_network_file_system_is_known_by_the_mount_table(path, kind):
    """The deepest mount above the path decides, and of several at one place the last."""
    assert network_file_system(Path(path), MOUNTS) == kind


@given(st.text(), st.text())
def test_any_mount_table_can_be_read(path, mounts):
    """Other systems write other tables, or none: then nothing is known against the place."""
    assert (
        network_file_system(Path(f"/{path}"), mounts + f"\nx / ext4 rw\nx /{path.replace(' ', '')} tmpfs") is None
        or path
    )


def test_sqlite_on_a_network_file_system_is_refused(tmp_path, monkeypatch):
    """The message names the place, the kind and the ways out; no file is made there."""
    monkeypatch.setattr("etl.ledger.store.mount_table", lambda: f"srv:/x {tmp_path} nfs4 rw 0 0\n")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/a/ledger.db is on a network file system \(nfs4\).*postgresql"):
        Ledger(f"sqlite:///{tmp_path}/a/ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_the_file_of_a_sqlite_uri_is_found(tmp_path, monkeypatch):
    """SQLite's own way to open a file read-only leads to the same checks, and leaves no folder called `file:`."""
    monkeypatch.chdir(tmp_path)
    sqlite3.connect(tmp_path / "ledger.db").close()
    Ledger(f"sqlite:///file:{tmp_path}/ledger.db?uri=true").close()
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.db"}
