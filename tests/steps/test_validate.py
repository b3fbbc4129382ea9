"""Validate: good rows go on, bad ones stand aside with everything that was read of them, and a broken file stops all."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace

import polars as pl
import pytest

from etl import parts, pipeline, validate
from etl.syncs import Export, Normalise

CRM = "crm/2026-03-31"
POS = "pos/2026-03-31"
CRM_HEADER = "customer_id,email,phone,birthday,updated_at"
POS_HEADER = "transaction_id,customer_id,occurred_at,total,currency"
NOW = "2026-03-31T08:00:00Z"


def _crm(*rows: str) -> str:
    return "\n".join((CRM_HEADER, *rows, ""))


def _pos(*rows: str) -> str:
    return "\n".join((POS_HEADER, *rows, ""))


def _good(*numbers: int) -> str:
    return _crm(*(f"C-{n},c{n}@example.org,,1990-02-03,{NOW}" for n in numbers))


def _validated(ctx):
    pipeline.do(ctx, "extract")
    return pipeline.do(ctx, "validate")


def _rows(ctx, folder):
    return pl.concat(parts.frames(ctx.place, f"{validate.FOLDER}/{folder}"))


# --- rows --------------------------------------------------------------------------------------------------------------


def test_the_quarantine_keeps_what_was_read_and_says_where_it_stood(landing):
    """Original values, file, line, every broken rule, and the record itself; one row per input record."""
    landing.write(
        f"{CRM}/customers.csv",
        _crm(
            f"C-1,ada@example.org,,,{NOW}",
            "",
            ' NULL ,"not, an address",0612,2999-01-01,',
            "C-3,too,few",
            f'C-4,,,,"{NOW}"',
        ),
    )
    ctx = landing.context()
    counts = _validated(ctx)["crm"]
    assert {name: counts[name] for name in ("records", "valid", "quarantined", "unparsable")} == {
        "records": 4, "valid": 1, "quarantined": 2, "unparsable": 1,
    }  # fmt: skip
    bad = _rows(ctx, "crm/quarantine")
    contract = validate.EXPORTS["crm"]
    assert dict(bad.schema) == validate.quarantine_schema(contract)
    assert bad.columns == ["row", "file", "line", "codes", *contract.columns, "record"]
    first, second, third = bad.to_dicts()
    assert (first["row"], first["file"], first["line"]) == (1, f"{CRM}/customers.csv", 4)
    assert first["codes"] == [
        "customer_id_invalid", "email_invalid", "phone_invalid", "birthday_invalid", "updated_at_missing",
    ]  # fmt: skip
    assert [first[name] for name in ("customer_id", "email", "phone", "birthday", "updated_at", "city")] == [
        " NULL ", "not, an address", "0612", "2999-01-01", "", None,
    ]  # fmt: skip
    assert first["record"] == ' NULL ,"not, an address",0612,2999-01-01,'
    assert (second["codes"], second["line"], second["record"]) == (["record_unparsable"], 5, "C-3,too,few")
    assert second["customer_id"] is None
    assert third["codes"] == ["contact_missing"]
    assert third["record"] == f'C-4,,,,"{NOW}"'


def test_rows_are_numbered_over_all_files_of_an_export(landing):
    """A number is a row's name in the run; lines begin anew with each file."""
    landing.write(f"{CRM}/a.csv", _good(1, 2) + "C-3,cut\n")
    landing.write(f"{CRM}/b.csv.gz", gzip.compress(_crm("C-4,broken,,,", f"C-5,c5@example.org,,,{NOW}").encode()))
    landing.write(f"{CRM}/c.csv", _good(6))
    ctx = landing.context()
    _validated(ctx)
    valid, bad = _rows(ctx, "crm/valid"), _rows(ctx, "crm/quarantine")
    assert valid.select("row", "line").rows() == [(0, 2), (1, 3), (4, 3), (5, 2)]
    assert bad.select("row", "file", "line").rows() == [(2, f"{CRM}/a.csv", 4), (3, f"{CRM}/b.csv.gz", 2)]
    assert valid["customer_id"].to_list() == ["C-1", "C-2", "C-5", "C-6"]


def test_a_sync_describes_how_its_export_looks(landing):
    """Own names, semicolons and cp1252: everything after speaks our names, the record stays as it was written."""
    theirs = "CLIENT_NO;MAIL;VILLE;MAJ;INUTILE"
    rows = (f"C-1;ada@example.org;Besançon;{NOW};x", f"C-2;pas une adresse;Sète;{NOW};y")
    landing.write(f"{CRM}/clients.csv", "\r\n".join((theirs, *rows, "")).encode("cp1252"))
    columns = {"CLIENT_NO": "customer_id", "MAIL": "email", "VILLE": "city", "MAJ": "updated_at"}
    ctx = landing.context()
    ctx = replace(ctx, sync=replace(ctx.sync, crm=Export(columns=columns, delimiter=";", encoding="cp1252")))
    counts = _validated(ctx)["crm"]
    assert (counts["valid"], counts["quarantined"]) == (1, 1)
    assert _rows(ctx, "crm/valid")["city"].to_list() == ["Besançon"]
    [bad] = _rows(ctx, "crm/quarantine").to_dicts()
    assert (bad["customer_id"], bad["email"], bad["city"], bad["codes"]) == ("C-2", "pas une adresse", "Sète", ["email_invalid"])  # fmt: skip
    assert bad["record"] == rows[1]
    assert "INUTILE" in next(notice["message"] for notice in counts["notices"] if notice["code"] == "extra_columns")


def test_each_file_of_a_day_is_read_by_its_own_header(landing):
    """Another order and columns of its own shift no value."""
    landing.write(f"{CRM}/a.csv", f"{CRM_HEADER}\nC-1,c1@example.org,+33639980001,,{NOW}\n")
    landing.write(f"{CRM}/b.csv", f"updated_at,phone,x,email,customer_id\n{NOW},+33639980002,?,c2@example.org,C-2\n")
    ctx = landing.context()
    _validated(ctx)
    assert _rows(ctx, "crm/valid").select("customer_id", "email", "phone", "updated_at").rows() == [
        (f"C-{n}", f"c{n}@example.org", f"+3363998000{n}", NOW) for n in (1, 2)
    ]


def test_no_text_is_taken_for_a_number_or_for_nothing(landing):
    """Zeros in front, exponents and the words of other programs for "no value" stay what they are."""
    words = ["007", "00359881", "1e5", "1.0", "-0", "NULL", "NaN", "N/A", "None", "true", "inf", "#REF!", "\\N"]
    ids = [f"{n}{word}" for n, word in enumerate(words)] + ["007", "1e5", "00359881"]
    rows = [f"{id_},c@example.org,{words[n % len(words)]},{NOW}" for n, id_ in enumerate(ids)]
    landing.write(f"{CRM}/customers.csv", "\n".join(("customer_id,email,city,updated_at", *rows, "")))
    ctx = landing.context()
    _validated(ctx)
    valid = _rows(ctx, "crm/valid")
    assert valid["customer_id"].to_list() == ids
    assert valid["city"].to_list() == [words[n % len(words)] for n in range(len(ids))]


def test_a_sync_may_ask_for_values_to_be_put_right(landing, emulator):
    """Before they are judged, and counted by column; the quarantine keeps what was read, and still finds its customer."""
    landing.write(
        f"{CRM}/customers.csv",
        _crm(
            f"C-1 ,ada@Example.org,06 39 98 00 01,,{NOW}",
            f" C-2,,06 39 98 00 02,,{NOW}",
            f"C-3,,0639980003,,{NOW}",
            f" C-3,,0639980003, 2999-01-01,{NOW.replace('08', '09')}",
        ),
    )
    landing.write(f"{POS}/receipts.csv", _pos(f"T-1, C-2 ,{NOW},1.00,EUR"))
    ctx = landing.context(host=emulator.url)
    off = pipeline.run(ctx)
    assert (off.rows["quarantined"], off.pos["quarantined"]) == (4, 1)
    assert not any(notice.startswith("normalised") for notice in off.notices)

    ctx = landing.context("cli-2", host=emulator.url)
    sync = replace(ctx.sync, normalise=Normalise(phone_region="FR", email=True, text=True))
    ctx = replace(ctx, sync=sync)
    landing.made.append(ctx)
    done = pipeline.run(ctx)
    assert (done.rows["accepted"], done.rows["quarantined"], done.pos["used"]) == (2, 2, 1)
    assert {"normalised: customer_id 3, email 1, phone 4, birthday 1 (crm)", "normalised: customer_id 1 (pos)"} <= set(
        done.notices
    )
    assert emulator.profiles["C-1"]["attributes"]["$phone_number"] == "+33639980001"
    assert emulator.profiles["C-1"]["attributes"]["$email_address"] == "ada@example.org"
    [bad] = _rows(ctx, "crm/quarantine").to_dicts()
    assert (bad["customer_id"], bad["phone"], bad["codes"]) == (" C-3", "0639980003", ["birthday_invalid"])
    assert bad["record"].startswith(" C-3,,0639980003, 2999")
    assert {"code": "newer_version_quarantined", "count": 1} in done.reasons


@pytest.mark.parametrize("kept", ["email", "phone"])
def test_one_contact_column_is_enough(landing, kept):
    """A CRM may know addresses only, or telephones only."""
    value = {"email": "ada@example.org", "phone": "+33639980001"}[kept]
    landing.write(f"{CRM}/customers.csv", f"customer_id,{kept},updated_at\nC-1,{value},{NOW}\n")
    assert _validated(landing.context())["crm"]["valid"] == 1


# --- files -------------------------------------------------------------------------------------------------------------

BREACHES = {
    "a required column is missing": ("header_missing_column", "customer_id,email\nC-1,ada@example.org\n"),
    "no contact column": ("header_missing_column", f"customer_id,city,updated_at\nC-1,Lyon,{NOW}\n"),
    "no id column": ("header_missing_column", f"email,phone,updated_at\nada@example.org,,{NOW}\n"),
    "a column stands twice": ("header_duplicate", f"customer_id,email,email,updated_at\nC-1,a@example.org,,{NOW}\n"),
    "another delimiter": ("header_one_column", CRM_HEADER.replace(",", ";") + "\n"),
    "another encoding": ("encoding_broken", _good(1).encode() + b"C-2,\xe9@example.org,,,\n"),
    "0 bytes": ("file_empty", b""),
    "blank lines only": ("file_empty", b"\n\n"),
}


@pytest.mark.parametrize(("code", "content"), BREACHES.values(), ids=BREACHES)
def test_a_breach_sends_nothing_and_is_mended_by_a_good_file(landing, emulator, code, content):
    """Exit 3, no rows and the reason; then the same run, or a new one, carries the mended file."""
    landing.write(f"{CRM}/a.csv", _good(1, 2))
    landing.write(f"{CRM}/b.csv", content)
    landing.write(f"{POS}/receipts.csv", _pos(f"T-1,C-1,{NOW},1.00,EUR"))
    refused = pipeline.run(landing.context("cli-1", host=emulator.url))
    assert (refused.exit_code, refused.state, refused.balanced) == (3, "unfinished", True)
    assert (set(refused.rows.values()), set(refused.pos.values()), refused.batches) == ({0}, {0}, [])
    assert refused.reasons == [{"code": code, "count": 1}]
    assert f"{CRM}/b.csv" in refused.notices[0]
    assert "c1@example.org" not in json.dumps(refused.as_dict())
    assert emulator.requests == []

    landing.write(f"{CRM}/b.csv", _good(3))
    mended = pipeline.run(landing.context("cli-1", host=emulator.url))
    assert (mended.exit_code, mended.rows["accepted"], mended.pos["used"]) == (0, 3, 1)
    assert sorted(emulator.profiles) == ["C-1", "C-2", "C-3"]
    assert pipeline.run(landing.context("cli-2", host=emulator.url)).rows["unchanged"] == 3


@pytest.mark.parametrize("cut", ["gzip", "parquet"])
def test_a_cut_file_is_a_breach(landing, cut):
    """However much of it can be read."""
    if cut == "gzip":
        packed, name = gzip.compress(_good(*range(500)).encode()), "customers.csv.gz"
    else:
        frame = pl.read_csv(_good(*range(500)).encode(), infer_schema=False)
        frame.write_parquet(path := landing.write("made.parquet", b""))
        packed, name = path.read_bytes(), "customers.parquet"
    landing.write(f"{CRM}/{name}", packed[:-20])
    report = pipeline.run(landing.context())
    assert (report.exit_code, report.rows["records_in"]) == (3, 0)
    assert report.reasons[0]["code"] == {"gzip": "gzip_cut", "parquet": "parquet_broken"}[cut]


@pytest.mark.parametrize(("promised", "exit_code"), [(2, 3), (3, 1), (4, 3)])
def test_a_manifest_promises_records(landing, emulator, promised, exit_code):
    """Every record counts, those that cannot be parsed too; any other number is a breach."""
    content = _good(1, 2) + "C-3,cut\n\n"
    landing.write(f"{CRM}/customers.csv", content)
    digest = hashlib.sha256(content.encode()).hexdigest()
    entry = {"name": "customers.csv", "sha256": digest, "rows": promised}
    landing.write(f"{CRM}/manifest.json", json.dumps({"files": [entry]}))
    report = pipeline.run(landing.context(host=emulator.url))
    assert report.exit_code == exit_code
    if exit_code == 3:
        assert report.reasons == [{"code": "manifest_mismatch", "count": 1}]
        assert emulator.requests == []


def test_a_breach_of_the_pos_export_stops_the_run_too(landing):
    """Purchases of 29 days would be a false figure."""
    landing.write(f"{CRM}/customers.csv", _good(1))
    landing.write("pos/2026-03-20/receipts.csv", "one column\n")
    report = pipeline.run(landing.context())
    assert (report.exit_code, report.reasons[0]["code"]) == (3, "header_one_column")
    assert "pos/2026-03-20/receipts.csv" in report.notices[0]


def test_a_missing_crm_export_is_reported_like_a_breach(landing):
    """The reason names the folder."""
    landing.write(f"{POS}/receipts.csv", _pos())
    report = pipeline.run(landing.context())
    assert (report.exit_code, report.reasons) == (3, [{"code": "crm_missing", "count": 1}])
    assert set(report.rows.values()) == {0}
    assert CRM in report.notices[0]


def test_a_header_without_rows_is_an_empty_export(landing):
    """Exit 0, nothing to send, and a notice."""
    landing.write(f"{CRM}/customers.csv", CRM_HEADER + "\n")
    landing.write(f"{POS}/receipts.csv", POS_HEADER)
    report = pipeline.run(landing.context())
    assert (report.exit_code, report.state, set(report.rows.values())) == (0, "done", {0})
    assert sum(notice.startswith("no_records") for notice in report.notices) == 2


def test_the_notices_of_a_run_name_what_was_not_read(landing):
    """Other files, missing days, and columns without use."""
    landing.write(f"{CRM}/customers.csv", CRM_HEADER + ",shoe_size\n")
    landing.write(f"{CRM}/customers.csv.part", CRM_HEADER)
    notices = pipeline.run(landing.context()).notices
    assert notices[0] == "pos_incomplete"
    for said in ("pos_gaps: no POS export for 30 of 30 days", f"{CRM}/customers.csv.part", "shoe_size"):
        assert any(said in notice for notice in notices)


# --- the snapshot, and places that are URLs ----------------------------------------------------------------------------


def test_a_run_that_goes_on_reads_its_snapshot(landing, emulator):
    """What lands after the snapshot was taken, or goes away, is the next run's business."""
    path = landing.write(f"{CRM}/customers.csv", _good(1, 2))
    ctx = landing.context(host=emulator.url)
    pipeline.begin(ctx)
    pipeline.do(ctx, "extract")
    path.unlink()
    landing.write(f"{CRM}/later.csv", _good(3, 4, 5))
    report = pipeline.run(landing.context(host=emulator.url))
    assert report.rows["accepted"] == 2
    assert [source["file"] for source in report.sources] == [f"{CRM}/customers.csv"]


def test_landing_and_work_may_be_urls(landing, emulator, s3):
    """The same run, plan and report as with local folders; the ledger is elsewhere then."""
    content = _good(*range(450)) + "C-1,newer but broken\nC-2,c2@example.org,,bad," + NOW + "\n"
    receipts = _pos(*(f"T-{n},C-{n % 50},{NOW},1.50,EUR" for n in range(200)))
    local = landing.context(host=emulator.url)
    remote = landing.context(
        host=emulator.url, landing=f"{s3}/there", work=f"{s3}/work", ledger=f"sqlite:///{landing.root}/other.db"
    )
    for place in (local.landing, remote.landing):
        place.write_bytes(f"{CRM}/customers.csv", content.encode())
        place.write_bytes(f"{POS}/receipts.csv", receipts.encode())
    assert pipeline.prepare(remote) == pipeline.prepare(local)
    assert [p.name for p in landing.root.glob("work/**/private")]
    reports = []
    for ctx in (remote, local):
        emulator.session.post(f"{emulator.url}/_control/reset", timeout=10)
        reports.append(pipeline.run(ctx).as_dict() | {"batches": None})
    assert reports[0] == reports[1]
    assert reports[0]["rows"]["accepted"] == 449
    assert len(emulator.profiles) == 449
    again = landing.context("cli-2", host=emulator.url, landing=remote.settings.landing, work=remote.settings.work, ledger=remote.settings.ledger)  # fmt: skip
    assert pipeline.run(again).rows["unchanged"] == 449
