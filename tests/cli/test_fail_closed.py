"""No sound ledger, no call: whatever is wrong with it, the command says so, and nothing reaches the vendor."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

# A command leaves its database connections to the end of its process.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database")

EVE, DAY = "2026-05-01", "2026-05-02"
RUN = ("run", "crm_to_batch", "--date", DAY)


@pytest.fixture(scope="module")
def sound(shop) -> Path:
    """An installation that has delivered a day, and has the next one before it; its ledger of before that is kept, too."""
    shop.customers(EVE, 30)
    assert shop.process("plan", "crm_to_batch", "--date", EVE).returncode == 0
    shutil.copy(shop.work / "ledger.db", shop.root / "earlier.db")
    assert shop.process("run", "crm_to_batch", "--date", EVE).returncode == 0
    assert [path.name for path in shop.work.glob("ledger.db*")] == ["ledger.db"]
    shop.customers(DAY, 30)
    return shop.root


@pytest.fixture
def copy(sound, shop, tmp_path):
    """A copy of it, to be harmed."""
    return replace(shop, root=Path(shutil.copytree(sound, tmp_path / "shop")))


def overwritten(ledger: Path) -> None:
    half = ledger.stat().st_size // 2
    with ledger.open("r+b") as file:
        file.seek(half)
        file.write(b"X" * 4096)


def overwritten_where_nobody_looks(ledger: Path) -> None:
    db = sqlite3.connect(ledger)  # Batch is never asked about a batch, so that no query reads this table
    [(page,)] = db.execute("select rootpage from sqlite_master where name = 'polls'")
    db.close()
    with ledger.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"X" * 4096)


def truncated(ledger: Path) -> None:
    os.truncate(ledger, ledger.stat().st_size // 2)


def emptied(ledger: Path) -> None:
    os.truncate(ledger, 0)


def lost(ledger: Path) -> None:
    ledger.unlink()


def set_back(ledger: Path) -> None:
    shutil.copy(ledger.parent.parent / "earlier.db", ledger)


def no_database(ledger: Path) -> None:
    ledger.write_bytes(b"this is a letter, and no database\n" * 1000)


def of_a_newer_version(ledger: Path) -> None:
    db = sqlite3.connect(ledger)
    db.execute("update alembic_version set version_num = '9999'")
    db.commit()
    db.close()


def on_a_full_disk(ledger: Path) -> sqlite3.Connection:
    try:  # a device on which no write finds room, where SQLite writes first
        os.mknod(ledger.with_name("ledger.db-wal"), 0o600 | stat.S_IFCHR, Path("/dev/full").stat().st_rdev)
    except PermissionError:
        pytest.skip("only root makes devices")
    reader = sqlite3.connect(ledger)
    reader.execute("select count(*) from runs").fetchall()
    return reader  # as long as it is there, the command is not the last one, who would remove the device


def a_folder(ledger: Path) -> None:
    ledger.unlink()
    ledger.mkdir()


@pytest.mark.parametrize(
    ("harm", "code", "says"),
    [
        (overwritten, 3, "is damaged"),
        (overwritten_where_nobody_looks, 3, "is damaged"),
        (truncated, 3, "is damaged"),
        (emptied, 3, "does not know all that was sent"),
        (lost, 3, "does not know all that was sent"),
        (set_back, 3, "does not know all that was sent"),
        (no_database, 3, "no ledger at all"),
        (of_a_newer_version, 2, "newer profile-etl"),
        (on_a_full_disk, 3, "no room on its disk"),
        (a_folder, 3, "cannot be opened"),
    ],
)
def test_a_ledger_that_cannot_be_relied_on_sends_nothing(
    copy, harm: Callable[[Path], sqlite3.Connection | None], code, says
):
    """A sentence and exit code 2 or 3, again and again; with the sound ledger back, the day goes out."""
    ledger = copy.work / "ledger.db"
    shutil.copy(ledger, copy.root / "sound.db")
    calls = len(copy.calls())
    reader = harm(ledger)
    for _ in range(2):
        done = copy(*RUN)
        assert (done.returncode, done.stdout) == (code, "")
        assert says in done.stderr
        assert not {"Traceback", "internal error"} & set(done.stderr.replace(":", "\n").splitlines())
    assert len(copy.calls()) == calls
    if reader:
        reader.close()
    for path in copy.work.glob("ledger.db*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copy(copy.root / "sound.db", ledger)
    assert copy(*RUN).returncode == 0
    assert sum(call["rows"] for call in copy.calls()[calls:]) == 30


@pytest.mark.parametrize("harm", [overwritten, truncated, no_database, of_a_newer_version, on_a_full_disk, a_folder])
def test_doctor_sees_it(copy, harm):
    """Before the night's run does."""
    reader = harm(copy.work / "ledger.db")
    done = copy("doctor")
    if reader:
        reader.close()
    assert (done.returncode, "FAIL  ledger:" in done.stdout) == (2, True)


def test_a_ledger_that_may_only_be_read_sends_nothing(copy):
    """Opened read-only by its URL, or by the rights of its file and folder, which bind an ordinary user."""
    calls, folder = len(copy.calls()), copy.root / "ledger"
    folder.mkdir()
    shutil.move(copy.work / "ledger.db", folder / "ledger.db")
    done = copy(*RUN, PROFILE_ETL_LEDGER=f"sqlite:///file:{folder}/ledger.db?mode=ro&uri=true")
    assert (done.returncode, "cannot be written" in done.stderr) == (3, True)
    (folder / "ledger.db").chmod(0o444)
    folder.chmod(0o555)
    done = _of_an_ordinary_user(copy).process(*RUN, PROFILE_ETL_LEDGER=f"sqlite:///{folder}/ledger.db")
    folder.chmod(0o755)
    assert done.returncode == 3
    assert "see whose file it is" in done.stderr or "see whether its folder is there, and whose it is" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(copy.calls()) == calls


def _of_an_ordinary_user(shop):
    """Whose processes are without root's right to pass over the rights of files."""
    if os.geteuid() != 0:
        return shop
    if shutil.which("setpriv") is None:
        pytest.skip("root passes over the rights of files, and there is no setpriv to take that away")
    return replace(shop, through=("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"))


def test_a_ledger_on_a_network_file_system_sends_nothing(copy, monkeypatch):
    """SQLite is not safe there; the command and doctor say what is."""
    calls = len(copy.calls())
    monkeypatch.setattr("etl.ledger.store.mount_table", lambda: f"srv:/x {copy.root} nfs4 rw 0 0\n")
    done = copy(*RUN)
    assert (done.returncode, "network file system (nfs4)" in done.stderr) == (2, True)
    assert "network file system (nfs4)" in copy("doctor").stdout
    assert len(copy.calls()) == calls


def test_a_full_work_disk_is_named(copy, monkeypatch):
    """Files are written before anything is sent; Polars tells of a full disk in its own words."""

    def full(self, *args) -> None:
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr("polars.DataFrame.write_ipc", full)
    done = copy(*RUN)
    assert (done.returncode, "No space left on device" in done.stderr) == (3, True)


def test_one_wrong_bit_in_the_ledger_does_no_harm_in_silence(sound, shop, tmp_path):
    """Wherever in what is in use it stands: the run is refused, or it is right to the row."""
    seed = time.time_ns()
    chance = random.Random(seed)  # noqa: S311  (a place in a file)
    content = (sound / "work/ledger.db").read_bytes()
    used = [at for at in range(len(content)) if any(content[max(0, at - 2) : at + 3])]
    refused = 0
    for number in range(8):
        harmed = replace(shop, root=Path(shutil.copytree(sound, tmp_path / str(number))))
        bytes_ = bytearray(content)
        bytes_[chance.choice(used)] ^= 1 << chance.randrange(8)
        (harmed.work / "ledger.db").write_bytes(bytes_)
        calls = len(harmed.calls())
        done = harmed(*RUN)
        sent = sum(call["rows"] for call in harmed.calls()[calls:])
        assert (done.returncode, sent) in {(0, 30), (2, 0), (3, 0), (3, 30)}, seed
        assert "internal error" not in done.stderr, seed
        refused += done.returncode != 0
    assert refused
