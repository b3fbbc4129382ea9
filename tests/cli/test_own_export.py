"""An export of a company's own: the worked example of docs/own-export.md, done, and what is said of one that is not right."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import requests

from etl import syncs
from etl.errors import ConfigError
from etl.start import START
from etl.sync_rules import problems
from etl.syncs import Export, Normalise, Sync, read_syncs

PAGE = (Path(__file__).parents[2] / "docs" / "own-export.md").read_text()
[FILE] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
[EXPORT] = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
DAY = "2026-04-01"
SYNC = Sync(name="shop", destination="batch", connection="batch_default")


@pytest.fixture
def example(shop, tmp_path):
    """The file that `init` writes, and the export of the page."""
    written = shop("init", "--output", str(tmp_path / "syncs.toml"))
    assert written.returncode == 0
    assert str(tmp_path / "syncs.toml") in written.stdout
    folder = tmp_path / "landing" / "crm" / DAY
    folder.mkdir(parents=True)
    (folder / "kunden.csv").write_text(EXPORT, encoding="cp1252")
    return {"PROFILE_ETL_SYNCS": str(tmp_path / "syncs.toml"), "PROFILE_ETL_LANDING": str(tmp_path / "landing")}


def test_the_worked_example_works(shop, example):
    """One file from `init`, one export: `doctor` is content, the run delivers, and nobody misses a POS export."""
    doctor = shop.process("doctor", **example)
    assert doctor.returncode == 0, doctor.stdout
    assert f"sync shop_to_batch: to batch; crm/{DAY}/kunden.csv looks as it says" in doctor.stdout
    assert "crm_to_batch" not in doctor.stdout
    done = shop.process("run", "shop_to_batch", "--date", DAY, "--json", **example)
    report = json.loads(done.stdout)
    assert (done.returncode, report["rows"]["accepted"]) == (0, 2)
    assert [notice for notice in report["notices"] if "pos" in notice] == []
    profiles = requests.get(f"{shop.url}/_control/profiles?vendor=batch", timeout=10).json()["profiles"]
    assert profiles["K-1001"]["attributes"] == {
        "$email_address": "joerg@example.org", "$email_marketing": "subscribed", "first_name": "Jörg",
        "last_name": "Müßig", "city": "Köln", "favourite_brand": "Größe & Söhne", "shoe_size": "44",
    }  # fmt: skip
    assert "shoe_size" not in profiles["K-1002"]["attributes"]


def test_what_init_writes_is_what_the_page_shows(shop, example):
    """And a file that is there is never written over."""
    assert Path(example["PROFILE_ETL_SYNCS"]).read_text() == FILE == START
    again = shop("init", "--output", example["PROFILE_ETL_SYNCS"])
    assert again.returncode == 2
    assert "is there already" in again.stderr
    nowhere = shop("init", "--output", f"{example['PROFILE_ETL_SYNCS']}/x.toml")
    assert nowhere.returncode == 2


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"batch" ', '"bach" ', "there is no destination 'bach'; do you mean batch?"),
        ('"first_name"', '"firstname"', "call 'VORNAME' 'firstname', which docs/contracts.md does not know; do you mean first_name?"),
        ("VORNAME", "VORNAMEN", "has no column first_name (in the export: VORNAMEN)"),
        ("SCHUHGROESSE", "SCHUH", "has no column shoe_size (in the export: SCHUH)"),
        ("KUNDENNR", "KUNDE", "lacks required columns: customer_id (in the export: KUNDE)"),
        ('delimiter = ";"', 'delimiter = "|"', "is probably not the one of this file"),
        ('"cp1252"', '"utf-8"', "is not UTF-8"),
        ('"batch_default"', '"shop_account"', "set AIRFLOW_CONN_SHOP_ACCOUNT"),
    ],
)  # fmt: skip
def test_doctor_says_what_does_not_fit(shop, example, monkeypatch, old, new, said):
    """Each mistake is a sentence with the user's own words in it, and exit 2."""
    file = Path(example.pop("PROFILE_ETL_SYNCS"))
    assert old in START
    file.write_text(START.replace(old, new))
    for name in [*syncs.SYNCS]:
        monkeypatch.delitem(syncs.SYNCS, name)
    for name, sync in read_syncs(file).items():
        monkeypatch.setitem(syncs.SYNCS, name, sync)
    done = shop("doctor", **example)
    assert done.returncode == 2
    assert said in done.stdout


def test_doctor_says_that_the_landing_folder_is_not_there(shop, tmp_path):
    """Which is something else than an empty one."""
    done = shop("doctor", PROFILE_ETL_LANDING=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "nowhere is not there" in done.stdout


@pytest.mark.parametrize(
    ("sync", "said"),
    [
        ({"crm": Export(delimiter=";;")}, "delimiter of crm"),
        ({"crm": Export(delimiter='"')}, "delimiter of crm"),
        ({"pos": Export(encoding="cp12252")}, "encoding of pos"),
        ({"pos": Export(columns={"BON": "receipt"})}, "columns of pos call 'BON' 'receipt'"),
        ({"attributes": {"SHOE": "Shoe size"}}, "attributes call 'SHOE' 'Shoe size': a name has"),
        ({"attributes": {"SHOE": "a" * 31}}, "30 at most"),
        ({"attributes": {"TOWN": "city"}}, "a name of ours"),
        ({"attributes": {"ROW": "row"}}, "a name of ours"),
        ({"attributes": {"A": "x", "B": "x"}}, "two attributes have the same name"),
        ({"attributes": {"A": "x"}, "crm": Export(columns={"A": "city"})}, "both columns and attributes"),
        ({"timezone": "Europe/Berln"}, "there is no timezone 'Europe/Berln'; do you mean Europe/Berlin?"),
        ({"timezone": ""}, "there is no timezone ''"),
        ({"schedule": "every night"}, "the schedule 'every night' is no cron expression"),
        ({"schedule": "0 2 * *"}, "no cron expression"),
        *(
            ({"normalise": Normalise(phone_region=none)}, f"the phone_region '{none}'")
            for none in ("FRA", "fr", "EU", "33")
        ),
    ],
)
def test_a_sync_that_cannot_work_is_refused(sync, said):
    """Before any file is read, by whatever runs it; and the sync as it was is fine."""
    assert problems(SYNC) == []
    [sentence] = problems(replace(SYNC, **sync))
    assert said in sentence


SHOP = "[shop]\ndestination = 'batch'\nconnection = 'batch_default'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[shop", "cannot be read"),
        ("", "has no sync"),
        ("shop = 1", "[shop]: a sync is a table"),
        ('["../shop"]', "letters, digits, - and _ only"),
        ("[shop]", "lacks connection and destination"),
        ("[shop]\ndestinatoin = 'batch'", "there is no setting 'destinatoin'; there are: name, destination"),
        ("[shop]\ndestination = 5", "destination must be of the kind str"),
        ("[shop]\ncrm = 'csv'", "[shop], crm must be a table"),
        ("[shop]\ncrm = false", "[shop], crm must be a table"),
        ("[shop.crm]\ndelimeter = ';'", "[shop], crm: there is no setting 'delimeter'"),
        ("[shop.crm.columns]\nMAIL = 1", "[shop], crm: columns has texts only, and 'MAIL' is none"),
        ("[shop.attributes]\nSHOE.SIZE = 'shoe'", "[shop]: attributes has texts only, and 'SHOE' is none"),
        ("[shop.on_blank]\ntags = ['clear']", "[shop]: on_blank has texts only, and 'tags' is none"),
        ("[shop.on_invalid]\nphone = true", "[shop]: on_invalid has texts only, and 'phone' is none"),
        ("[shop]\ncrm_max_age_days = true", "[shop]: crm_max_age_days must be of the kind int"),
        (f"{SHOP}on_blank.tags = 'cleer'", "syncs.toml: sync shop: on_blank has 'tags': 'cleer'"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, text, said):
    """A typing error in the user's file is a ConfigError with the file and the table in it."""
    (tmp_path / "syncs.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        read_syncs(tmp_path / "syncs.toml")
    assert "syncs.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_exit_2(shop, tmp_path):
    """Not a start with the samples."""
    done = shop.process("status", PROFILE_ETL_SYNCS=str(tmp_path / "gone.toml"))
    assert done.returncode == 2
    assert "gone.toml cannot be read" in done.stderr


def test_an_own_column_keeps_the_rule_of_any_text(shop, example, monkeypatch):
    """What breaks it is quarantined with a code, a sentence and its value; the names show in the exported CSV."""
    folder = Path(example["PROFILE_ETL_LANDING"], "crm", "2026-04-02")
    folder.mkdir()
    (folder / "kunden.csv").write_text(EXPORT.replace(";44", f";{'4' * 301}"), encoding="cp1252")
    monkeypatch.setitem(
        syncs.SYNCS, "shop_to_batch", read_syncs(Path(example.pop("PROFILE_ETL_SYNCS")))["shop_to_batch"]
    )
    day = ("shop_to_batch", "--date", str(date(2026, 4, 2)))
    done = shop("run", *day, **example)
    assert done.returncode == 1
    assert "shoe_size_invalid  shoe_size must be at most 300 characters" in done.stdout
    output = folder / "bad.csv"
    assert shop("quarantine", "export", *day, "--output", str(output), **example).returncode == 0
    header, row = output.read_text().splitlines()
    assert header.endswith("favourite_brand,shoe_size,record")
    assert "4" * 301 in row
