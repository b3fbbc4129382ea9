"""The command line: exit codes that a scheduler can trust, JSON that a program can read, words for everybody else."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import select
import signal
import time
from datetime import date

import pytest

from etl import cli, pipeline
from etl.ledger import Ledger
from etl.settings import Connection, Settings
from etl.syncs import SYNCS

# A command leaves its database connections to the end of its process.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed database")

ANSI = re.compile(r"\x1b\[")
BAD = ("C-9,no address,,Lyon,2026-03-01T08:00:00Z", "C-8,cut")


def _run(shop, day, *arguments, **environment):
    return shop("run", "crm_to_batch", "--date", day, *arguments, **environment)


def _rows(done):
    """The buckets that hold rows, of a report in JSON."""
    return {name: count for name, count in json.loads(done.stdout)["rows"].items() if count and name != "records_in"}


# --- run ---------------------------------------------------------------------------------------------------------------


def test_a_clean_day_ends_with_0_and_its_second_run_sends_nothing(shop):
    """The second run says that everything is as the vendor knows it; `--full` sends it all the same."""
    day = "2026-03-01"
    shop.customers(day, 45)
    first = shop.process("run", "crm_to_batch", "--date", day)
    assert first.returncode == 0
    assert "DONE (exit code 0)" in first.stdout
    assert "45  accepted" in first.stdout
    sent = len(shop.calls())
    second = _run(shop, day, "--json")
    assert (second.returncode, json.loads(second.stdout)["rows"]["unchanged"]) == (0, 45)
    assert len(shop.calls()) == sent
    full = _run(shop, day, "--full", "--json")
    assert (full.returncode, json.loads(full.stdout)["rows"]["accepted"]) == (0, 45)
    assert len(shop.calls()) == sent + 3


def test_bad_rows_end_with_1_and_json_is_the_report(shop):
    """Stdout is the report and nothing else; so is `report --json` later; progress went to stderr in plain lines."""
    day = "2026-03-02"
    shop.land(day, "C-1,c1@example.org,,Lyon,2026-03-02T08:00:00Z", *BAD)
    done = shop.process("run", "crm_to_batch", "--date", day, "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == shop.report(day)
    assert json.loads(done.stdout)["exit_code"] == 1
    assert done.stderr.splitlines()[0] == "extract"
    assert not ANSI.search(done.stdout + done.stderr)
    again = shop("report", "crm_to_batch", "--date", day, "--json")
    assert (again.returncode, again.stdout) == (1, done.stdout)
    text = shop("report", "crm_to_batch", "--date", day)
    assert (text.returncode, text.stderr) == (1, "")
    assert "record_unparsable" in text.stdout
    assert "must be a valid e-mail address" in text.stdout


def test_no_export_ends_with_3_and_a_report(shop):
    """The report has no rows; the next run, with the export there, is a new one."""
    day = "2026-03-03"
    done = _run(shop, day, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == shop.report(day)
    assert set(shop.report(day)["rows"].values()) == {0}
    assert f"crm/{day}" in done.stdout
    shop.customers(day, 3)
    assert _run(shop, day).returncode == 0


def test_an_account_that_does_not_balance_ends_with_4(shop):
    """A row whose end cannot be found any more is never hidden."""
    day = "2026-03-04"
    shop.land(day, "C-1,c1@example.org,,Lyon,2026-03-04T08:00:00Z", *BAD)
    environment = shop.environment()
    settings = Settings.from_environment(environment)
    ctx = pipeline.context(
        SYNCS["crm_to_batch"], date.fromisoformat(day), run_id="cli-tampered", settings=settings,
        connection=Connection.from_environment("batch_default", environment),
    )  # fmt: skip
    pipeline.begin(ctx)
    pipeline.prepare(ctx)
    ctx.ledger.close()
    for part in ctx.place.path("private/validated/crm/quarantine").iterdir():
        part.unlink()
    done = _run(shop, day, "--json")
    made = json.loads(done.stdout)
    assert (done.returncode, made["state"], made["balanced"]) == (4, "unbalanced", False)
    assert made["run_id"] == "cli-tampered"


def test_a_dry_run_sends_nothing_and_leaves_no_report(shop):
    """It prints the plan that `plan` prints, and ends with 0, bad rows or not."""
    day = "2026-03-05"
    shop.land(day, *(f"D-{n},d{n}@example.org,,Lyon,2026-03-05T08:00:00Z" for n in range(30)), *BAD)
    before = len(shop.calls())
    dry, planned = _run(shop, day, "--dry-run", "--json"), shop("plan", "crm_to_batch", "--date", day, "--json")
    figures = json.loads(planned.stdout)
    assert (dry.returncode, planned.returncode) == (0, 0)
    assert {k: v for k, v in json.loads(dry.stdout).items() if k != "seconds"} == {
        k: v for k, v in figures.items() if k != "seconds"
    }
    assert (figures["calls"], figures["rows"], figures["quota"]["used_after"] - figures["quota"]["used_before"]) == (2, 30, 30)  # fmt: skip
    text = _run(shop, day, "--dry-run", "--limit", "5")
    assert f"{30 + len(BAD)} in the CRM export, {len(BAD)} of them unparsable or quarantined" in text.stdout
    assert (text.returncode, "rows      5 (deferred: 25)" in text.stdout) == (0, True)
    assert len(shop.calls()) == before
    assert not list((shop.work / "crm_to_batch" / day).rglob("run_report.json"))
    assert shop("report", "crm_to_batch", "--date", day).returncode == 2
    assert "Nothing was sent" in text.stdout


def test_a_limit_delivers_the_first_changed_profiles(shop):
    """The rest is deferred, and goes out with the next run."""
    day = "2026-03-06"
    shop.customers(day, 30)
    limited = json.loads(_run(shop, day, "--limit", "12", "--json").stdout)
    assert (limited["exit_code"], limited["rows"]["accepted"], limited["rows"]["deferred"]) == (1, 12, 18)
    assert limited["reasons"] == [{"code": "limit", "count": 18}]
    rest = json.loads(_run(shop, day, "--json").stdout)
    assert (rest["exit_code"], rest["rows"]["accepted"], rest["rows"]["unchanged"]) == (0, 18, 12)


def test_another_destination_for_one_run(shop):
    """It is a run of its own, and `report` finds it by its destination."""
    day = "2026-03-07"
    shop.customers(day, 4)
    done = _run(shop, day, "--destination", "batch_mass_update", "--json")
    assert (done.returncode, json.loads(done.stdout)["destination"]) == (0, "batch_mass_update")
    assert shop("report", "crm_to_batch", "--date", day).returncode == 2
    found = shop("report", "crm_to_batch", "--date", day, "--destination", "batch_mass_update", "--json")
    assert (found.returncode, found.stdout) == (0, done.stdout)


def test_the_contract_cannot_be_switched_off(shop):
    """pandera's own switches are for other people's programs."""
    day = "2026-03-08"
    shop.land(day, "C-7,c7@example.org,,Lyon,2026-03-08T08:00:00Z", *BAD)
    switches = {"PANDERA_VALIDATION_ENABLED": "False", "PANDERA_VALIDATION_DEPTH": "SCHEMA_ONLY"}
    done = shop.process("run", "crm_to_batch", "--date", day, "--json", **switches)
    rows = json.loads(done.stdout)["rows"]
    assert (rows["accepted"], rows["quarantined"], rows["unparsable"]) == (1, 1, 1)


def test_a_refused_key_ends_with_3(shop):
    """Nothing is lost: the same command with the right key delivers."""
    day = "2026-03-09"
    shop.customers(day, 3)
    connection = json.loads(shop.environment()["AIRFLOW_CONN_BATCH_DEFAULT"])
    wrong = json.dumps(connection | {"password": "another-key"})
    refused = _run(shop, day, "--json", AIRFLOW_CONN_BATCH_DEFAULT=wrong)
    assert (refused.returncode, json.loads(refused.stdout)["rows"]["not_sent"]) == (3, 3)
    assert "another-key" not in refused.stdout + refused.stderr
    assert _run(shop, day).returncode == 0


def test_sigterm_stops_after_the_call_under_way(shop):
    """What was sent is known, the rest is `not_sent`, exit 3; the next run completes, and nothing is sent twice."""
    day = "2026-03-10"
    shop.customers(day, 400)
    shop.faults({"delay": 0.3})
    sent_before = len(shop.calls())
    process = shop.popen("run", "crm_to_batch", "--date", day, "--json")
    deadline = time.monotonic() + 30
    while len(shop.calls()) == sent_before and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    shop.faults()
    rows = json.loads(out)["rows"]
    assert process.returncode == 3
    assert rows["accepted"] > 0
    assert rows["not_sent"] > 0
    assert (rows["accepted"] + rows["not_sent"], rows["unknown"]) == (400, 0)
    assert "Traceback" not in err
    rest = json.loads(_run(shop, day, "--json").stdout)
    assert (rest["exit_code"], rest["rows"]["accepted"], rest["rows"]["unchanged"]) == (0, rows["not_sent"], rows["accepted"])  # fmt: skip
    assert sum(call["rows"] for call in shop.calls()[sent_before:]) == 400


def test_a_second_ctrl_c_does_not_wait(shop):
    """The first one lets the calls under way end; after the second nothing is finished, and that is exit 3."""
    environment = shop.environment()
    ctx = pipeline.context(
        SYNCS["crm_to_batch"], date(2026, 3, 1), run_id="cli-x", settings=Settings.from_environment(environment),
        connection=Connection.from_environment("batch_default", environment),
    )  # fmt: skip
    before = signal.getsignal(signal.SIGINT)
    with cli._running(ctx):
        signal.raise_signal(signal.SIGINT)
        assert ctx.stop.is_set()
        with pytest.raises(SystemExit) as end:
            signal.raise_signal(signal.SIGINT)
    assert (end.value.code, signal.getsignal(signal.SIGINT)) == (3, before)


# --- words -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "crm_to_nowhere", "--date", "2026-03-01"), "crm_to_batch"),
        (("report", "crm_to_nowhere", "--date", "2026-03-01"), "crm_to_batch"),
        (("status", "crm_to_nowhere"), "crm_to_batch"),
        (("run", "crm_to_batch", "--date", "2026-03-01", "--destination", "nowhere"), "batch_mass_update"),
        (("run", "crm_to_batch", "--date", "2026-02-30"), "YYYY-MM-DD"),
        (("plan", "crm_to_batch", "--date", "2026-3-1"), "YYYY-MM-DD"),
        (("run", "crm_to_batch"), "--date"),
        (("run", "crm_to_batch", "--date", "2026-03-01", "--limit", "-1"), "--limit"),
        (("report", "crm_to_batch", "--date", "2020-01-01"), "2020-01-01"),
        (("fly",), "fly"),
    ],
)
def test_what_cannot_be_understood_ends_with_2(shop, arguments, says):
    """With a sentence on stderr that says what there is, and nothing on stdout."""
    done = shop(*arguments, COLUMNS="200")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"AIRFLOW_CONN_BATCH_DEFAULT": None}, "AIRFLOW_CONN_BATCH_DEFAULT"),
        ({"AIRFLOW_CONN_BATCH_DEFAULT": "batch://key@host"}, "AIRFLOW_CONN_BATCH_DEFAULT"),
        ({"PROFILE_ETL_WORK": "s3://bucket/work"}, "PROFILE_ETL_LEDGER"),
    ],
)
def test_a_setting_to_mend_ends_with_2_and_its_name(shop, environment, says):
    """Before anything is read or sent."""
    done = _run(shop, "2026-03-01", **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "key@host" not in done.stderr


def test_status_shows_the_last_runs(shop):
    """Day, exit code and quota; nothing of any customer."""
    _run(shop, "2020-01-01")
    done = shop("status", "crm_to_batch")
    assert done.returncode == 0
    assert re.search(r"2020-01-01\s+3\s+0\s+0\s+crm_to_batch/2020-01-01/batch/cli-", done.stdout)
    assert "batch_update" in done.stdout


def test_retry_sends_what_did_not_get_through(shop):
    """A rejected row stays what it is until somebody asks for it again; then only that one goes."""
    day = "2026-03-21"
    shop.customers(day, 30)
    shop.faults({"refuse_call_with": f"{day}-7"})
    assert _rows(_run(shop, day, "--json")) == {"accepted": 29, "rejected": 1}
    assert _rows(_run(shop, day, "--json")) == {"unchanged": 29, "rejected": 1}
    shop.faults()
    assert _rows(shop("retry", "crm_to_batch", "--date", day, "--json")) == {"unchanged": 29, "accepted": 1}
    done = shop("retry", "crm_to_batch", "--date", day)
    assert (done.returncode, done.stdout) == (0, "nothing to do\n")
    assert "profile-etl run" in shop("retry", "crm_to_batch", "--date", "2026-03-22").stderr


def test_a_run_that_died_is_taken_up_only_by_the_same_request(shop):
    """Whoever asks for three rows after a crash gets three rows, and not the rest of what died."""
    day = "2026-03-25"
    shop.customers(day, 40)
    shop.faults({"delay": 30})
    process = shop.popen("run", "crm_to_batch", "--date", day, environment=shop.environment())
    while not any(shop.work.glob(f"crm_to_batch/{day}/batch/cli-*/plan.json")):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    shop.faults()
    rows = _rows(_run(shop, day, "--limit", "3", "--json"))
    assert rows["deferred"] == 37
    assert _rows(_run(shop, day, "--json")) == {"unchanged": 3, "accepted": 37}


def test_explain_tells_one_customers_way(shop):
    """Run by run, where each of the records ended and why; the id is read from stdin and never shown."""
    day = "2026-03-23"
    good = f"{day}-7,c7@example.org,,Lyon,{day}T08:00:00Z"
    shop.land(day, good, f"{day}-8,nobody,,Lyon,{day}T08:00:00Z")
    _run(shop, day)
    _run(shop, day)
    told = shop("explain", "--id", "-", stdin=f"{day}-7\n")
    assert told.returncode == 0
    assert [line.split(";")[0].strip() for line in told.stdout.splitlines() if "line" in line] == [
        "line 2: unchanged",
        "line 2: accepted",
    ]
    assert "line 3: quarantined (email_invalid)" in shop("explain", "--id", "-", stdin=f"{day}-8\n").stdout
    assert "no run" in shop("explain", "--id", "-", stdin="nobody\n").stdout
    assert f"{day}-7" not in told.stdout + told.stderr
    assert shop("explain", "--id", f"{day}-7").returncode == 2


def test_the_quarantine_is_listed_without_values_and_exported_with_them(shop, tmp_path):
    """The list tells places and rules; the export has every original, and nothing in it can run in a spreadsheet."""
    day = "2026-03-24"
    shop.land(
        day, f"{day}-1,one@example.org,,Lyon,{day}T08:00:00Z", f"{day}-2,=cmd,+33,Lyon,{day}T08:00:00Z", "surplus,,,,,,",
    )  # fmt: skip
    _run(shop, day)
    listed = shop("quarantine", "list", "crm_to_batch", "--date", day)
    assert listed.returncode == 0
    assert listed.stdout.splitlines() == [
        "2 rows",
        "             1  email_invalid",
        "             1  phone_invalid",
        "             1  record_unparsable",
        f"crm/{day}/customers.csv:3  email_invalid, phone_invalid",
        f"crm/{day}/customers.csv:4  record_unparsable",
    ]
    output = tmp_path / "rows.csv"
    done = shop("quarantine", "export", "crm_to_batch", "--date", day, "--output", str(output))
    assert (done.returncode, output.stat().st_mode & 0o777) == (0, 0o600)
    with output.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first)[:3] == ["file", "line", "codes"]
    assert (first["line"], first["codes"], first["email"], first["phone"]) == (
        "3", "email_invalid;phone_invalid", "'=cmd", "'+33",
    )  # fmt: skip
    assert (second["codes"], second["record"]) == ("record_unparsable", "surplus,,,,,,")
    assert shop("quarantine", "list", "crm_to_batch", "--date", "2020-02-02").returncode == 2


def test_doctor_names_what_is_missing(shop, tmp_path):
    """Exit 0 only when a run could start; a check that fails does not hide the others."""
    shop.customers("2026-03-11", 1)
    well = shop("doctor")
    assert (well.returncode, well.stdout.count("ok  ")) == (0, 7)
    assert "mode 700" in well.stdout
    assert "-     connection releva_default: not set, so crm_to_releva cannot run" in well.stdout
    broken = shop(
        "doctor", AIRFLOW_CONN_BATCH_DEFAULT=None, PROFILE_ETL_LANDING=str(tmp_path),
        PROFILE_ETL_LEDGER="postgresql+psycopg://etl:s3cret@127.0.0.1:9/etl",
    )  # fmt: skip
    assert (broken.returncode, broken.stdout.count("FAIL")) == (2, 5)
    assert "AIRFLOW_CONN_BATCH_DEFAULT" in broken.stdout
    assert "s3cret" not in broken.stdout + broken.stderr


def _on_a_terminal(shop, day, **changes):
    """What a run shows on a terminal, and how it ends."""
    ours, theirs = pty.openpty()
    process = shop.popen(
        "run", "crm_to_batch", "--date", day, environment=shop.environment(TERM="xterm", **changes),
        stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], 60)[0] and (piece := os.read(ours, 4096)):
            shown += piece
    except OSError:  # how Linux says that the other end has gone
        pass
    os.close(ours)
    return shown.decode(), process.wait(timeout=60)


def test_a_terminal_shows_progress_that_moves(shop):
    """Steps by name, and the rows of the load."""
    shop.customers("2026-03-12", 30)
    shown, code = _on_a_terminal(shop, "2026-03-12", NO_COLOR=None)
    assert code == 0
    assert ANSI.search(shown)
    assert "load" in shown
    assert "30/30" in shown


def test_no_color_is_respected(shop):
    """Plain lines, on a terminal too."""
    shop.customers("2026-03-13", 30)
    shown, code = _on_a_terminal(shop, "2026-03-13", NO_COLOR="1")
    assert code == 0
    assert not ANSI.search(shown)
    assert "load 30 of 30 rows" in shown


def test_the_ledger_says_what_the_exit_code_said(shop):
    """So that `status` and Airflow agree with whoever ran the command."""
    day = "2026-03-14"
    shop.customers(day, 1)
    assert _run(shop, day).returncode == 0
    ledger = Ledger(Settings.from_environment(shop.environment()).ledger)
    [run] = ledger.runs(day=day)
    ledger.close()
    assert (run.exit_code, run.records_in, run.finished_at is None) == (0, 1, False)


def test_a_terminal_that_lacks_letters_is_no_reason_to_fail(shop):
    """A file name beyond ASCII is written with escapes where stdout cannot show it; the exit code is the run's."""
    day = "2026-03-29"
    shop.customers(day, 2)
    folder = shop.root / "landing" / "crm" / day
    (folder / "customers.csv").rename(folder / "клиенти.csv")
    done = shop.process("run", "crm_to_batch", "--date", day, "--json", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u" in done.stdout


def test_a_day_that_was_let_pass_can_be_retried(shop):
    """The export looks as wrong as before, and the one row that was rejected may go with the same word."""
    day = "2026-03-30"
    good = [f"{day}-{n},c{n}@example.org,,Lyon,{day}T08:00:00Z" for n in range(700)]
    shop.land(day, *good, *(f"{day}-{n},nobody,,Lyon,{day}T08:00:00Z" for n in range(700, 1_000)))
    held = _run(shop, day)
    assert (held.returncode, "--accept-volume" in held.stdout) == (3, True)
    shop.faults({"refuse_call_with": f"{day}-7"})
    assert _rows(_run(shop, day, "--accept-volume", "--json")) == {"quarantined": 300, "accepted": 699, "rejected": 1}
    shop.faults()
    assert shop("retry", "crm_to_batch", "--date", day).returncode == 3
    done = shop("retry", "crm_to_batch", "--date", day, "--accept-volume", "--json")
    assert _rows(done) == {"quarantined": 300, "unchanged": 699, "accepted": 1}


def test_a_report_as_a_page(shop, tmp_path):
    """`--html FILE` writes it beside what is printed; a file that cannot be written is exit 2 and a sentence."""
    day = "2026-03-31"
    shop.customers(day, 3)
    _run(shop, day)
    page = tmp_path / "page.html"
    done = shop("report", "crm_to_batch", "--date", day, "--html", str(page))
    assert (done.returncode, "3  accepted" in done.stdout) == (0, True)
    assert f"crm_to_batch to batch, {day}" in page.read_text()
    for nowhere in (tmp_path, page / "page.html"):
        refused = shop("report", "crm_to_batch", "--date", day, "--html", str(nowhere))
        assert (refused.returncode, f"{nowhere} cannot be written" in refused.stderr) == (2, True)


def test_an_audit_of_a_day_says_what_it_excludes(shop, monkeypatch):
    """Exit 0 when nothing is missing, and the loss that so large a sample excludes."""
    monkeypatch.setattr("etl.audit._pace", lambda *_: lambda: None)
    shop.customers("2026-05-20", 30)
    assert shop("run", "crm_to_batch", "--date", "2026-05-20").returncode == 0
    audited = shop("audit", "crm_to_batch", "--date", "2026-05-20", "--sample", "10")
    assert audited.returncode == 0
    assert "Loss: less than 25.887 % of them, at 95% confidence." in audited.stdout
    assert json.loads(shop("audit", "crm_to_batch", "--date", "2026-05-20", "--json").stdout)["sample"] == 30


def test_an_audit_that_misses_something_ends_with_1(shop, monkeypatch):
    """A row that the vendor took and lost."""
    monkeypatch.setattr("etl.audit._pace", lambda *_: lambda: None)
    shop.customers("2026-05-21", 10)
    shop.faults({"lose_rows": 1})
    shop("run", "crm_to_batch", "--date", "2026-05-21")
    shop.faults()
    audited = shop("audit", "crm_to_batch", "--date", "2026-05-21")
    assert audited.returncode == 1
    assert "not there          1" in audited.stdout
