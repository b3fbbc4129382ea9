"""A sixth destination: the seam is where it should be if a vendor that nobody has heard of fits in as the guide says."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from etl import cli, syncs
from etl.destinations import ENDPOINTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GUIDE = (ROOT / "docs" / "destinations" / "README.md").read_text().partition("\n## Adding a destination\n")[2]
FILES = re.findall(r"^\| ([A-Za-z' ]+) \| `([^`]+)` \|", GUIDE, re.MULTILINE)
NUMBERS = {3: "Three", 4: "Four", 5: "Five"}
# Invented exports and a look around on one's own machine are no part of a delivery.
SCENERY = {"etl/sample.py", "etl/sample_defects.py", "etl/airflow/home.py"}


def _sources() -> Iterator[tuple[str, str]]:
    for folder in ("etl", "contracts", "dags"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".toml"}:
                yield path.relative_to(ROOT).as_posix(), path.read_text()


def test_the_suite_holds_it_to_every_rule(stands):
    """It stands among the others, and the tests do not ask who is who."""
    assert "herald" in [stand.endpoint for stand in stands]
    for path in HERE.glob("test_*.py"):
        if path != Path(__file__):
            assert re.findall(r"batch_\w*update|adobe_target|releva|herald", path.read_text()) == []


def test_every_endpoint_stands_in_the_suite(stands):
    """A new one cannot be forgotten."""
    assert {stand.endpoint for stand in stands} == {*ENDPOINTS, "herald"}


def test_nothing_in_the_house_knows_it():
    """And still it delivers."""
    assert [path for path, text in _sources() if "herald" in text.lower()] == []


def test_it_is_one_module():
    """It imports what any destination may, and no other of them."""
    tree = ast.parse((HERE / "herald.py").read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in modules if name and name.startswith("etl")} <= {
        "etl.client", "etl.destinations", "etl.destinations.base", "etl.errors", "etl.limits", "etl.model", "etl.settings",
    }  # fmt: skip


def test_the_guide_counts_the_files_that_a_delivery_needs():
    """One new module and three entries; what else it names is for proof, rehearsal and people."""
    needed = [file for purpose, file in FILES if purpose == "delivering"]
    assert needed == [
        "etl/destinations/herald.py", "etl/destinations/__init__.py", "etl/limits.toml", "etl/syncs.py",
    ]  # fmt: skip
    assert GUIDE.strip().startswith(f"{NUMBERS[len(needed)]} files make a sixth one deliver.")


def test_the_guide_names_every_place_that_knows_a_vendor():
    """Whatever file mentions the vendor who has nothing to himself is a file that the next one touches, too."""
    knows = {path.replace("releva", "herald") for path, text in _sources() if "releva" in text.lower().split()}
    knows |= {path.replace("releva", "herald") for path, text in _sources() if re.search(r"[\"'\[.]releva\b", text)}
    assert knows - SCENERY <= {file for _, file in FILES}


@pytest.mark.parametrize("stand", ["herald"], indirect=True)
def test_every_command_can_do_with_it(account, monkeypatch):
    """A sync and a connection are all that an installation adds."""
    for name in [*syncs.SYNCS]:
        monkeypatch.delitem(syncs.SYNCS, name)
    sync = syncs.Sync(name="crm_to_herald", destination="herald", connection="herald_default")
    monkeypatch.setitem(syncs.SYNCS, sync.name, sync)
    connection = {"conn_type": "herald", "host": account.url, "password": account.connection().password.reveal()}
    monkeypatch.setenv("AIRFLOW_CONN_HERALD_DEFAULT", json.dumps(connection))
    for name in ("landing", "work"):
        monkeypatch.setenv(f"PROFILE_ETL_{name.upper()}", str(account.root / name))
    account.land({"customer_id": f"C-{n}", "email": f"c{n}@example.org", "city": "Lyon"} for n in range(60))

    def command(*words: str) -> str:
        done = CliRunner().invoke(cli.app, words)
        assert done.exit_code == 0, done.output
        return done.output

    day = ("crm_to_herald", "--date", "2026-03-02")
    assert "herald is the destination" in command("plan", *day)
    assert '"accepted":60' in command("run", *day, "--json").replace(" ", "")
    assert "60  accepted" in command("report", *day)
    assert "herald: 60 rows" in command("status")
    command("doctor")
    assert len(account.cities) == 60
