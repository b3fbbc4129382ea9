"""The page of a report: it says what the report says, and nothing in the report can act in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import report_page
from etl.errors import StorageError
from etl.model import POS_BUCKETS, BatchState, Bucket, RunReport
from etl.report_page import ENDS, RECEIPT_ENDS, page, write

DOCUMENT = (Path(__file__).parents[1] / "docs" / "report.md").read_text()
HOSTILE = "<script src=//evil.test>alert(1)</script>\"'><img onerror=x> &lt; </td></table></style>"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.opened.append((tag, tuple(attrs)))

    def handle_data(self, data):
        self.text += data


def report_of(text: str = "x", **changes) -> RunReport:
    """A report that has something of everything, with one text in every place that can hold one."""
    rows = {"records_in": len(Bucket), **{bucket.value: 1 for bucket in Bucket}}
    pos = {"records_in": len(POS_BUCKETS), **dict.fromkeys(POS_BUCKETS, 1)}
    known = {
        "sync": text, "date": text, "run_id": text, "destination": text, "state": text, "exit_code": 3,
        "sources": [{"export": text, "file": text, "sha256": text, "bytes": 7, "records": 2}],
        "rows": rows, "pos": pos, "reasons": [{"code": text, "count": 5}],
        "batches": [{"id": text, "rows": 3, "bytes": 90, "state": text, "attempts": 2}],
        "quota": {"limit": 1_000, "window_hours": 24, "used": 3}, "duplicates_possible": 4, "notices": [text],
        "carried": 8, "absent": 9, "optouts_sent": 10, "absent_unsubscribed": 7,
    }  # fmt: skip
    return RunReport(**known | changes)


def test_the_page_says_what_became_of_every_row():
    """State, every bucket with its sentence, reasons, delivery, quota, receipts, sources, notices, what to do."""
    text = " ".join(Elements(page(report_of("word", notices=["pos_incomplete"]))).text.split())
    for said in (*ENDS.values(), *RECEIPT_ENDS.values()):
        assert said in text
    for said in (
        "word to word, word", "exit code 3", "17 together = 17 records read", "6 together = 6 records read",
        "8 of the CRM records were carried forward", "9 customers of the last day", "10 opt-outs were sent alone", "7 of these have disappeared",
        "4 rows may have been delivered twice", "no purchase value was sent", "profile-etl retry",
        "3 rows used in 24 hours, of 1,000", "more than one attempt or are not delivered: 1", "Sources",
    ):  # fmt: skip
        assert said in text


def test_a_report_that_does_not_balance_says_so():
    """A missing row is not hidden behind a sum."""
    made = report_of()
    assert "IS NOT 99 records read" in Elements(page(replace(made, rows=made.rows | {"records_in": 99}))).text


def test_a_run_that_was_refused_has_a_page():
    """It has no rows, and a reason."""
    rows, pos = ({"records_in": 0, **dict.fromkeys(names, 0)} for names in (list(Bucket), POS_BUCKETS))
    made = report_of(rows=rows, pos=pos, batches=[], quota={}, sources=[], notices=["crm/2026-03-02 holds no export"])
    text = Elements(page(made)).text
    assert "Nothing was sent." in text
    assert "holds no export" in text


def test_thousands_of_batches_are_summed_up():
    """Only those that a person may want to look up stand alone, and of these no more than a screen can hold."""
    good = {"id": "b", "rows": 200, "bytes": 10, "state": BatchState.ACCEPTED.value, "attempts": 1}
    made = page(report_of(batches=[good] * 5_000))
    assert len(made) < 30_000
    assert "5,000" in Elements(made).text
    many = page(report_of(batches=[good | {"state": "unknown", "id": f"id-{n}"} for n in range(5_000)]))
    assert (many.count("id-"), "the first 100 are here" in many) == (100, True)


def test_every_bucket_has_the_sentence_of_the_document():
    """The page and docs/report.md explain the buckets alike."""
    assert list(ENDS) == list(Bucket)
    assert list(RECEIPT_ENDS) == list(POS_BUCKETS)
    rows = {
        name for row in re.findall(r"^\| (`.*?) \|", DOCUMENT, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert set(Bucket) <= rows
    assert [said for said in ENDS.values() if said not in DOCUMENT.replace("`", "")] == []


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from([HOSTILE, "&amp;", "<!--", "]]>", "\x00"]))
def test_no_text_of_a_report_becomes_markup(text):
    """Whatever a sync, a file, a column or a code is called, the elements and attributes are the page's own."""
    assert Elements(page(report_of(text))).opened == Elements(page(report_of())).opened


def test_a_hostile_name_is_shown_as_it_stands():
    """Nothing is taken away from it."""
    assert Elements(page(report_of(HOSTILE))).text.count(HOSTILE) >= 10


def test_the_page_loads_nothing_and_runs_nothing():
    """No script, no address, no style but its own, and a policy that says so."""
    made = page(report_of(HOSTILE))
    elements = Elements(made)
    assert {name for name, _ in elements.opened} == {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "ul", "li",
        "details", "summary",
    }  # fmt: skip
    attributes = {name for _, pairs in elements.opened for name, _ in pairs}
    assert attributes == {"lang", "charset", "http-equiv", "content", "name", "class"}
    [style] = re.findall(r"<style>(.*?)</style>", made, re.DOTALL)
    assert not re.search(r"url\(|@import|expression", style)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [
        dict(pairs)["content"] for _, pairs in elements.opened if ("http-equiv", "Content-Security-Policy") in pairs
    ]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    first = [name for name, _ in elements.opened].index("style")
    assert elements.opened.index(("meta", (("http-equiv", "Content-Security-Policy"), ("content", policy)))) < first


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """What stood there before stays until the new page is complete; a folder is never taken for a file."""
    output = tmp_path / "report.html"
    output.write_text("the page before")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", _half_written)
        with pytest.raises(StorageError, match="No space left"):
            write(report_of(), output)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("report.html", "the page before")]
    write(report_of(), output)
    assert output.read_text() == page(report_of())
    with pytest.raises(IsADirectoryError):
        write(report_of(), tmp_path)
    assert output.exists()


def _half_written(self: Path, content: bytes) -> None:
    with self.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError(28, "No space left on device")


def test_a_file_name_that_is_no_text_does_not_break_the_page(tmp_path):
    """Such a name comes from a disk, where any bytes are a name."""
    write(report_of("caf\udce9.csv"), tmp_path / "report.html")
    assert "caf\\udce9.csv" in (tmp_path / "report.html").read_text()


def test_the_style_is_what_the_policy_allows():
    """A browser leaves out a style whose hash differs; text that is escaped inside it would change the hash."""
    assert not re.search(r"[<&]", report_page._STYLE)


def test_a_real_report_has_a_page(installation):
    """What a run writes is enough for it."""
    installation.land(5)
    made = installation.run()
    text = " ".join(Elements(page(RunReport(**{k: v for k, v in json.loads(json.dumps(made.as_dict())).items() if k != "schema_version"}))).text.split())  # fmt: skip
    assert "done, exit code 0" in text
    assert "5 accepted the vendor took it" in text
