"""Quarantined rows that a person put right: they go out with the day they are of, once, and the account says so."""

from __future__ import annotations

import csv
import json

import pytest

pytestmark = pytest.mark.filterwarnings("ignore:unclosed database")


class Desk:
    """A day of the shop, its exported quarantine, and a person who edits it."""

    def __init__(self, shop, day, path):
        self.shop, self.day, self.path = shop, day, path
        self.sync = ("crm_to_batch", "--date", day)

    def row(self, number, email, *, hour=8):
        return f"{self.day}-{number},{email},,Lyon,{self.day}T{hour:02}:00:00Z"

    def run(self, *rows):
        """Lands the rows, if any, and runs the day."""
        if rows:
            self.shop.land(self.day, *rows)
        return json.loads(self.shop("run", *self.sync, "--json").stdout)

    def export(self):
        assert self.shop("quarantine", "export", *self.sync, "--output", str(self.path)).returncode == 0

    def edit(self, number, **values):
        """Puts values into the row of a line of the export."""
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            if row["line"] == str(number):
                row.update(values)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def release(self, *options):
        return self.shop("quarantine", "release", *self.sync, "--input", str(self.path), *options)

    def ends(self, report):
        return {name: count for name, count in report["rows"].items() if count and name != "records_in"}


@pytest.fixture
def desk(shop, tmp_path, request):
    """Each test has a day of its own."""
    tests = sorted(item.name for item in request.session.items if item.fspath == request.node.fspath)
    return Desk(shop, f"2026-05-{tests.index(request.node.name) + 1:02}", tmp_path / "rows.csv")


def test_rows_that_were_put_right_go_out_once(desk):
    """Also a record that could not be parsed; what nobody touched stays, and the next run of the day knows it all."""
    day = desk.day
    first = desk.run(desk.row(1, "one@example.org"), desk.row(2, "nobody"), "surplus,,,,,,", desk.row(4, "=1+1"))
    assert desk.ends(first) == {"accepted": 1, "quarantined": 2, "unparsable": 1}
    desk.export()
    desk.edit(3, email="two@example.org")
    desk.edit(4, customer_id=f"{day}-3", email="three@example.org", updated_at=f"{day}T08:00:00Z")
    done = desk.release("--json")
    report = json.loads(done.stdout)
    assert (done.returncode, desk.ends(report)) == (1, {"unchanged": 1, "accepted": 2, "quarantined": 1})
    assert report["run_id"].startswith("release-")
    assert (
        f"corrected: 2 CRM records count as they were put right, of the quarantine of {first['run_id']}"
        in report["notices"]
    )
    listed = desk.shop("quarantine", "list", *desk.sync).stdout.splitlines()
    assert listed[0] == "1 rows; 2 records count as they were put right"
    assert listed[-1] == f"crm/{day}/customers.csv:5  email_invalid"
    calls = len(desk.shop.calls())
    again = desk.release()
    assert (again.returncode, again.stdout) == (0, "nothing to do: no row was changed\n")
    assert desk.ends(desk.run()) == {"unchanged": 3, "quarantined": 1}
    assert len(desk.shop.calls()) == calls
    assert "line 3: accepted" in desk.shop("explain", "--id", "-", stdin=f"{day}-2\n").stdout


def test_an_older_copy_undoes_nothing(desk):
    """Two people mend rows of one export, each in a copy: what the second one left as it was stays as the first put it right."""
    desk.run(desk.row(1, "one@example.org"), desk.row(2, "nobody"), "surplus,,,,,,", desk.row(4, "nobody"))
    desk.export()
    untouched = desk.path.read_bytes()
    desk.edit(3, email="two@example.org")
    desk.edit(4, customer_id=f"{desk.day}-3", email="three@example.org", updated_at=f"{desk.day}T08:00:00Z")
    assert desk.ends(json.loads(desk.release("--json").stdout)) == {"unchanged": 1, "accepted": 2, "quarantined": 1}
    desk.path.write_bytes(untouched)
    assert desk.release().stdout == "nothing to do: no row was changed\n"
    desk.edit(5, email="four@example.org")
    assert desk.ends(json.loads(desk.release("--json").stdout)) == {"unchanged": 3, "accepted": 1}


def test_a_mended_file_is_not_written_over(desk):
    """Nobody's work is lost to a second export."""
    desk.run(desk.row(1, "one@example.org"), desk.row(2, "nobody"))
    desk.export()
    desk.export()
    desk.edit(3, email="two@example.org")
    mended = desk.path.read_bytes()
    done = desk.shop("quarantine", "export", *desk.sync, "--output", str(desk.path))
    assert (done.returncode, "1 mended rows that are not released" in done.stderr) == (2, True)
    assert desk.path.read_bytes() == mended


def test_a_correction_can_be_corrected(desk):
    """A row that is still wrong is quarantined again, by its new values; a later release goes on from there."""
    desk.run(desk.row(1, "nobody"))
    desk.export()
    desk.edit(2, email="still nobody")
    assert desk.release().returncode == 1
    desk.export()
    assert "still nobody" in desk.path.read_text()
    desk.edit(2, email="one@example.org")
    report = json.loads(desk.release("--json").stdout)
    assert (report["exit_code"], desk.ends(report)) == (0, {"accepted": 1})


def test_a_newer_row_of_the_customer_stays_the_last_word(desk):
    """An older row that was put right is not sent past one that is newer: in quarantine still, or sent already."""
    first = desk.run(
        desk.row(1, "nobody", hour=8), desk.row(1, "nobody either", hour=9),
        desk.row(2, "nobody", hour=8), desk.row(2, "two@example.org", hour=9),
    )  # fmt: skip
    assert desk.ends(first) == {"quarantined": 3, "accepted": 1}
    desk.export()
    desk.edit(2, email="one@example.org")
    desk.edit(4, email="old@example.org")
    report = json.loads(desk.release("--json").stdout)
    assert desk.ends(report) == {"quarantined": 2, "deduplicated": 1, "unchanged": 1}
    assert {"code": "newer_version_quarantined", "count": 1} in report["reasons"]
    desk.export()
    assert "one@example.org" in desk.path.read_text()


def test_a_newer_day_stays_the_last_word(desk):
    """What was put right is of its day."""
    desk.run(desk.row(1, "nobody"))
    later = f"{desk.day}T08:00:00Z".replace("2026", "2027")
    day = later[:10]
    desk.shop.land(day, f"{desk.day}-1,new@example.org,,Lyon,{later}")
    assert desk.shop("run", "crm_to_batch", "--date", day).returncode == 0
    desk.export()
    desk.edit(2, email="old@example.org")
    assert desk.ends(json.loads(desk.release("--json").stdout)) == {"superseded": 1}


def test_an_export_that_is_delivered_anew_knows_nothing_of_corrections(desk):
    """They were of the lines of another file; the report says so, once."""
    desk.run(desk.row(1, "nobody"))
    desk.export()
    desk.edit(2, email="one@example.org")
    desk.release()
    report = desk.run(desk.row(9, "nine@example.org"), desk.row(1, "nobody at all"))
    assert desk.ends(report) == {"accepted": 1, "quarantined": 1}
    [notice] = (notice for notice in report["notices"] if notice.startswith("corrections_outdated"))
    assert "corrections_outdated: 1 are of a file that was delivered anew since" in notice
    assert not any("correct" in notice for notice in desk.run()["notices"])


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"line": "99"}, "rows 1 under the header of"),
        ({"line": "x"}, "name no row that is quarantined"),
        ({"file": "crm/other.csv"}, "name no row that is quarantined"),
        ({"customer_id": "somebody-else", "email": "one@example.org"}, "have another customer_id"),
        ({"customer_id": "", "email": "one@example.org"}, "have another customer_id"),
        ({"line": "3"}, "rows 1, 2 under the header of"),
    ],
)
def test_what_cannot_be_a_correction_is_refused_whole(desk, edit, said):
    """Exit 2 with the places in the user's file and no value of it; nothing is sent."""
    desk.run(desk.row(1, "nobody"), desk.row(2, "nobody"))
    desk.export()
    desk.edit(2, **edit)
    calls = len(desk.shop.calls())
    done = desk.release()
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "somebody-else" not in done.stderr
    assert len(desk.shop.calls()) == calls


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "does not begin with the columns"),
        (b"customer_id,email\n", "does not begin with the columns"),
        (b"file,line,codes\n", "lacks columns of a CRM quarantine export (receipts cannot be released): avatar_url, "),
        (b"file,line\nM\xfc,1\n", "is not a CSV in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_export_is_refused(desk, content, said):
    """With what to do about it."""
    desk.run(desk.row(1, "nobody"))
    if content is not None:
        desk.path.write_bytes(content)
    done = desk.release()
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


def test_an_erased_customer_leaves_the_corrections_too(desk):
    """No file of the work folder has the address any more."""
    desk.run(desk.row(1, "nobody"))
    desk.export()
    desk.edit(2, email="forget-me@example.org")
    assert desk.release().returncode == 0
    assert _files_with(desk, b"forget-me@example.org")
    assert desk.shop("purge", "--id", "-", stdin=f"{desk.day}-1\n").returncode == 0
    assert not _files_with(desk, b"forget-me@example.org")


def _files_with(desk, text):
    return [path for path in desk.shop.work.rglob("*") if path.is_file() and text in path.read_bytes()]
