"""Report: the account of a run, as JSON for machines and as text for people."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from contracts import SENTENCES
from contracts.rules import TEXT
from etl.client import TROUBLES
from etl.errors import ExportError
from etl.ledger import counts_of
from etl.model import DELIVERED, POS_BUCKETS, BatchState, Bucket, RunReport
from etl.run import RunContext
from etl.snapshot import sources
from etl.storage import Place
from etl.syncs import OPTIONAL

REPORT = "run_report.json"
_STATES = {0: "done", 1: "attention", 3: "unfinished", 4: "unbalanced"}
_NO_ROWS = {"records_in": 0, **{bucket.value: 0 for bucket in Bucket}}
_NO_POS = {"records_in": 0, **dict.fromkeys(POS_BUCKETS, 0)}


def report(ctx: RunContext) -> RunReport:
    """Writes `run_report.json` of a run that went through all steps, and closes the run in the ledger."""
    account = ctx.result("reconcile")
    code = exit_code(account, refused=ctx.result("plan")["refused"] is not None)
    validated = ctx.result("validate")
    made = RunReport(
        **_head(ctx, code),
        sources=_sources(ctx, validated),
        rows=account["rows"],
        pos=account["pos"],
        reasons=account["reasons"],
        batches=[
            {"id": b.id, "rows": b.rows, "bytes": b.size, "state": b.state.value, "attempts": b.attempts}
            for b in ctx.ledger.batches(ctx.name)
            if b.state.keeps_its_rows
        ],
        quota=_quota(ctx, ctx.result("plan")),
        duplicates_possible=account["duplicates_possible"],
        balanced=account["balanced"],
        notices=_notices(ctx, validated) + _held_back(account["opt_outs"]),
        absent=ctx.result("transform").get("absent"),
        carried=validated["crm"].get("carried", 0),  # an earlier version has not counted them
        optouts_sent=sum(account["opt_outs"].get(bucket, 0) for bucket in DELIVERED),
        absent_unsubscribed=sum(account.get("absent", {}).get(bucket, 0) for bucket in DELIVERED),
    )
    return _close(ctx, made)


def report_refusal(ctx: RunContext, error: ExportError) -> RunReport:
    """The report of a run that stopped before anything was sent, because an export cannot be used."""
    made = RunReport(
        **_head(ctx, 3),
        rows=_NO_ROWS,
        pos=_NO_POS,
        reasons=[{"code": error.code, "count": 1}],
        notices=[str(error)],
    )
    return _close(ctx, made)


def read_report(place: Place) -> RunReport | None:
    """The report in a run's folder, if there is one."""
    value = place.read_json(REPORT)
    return None if value is None else from_dict(value)


def from_dict(value: dict[str, Any]) -> RunReport:
    """A report from its JSON form, also that of an earlier version."""
    return RunReport(**{field.name: value[field.name] for field in fields(RunReport) if field.name in value})


def exit_code(account: dict[str, Any], *, refused: bool = False) -> int:
    """Spec section 7: 4 does not balance, 3 not finished, 1 something to look at, 0 done.

    A plan that was `refused` is not finished, also where all rows of its export are bad.
    """
    if not account["balanced"]:
        return 4
    there = [bucket for bucket in Bucket if account["rows"][bucket.value] or account["opt_outs"].get(bucket.value)]
    if refused or any(bucket.is_unfinished for bucket in there):
        return 3
    refused_fields = any(reason["code"].startswith("field_refused") for reason in account["reasons"])
    return 1 if refused_fields or any(bucket.needs_attention for bucket in there) else 0


def as_text(report: RunReport) -> str:
    """The report for people: what came in, where every row ended, why, and what to do next."""
    lines = [
        f"{report.sync} to {report.destination}, {report.date}: {report.state.upper()} (exit code {report.exit_code})",
        f"run {report.run_id}",
        "",
        *_table("CRM records", report.rows),
        *_beside(
            (report.carried, "of them carried forward from earlier exports"),
            (report.absent, "customers of the last day that was run are absent from this export"),
            (report.optouts_sent, OPT_OUTS_SENT),
            (report.absent_unsubscribed, "of these are of customers who are absent (on_absent of the sync)"),
        ),
    ]
    if report.pos.get("records_in"):
        lines += ["", *_table("POS receipts of 30 days", report.pos)]
    if not report.rows["records_in"] and report.exit_code:
        return "\n".join([*lines[:2], "", "Nothing was sent.", *report.notices, "", _NEXT[report.exit_code]])
    if report.reasons:
        lines += ["", "Reasons (CRM records)"]
        for reason in report.reasons:
            lines.append(f"  {reason['count']:>12,}  {reason['code']}  {sentence_of(reason['code'])}".rstrip())
    if report.batches:
        sizes = sum(batch["bytes"] for batch in report.batches)
        attempts = sum(batch["attempts"] for batch in report.batches)
        lines += ["", f"batches {len(report.batches):,}, bytes {sizes:,}, attempts {attempts:,}"]
    if report.duplicates_possible:
        lines.append(
            f"{report.duplicates_possible:,} rows may have been delivered twice: their first outcome is unknown"
        )
    if report.notices:
        lines += ["", "Notices", *(f"  {NOTICES.get(notice, notice)}" for notice in report.notices)]
    lines += ["", next_step(report)]
    return "\n".join(lines)


def _beside(*counts: tuple[int | None, str]) -> list[str]:
    """What stands beside the buckets, as far as there is any of it."""
    return [f"  {count:>12,}  {words}" for count, words in counts if count]


def sentence_of(code: str) -> str:
    """What a code says to people; of a sync's own columns there is but one rule."""
    own = f"{code.removesuffix('_invalid')} must be {TEXT.description}." if code.endswith("_invalid") else ""
    return WORDS.get(code, own)


def next_step(report: RunReport) -> str:
    """What to do now."""
    unfinished = [bucket for bucket in Bucket if bucket.is_unfinished and report.rows[bucket.value]]
    if unfinished == [Bucket.PROCESSING]:
        return (
            "Nothing to put right: the vendor is still at work. profile-etl status --wait stays until it is done, and "
            "completes this report; run it again later, and nothing is sent twice."
        )
    if any(report.rows[bucket.value] for bucket in _TRIED_AGAIN):
        return f"{_NEXT[report.exit_code]} profile-etl retry sends again what the vendor did not take, lost or gave up."
    return _NEXT[report.exit_code]


WORDS = SENTENCES | {
    **{
        f"{field}_dropped": f"{field} was invalid and left out (on_invalid of the sync); the row went on."
        for field in OPTIONAL
    },
    **{code: f"{sentence[0].upper()}{sentence[1:]}." for code, sentence in TROUBLES.items()},
    "http_400": "The vendor refused the call as malformed.",
    "http_401": "The vendor did not accept the key or the project: check the connection.",
    "http_403": "The vendor does not allow this call: check the rights of the connection's key.",
    "http_404": "The vendor does not know this address: check the connection's host and API version.",
    "http_500": "The vendor failed on the call: it is not said whether it took it.",
    "http_503": "The vendor is in maintenance, or overloaded.",
    "limit": "Held back by --limit.",
    "quota": "The quota, less the share left to other callers, is used up for now.",
    "volume_unusual": "The export has an unusual number of records; --accept-volume lets it pass.",
    "bad_share_high": "Too many of the export's records are bad; --accept-volume lets the good ones pass.",
    "opt_ins_flipped": "Too many opt-ins would change at once; --accept-volume lets them pass.",
    "too_many_attributes": "More attributes than the vendor takes for one profile.",
    "record_too_large": "Larger than one call may be.",
    "profile_too_large": "Larger than the vendor takes for one profile.",
    "id_not_allowed": "The customer id holds +, / or @, which Adobe Target does not take.",
    "no_attributes": "Nothing but its id is known of the profile, so that a single update would say nothing.",
    "identity_shared": "Another customer with the same address is newer, and is sent for both.",
    "erased": "The customer was erased on that day or later; only a newer export brings them back.",
    "failed_at_destination": "The vendor names the profile as failed.",
    "refused_by_vendor": "The vendor answered that it does not take this.",
    "awaiting": "The vendor still works on earlier batches.",
    "incomplete": "The vendor is not done with the batch yet; run it again, or profile-etl status --wait.",
    "unreported": "The vendor never told what became of it.",
    "stuck": "The vendor gave the batch up halfway; parts of it may have been taken.",
    "status_gone": "The vendor knows nothing of the batch any more.",
    "counters_unusable": "The batch is done, but its counters are missing or contradict each other.",
    "status_url_missing": "The vendor took the batch and gave no address to ask after it.",
    "status_url_refused": "The vendor took the batch and gave an address to ask that is not its own.",
    "unknown_status_word": "The vendor's answer about the batch has a word that is not known.",
    "no_status": "The vendor's answer about the batch cannot be read.",
    "other_batch": "The vendor's answer is about another batch.",
    "redirected": "The address to ask after the batch answered with a redirect, which is not followed.",
    "html_answer": "A web page came instead of the vendor's answer: check host, network and proxy.",
    "identifier_refused": "The vendor did not accept the customer id.",
    "crashed": "The process ended between sending and the answer.",
    "no_acknowledgement": "The vendor's answer was not its acknowledgement.",
}
OPT_OUTS_SENT = "opt-outs were sent alone, of rows in quarantine or of customers whom this export does not speak of"
_STOPS = {
    "awaiting": "the vendor still works on earlier batches; run it again when they are done",
    "quota": "the quota is used up for now",
    "stopped": "told to stop (Ctrl-C or SIGTERM)",
    "throttled": "the vendor asked for a long pause",
}
NOTICES = {
    "pos_incomplete": "pos_incomplete: no POS export has landed for this day, so no purchase value was sent at all",
}
_TRIED_AGAIN = (
    Bucket.REJECTED, Bucket.FAILED_AT_DESTINATION, Bucket.NOT_FOUND, Bucket.UNREPORTED, Bucket.STUCK,
)  # fmt: skip
_LONG_S = 60.0
_NEXT = {
    0: "Every row is accounted for. Nothing to do.",
    1: "Every row is accounted for. Look at the reasons; profile-etl quarantine list says where quarantined rows stand.",
    3: "Not finished, nothing lost. Put right what is said above, then run it again.",
    4: "The account does not balance. Keep the run's folder and report it as a defect.",
}


def _table(title: str, counts: dict[str, int]) -> list[str]:
    total = counts["records_in"]
    parts = {name: count for name, count in counts.items() if name != "records_in"}
    rows = [f"  {count:>12,}  {name.replace('_', ' ')}" for name, count in parts.items() if count]
    sign = "=" if sum(parts.values()) == total else "IS NOT"
    return [title, *rows, f"  {sum(parts.values()):>12,}  together {sign} {total:,} records read"]


def _head(ctx: RunContext, code: int) -> dict[str, Any]:
    return {
        "sync": ctx.sync.name,
        "date": str(ctx.day),
        "run_id": ctx.run_id,
        "destination": ctx.destination,
        "state": _STATES[code],
        "exit_code": code,
    }


def _sources(ctx: RunContext, validated: dict[str, Any]) -> list[dict[str, Any]]:
    records = {entry["file"]: entry["records"] for export in ("crm", "pos") for entry in validated[export]["files"]}
    return [
        {"export": f.export, "file": f.name, "sha256": f.sha256, "bytes": f.bytes, "records": records[f.name]}
        for export in ("crm", "pos")
        for f in sources(ctx, export)
    ]


def _quota(ctx: RunContext, planned: dict[str, Any]) -> dict[str, Any]:
    limit, hours = planned["quota"]["limit"], planned["quota"]["window_hours"]
    used = ctx.ledger.used(ctx.connection.account, planned["endpoint"], hours)
    return {"limit": limit, "window_hours": hours, "used": used}


def _losses(ctx: RunContext) -> list[str]:
    """What the vendor counts in a batch and does not name."""
    batches = {b.id: b for b in ctx.ledger.batches(ctx.name) if b.state is BatchState.COMPLETE}
    named = {batch for batch, code in ctx.ledger.row_codes(ctx.name) if code.rejected}
    lines = []
    for batch, counts in counts_of(ctx.ledger, [batch for batch in batches if batch not in named]).items():
        counted = {"failed": counts.failed, "were not found": counts.not_found, "are not reported": counts.unreported}
        said = [f"{count:,} {what}" for what, count in counted.items() if count]
        if said:
            rows = batches[batch].rows
            lines.append(f"batch {batch}: of {rows:,} rows {', '.join(said)}; the vendor does not say which")
    return lines


def _notices(ctx: RunContext, validated: dict[str, Any]) -> list[str]:
    extracted = ctx.result("extract")
    notices = ["pos_incomplete"] if extracted["pos_incomplete"] and ctx.sync.pos else []
    gaps = extracted["pos_gaps"]
    if any(day != str(ctx.day) for day in gaps):
        notices.append(f"pos_gaps: no POS export for {len(gaps)} of 30 days, the first {gaps[0]}, the last {gaps[-1]}")
    if (put_right := extracted.get("corrected", {})).get("rows"):
        of = ", ".join(put_right["of"])
        notices.append(
            f"corrected: {put_right['rows']:,} CRM records count as they were put right, of the quarantine of {of}"
        )
    if put_right.get("outdated"):
        notices.append(
            f"corrections_outdated: {put_right['outdated']:,} are of a file that was delivered anew since, or that this day "
            "carries forward as it was: release them for the day of the file"
        )
    if extracted["ignored"]:
        notices.append(f"ignored_files: not csv, csv.gz, ndjson or parquet: {', '.join(extracted['ignored'])}")
    notices += [f"{n['code']}: {n['message']}" for export in ("crm", "pos") for n in validated[export]["notices"]]
    if late := ctx.result("transform").get("base"):
        notices.append(f"base_kept: {late}")
    if left := ctx.result("pack").get("left"):
        notices.append(
            f"not_cleared: blanks leave what the vendor has, as it cannot be cleared there: {', '.join(left)}"
        )
    plan, load = ctx.result("plan"), ctx.result("load")
    if plan["calls"]:
        notices.append(f"endpoint: {plan['endpoint']}, because {plan['why']}")
    if plan["refused_why"]:
        notices.append(f"{plan['refused']}: {plan['refused_why']}")
    elif load["stopped"]:
        away = f"; come back in {load['wait'] / 60:,.0f} minutes" if load["wait"] and load["wait"] > _LONG_S else ""
        notices.append(f"stopped early: {_STOPS.get(load['stopped'], load['stopped'])}{away}")
    return notices + _losses(ctx)


def _held_back(opt_outs: dict[str, int]) -> list[str]:
    """Opt-outs that go alone and that the vendor has not got from this run or an earlier one."""
    fine = (*DELIVERED, Bucket.UNCHANGED, Bucket.SUPERSEDED)
    ends = [f"{count:,} {end.replace('_', ' ')}" for end, count in opt_outs.items() if end not in fine]
    return [f"optouts_held_back: of the opt-outs that go alone {', '.join(ends)}"] if ends else []


def _close(ctx: RunContext, made: RunReport) -> RunReport:
    ctx.place.write_json(REPORT, made.as_dict())
    ctx.ledger.finish_run(ctx.name, exit_code=made.exit_code, records_in=made.rows["records_in"])
    return made
