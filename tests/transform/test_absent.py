"""Absent: who has disappeared from a full export is counted, and nothing is sent of them."""

from __future__ import annotations

import shutil
from datetime import date, timedelta

from etl.report import as_text

MONDAY = date(2026, 3, 2)
TUESDAY, WEDNESDAY = MONDAY + timedelta(days=1), MONDAY + timedelta(days=2)


def test_customers_who_disappeared_are_counted(installation, emulator):
    """Against the newest earlier day that was run; the first run has nothing to compare with."""
    installation.land({"C-1": {}, "C-2": {}, "C-3": {}})
    assert installation.run().absent is None
    installation.land({"C-1": {}, "C-2": {}}, TUESDAY)
    report = installation.run(TUESDAY)
    assert (report.absent, report.rows["records_in"], report.exit_code) == (1, 2, 0)
    assert "1  customers of the last day that was run are absent" in as_text(report)
    assert emulator.profiles["C-3"]["updates"] == 1
    installation.land({"C-1": {}}, WEDNESDAY)
    assert installation.run(WEDNESDAY).absent == 1
    assert installation.run(TUESDAY).absent == 1  # what later days say is no matter


def test_a_customer_whose_row_is_bad_is_not_absent(installation):
    """They are in quarantine, and that is what the report says."""
    installation.land({"C-1": {}, "C-2": {}})
    installation.run()
    installation.land({"C-1": {"email": "nowhere"}, "C-3": {}}, TUESDAY)
    assert installation.run(TUESDAY).absent == 1


def test_where_the_rows_of_the_earlier_run_are_gone_nothing_is_claimed(installation):
    """Purged, say: null, and not 0."""
    installation.land({"C-1": {}})
    installation.run()
    for private in (installation.root / "work" / installation.sync.name).rglob("private"):
        shutil.rmtree(private)
    installation.land({"C-2": {}}, TUESDAY)
    assert installation.run(TUESDAY).absent is None
