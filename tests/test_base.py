"""Delta exports: who is not in today's file is carried forward, and the account of a run says so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest

from etl import base, corrections, pipeline, quarantine
from etl.erase import erase
from etl.errors import ConfigError
from etl.purge import purge
from etl.report import as_text
from etl.syncs import SYNCS

MONDAY = date(2026, 3, 2)
TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=n) for n in (1, 2, 3))


def _run(installation, day, **fields):
    """A run of the installation's sync, which has delta exports, to its end."""
    ctx = installation.context(day, run_id=pipeline.new_run_id("cli"))
    ctx = replace(ctx, sync=replace(ctx.sync, crm_mode="delta", **fields))
    installation.ledgers.append(ctx.ledger)
    report = pipeline.run(ctx)
    assert report.balanced
    return report


def _receipts(installation, day, *customers):
    folder = installation.root / "landing" / "pos" / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"T-{n},{key},{day}T09:00:00Z,10.00,EUR" for n, key in enumerate(customers)]
    (folder / "receipts.csv").write_text(
        "\n".join(("transaction_id,customer_id,occurred_at,total,currency", *rows, ""))
    )


def _orders(emulator):
    return {key: profile["attributes"].get("orders_30d") for key, profile in emulator.profiles.items()}


def _rows(installation):
    """The customers of the newest base, with their cities."""
    work = installation.context().work
    found = base.bases(work, installation.sync.name)[-1]
    return dict(pl.read_parquet(work.fetch(found.file.snapshot)).select("customer_id", "city").iter_rows())


def _days(installation):
    return [known.file.day for known in base.bases(installation.context().work, installation.sync.name)]


def _folder(installation, day):
    return installation.root / "landing" / "crm" / str(day)


# --- who is carried ----------------------------------------------------------------------------------------------------


def test_a_receipt_updates_a_customer_who_is_not_in_todays_file(installation, emulator):
    """The carried customers are CRM records of the run, with an end each, and are told apart."""
    installation.land({"C-1": {}, "C-2": {}, "C-3": {}})
    _receipts(installation, MONDAY)
    first = _run(installation, MONDAY)
    assert (first.rows["records_in"], first.rows["accepted"], first.carried) == (3, 3, 0)
    installation.land({"C-2": {"city": "Nice"}}, TUESDAY)
    _receipts(installation, TUESDAY, "C-1", "C-2")
    second = _run(installation, TUESDAY)
    assert (second.rows["records_in"], second.carried, second.pos["used"]) == (4, 3, 2)
    assert {name: second.rows[name] for name in ("accepted", "unchanged", "deduplicated")} == {
        "accepted": 2, "unchanged": 1, "deduplicated": 1,
    }  # fmt: skip
    assert _orders(emulator) == {"C-1": 1, "C-2": 1, "C-3": 0}
    assert emulator.cities() == {"C-1": "Lyon", "C-2": "Nice", "C-3": "Lyon"}
    assert "3  of them carried forward" in as_text(second)
    assert [source["records"] for source in second.sources if source["export"] == "crm"] == [3, 1]


@pytest.mark.parametrize("mode", ["full", "delta"])
def test_purchases_go_down_again_as_the_window_moves_on(installation, emulator, mode):
    """Whoever bought nothing in the last 30 days is told so, though nothing of theirs has changed in the CRM."""
    later = MONDAY + timedelta(days=30)
    for day, buyers in ((MONDAY, ["C-1"]), (later, [])):
        if mode == "full" or day == MONDAY:
            installation.land({"C-1": {}}, day)
        _receipts(installation, day, *buyers)
        if mode == "full":
            installation.run(day)
        else:
            _run(installation, day, crm_max_age_days=30)
        assert _orders(emulator) == {"C-1": len(buyers)}


def test_columns_of_ones_own_are_carried_too(installation, emulator):
    """A customer who is not in today's file keeps what only this company's export says."""
    for day, rows in ((MONDAY, "C-1,c1@example.org,Acme"), (TUESDAY, "C-2,c2@example.org,Fern")):
        _folder(installation, day).mkdir(parents=True)
        key, email, brand = rows.split(",")
        text = f"customer_id,email,updated_at,BRAND\n{key},{email},{day}T08:00:00Z,{brand}\n"
        (_folder(installation, day) / "c.csv").write_text(text)
        _receipts(installation, day)
        _run(installation, day, attributes={"BRAND": "brand"})
    _receipts(installation, WEDNESDAY, "C-1", "C-2")
    _run(installation, WEDNESDAY, attributes={"BRAND": "brand"}, crm_max_age_days=1)
    found = {key: (p["attributes"]["brand"], p["attributes"]["orders_30d"]) for key, p in emulator.profiles.items()}
    assert found == {"C-1": ("Acme", 1), "C-2": ("Fern", 1)}


def test_an_older_version_does_not_win_by_coming_later(installation, emulator):
    """The latest `updated_at` wins, also if it is the carried row's."""
    installation.land({"C-1": {"updated_at": f"{TUESDAY}T10:00:00Z"}}, city="Nice")
    _run(installation, MONDAY)
    installation.land({"C-1": {}}, TUESDAY)
    assert _run(installation, TUESDAY).rows["deduplicated"] == 1
    assert emulator.cities() == {"C-1": "Nice"}


def test_a_stale_consent_is_not_carried(installation, emulator):
    """Whose newest version is in quarantine goes out again with the next good one, and not before."""
    installation.land({"C-1": {"email_opt_in": "true"}, "C-2": {}})
    _run(installation, MONDAY)
    installation.land({"C-1": {"email_opt_in": "no"}}, TUESDAY)
    held = _run(installation, TUESDAY)
    assert (held.rows["quarantined"], held.rows["unchanged"]) == (2, 1)
    installation.land({"C-3": {}}, WEDNESDAY)
    assert _run(installation, WEDNESDAY).carried == 1
    assert _rows(installation).keys() == {"C-2", "C-3"}
    installation.land({"C-1": {"email_opt_in": "false"}}, THURSDAY)
    assert _run(installation, THURSDAY).rows["accepted"] == 1
    assert emulator.profiles["C-1"]["attributes"]["$email_marketing"] == "unsubscribed"


# --- which days --------------------------------------------------------------------------------------------------------


def test_days_without_an_export_are_allowed_for_a_while(installation, emulator):
    """Up to `crm_max_age_days`; then nothing is sent, and the reason says since when there is none."""
    installation.land({"C-1": {}})
    _run(installation, MONDAY)
    _receipts(installation, TUESDAY, "C-1")
    assert _run(installation, TUESDAY).reasons == [{"code": "crm_missing", "count": 1}]
    report = _run(installation, TUESDAY, crm_max_age_days=1)
    assert (report.rows["accepted"], report.carried, _orders(emulator)) == (1, 1, {"C-1": 1})
    late = _run(installation, WEDNESDAY, crm_max_age_days=1)
    assert (late.exit_code, late.reasons) == (3, [{"code": "crm_missing", "count": 1}])
    assert f"from {TUESDAY} to {WEDNESDAY}" in late.notices[0]


def test_a_day_that_was_never_run_is_not_lost(installation, emulator):
    """The next run reads what has landed since the newest base."""
    installation.land({"C-1": {}})
    _run(installation, MONDAY)
    installation.land({"C-2": {}}, TUESDAY)
    installation.land({"C-3": {}}, WEDNESDAY)
    assert _run(installation, WEDNESDAY).rows["accepted"] == 2
    assert emulator.profiles.keys() == {"C-1", "C-2", "C-3"}


def test_a_base_can_be_made_again(installation):
    """From the landing folder alone, with the same rows; a run of an earlier day does not know of a later one."""
    for day, customers in (
        (MONDAY, {"C-1": {}, "C-2": {}}),
        (TUESDAY, {"C-2": {"city": "Nice"}}),
        (WEDNESDAY, {"C-3": {}}),
    ):
        installation.land(customers, day)
        _run(installation, day)
    before = _rows(installation)
    assert before == {"C-1": "Lyon", "C-2": "Nice", "C-3": "Lyon"}
    shutil.rmtree(installation.root / "work" / "private" / "base")
    again = _run(installation, WEDNESDAY)
    assert (again.carried, again.rows["unchanged"], again.rows["deduplicated"]) == (0, 3, 1)
    assert _rows(installation) == before
    assert _run(installation, MONDAY).rows["records_in"] == 2
    assert _days(installation) == [str(MONDAY), str(WEDNESDAY)]


def test_what_is_told_of_a_past_day_reaches_the_days_after_it(installation, emulator):
    """A corrected or late export is picked up by running its day again; later bases without it are made anew."""
    for day, key in ((MONDAY, "C-1"), (TUESDAY, "C-2")):
        installation.land({key: {}}, day)
        _run(installation, day)
    installation.land({"C-1": {"city": "Nice"}, "C-9": {}}, MONDAY)
    _run(installation, MONDAY)
    assert _days(installation) == [str(MONDAY)]
    installation.land({"C-3": {}}, WEDNESDAY)
    _run(installation, WEDNESDAY)
    assert emulator.cities() == {"C-1": "Nice", "C-2": "Lyon", "C-3": "Lyon", "C-9": "Lyon"}
    assert _days(installation) == [str(MONDAY), str(WEDNESDAY)]
    _run(installation, MONDAY)  # with nothing new, nothing is made anew
    assert _days(installation) == [str(MONDAY), str(WEDNESDAY)]


def _release(installation, day, path, **values):
    """A person puts all quarantined rows of a day right."""
    ctx = installation.context(day, run_id=pipeline.new_run_id("release"))
    ctx = replace(ctx, sync=replace(ctx.sync, crm_mode="delta"))
    wanted = {"sync": ctx.sync.name, "day": str(day), "destination": ctx.destination, "export": "crm"}
    found = quarantine.newest(ctx.work, ctx.ledger, **wanted)
    quarantine.write_csv(found.rows, path)
    pl.read_csv(path, infer_schema=False).with_columns(**{k: pl.lit(v) for k, v in values.items()}).write_csv(path)
    corrections.note(ctx, quarantine.put_right(path, found))
    report = pipeline.run(ctx)
    assert report.balanced
    return report


@pytest.fixture
def put_right_on_tuesday(installation, tmp_path):
    """A row of Monday that was put right when Tuesday had been run already."""
    for day, customers in ((MONDAY, {"C-1": {}, "C-2": {"email": "nobody"}}), (TUESDAY, {"C-3": {}})):
        installation.land(customers, day)
        _run(installation, day)
    installation.clock.now += 1
    report = _release(installation, MONDAY, tmp_path / "rows.csv", email="c-2@example.org")
    assert (report.rows["accepted"], report.rows["unchanged"]) == (1, 1)


@pytest.mark.usefixtures("put_right_on_tuesday")
def test_what_was_put_right_in_a_past_day_reaches_the_days_after_it(installation, emulator):
    """Later bases without it are made anew, once."""
    installation.land({"C-4": {}}, WEDNESDAY)
    _receipts(installation, WEDNESDAY, "C-2")
    assert _run(installation, WEDNESDAY).carried == 2
    assert _orders(emulator)["C-2"] == 1
    assert _rows(installation).keys() == {"C-1", "C-2", "C-3", "C-4"}
    installation.clock.now += 1
    assert _run(installation, MONDAY).rows["quarantined"] == 0
    assert _days(installation) == [str(MONDAY), str(WEDNESDAY)]


@pytest.mark.usefixtures("put_right_on_tuesday")
def test_a_base_that_is_made_again_has_what_was_put_right(installation, tmp_path):
    """Whichever day's run reads the file again, and of whichever day the run was in which it was put right."""
    shutil.rmtree(installation.root / "work" / "private" / "base")
    installation.land({"C-4": {"email": "nobody"}}, WEDNESDAY)
    report = _run(installation, WEDNESDAY)
    assert (report.carried, report.rows["quarantined"], len(_rows(installation))) == (0, 1, 3)
    installation.clock.now += 1
    _release(installation, WEDNESDAY, tmp_path / "rows.csv", email="c-4@example.org")
    assert _rows(installation).keys() == {"C-1", "C-2", "C-3", "C-4"}
    installation.clock.now += 1
    _run(installation, MONDAY)
    assert _days(installation) == [str(MONDAY), str(WEDNESDAY)]
    installation.clock.now += 1
    report = _run(installation, WEDNESDAY)
    assert (report.carried, report.rows["quarantined"], _rows(installation).keys()) == (
        2, 0, {"C-1", "C-2", "C-3", "C-4"},
    )  # fmt: skip
    assert not [notice for notice in report.notices if notice.startswith("corrections_outdated")]


def test_a_base_stays_whose_files_are_gone(installation):
    """What cannot be read again is not given up; the report says what to do."""
    installation.land({"C-1": {}})
    _run(installation, MONDAY)
    installation.land({"C-2": {}}, TUESDAY)
    _run(installation, TUESDAY)
    shutil.rmtree(_folder(installation, TUESDAY))
    installation.land({"C-1": {}, "C-9": {}}, MONDAY)
    report = _run(installation, MONDAY)
    assert [notice for notice in report.notices if notice.startswith("base_kept: ") and f"crm/{TUESDAY}" in notice]
    assert _rows(installation).keys() == {"C-1", "C-2"}


def test_a_base_of_a_run_that_was_overtaken_is_not_left_behind(installation):
    """An earlier day was told anew while it was under way: the next run makes the base."""
    installation.land({"C-1": {}})
    _run(installation, MONDAY)
    installation.land({"C-2": {}}, TUESDAY)
    slow = installation.context(TUESDAY, run_id="cli-slow")
    slow = replace(slow, sync=replace(slow.sync, crm_mode="delta"))
    pipeline.do(slow, "extract")
    installation.land({"C-1": {}, "C-9": {}}, MONDAY)
    _run(installation, MONDAY)
    pipeline.do(slow, "validate")
    pipeline.do(slow, "transform")
    assert _days(installation) == [str(MONDAY)]


# --- what is kept of whom ----------------------------------------------------------------------------------------------


def test_whoever_was_erased_is_in_no_base_and_comes_back_from_no_older_export(installation, emulator):
    """Not with the base, and not when it is made again from files that are still there."""
    installation.land({"C-1": {}, "C-2": {}})
    _run(installation, MONDAY)  # the day of the clock, so also that of the erasure
    ctx = installation.context()
    erase(ctx.ledger, ctx.work, "C-1")
    assert _rows(installation).keys() == {"C-2"}
    assert len(ctx.work.names("private/snapshots")) == 1
    installation.land({"C-3": {}}, TUESDAY)
    assert _run(installation, TUESDAY).carried == 1
    shutil.rmtree(installation.root / "work" / "private" / "base")
    sent = emulator.profiles["C-1"]["updates"]
    again = _run(installation, TUESDAY)
    assert again.rows["superseded"] == 1
    assert emulator.profiles["C-1"]["updates"] == sent
    assert _rows(installation).keys() == {"C-2", "C-3"}


def test_the_newest_base_outlives_the_purge(installation):
    """Older ones go with the runs that are over, and so do the snapshots that nobody needs."""
    sunday = MONDAY - timedelta(days=1)
    for day, key in ((sunday, "C-0"), (MONDAY, "C-1"), (TUESDAY, "C-2")):
        installation.land({key: {}}, day)
        _run(installation, day)
    ctx = installation.context()
    purge(ctx.ledger, ctx.work, days=-1)
    assert _days(installation) == [str(MONDAY), str(TUESDAY)]
    assert len(ctx.work.names("private/snapshots")) == 2
    installation.land({"C-3": {}}, WEDNESDAY)
    assert _run(installation, WEDNESDAY).carried == 3


def test_the_newest_day_can_be_run_again_after_the_purge(installation):
    """Also where the landing folder has forgotten the days before it."""
    for day, key in ((MONDAY, "C-1"), (TUESDAY, "C-2")):
        installation.land({key: {}}, day)
        _run(installation, day)
    ctx = installation.context()
    purge(ctx.ledger, ctx.work, days=-1)
    shutil.rmtree(installation.root / "landing" / "crm" / str(MONDAY))
    assert _run(installation, TUESDAY).carried == 1


@pytest.mark.parametrize(
    "fields", [{"crm_mode": "Delta"}, {"crm_max_age_days": 3}, {"crm_mode": "delta", "crm_max_age_days": -1}]
)
def test_a_mistake_in_a_sync_is_named_when_it_is_read(fields):
    """Not in the night."""
    with pytest.raises(ConfigError, match="crm_"):
        replace(SYNCS["crm_to_batch"], **fields)
