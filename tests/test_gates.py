"""An export that looks wrong as a whole is not sent before somebody says that it is right."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import parts, pipeline
from etl.delta import OPT_INS
from etl.ends import plan_folder
from etl.gates import CODES, Figures, shut
from etl.plan import as_text

MONDAY = date(2026, 3, 2)
TUESDAY = MONDAY + timedelta(days=1)
USUAL = Figures(records=1_000, carried=0, earlier=(1_000, 1_000, 1_000), bad=0, bad_share=0.2, known=1_000, flipped=0)


def ends(report) -> dict[str, int]:
    """The buckets that hold rows, of a report that balances."""
    assert report.balanced
    return {bucket: count for bucket, count in report.rows.items() if count and bucket != "records_in"}


def customers(count: int, *, bad: int = 0, flipped: int = 0, city: str = "Lyon", opted: str = "true") -> dict:
    """Customers of a city who have opted in; the first ones out, the last ones with an address that is none."""
    opposite = {"true": "false", "false": "true"}
    return {
        f"C-{n:05d}": {
            "city": city,
            "email_opt_in": opposite[opted] if n < flipped else opted,
            **({"email": "nobody"} if n >= count - bad else {}),
        }
        for n in range(count)
    }


def refused(report) -> list[str]:
    """The codes of the gates that the report names, in its reasons or its notices."""
    named = {reason["code"] for reason in report.reasons} | {notice.split(":")[0] for notice in report.notices}
    return [code for code in CODES if code in named]


# --- the rules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("figures", "codes"),
    [
        ({"records": 499}, ["volume_unusual"]),
        ({"records": 500}, []),
        ({"records": 3_000}, []),
        ({"records": 3_001}, ["volume_unusual"]),
        ({"records": 10, "earlier": (1_000, 1_000)}, []),
        ({"records": 10, "earlier": (999, 999, 5_000)}, []),
        ({"bad": 200}, []),
        ({"bad": 201}, ["bad_share_high"]),
        ({"bad": 201, "bad_share": 0.5}, []),
        ({"records": 999, "bad": 999}, []),
        ({"flipped": 10}, []),
        ({"flipped": 11}, ["opt_ins_flipped"]),
        ({"flipped": 11, "known": 1_100}, []),
        ({"records": 999, "known": 999, "flipped": 999}, []),
        ({"records": 999, "flipped": 11}, ["opt_ins_flipped"]),
        ({"records": 9_999, "bad": 9_999, "flipped": 999}, ["volume_unusual", "bad_share_high", "opt_ins_flipped"]),
    ],
)
def test_each_gate_has_its_bound(figures, codes):
    """Half and three times the usual, the sync's share of bad records and one known customer in a hundred still pass."""
    assert list(shut(replace(USUAL, **figures))) == codes


@given(st.builds(Figures, **{name: st.integers(0, 10**8) for name in ("records", "bad", "known", "flipped")},
                 earlier=st.lists(st.integers(1, 10**8), max_size=3), bad_share=st.floats(0, 1)))  # fmt: skip
def test_any_figures_can_be_judged(figures):
    """An export without records or without known customers, too; each gate that is shut says why."""
    assert all(why for why in shut(figures).values())


# --- the number of records --------------------------------------------------------------------------------------------


@pytest.fixture
def history(installation):
    """Three days that had a number of records each; gives the day after them."""

    def make(records: int) -> date:
        for number in range(3):
            installation.land(records, MONDAY + timedelta(days=number))
            installation.run(MONDAY + timedelta(days=number))
        return MONDAY + timedelta(days=3)

    return make


def test_an_unusual_volume_stops_the_run(installation, emulator, history):
    """Nothing is sent until somebody says that it is right."""
    day = history(1_000)
    before = len(emulator.requests)
    installation.land(499, day, city="Paris")
    report = installation.run(day)
    assert (ends(report), report.exit_code, refused(report)) == ({"not_sent": 499}, 3, ["volume_unusual"])
    assert any("--accept-volume" in notice for notice in report.notices)
    assert len(emulator.requests) == before
    planned = pipeline.prepare(installation.context(day, run_id="plan-1", dry_run=True))
    assert "REFUSED" in as_text(planned)
    assert ends(installation.run(day, accept_volume=True)) == {"accepted": 499}


def test_unchanged_profiles_need_no_gate(installation, history):
    """Where nothing is to be sent, no volume is unusual."""
    day = history(1_000)
    installation.land(10, day)
    report = installation.run(day)
    assert (ends(report), report.exit_code) == ({"unchanged": 10}, 0)


# --- the share of bad records -----------------------------------------------------------------------------------------


def test_too_many_bad_records_stop_the_good_ones(installation, emulator):
    """More than the sync allows is a broken export; with a person's word the good rows go, and the next run is silent."""
    installation.land(customers(1_000, bad=201))
    report = installation.run()
    assert (ends(report), report.exit_code, refused(report)) == (
        {"quarantined": 201, "not_sent": 799}, 3, ["bad_share_high"],
    )  # fmt: skip
    assert emulator.requests == []
    assert ends(installation.run(accept_volume=True)) == {"quarantined": 201, "accepted": 799}
    again = installation.run()
    assert (ends(again), again.exit_code) == ({"quarantined": 201, "unchanged": 799}, 1)


def test_rows_with_a_newer_version_in_quarantine_are_bad_too(installation):
    """A valid row that gives way to a bad one is one more customer whose export is wrong."""
    good = customers(1_000, bad=150)
    installation.land(good)
    path = installation.root / "landing" / "crm" / str(MONDAY) / "customers.csv"
    with path.open("a") as file:
        file.writelines(f"C-{n:05d},nobody,,Lyon,,,{MONDAY}T09:00:00Z\r\n" for n in range(60))
    report = installation.run()
    assert (report.rows["quarantined"], refused(report)) == (150 + 60 + 60, ["bad_share_high"])


def test_an_export_that_is_all_bad_is_refused(installation, emulator):
    """There is nothing to send, and that is no success."""
    installation.land(customers(1_000, bad=1_000))
    report = installation.run()
    assert (ends(report), report.exit_code, refused(report)) == ({"quarantined": 1_000}, 3, ["bad_share_high"])
    assert emulator.requests == []
    assert installation.run(accept_volume=True).exit_code == 1


# --- the opt-ins ------------------------------------------------------------------------------------------------------


@pytest.fixture
def known(installation):
    """A thousand customers whose opt-in the account has accepted."""
    installation.land(customers(1_000))
    assert ends(installation.run()) == {"accepted": 1_000}


@pytest.mark.usefixtures("known")
def test_too_many_turned_opt_ins_stop_the_run(installation, emulator):
    """An export that opts out more than one customer in a hundred is held, whatever else it says."""
    before = len(emulator.requests)
    installation.land(customers(1_000, flipped=11), TUESDAY)
    report = installation.run(TUESDAY)
    assert (ends(report), report.exit_code, refused(report)) == (
        {"unchanged": 989, "not_sent": 11}, 3, ["opt_ins_flipped"],
    )  # fmt: skip
    assert len(emulator.requests) == before
    assert ends(installation.run(TUESDAY, accept_volume=True)) == {"unchanged": 989, "accepted": 11}
    installation.land(customers(1_000, flipped=11, city="Paris"), TUESDAY)
    assert ends(installation.run(TUESDAY)) == {"accepted": 1_000}, "what was accepted is what flips are counted from"


@pytest.mark.usefixtures("known")
def test_few_turned_opt_ins_and_blanks_pass(installation):
    """People do opt out; that an export falls silent turns nothing, and new customers have nothing to turn."""
    rows = customers(2_000, flipped=10)
    rows |= {key: {**values, "email_opt_in": ""} for key, values in list(rows.items())[10:1_000]}
    installation.land(rows, TUESDAY)
    assert ends(installation.run(TUESDAY)) == {"accepted": 2_000}
    installation.land(customers(1_000, flipped=21), TUESDAY)
    assert refused(installation.run(TUESDAY)) == ["opt_ins_flipped"], "a blank has left the accepted opt-in as it was"


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("options", [{"full": True}, {"retry": True}, {"limit": 5}])
def test_every_kind_of_run_is_judged_by_the_whole_export(installation, options):
    """Sending everything, only what failed, or only the first few is no way around."""
    installation.land(customers(1_000, flipped=11), TUESDAY)
    assert refused(installation.run(TUESDAY, **options)) == ["opt_ins_flipped"]


@pytest.mark.usefixtures("known")
def test_an_older_day_turns_nothing_for_customers_of_whom_a_later_day_has_spoken(installation):
    """They are left alone, whatever their opt-in was; who is new goes out."""
    eve = MONDAY - timedelta(days=1)
    installation.land(customers(1_001, flipped=500), eve)
    report = installation.run(eve)
    assert (ends(report), report.exit_code) == ({"superseded": 500, "unchanged": 500, "accepted": 1}, 0)


def test_a_plan_made_anew_is_judged_as_the_one_before(install, emulator):
    """A run stops halfway, and another one moves the account on: the half with all the turned opt-ins still goes."""
    limits = {"batch_mass_update": {"rows_per_call": 500}}
    halves = install(emulator.url, destination="batch_mass_update", extra={"limits": limits})
    halves.land(customers(2_000))
    halves.run()
    rows = customers(2_000, city="Paris")
    for key in list(rows)[1_980:]:
        rows[key]["email_opt_in"] = "false"
    halves.land(rows, TUESDAY)
    emulator.faults({"status": 401, "every": 3, "times": 1})
    assert ends(pipeline.run(halves.context(TUESDAY, run_id="cli-2"))) == {"accepted": 1_000, "not_sent": 1_000}
    halves.land({"D-1": {}}, MONDAY)
    halves.run()
    assert ends(pipeline.run(halves.context(TUESDAY, run_id="cli-2"))) == {"accepted": 2_000}


# --- files of an earlier version --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("known")
def test_a_state_without_opt_ins_judges_nobody_and_learns(installation):
    """The first run after an update knows no opt-ins; from the next one on they are compared."""
    for path in (installation.root / "work/private/state").rglob("*.parquet"):
        pl.read_parquet(path).drop(OPT_INS).write_parquet(path)
    installation.land(customers(1_000, flipped=500, city="Paris"), TUESDAY)
    assert ends(installation.run(TUESDAY)) == {"accepted": 1_000}
    installation.land(customers(1_000, city="Paris"), TUESDAY)
    assert refused(installation.run(TUESDAY)) == ["opt_ins_flipped"]


def test_what_an_earlier_version_sent_is_learned_without_opt_ins(installation):
    """Batches of its runs may still wait to be brought into the state."""
    ctx = installation.context(run_id="cli-1")
    installation.land(customers(5))
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    pipeline.do(ctx, "load")
    for path in parts.paths(ctx.work, f"{plan_folder(ctx.name, 1)}/references"):
        pl.read_ipc(path).drop(OPT_INS).write_ipc(path)
    assert ends(installation.run()) == {"unchanged": 5}
