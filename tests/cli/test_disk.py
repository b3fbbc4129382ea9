"""The command on a full disk, and beside a ledger that cannot be used: a sentence, exit 3, and no call."""

from __future__ import annotations

import pytest

from etl.ledger import Ledger
from faulty_disk import FaultyDisk


@pytest.mark.parametrize("at", [2, 40])
def test_a_full_disk_ends_with_3_and_says_what_to_do(shop, at):
    """When there is room again, the same command completes the day."""
    day = f"2026-07-{at:02}" if at < 30 else "2026-07-30"
    shop.customers(day, 45)
    with FaultyDisk(at=at, stays=True).spinning():
        full = shop("run", "crm_to_batch", "--date", day)
    assert (full.returncode, full.stdout) == (3, "")
    assert "run it again" in full.stderr
    assert "internal error" not in full.stderr
    assert "example.org" not in full.stderr
    assert shop("run", "crm_to_batch", "--date", day).returncode == 0
    assert shop.report(day)["rows"]["accepted"] == 45


@pytest.mark.parametrize("fault", ["garbage", "cut", "read-only"])
def test_nothing_is_sent_without_a_ledger(shop, tmp_path, fault):
    """A ledger that is no database any more, or cannot be written, stops a run before its first call; doctor names it."""
    day, ledger = "2026-08-01", tmp_path / "ledger.db"
    shop.customers(day, 5)
    url = f"sqlite:///{ledger}"
    Ledger(url).close()
    if fault == "garbage":
        ledger.write_bytes(b"\x07" * ledger.stat().st_size)
    elif fault == "cut":
        ledger.write_bytes(ledger.read_bytes()[: ledger.stat().st_size // 2])
    else:
        url = f"sqlite:///file:{ledger}?mode=ro&uri=true"
    before = len(shop.calls())
    done = shop("run", "crm_to_batch", "--date", day, PROFILE_ETL_LEDGER=url)
    assert (done.returncode, done.stdout) == (3, "")
    assert "profile-etl: the ledger " in done.stderr
    assert "Nothing more is sent without it" in done.stderr
    assert len(shop.calls()) == before
    assert "FAIL  ledger: the ledger " in shop("doctor", PROFILE_ETL_LEDGER=url).stdout
