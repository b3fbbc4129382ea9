"""The benchmarks that call what is inside still work; the others go by commands and steps that have tests of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from etl.settings import ROOT


@pytest.mark.parametrize(
    ("command", "said"),
    [("delta.py --profiles 1000", "10 are sent"), ("bad_rows.py --rows 1000", "balanced: True")],
)
def test_a_benchmark_measures_little_as_well_as_much(command, said, tmp_path):
    """It ends well, and what it measured was done."""
    script, *options = command.split()
    folder = ["--work", str(tmp_path)] if script == "delta.py" else []
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "benchmarks" / script), *options, *folder],
        cwd=ROOT, check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, said in ended.stdout) == (0, True), ended.stderr
