"""Erasure: no file tells of the customer any more, nobody else's account changes, and no older export brings them back."""

from __future__ import annotations

import hmac
import shutil
import stat
import subprocess
import sys
import uuid
from contextlib import suppress
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from canaries import found_in_files
from etl import pipeline, quarantine, tombstones
from etl.erase import erase
from etl.errors import Busy
from etl.explain import explain
from etl.ledger import Ledger, lease
from etl.state import load_state
from etl.storage import Place
from soak import SOAK

MONDAY = date(2026, 3, 2)  # also the day on which the clock stands
SUNDAY, TUESDAY = MONDAY - timedelta(days=1), MONDAY + timedelta(days=1)
GONE, EMAIL, PHONE = "canaryid-7", "canary.mail+7@example.org", "+33639987707"
OLD_EMAIL = "canary.former@example.org"
CANARIES = (GONE, EMAIL, PHONE, OLD_EMAIL, "Canarina", "Canarinetti")
HEADER = "customer_id,email,phone,first_name,last_name,city,birthday,updated_at"
RECEIPTS = "transaction_id,customer_id,store_id,occurred_at,total,currency"


def _person(day, *, email=EMAIL, key=GONE, birthday=""):
    return f"{key},{email},{PHONE},Canarina,Canarinetti,Lyon,{birthday},{day}T08:00:00Z"


def _others(day, city="Lyon"):
    good = [f"other-{n},other{n}@example.org,,Ada,,{city},,{day}T08:00:00Z" for n in range(12)]
    # One whose id begins as that of the customer does, in a record that cannot be parsed, and one with a bad date.
    bad = [f"{GONE}7,other.long@example.org,cut", f"other-bad,other.bad@example.org,,Ada,,Lyon,soon,{day}T08:00:00Z"]
    return good + bad


def _land(installation, day, *rows, city="Lyon", receipts=()):
    for export, header, lines in (("crm", HEADER, (*_others(day, city), *rows)), ("pos", RECEIPTS, receipts)):
        path = installation.root / "landing" / export / str(day) / "export.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join((header, *lines, "")))


def _receipts(day):
    mine = [f"T{n},{GONE},S1,{day}T08:00:00Z,12.00,EUR" for n in range(3)]
    broken = [f"T8,{GONE},S1,{day}T08:00:00Z,much,EUR", f"T9,{GONE}"]
    others = [f"U{n},other-{n},S1,{day}T08:00:00Z,12.00,EUR" for n in range(3)]
    return [*mine, *broken, *others, f"U9,other-9,S1,{day}T08:00:00Z,little,EUR"]


@pytest.fixture
def accounts(install, emulator):
    """Batch and Releva from one work folder; the customer is in every kind of file of two days."""
    both = install(emulator.url), install(emulator.url, destination="releva")
    _land(both[0], SUNDAY, _person(SUNDAY, email=OLD_EMAIL), receipts=_receipts(SUNDAY))
    _land_in_every_way(both[0], MONDAY)
    for installation in both:
        for day in (SUNDAY, MONDAY):
            assert installation.run(day).balanced
    return both


def _land_in_every_way(installation, day):
    """Good, broken, cut, without an id; the good one is held back, because the broken one is no older."""
    broken = (_person(day, birthday="never"), _person(day) + ",surplus", _person(day, key=""), f"nobody,{EMAIL}")
    _land(installation, day, _person(day), *broken, city="Paris", receipts=_receipts(day))


def _erase(installation, customer_id=GONE, addresses=()):
    ctx = installation.context()
    return erase(ctx.ledger, ctx.work, customer_id, addresses)


def _account_of_others(installations):
    """Everything that is told of the others, and every report."""
    told = {}
    for installation in installations:
        ctx = installation.context()
        table = load_state(ctx.work, ctx.ledger, ctx.connection.account)
        keys = pl.Series([f"other-{n}" for n in range(12)] + [f"other{n}@example.org" for n in range(12)])
        told[installation.destination] = [
            table.find(keys).with_columns(keys).to_dicts(),
            [line for id_ in ("other-3", "other-bad") for line in explain(installation.settings, id_)],
            [
                [
                    row
                    for row in rows.iter_rows()
                    if GONE not in str(row).replace(f"{GONE}7", "") and EMAIL not in str(row)
                ]
                for day in (SUNDAY, MONDAY)
                for export in ("crm", "pos")
                for rows in [_quarantine(installation, day, export)]
            ],
        ]
    for kind in ("run_report.json", "dispositions.parquet"):
        told[kind] = {path: path.read_bytes() for path in (installations[0].root / "work").rglob(kind)}
    return told


def _quarantine(installation, day, export="crm"):
    ctx = installation.context()
    return quarantine.newest(
        ctx.work, ctx.ledger, sync=installation.sync.name, day=str(day), destination=installation.destination,
        export=export,
    ).rows  # fmt: skip


# --- what is gone, and what is not -------------------------------------------------------------------------------------


def test_no_file_tells_of_the_customer_and_nobody_else_is_touched(accounts, emulator):
    """Id, addresses and name, in every run, snapshot, quarantine and state; the others' accounts are as they were."""
    work = accounts[0].root / "work"
    files = found_in_files(CANARIES, work)
    for kind in ("payloads", "valid/", "quarantine/", "references/", "records/", "profiles/", "state/", "snapshots/"):
        assert any(kind in name for name in files), "the search can find something"
    before = _account_of_others(accounts)
    done = _erase(accounts[0])
    assert (done.runs, done.states, done.left) == (4, 2, [])
    assert found_in_files(CANARIES, work) == _long_id(work)
    assert _account_of_others(accounts) == before
    modes = {stat.S_IMODE(path.stat().st_mode) for path in work.rglob("private/**/*") if path.is_file()}
    assert modes == {0o600}


def _long_id(work):
    """The record of somebody whose id begins with the customer's: it stays."""
    hits = found_in_files([f"{GONE}7"], work)
    assert hits
    return {name: [GONE] for name in hits}


@pytest.mark.parametrize("row", [_person(MONDAY, birthday="never"), _person(MONDAY, key="", birthday="never")])
def test_texts_that_a_filter_has_left_in_a_file_are_gone_too(installation, row):
    """An Arrow file may hold the texts of rows that are in another one: here the valid rows', those of quarantined ones."""
    _land(installation, MONDAY, row)
    installation.run()
    work = installation.root / "work"
    assert any("/valid/" in name for name in found_in_files([EMAIL], work)), "this is about something"
    _erase(installation, addresses=[EMAIL])
    assert found_in_files([EMAIL, "Canarinetti"], work) == {}


def test_the_others_are_not_sent_again(accounts, emulator):
    """Their state is what it was; the customer's is forgotten."""
    _erase(accounts[0])
    for installation in accounts:
        _land(installation, TUESDAY, city="Paris", receipts=_receipts(TUESDAY)[5:])
        report = installation.run(TUESDAY)
        assert (report.rows["unchanged"] + report.rows["accepted"], report.balanced) == (12, True)
        ctx = installation.context()
        known = load_state(ctx.work, ctx.ledger, ctx.connection.account).find(pl.Series([GONE, EMAIL, OLD_EMAIL]))
        assert known["as_of"].null_count() == 3


def test_an_address_that_another_customer_has_stays_theirs(install, emulator):
    """At a vendor that knows people by their address, it is the other's account as well."""
    releva = install(emulator.url, destination="releva")
    _land(releva, MONDAY, _person(MONDAY), f"other-x,{EMAIL},,Ada,,Lyon,,{MONDAY}T09:00:00Z")
    releva.run()
    _erase(releva)
    report = releva.run(MONDAY, full=False)
    assert report.rows["unchanged"] == 13, "other-x speaks for the address, as before"
    assert report.rows["superseded"] == 1


def test_an_address_that_no_run_knows_of_can_be_named(install, emulator):
    """Where retention has taken the runs that knew whose it is."""
    releva = install(emulator.url, destination="releva")
    _land(releva, MONDAY, _person(MONDAY))
    releva.run()
    ctx = releva.context()
    for run in ctx.ledger.runs():
        ctx.work.remove(f"{run.run}/private")
    assert _erase(releva).states == 0
    assert _erase(releva, addresses=[EMAIL]).states == 1
    assert found_in_files((EMAIL,), releva.root / "work") == {}


def test_erasing_again_and_erasing_nobody_changes_nothing(accounts):
    """It says so; only that nobody brings them back is noted anew."""
    assert _erase(accounts[0], "nobody-at-all").runs == 0
    _erase(accounts[0])
    before = _account_of_others(accounts)
    again = _erase(accounts[0])
    assert (again.runs, again.states, again.left) == (0, 0, [])
    assert _account_of_others(accounts) == before


def test_a_work_folder_at_a_url_is_cleaned_as_well(install, emulator, tmp_path):
    """File by file, as nothing else is whole there."""
    place = f"memory://{uuid.uuid4().hex}/work"
    far = install(emulator.url, work=place, ledger=f"sqlite:///{tmp_path}/ledger.db")
    _land(far, MONDAY, _person(MONDAY), _person(MONDAY) + ",surplus")
    far.run()
    done = _erase(far)
    assert (done.runs, done.states, done.left) == (1, 1, [])
    shutil.copytree(Place(place).fetch(""), tmp_path / "copy")
    assert found_in_files([EMAIL, "Canarina"], tmp_path / "copy") == {}
    assert _quarantine(far, MONDAY).height == 2


# --- what is left ------------------------------------------------------------------------------------------------------


def test_an_unfinished_run_is_left_and_named(accounts):
    """Its files are needed; once it has come to its end, the customer can be erased from it, too."""
    batch = accounts[0]
    _land(batch, TUESDAY, _person(TUESDAY))
    ctx = batch.context(TUESDAY, run_id="cli-2")
    pipeline.begin(ctx)
    done = _erase(batch)
    assert [line.partition(":")[0] for line in done.left] == [ctx.name], "what it will read is not known"
    pipeline.prepare(ctx)
    done = _erase(batch)
    assert [line.partition(":")[0] for line in done.left] == [ctx.name]
    assert pipeline.run(ctx).balanced
    assert _erase(batch).left == []
    assert found_in_files((EMAIL, PHONE, "Canarina"), batch.root / "work") == {}


def test_a_run_in_doubt_is_out_of_the_way_once_it_is_run_again(installation, emulator):
    """As the message says: the others of the batch go once more, and nothing waits for the one who was erased."""
    _land(installation, SUNDAY, _person(SUNDAY))
    emulator.faults({"status": 503})
    assert installation.run(SUNDAY).rows["unknown"] == 13
    emulator.heal()
    assert len(_erase(installation).left) == 1
    _land(installation, SUNDAY)
    assert installation.run(SUNDAY).rows["accepted"] == 12
    assert _erase(installation).left == []
    assert set(found_in_files(CANARIES, installation.root / "work")) <= set(_long_id(installation.root / "work"))


def test_an_unfinished_run_without_the_customer_is_no_hindrance(accounts):
    """Whose rows are known."""
    batch = accounts[0]
    _land(batch, TUESDAY, receipts=_receipts(TUESDAY)[5:])
    shutil.rmtree(batch.root / "landing" / "pos" / str(SUNDAY))
    shutil.rmtree(batch.root / "landing" / "pos" / str(MONDAY))
    ctx = batch.context(TUESDAY, run_id="cli-2")
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    assert _erase(batch).left == []
    assert pipeline.run(ctx).rows["unchanged"] + pipeline.run(ctx).rows["accepted"] > 0


def test_the_state_is_not_touched_while_somebody_sends(accounts, monkeypatch):
    """The account's lease is theirs; afterwards it goes on."""
    ctx = accounts[0].context()
    monkeypatch.setattr("etl.erase._PATIENCE_S", 0)
    with lease(ctx.ledger, ctx.connection.account, patience_s=0, sleep=ctx.sleep), pytest.raises(Busy):
        _erase(accounts[0])
    assert _erase(accounts[0]).states == 2


# --- nobody brings them back -------------------------------------------------------------------------------------------


def test_an_older_export_does_not_bring_the_customer_back(accounts, emulator):
    """Neither the day's own, nor one before, nor `--full`; the row is superseded, and says why. A newer export does."""
    _erase(accounts[0])
    for installation in accounts:
        key = EMAIL if installation.vendor == "releva" else GONE
        sent = _updates(emulator, installation.vendor, key)
        for day, options in ((SUNDAY, {}), (MONDAY, {}), (MONDAY, {"full": True})):
            _land(installation, day, _person(day))
            report = installation.run(day, **options)
            assert (report.balanced, report.rows["superseded"] >= 1) == (True, True)
            assert {"code": "erased", "count": 1} in report.reasons
        assert _updates(emulator, installation.vendor, key) == sent
        _land(installation, TUESDAY, _person(TUESDAY))
        assert "erased" not in {reason["code"] for reason in installation.run(TUESDAY).reasons}
        assert _updates(emulator, installation.vendor, key) == sent + 1


def _updates(emulator, vendor, key):
    return emulator.profiles_of(vendor).get(key, {"updates": 0})["updates"]


def test_whoever_was_erased_speaks_for_nobody(install, emulator):
    """Another customer with the same address is sent for themselves."""
    releva = install(emulator.url, destination="releva")
    _erase(releva)
    _land(releva, MONDAY, _person(MONDAY), f"other-x,{EMAIL},,Ada,,Lyon,,{MONDAY}T07:00:00Z")
    report = releva.run()
    assert (report.rows["superseded"], report.rows["unsendable"], report.rows["accepted"]) == (1, 0, 13)
    assert emulator.profiles_of("releva")[EMAIL]["attributes"]["firstName"] == "Ada"


@given(key=st.binary(min_size=32, max_size=32), text=st.text(st.characters(exclude_categories=["Cs"])))
def test_a_keyed_hash_is_what_the_standard_library_says(key, text):
    """HMAC-SHA-256."""
    assert tombstones._keyed_hash(key)(text) == hmac.digest(key, text.encode(), "sha256").hex()


def test_a_tombstone_tells_nobody_who_it_is_for(installation):
    """Not even the hash of an id can be made without the install secret, which is the owner's alone."""
    _erase(installation)
    private = installation.root / "work" / "private"
    (stone,) = (private / "erased").iterdir()
    assert (stone.read_bytes(), stone.name.endswith(f"-{MONDAY}")) == (b"", True)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (stone, private / "key")} == {0o600}
    _erase(installation)
    assert len(list((private / "erased").iterdir())) == 1


def test_two_processes_agree_on_one_secret(tmp_path):
    """Each notes an erasure in a new work folder; all are found later."""
    note = "import sys; from datetime import date; from etl import tombstones; from etl.storage import Place; "
    note += "tombstones.note(Place(sys.argv[1]), sys.argv[2], date(2026, 3, 2))"
    ids = [f"C-{n}" for n in range(4)]
    made = [subprocess.Popen([sys.executable, "-c", note, str(tmp_path), id_]) for id_ in ids]
    assert [process.wait(60) for process in made] == [0] * 4
    asked = pl.DataFrame({"row": [0, 1, 2, 3, 4], "customer_id": [*ids, "C-9"]}, schema_overrides={"row": pl.UInt64})
    assert tombstones.erased_rows(Place(str(tmp_path)), [asked], [(0, str(MONDAY))]).to_list() == [0, 1, 2, 3]
    assert tombstones.erased_rows(Place(str(tmp_path)), [asked], [(0, str(TUESDAY))]).to_list() == []


# --- killed anywhere ---------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nobody catches it."""


def test_killed_anywhere_it_is_completed_by_the_same_command(install, emulator, monkeypatch, tmp_path):
    """Before each change of a file or of the ledger in turn; at the end, all is as after an undisturbed erasure."""
    releva, work, backup = install(emulator.url, destination="releva"), tmp_path / "work", tmp_path / "backup"
    _land(releva, SUNDAY, _person(SUNDAY))
    _land_in_every_way(releva, MONDAY)
    for day in (SUNDAY, MONDAY):
        releva.run(day)
    before = _account_of_others([releva])
    _close(releva)
    shutil.copytree(work, backup)
    for point in range(1, 200, 1 if SOAK else 2):
        calls = []
        with monkeypatch.context() as patch, suppress(Killed):
            _kill_at(patch, point, calls)
            _erase(releva)
        assert _erase(releva).left == []
        assert found_in_files(CANARIES, work) == _long_id(work), point
        assert _account_of_others([releva]) == before, point
        if len(calls) < point:
            break
        _close(releva)
        shutil.rmtree(work)
        shutil.copytree(backup, work)
    assert point > 20


def _close(installation):
    for ledger in installation.ledgers:
        ledger.close()


def _kill_at(patch, point, calls):
    def deadly(owner, name):
        call = getattr(owner, name)

        def counted(*arguments, **options):
            calls.append(name)
            if len(calls) == point:
                raise Killed
            return call(*arguments, **options)

        patch.setattr(owner, name, counted)

    deadly(Place, "publish")
    deadly(Place, "remove")
    deadly(Ledger, "commit_state")
