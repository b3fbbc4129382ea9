"""`make demo`: what a newcomer sees first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from etl.settings import ROOT
from etl.syncs import SYNCS

pytestmark = pytest.mark.airflow

STEPS = ("extract", "validate", "transform", "pack", "plan", "load", "wait", "reconcile", "report")


def test_the_demo_shows_a_balanced_report_of_each_sync_and_where_its_files_are() -> None:
    """Exit code 0, every step as it begins, the reports for people, and folders that are there."""
    ended = subprocess.run(
        [sys.executable, "-m", "etl.airflow.demo"], cwd=ROOT, check=False, capture_output=True, text=True, timeout=180
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    for name in SYNCS:
        steps = "".join(f"  {step}\n" for step in STEPS)
        assert f"==> Dag {name} for 2026-11-21\n{steps}\n" in ended.stdout
    assert ended.stdout.count("together = 2,009 records read") == len(SYNCS)
    folders = [line.split(" are in ")[1] for line in ended.stdout.splitlines() if " are in " in line]
    assert len(folders) == len(SYNCS)
    assert all((Path(folder) / "run_report.json").is_file() for folder in folders)


def test_the_demo_fails_when_a_report_does_not_balance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One sync that is not accounted for spoils the result, whatever the others do."""
    from etl.airflow import demo

    monkeypatch.setattr(demo, "HOME", tmp_path / "demo")
    monkeypatch.setattr(demo, "make_database", lambda: None)
    monkeypatch.setattr(demo, "environment", lambda *_, **__: {})
    monkeypatch.setattr(demo, "SYNCS", {"one": None, "other": None})
    monkeypatch.setattr(demo, "run", lambda name: name == "one")
    assert demo.main() == 1
    monkeypatch.setattr(demo, "run", lambda name: True)
    assert demo.main() == 0
