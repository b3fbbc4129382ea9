"""Plan: how many calls, bytes and seconds a run will take, and whether it may start at all; sends nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from etl import gates
from etl.client import Client
from etl.destinations import connect
from etl.model import Bucket
from etl.pacing import Allowance, Pace, reserve, stored_pace
from etl.pack import manifest, stage
from etl.run import RunContext

_HOW_TO_GO_ON = (
    "Nothing is sent. If that is right, run again with --accept-volume (in Airflow, the param accept_volume)."
)


def plan(ctx: RunContext) -> dict[str, Any]:
    """The plan in figures. `refused` is a code when nothing may be sent, with `refused_why` for people."""
    packed = ctx.result("pack")
    staged = manifest(ctx, packed["plan"])
    account, endpoint = ctx.connection.account, staged.endpoint
    with Client() as client:
        limits = connect(endpoint, ctx.connection, client).limits
    used = ctx.ledger.used(account, endpoint, limits.quota_hours)
    pace = stored_pace(ctx.ledger, account, endpoint)
    allowance = Allowance.of(limits, ctx.connection.headroom)
    return {
        "plan": staged.plan,
        "endpoint": endpoint,
        "why": staged.why,
        "calls": staged.calls.height,
        "rows": staged.rows,
        "bytes": staged.bytes,
        "seconds": seconds(staged.calls["rows"], allowance, pace, ctx.ledger.now()),
        "quota": {
            "limit": limits.quota,
            "ours": None if limits.quota is None else int(limits.quota * (1 - ctx.connection.headroom)),
            "window_hours": limits.quota_hours,
            "used_before": used,
            "used_after": used + staged.rows,
        },
        "deferred": packed["kept"].get(Bucket.DEFERRED, 0),
        **_gates(ctx, packed),
    }


def replan(ctx: RunContext) -> None:
    """Makes the plan anew, because the account has accepted something since it was made."""
    ctx.place.write_json("pack.json", stage(ctx, plan=ctx.result("pack")["plan"] + 1))
    ctx.place.write_json("plan.json", plan(ctx))


def as_text(figures: dict[str, Any]) -> str:
    """The plan for people."""
    quota = figures["quota"]
    limit = "no quota" if quota["limit"] is None else f"of {quota['ours']:,} that are ours of {quota['limit']:,}"
    lines = [
        f"endpoint  {figures['endpoint']}: {figures['why']}",
        f"calls     {figures['calls']:,}",
        f"rows      {figures['rows']:,}" + (f" (deferred: {figures['deferred']:,})" if figures["deferred"] else ""),
        f"bytes     {figures['bytes']:,}",
        f"time      {figures['seconds'] / 60:.1f} minutes at the allowed rate ({figures['seconds']:.1f} s)",
        f"quota     {quota['used_before']:,} rows used before, {quota['used_after']:,} after, {limit}",
    ]
    return "\n".join([*lines, f"REFUSED   {figures['refused_why']}"] if figures["refused"] else lines)


def seconds(calls: Iterable[int], allowance: Allowance, pace: Pace, now: float) -> float:
    """From now to the moment at which the last of the calls of so many rows may leave, if every answer came at once."""
    last = now
    for rows in calls:
        pace, reservation = reserve(pace, allowance, rows, last)
        last = reservation.at
    return last - now


def _gates(ctx: RunContext, packed: dict[str, Any]) -> dict[str, str | None]:
    """Whether the export has to wait for a person's word; one of which nothing would be sent has not, unless all is bad."""
    crm = ctx.result("validate")["crm"]
    bad = crm["unparsable"] + crm["quarantined"] + ctx.result("transform")["newer_quarantined"]
    is_all_bad = 0 < crm["records"] == bad
    if ctx.options.accept_volume or not (packed["rows"] or is_all_bad):
        return {"refused": None, "refused_why": None}
    earlier = ctx.ledger.usual_records(
        sync=ctx.sync.name, destination=ctx.destination, before=str(ctx.day), days=gates.DAYS
    )
    shut = gates.shut(
        gates.Figures(
            records=crm["records"], earlier=earlier, bad=bad, bad_share=ctx.sync.bad_share, known=packed["known"],
            flipped=packed["flipped"],
        )
    )  # fmt: skip
    why = f"{'; '.join(shut.values())}. {_HOW_TO_GO_ON}" if shut else None
    return {"refused": next(iter(shut), None), "refused_why": why}
