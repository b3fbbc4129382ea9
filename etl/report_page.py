"""The run report as one page for people: no script, nothing loaded, every value escaped; for screen, phone and paper.

Markup is made by `_tag` only, which escapes whatever is not markup that it made itself.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from etl.model import BatchState, RunReport
from etl.report import NOTICES, OPT_OUTS_SENT, next_step, sentence_of
from etl.storage import Place

# What it means that a record ended there; docs/report.md says the same.
ENDS = {
    "unparsable": "it cannot be split into the columns of the header",
    "quarantined": "it breaks the contract, or a newer version of the same customer does",
    "deduplicated": "another row of the same customer is newer",
    "unchanged": "the account was told just the same before",
    "superseded": "a run of a later day has spoken of the customer",
    "unsendable": "it is valid, and the vendor would not take it",
    "deferred": "--limit or the quota left no room for it",
    "not_sent": "nothing of it left this machine",
    "rejected": "the vendor refused it",
    "unknown": "it was sent, and no trustworthy answer came",
    "accepted": "the vendor took it, and offers no confirmation",
    "confirmed": "its batch is complete, and the vendor's counters say so",
    "failed_at_destination": "the vendor says that it failed",
    "not_found": "the vendor says that it knows no such profile",
    "unreported": "the vendor does not tell what became of it",
    "processing": "the vendor is still at work",
    "stuck": "the vendor gave its batch up halfway",
}
RECEIPT_ENDS = {
    "unparsable": ENDS["unparsable"],
    "quarantined": "it breaks the contract",
    "deduplicated": "the same receipt has come before",
    "anonymous": "it names no customer",
    "orphaned": "its customer is not among those who go out",
    "used": "it counts for its customer",
}
_COLOURS = {"done": "good", "attention": "warn", "unfinished": "bad", "unbalanced": "bad"}
_QUIET = (BatchState.ACCEPTED.value, BatchState.COMPLETE.value)
_SHOWN_BATCHES = 100
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6678; --line: #dfe3ea; --card: #fff; --paper: #f5f6f8;
  --good: #17803d; --warn: #a84b07; --bad: #c02626; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa5b5; --line: #2b3340; --card: #181e27;
  --paper: #10141b; --good: #4cc275; --warn: #e3a13c; --bad: #f07070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.25rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; line-height: 1.3; margin: 0; } h2 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
h1, p, li, td { unicode-bidi: isolate; }
.soft, th { color: var(--soft); } .good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.state { border: 2px solid currentcolor; border-radius: .4rem; display: inline-block; font-weight: 700; margin: .75rem 0 0;
  padding: .1rem .6rem; text-transform: uppercase; }
table { background: var(--card); border: 1px solid var(--line); border-collapse: collapse; font-size: .92rem; width: 100%; }
th { font-weight: 500; text-align: left; } th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; vertical-align: top; }
.number { text-align: right; white-space: nowrap; width: 1%; } td.name { font-weight: 600; min-width: 14.5rem; }
ul { margin: 0; padding-left: 1.2rem; } summary { cursor: pointer; margin-top: .75rem; }
@media (max-width: 40rem) { td.name { min-width: 5rem; } th.soft, td.soft, tr:has(th:last-child:not([class])) { display: none; }
  tr:has(td:last-child:not([class])) { border-bottom: 1px solid var(--line); display: flex; flex-wrap: wrap;
    td { border: 0; flex: 1 0 100%; } .number { flex: 0 0 auto; min-width: 4.5rem; } td.name { flex: 1; } } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --card: #fff; --paper: #fff;
  --good: #000; --warn: #000; --bad: #000; } body { font-size: 10pt; max-width: none; padding: 0; } h2 { break-after: avoid; }
  tr { break-inside: avoid; } }
"""
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'"
)


class _Markup(str):
    """Text that `_tag` has made, and does not escape again."""

    __slots__ = ()


def write(report: RunReport, output: Path) -> None:
    """Writes the page of a report, whole or not at all; raises OSError."""
    if output.is_dir():
        raise IsADirectoryError(21, "it is a folder")
    Place(str(output.parent)).write_bytes(output.name, page(report).encode(errors="backslashreplace"))


def page(report: RunReport) -> str:
    """The whole page."""
    title = f"{report.sync} to {report.destination}, {report.date}"
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("title", title),
        _tag("style", _Markup(_STYLE)),
    )
    body = _tag(
        "body",
        _tag("h1", title),
        _tag("p", f"run {report.run_id}", class_="soft"),
        _tag("p", f"{report.state}, exit code {report.exit_code}", class_=f"state {_COLOURS.get(report.state, 'bad')}"),
        *_summary(report),
        *_section("Notices", _list(NOTICES.get(notice, notice) for notice in report.notices)),
        *_section("CRM records", *_ends(report.rows, "A record ends here when", ENDS)),
        *_section("Reasons (CRM records)", _reasons(report)),
        *_section("Delivery", *_delivery(report)),
        *_section("POS receipts of 30 days", *_ends(report.pos, "A receipt ends here when", RECEIPT_ENDS)),
        *_section("Sources", _sources(report)),
    )
    return f"<!doctype html>\n{_tag('html', head, body, lang='en')}\n"


def _tag(name: str, /, *children: str, **attributes: str) -> _Markup:
    """An element; an attribute that Python cannot spell is written `class_`, `http_equiv`."""
    said = (f' {key.strip("_").replace("_", "-")}="{escape(value)}"' for key, value in attributes.items())
    inside = "".join(child if isinstance(child, _Markup) else escape(child) for child in children)
    return _Markup(f"<{name}{''.join(said)}>" + ("" if name == "meta" else f"{inside}</{name}>\n"))


def _section(title: str, *parts: _Markup | None) -> Iterable[_Markup]:
    """A heading and what stands under it, if there is anything."""
    there = [part for part in parts if part is not None]
    return [_tag("h2", title), *there] if there else []


def _table(heads: Mapping[str, str], rows: Iterable[Iterable[str | int]]) -> _Markup | None:
    """A table; the heads say the class of their columns. None without rows."""
    body = [
        _tag("tr", *(_cell("td", cell, kind) for cell, kind in zip(row, heads.values(), strict=True))) for row in rows
    ]
    return (
        _tag("table", _tag("tr", *(_cell("th", head, kind) for head, kind in heads.items())), *body) if body else None
    )


def _cell(name: str, cell: str | int, kind: str) -> _Markup:
    return _tag(name, f"{cell:,}" if isinstance(cell, int) else cell, **({"class_": kind} if kind else {}))


def _list(texts: Iterable[str]) -> _Markup | None:
    items = [_tag("li", text) for text in texts]
    return _tag("ul", *items) if items else None


def _summary(report: RunReport) -> Iterable[_Markup]:
    if not report.rows["records_in"] and report.exit_code:
        yield _tag("p", "Nothing was sent.")
    yield _tag("p", next_step(report))
    unsubscribed = f"; {report.absent_unsubscribed:,} of these have disappeared" if report.absent_unsubscribed else ""
    beside = (
        (report.carried, "of the CRM records were carried forward from earlier exports."),
        (report.absent, "customers of the last day that was run are absent from this export."),
        (report.optouts_sent, f"{OPT_OUTS_SENT}{unsubscribed}."),
        (report.duplicates_possible, "rows may have been delivered twice: their first outcome is unknown."),
    )
    for count, said in beside:
        if count:
            yield _tag("p", f"{count:,} {said}")


def _ends(counts: Mapping[str, int], when: str, sentences: Mapping[str, str]) -> Iterable[_Markup | None]:
    """Where records ended, and whether that is all of them."""
    total, there = counts["records_in"], {name: counts[name] for name in sentences if counts[name]}
    heads = {"Records": "number", "Bucket": "name", when: ""}
    yield _table(heads, ((count, name.replace("_", " "), sentences[name]) for name, count in there.items()))
    if there:
        sign, kind = ("=", "soft") if sum(there.values()) == total else ("IS NOT", "bad")
        yield _tag("p", f"{sum(there.values()):,} together {sign} {total:,} records read", class_=kind)


def _reasons(report: RunReport) -> _Markup | None:
    heads = {"Records": "number", "Code": "name", "It means": ""}
    return _table(heads, ((r["count"], r["code"], sentence_of(r["code"])) for r in report.reasons))


def _delivery(report: RunReport) -> Iterable[_Markup | None]:
    """The batches by state, those that a person may want to look up one by one, and the quota."""
    of_state: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for batch in report.batches:
        of_state[batch["state"]].append(batch)
    heads = {"Batches": "number", "State": "name", "Rows": "number", "Bytes": "number", "Attempts": "number"}
    sums = ("rows", "bytes", "attempts")
    yield _table(
        heads,
        (
            (len(some), state, *(sum(batch[name] for batch in some) for name in sums))
            for state, some in of_state.items()
        ),
    )
    odd = [batch for batch in report.batches if batch["state"] not in _QUIET or batch["attempts"] > 1]
    if odd:
        names = {"Id": "", "State": "name", "Rows": "number", "Bytes": "number", "Attempts": "number"}
        rows = _table(names, ((b["id"], b["state"], *(b[name] for name in sums)) for b in odd[:_SHOWN_BATCHES]))
        more = f", of which the first {_SHOWN_BATCHES} are here" if len(odd) > _SHOWN_BATCHES else ""
        said = f"Batches that took more than one attempt or are not delivered: {len(odd):,}{more}"
        yield _tag("details", _tag("summary", said), rows or "")
    if report.quota:
        limit = "no quota" if report.quota["limit"] is None else f"of {report.quota['limit']:,}"
        hours = f"{report.quota['window_hours']:g}"
        yield _tag("p", f"Quota: {report.quota['used']:,} rows used in {hours} hours, {limit}.")


def _sources(report: RunReport) -> _Markup | None:
    heads = {"Export": "", "File": "name", "Records": "number", "Bytes": "number", "SHA-256": "soft"}
    return _table(heads, ((s["export"], s["file"], s["records"], s["bytes"], s["sha256"]) for s in report.sources))
