"""`profile-etl purge`: what it says, and what every other command says afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from canaries import found, found_in_files

pytestmark = pytest.mark.filterwarnings("ignore:unclosed database")

DAY, OTHER_DAY = "2026-05-01", "2026-05-02"
ID, EMAIL = "canaryid-1", "canary.mail1@example.org"


@pytest.fixture
def shop(shop, tmp_path):
    """An installation of its own, as a purge looks at all runs."""
    return replace(shop, root=tmp_path)


def _land(shop, day):
    rows = [f"canaryid-{n},canary.mail{n}@example.org,,Canaryville,{day}T08:00:00Z" for n in range(5)]
    shop.land(day, *rows, f"canaryid-9,canary.mail at home,,Canaryville,{day}T08:00:00Z")


def test_every_command_answers_sensibly_after_a_purge(shop):
    """The report stays, the rest is said to be gone; the day can be run again, and nothing is sent twice."""
    _land(shop, DAY)
    assert shop("run", "crm_to_batch", "--date", DAY).returncode == 1
    assert shop("plan", "crm_to_batch", "--date", DAY).returncode == 0
    report, calls = shop("report", "crm_to_batch", "--date", DAY).stdout, len(shop.calls())
    young = shop("purge")
    assert (young.returncode, young.stdout.splitlines()[1]) == (0, "left: 2 runs of the last 30 days, and 0 older ones")
    done = shop.process("purge", "--days", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("removed: the private files of 2 runs, 1 copies of exports, 0 half-written ones; ")
    assert {name for name in found_in_files(("canary",), shop.work) if "/private/state/" not in name} == set()
    shown = shop("report", "crm_to_batch", "--date", DAY)
    assert (shown.returncode, shown.stdout) == (1, report)
    listed = shop("quarantine", "list", "crm_to_batch", "--date", DAY)
    assert (listed.returncode, "has removed the rows" in listed.stderr) == (2, True)
    assert "no run that is still there" in shop("explain", "--id", "-", stdin=ID).stdout
    assert "   1 " in shop("status").stdout
    assert shop("retry", "crm_to_batch", "--date", DAY).stdout == "nothing to do\n"
    again = shop("run", "crm_to_batch", "--date", DAY, "--json")
    assert (again.returncode, json.loads(again.stdout)["rows"]["unchanged"]) == (1, 5)
    assert shop("quarantine", "list", "crm_to_batch", "--date", DAY).stdout.startswith("1 rows\n")
    assert len(shop.calls()) == calls


def test_one_customer_is_erased_by_an_id_on_stdin(shop):
    """Nothing of the customer is said; a backfill of the day leaves them out, and says so."""
    _land(shop, OTHER_DAY)
    assert shop("run", "crm_to_batch", "--date", OTHER_DAY).returncode == 1
    done = shop("purge", "--id", "-", stdin=f"{ID}\nold.canary.mail@example.org\n")
    assert (done.returncode, done.stdout.split(";")[0]) == (0, "erased from 1 runs and the state of 1 accounts")
    assert "landing folder" in done.stdout
    assert found(("canary",), done.stdout + done.stderr) == []
    assert found_in_files((ID, EMAIL), shop.work) == {}
    assert "no run that is still there" in shop("explain", "--id", "-", stdin=ID).stdout
    assert "canaryid" not in shop("explain", "--id", "-", stdin="canaryid-2").stdout
    assert "knows that id" not in done.stdout
    assert "no run and no account of this work folder knows that id" in shop("purge", "--id", "-", stdin="C-9\n").stdout
    again = json.loads(shop("run", "crm_to_batch", "--date", OTHER_DAY, "--full", "--json").stdout)
    assert (again["rows"]["superseded"], again["rows"]["accepted"]) == (1, 4)
    assert "erased" in shop("report", "crm_to_batch", "--date", OTHER_DAY).stdout


def test_an_erasure_that_an_unfinished_run_is_in_the_way_of_ends_with_3(shop):
    """It names the run, and what to do with it."""
    day = "2026-05-03"
    _land(shop, day)
    shop.faults({"status": 401})
    assert shop("run", "crm_to_batch", "--date", day, "--full").returncode == 3
    shop.faults()
    done = shop("purge", "--id", "-", stdin="canaryid-2")
    assert done.returncode == 3
    assert f"left: crm_to_batch/{day}/" in done.stdout
    assert "run it again" in done.stdout
    assert shop("run", "crm_to_batch", "--date", day, "--full").returncode == 1
    assert shop("purge", "--id", "-", stdin="canaryid-2").returncode == 0


@pytest.mark.parametrize(("arguments", "stdin"), [(("--id", ID), ""), (("--id", "-"), "")])
def test_an_id_is_no_argument(shop, arguments, stdin):
    """It would stand in the shell's history."""
    done = shop("purge", *arguments, stdin=stdin)
    assert (done.returncode, ID in done.stderr) == (2, False)
