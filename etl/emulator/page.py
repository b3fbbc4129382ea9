"""The page at /: what arrived, for a person with a browser. Server-rendered, without scripts and without outside loads.

Every value is escaped, and the Content-Security-Policy allows nothing but this module's own style sheet.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

REFRESH_SECONDS: Final = 3
COUNTS: Final = {
    "partial_errors": "Partial errors",
    "profiles_not_found": "Not found",
    "failed_updates": "Failed",
    "backfill_events": "Backfill events",
    "subscription_changes": "Subscription changes",
}
VALUE_SHOWN: Final = 80  # characters

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #667085; --line: #e4e7ec; --card: #fff; --paper: #f5f6f8;
  --bar: #3b6fd4; --good: #17803d; --warn: #b45309; --bad: #c02626; --tint: #eef2fb; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a2b3; --line: #2b3340; --card: #181e27;
  --paper: #10141b; --bar: #6c97ee; --good: #4cc275; --warn: #e3a13c; --bad: #f07070; --tint: #202938; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.75rem 1.5rem 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.35rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .6rem; }
h3 { font: 600 1rem ui-monospace, monospace; margin: 0; }
.soft, th, dt { color: var(--soft); } .small { font-size: .82rem; } code { font: .82rem ui-monospace, monospace; }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1.1rem 1.25rem; overflow-x: auto; }
dl.figures { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: .9rem 0; }
dt { font-size: .8rem; } dd { margin: 0; } dl.figures dd { font-size: 1.45rem; font-weight: 600; line-height: 1.25; }
.meter { margin-top: .6rem; font-size: .85rem; } .meter p { display: flex; justify-content: space-between; margin: 0 0 .2rem; }
.track { background: var(--tint); border-radius: .25rem; height: .5rem; overflow: hidden; }
.fill { background: var(--bar); border-radius: .25rem; height: 100%; } .over { background: var(--bad); }
.chip { border: 1px solid currentcolor; border-radius: 1rem; display: inline-block; font-size: .78rem; font-weight: 600;
  line-height: 1.3; margin: 0 .35rem .25rem 0; padding: .05rem .55rem; white-space: nowrap; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
table { border-collapse: collapse; font-size: .87rem; width: 100%; } th { font-size: .8rem; font-weight: 500; text-align: left; }
th, td { border-bottom: 1px solid var(--line); padding: .38rem .9rem .38rem 0; vertical-align: top; }
tr:last-child td { border-bottom: 0; } .number { text-align: right; white-space: nowrap; } .id { white-space: nowrap; } .attributes { min-width: 18rem; }
.attribute { background: var(--tint); border-radius: .3rem; display: inline-block; margin: 0 .3rem .25rem 0;
  overflow-wrap: anywhere; padding: .05rem .45rem; } .attribute b { font-weight: 500; color: var(--soft); }
.none { color: var(--soft); margin: 0; }
""" + "".join(f".w{share} {{ width: {share}%; }}\n" for share in range(101))

HEADERS: Final = {
    "content-security-policy": (
        f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def render(
    *,
    endpoints: Sequence[Mapping[str, Any]],
    jobs: Sequence[Mapping[str, Any]],
    requests: Sequence[Mapping[str, Any]],
    profiles: Sequence[Mapping[str, Any]],
    faults: Sequence[Mapping[str, Any]],
) -> str:
    """The whole page; what it is given are the JSON objects of the control routes."""
    idle = ", ".join(f"{state['vendor']} {state['endpoint']}" for state in endpoints if not state["calls"])
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="{REFRESH_SECONDS}">
<link rel="icon" href="data:,">
<title>profile-etl emulator</title>
<style>{STYLE}</style>
<h1>profile-etl emulator</h1>
<p class="soft">A stand-in for the vendors. Nothing that arrives here goes any further; times are UTC.</p>
<div class="cards">{"".join(_endpoint(state) for state in endpoints if state["calls"])}</div>
<p class="soft small">{f"Not called yet: {escape(idle)}" if idle else ""}</p>
<h2>Faults in force</h2>
<div class="card">{_table(["Fault", "Calls seen", "Calls hit"], map(_fault, faults), "None: every call is answered as the vendor would.")}</div>
<h2>Latest requests</h2>
<div class="card">{_table(["Arrived", "Request", "Answer", "Rows", "Bytes", "SHA-256 of the body"], map(_request, requests), "No request has arrived yet.")}</div>
<h2>Latest batches at work</h2>
<div class="card">{_table(["Submitted", "Batch", "Status", "Rows", "Polls", "Stored", "Not found", "Failed"], map(_job, jobs), "None: no vendor has taken rows to work on later.")}</div>
<h2>Newest profiles</h2>
<div class="card">{_table(["Vendor", "Id", "Updated", "Updates", "Attributes"], map(_profile, profiles), "No profile has arrived yet.")}</div>
</html>
"""


def _endpoint(state: Mapping[str, Any]) -> str:
    figures = {"Rows": state["rows"], "Calls": state["calls"], "Profiles": state["profiles"]}
    figures |= {name: state[key] for key, name in COUNTS.items() if key in state}
    return f"""<section class="card">
<h3>{escape(state["endpoint"])}</h3>
<div class="soft small">{escape(state["vendor"])} · {escape(state["account"])}</div>
<dl class="figures">{"".join(f"<div><dt>{name}</dt><dd>{number:,}</dd></div>" for name, number in figures.items())}</dl>
<div>{"".join(_chip(outcome, f"{outcome} : {count:,}") for outcome, count in sorted(state["statuses"].items()))}</div>
{"".join(_bars(state, state["limits"]))}
<div class="meter soft">Busiest second: {state["most_rows_in_a_second"]:,} rows · last call {_time(state["last_arrival"])}</div>
</section>
"""


def _bars(state: Mapping[str, Any], limits: Mapping[str, int]) -> Iterable[str]:
    """A bar for each limit that the endpoint has."""
    if "items_per_call" in limits:
        yield _bar("Largest call", state["largest_call"], limits["items_per_call"], "rows")
    if "bucket" in limits:
        used = limits["bucket"] - state["lowest_level"]
        yield _bar("Rate bucket, most in use", used, limits["bucket"], f"rows, {limits['per_second']:,} back a second")
    if "calls_per_minute" in limits:
        yield _bar("Busiest minute", state["most_calls_in_a_minute"], limits["calls_per_minute"], "calls")
    if "rows_per_day" in limits:
        yield _bar("Last 24 hours", state["rows_in_a_day"], limits["rows_per_day"], "rows")
    if "body_bytes" in limits:
        yield _bar("Largest body", state["largest_body"], limits["body_bytes"], "bytes")


def _bar(name: str, used: float, limit: int, unit: str) -> str:
    share = min(100, max(0, round(100 * used / limit)))
    over = " over" if used > limit else ""
    return (
        f'<div class="meter"><p><span>{name}</span><span class="soft">{used:,.0f} of {limit:,} {unit}</span></p>'
        f'<div class="track"><div class="fill w{share}{over}"></div></div></div>'
    )


def _fault(fault: Mapping[str, Any]) -> Iterable[str]:
    words = {word: value for word, value in fault.items() if word not in {"seen", "struck"}}
    return [_attributes(words), _number(fault["seen"]), _number(fault["struck"])]


def _job(job: Mapping[str, Any]) -> Iterable[str]:
    return [
        f'<td class="small">{_time(job["submitted"])}</td>',
        f"<td><code>{escape(job['id'])}</code> <span class=soft>{escape(job['vendor'])} v{job['version']}</span></td>",
        f"<td>{escape(job['status'])}</td>",
        *(_number(job[name]) for name in ("rows", "polls", "successful", "not_found", "failed")),
    ]


def _profile(profile: Mapping[str, Any]) -> Iterable[str]:
    return [
        f'<td class="small">{escape(profile["vendor"])}</td>',
        f'<td class="id"><code>{escape(str(profile["id"]))}</code></td>',
        f'<td class="small">{_time(profile["updated"])}</td>',
        _number(profile["updates"]),
        _attributes(profile["attributes"]),
    ]


def _request(request: Mapping[str, Any]) -> Iterable[str]:
    return [
        f'<td class="small">{_time(request["at"])}</td>',
        f"<td><code>{escape(request['method'])} {escape(_short(request['path']))}</code></td>",
        f"<td>{_chip(request['outcome'], request['outcome'])}</td>",
        _number(request["rows"]),
        _number(request["bytes"]),
        f'<td class="soft"><code>{escape(request["sha256"][:16])}</code></td>',
    ]


def _table(headings: Sequence[str], rows: Iterable[Iterable[str]], when_empty: str) -> str:
    body = "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows)
    if not body:
        return f'<p class="none">{escape(when_empty)}</p>'
    numbers = {"Rows", "Bytes", "Updates", "Calls seen", "Calls hit", "Polls", "Stored", "Not found", "Failed"}
    head = "".join(f"<th{' class=number' if heading in numbers else ''}>{escape(heading)}</th>" for heading in headings)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _attributes(values: Mapping[str, Any]) -> str:
    pairs = (
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in values.items()
    )
    return f"<td class=attributes>{''.join(f'<code class=attribute><b>{escape(name)}</b> {escape(_short(text))}</code>' for name, text in pairs)}</td>"


def _chip(outcome: str, text: str) -> str:
    tone = {"2": "good", "4": "warn"}.get(outcome[0], "bad") if outcome.isdigit() else "bad"
    return f'<span class="chip {tone}">{escape(text)}</span>'


def _number(value: float) -> str:
    return f'<td class="number">{value:,}</td>'


def _short(text: str) -> str:
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN]}…"


def _time(at: float | None) -> str:
    return "never" if at is None else datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]
