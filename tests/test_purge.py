"""Retention: the personal data of old runs goes, and nothing that anybody may still need."""

from __future__ import annotations

import os
import time
import uuid
from datetime import date, timedelta

import pytest
import sqlalchemy as sa

from canaries import found_in_files
from etl import pipeline, quarantine
from etl.errors import Busy, ConfigError
from etl.explain import explain
from etl.ledger.schema import batches
from etl.purge import purge
from etl.report import REPORT
from etl.storage import Place

MONDAY = date(2026, 3, 2)
TUESDAY = MONDAY + timedelta(days=1)
DAY_S = 86_400.0
PEOPLE = {f"canaryid-{n}": {"email": f"canary.mail{n}@example.org", "city": "Canaryville"} for n in range(20)}
BROKEN = {"canaryid-broken": {"email": "canary.mail at home"}}
CANARIES = ("canaryid", "canary.mail", "Canaryville")


@pytest.fixture
def ran(installation):
    """An installation whose Monday went out, with a row in quarantine."""
    installation.land(PEOPLE | BROKEN)
    report = installation.run()
    assert (report.exit_code, report.rows["accepted"], report.rows["quarantined"]) == (1, 20, 1)
    return installation


def _purge(installation, *, days=30):
    ctx = installation.context()
    return purge(ctx.ledger, ctx.work, days=days)


def _runs(installation, day=MONDAY):
    return sorted((installation.root / "work" / installation.sync.name / str(day)).glob("*/*"))


def _is_there(installation, day=MONDAY):
    return [(run / "private").exists() for run in _runs(installation, day)]


# --- what goes ---------------------------------------------------------------------------------------------------------


def test_an_old_run_loses_what_is_personal_and_nothing_else(ran, emulator):
    """No canary is left but in the account's state; report, results of steps and ledger stay; the state still holds."""
    (run,) = _runs(ran)
    ctx = ran.context()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".json"}
    sent = len(emulator.requests)
    ran.clock.now += 31 * DAY_S
    done = _purge(ran)
    assert (done.runs, done.snapshots, done.young, done.left) == (1, 1, 0, [])
    assert done.bytes > 1_000
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.name in before} == before
    assert {path.name for path in run.iterdir()} == before.keys() | {"purged.json"}
    state = ran.root / "work" / "private" / "state"
    assert {name for name in found_in_files(CANARIES, ran.root / "work") if str(state) not in name} == set()
    assert len(ctx.ledger.batches(ctx.ledger.runs()[0].run)) > 0
    assert ran.run().rows["unchanged"] == 20
    assert len(emulator.requests) == sent
    assert _purge(ran).runs == 0, "the new run is young"


def test_a_run_of_the_last_days_stays_as_it_is(ran):
    """The age is that of the run, not of the day that it covers."""
    ran.clock.now += 29 * DAY_S
    done = _purge(ran)
    assert (done.runs, done.snapshots, done.bytes, done.young, _is_there(ran)) == (0, 0, 0, 1, [True])


def test_a_copy_that_a_younger_run_has_read_stays(ran):
    """Two runs of one export share it."""
    ran.clock.now += 20 * DAY_S
    ran.run()
    ran.clock.now += 20 * DAY_S
    done = _purge(ran)
    assert (done.runs, done.snapshots, done.young) == (1, 0, 1)
    ran.clock.now += 20 * DAY_S
    done = _purge(ran)
    assert (done.runs, done.snapshots, done.young) == (1, 1, 0)


def test_a_plan_that_was_never_sent_goes_too(ran):
    """It is no run in the ledger; its age is that of its files."""
    ctx = ran.context(run_id="plan-1", dry_run=True)
    pipeline.prepare(ctx)
    extracted = ctx.place.path("extract.json")
    ran.clock.now = time.time()
    assert _purge(ran, days=1).young == 1
    os.utime(extracted, (time.time() - 3 * DAY_S,) * 2)
    assert _purge(ran, days=1).runs == 1
    assert not ctx.place.exists("private")


def test_what_a_dead_process_left_goes_after_a_day(ran):
    """A folder that somebody may be writing to stays."""
    work = ran.root / "work"
    dead, alive = work / "private" / "snapshots" / ".staging-dead", work / "private" / "snapshots" / ".staging-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "copy").write_text("canaryid-1")
    os.utime(dead, (time.time() - 2 * DAY_S,) * 2)
    assert _purge(ran).leftovers == 1
    assert (dead.exists(), alive.exists()) == (False, True)


def test_a_work_folder_at_a_url_is_purged_as_well(install, emulator, tmp_path):
    """The same rules by the same names."""
    place = f"memory://{uuid.uuid4().hex}/work"
    far = install(emulator.url, work=place, ledger=f"sqlite:///{tmp_path}/ledger.db")
    far.land(PEOPLE | BROKEN)
    far.run()
    far.clock.now += 31 * DAY_S
    done = _purge(far)
    (run,) = far.context().ledger.runs()
    left = Place(place) / run.run
    assert (done.runs, done.snapshots, done.left, done.bytes > 1_000) == (1, 1, [], True)
    assert (left.exists("private"), left.exists(REPORT)) == (False, True)
    assert Place(place).names("private/snapshots") == []
    assert far.run().rows["unchanged"] == 20


# --- what stays --------------------------------------------------------------------------------------------------------


def _unfinished(installation, emulator):
    ctx = installation.context()
    pipeline.begin(ctx)
    pipeline.prepare(ctx)


def _unknown(installation, emulator):
    emulator.faults({"status": 500})
    assert installation.run().rows["unknown"] == 20


def _not_sent(installation, emulator):
    emulator.faults({"status": 401})
    assert installation.run().rows["not_sent"] == 20


def _untold(installation, emulator):
    installation.run()
    with installation.context().ledger.transaction() as db:
        db.execute(sa.update(batches).values(absorbed=False))


@pytest.mark.parametrize(
    ("come_to", "why"),
    [(_unfinished, "not finished"), (_unknown, "is open"), (_not_sent, "not finished"), (_untold, "account's state")],
)
def test_what_is_not_through_is_left_and_named(installation, emulator, come_to, why):
    """However old it is; once it is through, it goes."""
    installation.land(PEOPLE)
    come_to(installation, emulator)
    installation.clock.now += 100 * DAY_S
    done = _purge(installation)
    assert (done.runs, done.snapshots, _is_there(installation)) == (0, 0, [True])
    (left,) = done.left
    assert left.startswith(f"crm_to_batch/{MONDAY}/")
    assert why in left


def test_what_the_vendor_works_on_is_left(install, emulator):
    """Its answer will speak of rows by their place in the run's files."""
    bulk = install(emulator.url, destination="adobe_target_bulk", extra={"polling": {"timeout_s": 60}})
    emulator.faults({"job": "incomplete"})
    bulk.land(PEOPLE)
    assert bulk.run().rows["processing"] == 20
    bulk.clock.now += 100 * DAY_S
    done = _purge(bulk)
    assert (done.runs, len(done.left)) == (0, 1)
    assert "status --wait" in done.left[0]


def test_a_run_whose_work_another_has_done_needs_its_files_no_more(installation, emulator):
    """Nobody takes it up again; without this, every run that once failed would keep its data for ever."""
    installation.land(PEOPLE)
    _not_sent(installation, emulator)
    emulator.heal()
    installation.clock.now += 60
    assert installation.run().rows["accepted"] == 20
    installation.clock.now += 100 * DAY_S
    assert (_purge(installation).runs, _is_there(installation)) == (2, [False, False])


def test_nothing_is_taken_from_under_a_run_that_is_reading_its_exports(ran):
    """It has found its copies, and not said yet which they are."""
    ran.clock.now += 31 * DAY_S
    pipeline.begin(ran.context(run_id="cli-2"))
    done = _purge(ran)
    assert (done.runs, done.snapshots) == (1, 0)
    ran.clock.now += 2 * DAY_S
    assert _purge(ran).snapshots == 1, "it died"


def test_a_copy_that_is_gone_all_the_same_is_made_anew(ran):
    """The run ends without sending anything, and the next try reads the landing folder again."""
    ctx = ran.context(TUESDAY, run_id="cli-2")
    ran.land(PEOPLE, TUESDAY)
    pipeline.begin(ctx)
    pipeline.do(ctx, "extract")
    for name in ctx.work.names("private/snapshots"):
        ctx.work.remove(f"private/snapshots/{name}")
    refused = pipeline.run(ctx)
    assert (refused.exit_code, refused.reasons) == (3, [{"code": "file_changed", "count": 1}])
    assert pipeline.run(ctx).rows["unchanged"] == 20


# --- afterwards --------------------------------------------------------------------------------------------------------


def test_no_step_of_a_purged_run_is_done_again(ran):
    """A task of it that is cleared in Airflow fails at once, and says why; its report stays as it was."""
    ran.clock.now += 31 * DAY_S
    _purge(ran)
    ctx = ran.context(run_id=_runs(ran)[0].name)
    before = ctx.place.read_bytes(REPORT)
    for step in pipeline.STEPS:
        with pytest.raises(ConfigError, match="start a new run"):
            pipeline.do(ctx, step)
    assert ctx.place.read_bytes(REPORT) == before


def test_nobody_is_told_that_a_purged_quarantine_was_empty(ran):
    """And `explain` knows of no such run."""
    ctx = ran.context()
    ran.clock.now += 31 * DAY_S
    _purge(ran)
    asked = {"sync": ran.sync.name, "day": str(MONDAY), "destination": ran.destination, "export": "crm"}
    with pytest.raises(ConfigError, match="has removed the rows"):
        quarantine.newest(ctx.work, ctx.ledger, **asked)
    assert list(explain(ran.settings, "canaryid-1")) == []
    assert ran.run().rows["quarantined"] == 1
    assert quarantine.newest(ctx.work, ctx.ledger, **asked).rows.height == 1


def test_a_purge_that_was_killed_goes_on(ran, monkeypatch):
    """Between any two removals."""
    ran.run(full=True)
    ran.clock.now += 31 * DAY_S
    remove, calls = Place.remove, []

    def killed(place, name):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        remove(place, name)

    with monkeypatch.context() as patch:
        patch.setattr(Place, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            _purge(ran)
    done = _purge(ran)
    assert (done.runs, _is_there(ran), done.snapshots) == (1, [False, False], 1)


def test_two_purges_do_not_meet(ran):
    """The second one comes back later."""
    with ran.context().work.hold("purging"), pytest.raises(Busy):
        _purge(ran)
