"""Nothing personal and no secret reaches Airflow: canaries through Dag runs that go well and badly, then looked for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from canaries import found, found_in_files
from etl import pipeline
from etl.emulator.batch import DEMO_API_KEY

pytestmark = pytest.mark.airflow

DAY, BROKEN_DAY = date(2026, 11, 21), date(2026, 11, 20)
CANARIES = ("canaryid", "canary.mail", "+3363998777", "Canarína", "canarytag", "CANARYRECEIPT", DEMO_API_KEY)
HEADER = "customer_id,email,phone,first_name,tags,birthday,updated_at"


def _customer(number: int, birthday: str = "") -> str:
    email, phone = f"canary.mail{number}@example.org", f"+33639987{700 + number}"
    return f"canaryid-{number},{email},{phone},Canarína,canarytag,{birthday},{DAY}T08:00:00Z"


def _land(folder: Path, *rows: str) -> None:
    folder.mkdir(parents=True)
    (folder / "export.csv").write_text("\n".join((*rows, "")), encoding="utf-8")


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    """Good rows, broken ones, and a day whose header is a customer."""
    root = tmp_path / "landing"
    good = [_customer(number) for number in range(70, 90)]
    _land(
        root / "crm" / str(DAY), HEADER, *good, _customer(90, "canary.mail90@example.org"), _customer(91) + ",surplus"
    )
    _land(root / "crm" / str(BROKEN_DAY), *good)
    receipts = [f"CANARYRECEIPT-{n},canaryid-7{n},S1,{DAY}T08:00:00Z,canary.mail,EUR" for n in range(5)]
    _land(root / "pos" / str(DAY), "transaction_id,customer_id,store_id,occurred_at,total,currency", *receipts)
    return root


def test_nothing_personal_reaches_airflow(
    airflow: Callable[..., Any],
    landing: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its logs, what it prints, every table of its database: also where a vendor, or a library, repeats a value."""
    really, tries = pipeline.STEPS["transform"], list[int]()

    def broken_once(ctx: Any) -> dict[str, Any]:
        tries.append(1)
        if len(tries) == 1:
            email = "canary.mail71@example.org"
            raise ValueError(f"{email} is no number")
        return really(ctx)

    monkeypatch.setitem(pipeline.STEPS, "transform", broken_once)
    echo = "canaryid-71 canary.mail71@example.org +33639987771"
    refusal = {"status": 400, "body": {"error_code": echo, "error_message": echo}, "times": 2}
    here = airflow(refusal, {"status": 500, "body": echo, "times": 1}, landing=landing)
    ran = here.run({"date": str(DAY)})
    assert (ran.state, len(tries)) == ("success", 2)
    _look(b'"accepted"')
    assert here.run({"date": str(BROKEN_DAY)}).state == "failed"
    _look(b"failed")
    shown = caplog.text + "".join(capfd.readouterr())
    assert "internal error: ValueError at test_privacy.py" in shown
    assert found(CANARIES, shown) == []
    assert found_in_files(CANARIES[:1], here.work), "the search can find something"


def _look(expected: bytes) -> None:
    """Into all files of Airflow, and into its database, in which a run has left something that can be expected there."""
    home = Path(os.environ["AIRFLOW_HOME"])
    assert found_in_files(CANARIES, home) == {}
    tables = _tables(home / "airflow.db")
    assert expected in tables["xcom"] + tables["task_instance"]
    assert {name: hits for name, values in tables.items() if (hits := found(CANARIES, values))} == {}


def _tables(file: Path) -> dict[str, bytes]:
    """Every value of every table, as it is stored."""
    with closing(sqlite3.connect(file)) as db:
        db.text_factory = bytes
        names = [name.decode() for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        rows = {name: db.execute(f'select * from "{name}"').fetchall() for name in names}  # noqa: S608  (names of tables)
    values = {name: [value for row in found for value in row] for name, found in rows.items()}
    return {
        name: b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in found)
        for name, found in values.items()
    }
