"""Plan: how many calls, bytes and seconds a run will take, and whether it may start at all; sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from etl import gates
from etl.calendar import calendar
from etl.destinations import connect
from etl.model import Bucket
from etl.pacing import Allowance, Pace, reserve, stored_pace
from etl.pack import Manifest, current_plan
from etl.run import RunContext

_HOW_TO_GO_ON = (
    "Nothing is sent. If that is right, run again with --accept-volume (in Airflow, the param accept_volume)."
)
_MOST_DAYS = 60


def plan(ctx: RunContext) -> dict[str, Any]:
    """The run's plan in figures."""
    return figures(ctx, current_plan(ctx))


def figures(ctx: RunContext, staged: Manifest) -> dict[str, Any]:
    """A plan in figures. `refused` is a code when nothing may be sent, with `refused_why` for people."""
    account, endpoint = ctx.connection.account, staged.endpoint
    with ctx.client() as client:
        limits = connect(endpoint, ctx.connection, client).limits
    used = ctx.ledger.used(account, endpoint, limits.quota_hours)
    ours = limits.our_quota(ctx.connection.headroom)
    deferred = staged.kept.get(Bucket.DEFERRED, 0)
    pace = stored_pace(ctx.ledger, account, endpoint)
    allowance = Allowance.of(limits, ctx.connection.headroom)
    return {
        "plan": staged.plan,
        "records": ctx.result("validate")["crm"]["records"],
        "bad": _bad(ctx),
        "endpoint": endpoint,
        "why": staged.why,
        "calls": staged.calls.height,
        "rows": staged.rows,
        "bytes": staged.bytes,
        "seconds": seconds(staged.calls["rows"], allowance, pace, ctx.ledger.now()),
        "quota": {
            "limit": limits.quota,
            "ours": ours,
            "window_hours": limits.quota_hours,
            "used_before": used,
            "used_after": used + staged.rows,
        },
        "refreshed": staged.refreshed,
        "deferred": deferred,
        "days": _days(ctx, staged, ours, limits.quota_hours) if deferred and ours is not None else [],
        **_gates(ctx, staged),
    }


def _days(ctx: RunContext, staged: Manifest, quota: int, quota_hours: float) -> list[int]:
    """The rows that go today and on the days after, if nothing else changes; none where a limit of the run cuts it short."""
    if ctx.options.limit is not None:
        return []
    held = ctx.ledger.held(ctx.connection.account, staged.endpoint, quota_hours)
    rows = staged.rows + staged.kept[Bucket.DEFERRED]
    days = calendar(rows, quota=quota, quota_hours=quota_hours, held=held, now=ctx.ledger.now())
    return list(islice(days, _MOST_DAYS))


def as_text(planned: dict[str, Any]) -> str:
    """The plan for people."""
    quota = planned["quota"]
    limit = "no quota" if quota["limit"] is None else f"of {quota['ours']:,} that are ours of {quota['limit']:,}"
    refreshed = planned["refreshed"]
    lines = [
        f"records   {planned['records']:,} in the CRM export, {planned['bad']:,} of them unparsable or quarantined",
        f"endpoint  {planned['endpoint']}: {planned['why']}",
        f"calls     {planned['calls']:,}",
        f"rows      {planned['rows']:,}" + (f" (deferred: {planned['deferred']:,})" if planned["deferred"] else ""),
        *([f"refreshed {refreshed:,} of them unchanged, sent lest the vendor forget them"] if refreshed else []),
        f"bytes     {planned['bytes']:,}",
        f"time      {planned['seconds'] / 60:.1f} minutes at the allowed rate ({planned['seconds']:.1f} s)",
        f"quota     {quota['used_before']:,} rows used before, {quota['used_after']:,} after, {limit}",
    ]
    if days := planned["days"]:
        each = ", ".join(f"{rows:,}" for rows in days)
        lines.append(f"calendar  with a run a day at this hour, rows by day: {each}{_and_more(planned)}")
    return "\n".join([*lines, f"REFUSED   {planned['refused_why']}"] if planned["refused"] else lines)


def _and_more(planned: dict[str, Any]) -> str:
    left = planned["rows"] + planned["deferred"] - sum(planned["days"])
    return f", and {left:,} later" if left else ""


def seconds(calls: Iterable[int], allowance: Allowance, pace: Pace, now: float) -> float:
    """From now to the moment at which the last of the calls of so many rows may leave, if every answer came at once."""
    last = now
    for rows in calls:
        pace, reservation = reserve(pace, allowance, rows, last)
        last = reservation.at
    return last - now


def _bad(ctx: RunContext) -> int:
    """CRM records that are unparsable or in quarantine."""
    crm = ctx.result("validate")["crm"]
    return int(crm["unparsable"] + crm["quarantined"] + ctx.result("transform")["newer_quarantined"])


def _gates(ctx: RunContext, staged: Manifest) -> dict[str, str | None]:
    """Whether the export has to wait for a person's word; one of which nothing would be sent has not, unless all is bad."""
    crm = ctx.result("validate")["crm"]
    bad = _bad(ctx)
    is_all_bad = 0 < crm["records"] == bad
    if ctx.options.accept_volume or not (staged.rows or is_all_bad):
        return {"refused": None, "refused_why": None}
    earlier = ctx.ledger.usual_records(
        sync=ctx.sync.name, destination=ctx.destination, before=str(ctx.day), days=gates.DAYS
    )
    shut = gates.shut(
        gates.Figures(
            records=crm["records"], carried=crm.get("carried", 0), earlier=earlier,
            bad=bad - ctx.result("transform").get("carried_quarantined", 0), bad_share=ctx.sync.bad_share,
            known=staged.known, flipped=staged.flipped,
        )
    )  # fmt: skip
    why = f"{'; '.join(shut.values())}. {_HOW_TO_GO_ON}" if shut else None
    return {"refused": next(iter(shut), None), "refused_why": why}
