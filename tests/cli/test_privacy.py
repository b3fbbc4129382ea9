"""Nothing personal and no secret gets out: canaries in every input are looked for in everything that a run leaves behind."""

from __future__ import annotations

import json
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from canaries import found, found_in_files
from etl import pipeline
from etl.emulator.batch import DEMO_API_KEY

pytestmark = pytest.mark.filterwarnings("ignore:unclosed database")

GOOD, BAD, BROKEN_DAY = "2026-04-01", "2026-04-02", "2026-04-03"
NOW = "2026-04-01T08:00:00Z"
CANARIES = {
    "id": "canaryid", "email": "canary.mail", "phone": "+3363998777", "name": "Canarina", "city": "Canaryville",
    "tag": "canarytag", "url": "canary-picture", "receipt": "CANARYRECEIPT", "store": "canarystore", "key": DEMO_API_KEY,
}  # fmt: skip
HEADER = "customer_id,email,phone,first_name,city,tags,avatar_url,birthday,updated_at"


@dataclass(frozen=True)
class Left:
    """What commands said, and where they worked."""

    said: dict[str, str]
    work: Path


def _customer(number: int, *, email: str = "", phone: str = "", birthday: str = "", more: str = "") -> str:
    email = email or f"canary.mail{number}@example.org"
    phone = phone or f"+3363998777{number % 10}"
    picture = f"https://img.example.org/canary-picture-{number}.jpg"
    return f"canaryid-{number},{email},{phone},Canarina,Canaryville,canarytag;vip,{picture},{birthday},{NOW}{more}"  # no spaces


def _land_canaries(shop) -> None:
    good = [_customer(number) for number in range(60)]
    bad = [
        _customer(60, email="canary.mail@@example.org"),
        _customer(61, birthday="canary.mail@example.org"),
        _customer(62, more=",surplus"),
        _customer(63).replace(",", ',"canaryid never closed', 1),
        _customer(1),
        _customer(2, email="canary.mail broken"),
    ]
    shop.land(GOOD, *good, *bad, header=HEADER)
    receipts = [f"CANARYRECEIPT-{n},canaryid-{n % 70},canarystore,{NOW},{n}.00,EUR" for n in range(80)]
    receipts += [f"CANARYRECEIPT-x,canaryid-1,canarystore,{NOW},canary.mail,EUR", "CANARYRECEIPT-y,canaryid-1"]
    path = shop.root / "landing" / "pos" / GOOD / "receipts.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(("transaction_id,customer_id,store_id,occurred_at,total,currency", *receipts, "")))
    shop.land(BAD, *good[1:], header=good[0])  # the header is missing, so a customer stands in its place
    shop.land(BROKEN_DAY, *good, header=HEADER)
    path = shop.root / "landing" / "crm" / BROKEN_DAY / "customers.csv"
    path.write_bytes(path.read_bytes() + b"canaryid-\xff,canary.mail@example.org\n")


@pytest.fixture(scope="module")
def left(shop) -> Left:
    """A run in which everything happens, two that are refused, and every command that talks about them."""
    _land_canaries(shop)
    said = {}

    def note(name: str, done: subprocess.CompletedProcess[str]) -> None:
        said[f"{name} (exit code {done.returncode})"] = done.stdout + done.stderr

    shop.faults(
        {"body": "canary.mail99@example.org is not welcome", "status": 400, "times": 1},
        {"body": {"code": "SUCCESS", "errors": "canaryid-1"}, "status": 200, "times": 1},
    )
    note("run", shop.process("run", "crm_to_batch", "--date", GOOD))
    shop.faults()
    note("run again", shop("run", "crm_to_batch", "--date", GOOD, "--json", "--full"))
    note("refused", shop.process("run", "crm_to_batch", "--date", BAD))
    note("broken", shop("run", "crm_to_batch", "--date", BROKEN_DAY, "--json"))
    for command in ("plan", "report"):
        for arguments in ((), ("--json",)):
            note(f"{command} {arguments}", shop(command, "crm_to_batch", "--date", GOOD, *arguments))
    note("dry run", shop("run", "crm_to_batch", "--date", GOOD, "--dry-run", "--full"))
    for number in (1, 2, 60, 62):
        note(f"explain {number}", shop("explain", "--id", "-", stdin=f"canaryid-{number}\n"))
    for export in ("crm", "pos"):
        options = ("crm_to_batch", "--date", GOOD, "--export", export)
        note(f"quarantine list {export}", shop("quarantine", "list", *options))
        csv = str(shop.root / f"{export}.csv")
        note(f"quarantine export {export}", shop("quarantine", "export", *options, "--output", csv))
    note("retry", shop("retry", "crm_to_batch", "--date", GOOD))
    for arguments in ((), ("--wait",)):
        note(f"status {arguments}", shop("status", *arguments))
    note("purge", shop("purge", "--days", "1"))
    note("erase", shop("purge", "--id", "-", stdin="canaryid-59\n"))
    note("doctor", shop("doctor"))
    for name, value in _misconfigured(shop).items():
        for command in (("doctor",), ("status",), ("plan", "crm_to_batch", "--date", GOOD)):
            note(f"{command[0]} with another {name} {value[:9]}", shop(*command, **{name.strip(): value}))
    return Left(said, shop.work)


def _misconfigured(shop) -> dict[str, str]:
    """Settings that cannot work, each with the secret in it."""
    connection = json.loads(shop.environment()["AIRFLOW_CONN_BATCH_DEFAULT"])
    return {
        "AIRFLOW_CONN_BATCH_DEFAULT": json.dumps(connection | {"host": f"https://user:{DEMO_API_KEY}@api.example.org"}),
        "AIRFLOW_CONN_BATCH_DEFAULT ": json.dumps(connection)[:-1],
        "PROFILE_ETL_LEDGER": f"postgresql+psycopg://etl:{DEMO_API_KEY}@127.0.0.1:9/ledger",
        "PROFILE_ETL_LEDGER ": f"{DEMO_API_KEY}://",
    }


def _is_private(path: Path, work: Path) -> bool:
    return "private" in path.relative_to(work).parts


def test_everything_happened(left, shop):
    """The canaries went through every step: delivered, quarantined, unparsable, deduplicated, refused."""
    rows = shop.report(GOOD)["rows"]
    assert [name for name in ("unparsable", "quarantined", "deduplicated", "accepted") if not rows[name]] == []
    assert [shop.report(day)["exit_code"] for day in (BAD, BROKEN_DAY)] == [3, 3]
    assert {name.rpartition(" ")[2] for name in left.said} == {"0)", "1)", "2)", "3)"}


def test_no_canary_was_said(left):
    """Not on stdout, nor on stderr."""
    assert {name: hits for name, text in left.said.items() if (hits := found(CANARIES.values(), text))} == {}


def test_no_canary_stands_outside_private_folders(left):
    """Reports, plans, results of steps, and the ledger with its write-ahead log; all of it is readable text or SQLite."""
    open_files = [path for path in left.work.rglob("*") if path.is_file() and not _is_private(path, left.work)]
    assert {path.suffix for path in open_files if path.stat().st_size} <= {".json", ".db", ".db-wal", ".db-shm"}
    assert {"run_report.json", "plan.json", "ledger.db"} <= {path.name for path in open_files}
    assert {path: hits for path in open_files if (hits := found(CANARIES.values(), path.read_bytes()))} == {}


def test_no_secret_stands_anywhere_at_all(left):
    """The key goes into a request's header, and nowhere else."""
    assert found_in_files([DEMO_API_KEY], left.work) == {}


def test_private_folders_hold_the_canaries_for_their_owner_only(left):
    """The search above can find something; and nobody else may look."""
    private = [path for path in left.work.rglob("*") if _is_private(path, left.work)]
    contents = b"".join(path.read_bytes() for path in private if path.is_file())
    assert [kind for kind, canary in CANARIES.items() if canary.encode() not in contents and kind != "key"] == []
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in private}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_an_error_that_nobody_expected_is_not_repeated(shop, monkeypatch):
    """A library's message may hold a row; only its kind and place are said."""

    def explode(_ctx) -> None:
        raise ValueError("canary.mail1@example.org cannot be parsed")

    monkeypatch.setattr(pipeline, "run", explode)
    done = shop("run", "crm_to_batch", "--date", "2026-04-09")
    assert done.returncode == 3
    assert "ValueError" in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_results_of_steps_hold_no_values_of_rows(left):
    """They travel through Airflow's database: names, counts and codes."""
    for path in left.work.rglob("*.json"):
        if not _is_private(path, left.work):
            assert "example.org" not in json.dumps(json.loads(path.read_text()))
