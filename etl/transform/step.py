"""The transform step: reads what validate wrote, writes profiles, and names the rows that do not become one.

Writes into `private/transformed/`: `profiles/` (see `contracts.profiles`), `quarantine/` (rows with a newer version in
quarantine), `optouts/` (profiles of the opt-outs that go alone; `_absent`: of a customer who has disappeared; `_said_on`: an
earlier day that said so; the `row` of one that no record of today says is beyond theirs), `held/` (customers of earlier days
who are there, but only in rows that do not go out) and `deduplicated.parquet` (`row`).
"""

from __future__ import annotations

from typing import Any

import polars as pl

import contracts
from etl import base, corrections, parts, tombstones, validate
from etl.normalise import normalised
from etl.run import RunContext
from etl.snapshot import sources
from etl.transform.absent import present_in
from etl.transform.duplicates import resolve_duplicates
from etl.transform.earlier import Left, left_to
from etl.transform.folders import FOLDER
from etl.transform.optouts import opt_outs
from etl.transform.profiles import build_profiles
from etl.transform.purchases import RECEIPT, Purchases, summarise_purchases

_NEWER_QUARANTINED = "newer_version_quarantined"
_SAMPLE_ROWS = 1_000


def transform(ctx: RunContext) -> dict[str, Any]:
    """Resolves duplicates, sums up purchases and builds the profiles of a run."""
    crm = _scan(ctx, "crm", "valid")
    # The quarantine has its values as they were read; to find the customer in it, they are compared as they would go out.
    spoken = ("customer_id", "updated_at", "email", "phone", "email_opt_in", "sms_opt_in")
    as_valid = normalised(ctx.sync.normalise, spoken)
    quarantined = _scan(ctx, "crm", "quarantine").with_columns(**as_valid)
    resolved = resolve_duplicates(crm, quarantined)
    gone = pl.concat([resolved.deduplicated, resolved.newer_quarantined])
    customers = crm.filter(~pl.col("row").is_in(gone.implode())).select("customer_id").collect().to_series()
    purchases = summarise_purchases(_scan(ctx, "pos", "valid").select(RECEIPT).collect(), customers)
    held = [quarantined]
    left = _left(ctx, crm, quarantined, customers)
    with ctx.place.staged(FOLDER) as folder:
        folder.mkdir()
        resolved.deduplicated.to_frame("row").write_parquet(folder / "deduplicated.parquet")
        if len(resolved.newer_quarantined):
            originals = _originals(ctx, resolved.newer_quarantined)
            parts.write(folder / "quarantine", 0, originals)
            held.append(originals.lazy().with_columns(**as_valid))
        records = ctx.result("validate")["crm"]["records"]
        out = opt_outs(pl.concat(held), customers, left.opt_outs, records)
        erased = tombstones.erased_rows(ctx.work, [out], validate.days_of_rows(ctx))
        parts.write(folder / "held", 0, left.held)
        parts.write(folder / "optouts", 0, out.filter(~pl.col("row").is_in(erased.implode())))
        promise = contracts.with_own(contracts.Profiles, ctx.sync.own)
        incomplete = ctx.result("extract")["pos_incomplete"]
        done = 0
        for number, part in enumerate(parts.frames(ctx.place, f"{validate.FOLDER}/crm/valid")):
            rows = part.filter(~pl.col("row").is_in(gone.implode()))
            theirs = None if incomplete else purchases.of(done, rows.height)
            profiles = build_profiles(rows, theirs, ctx.sync.own)
            done += rows.height
            if number == 0:  # a sample shows a mistake in our own code, and data is no part of that promise
                contracts.require(promise, profiles.head(_SAMPLE_ROWS))
            parts.write(folder / "profiles", number, profiles)
    return {
        "absent": left.absent,
        "base": None if ctx.sync.crm_mode == "full" or ctx.options.dry_run else _leave_base(ctx, crm, gone),
        "profiles": len(customers),
        "deduplicated": len(resolved.deduplicated),
        "newer_quarantined": len(resolved.newer_quarantined),
        # The carried rows are read first.
        "carried_quarantined": int(
            (resolved.newer_quarantined < ctx.result("validate")["crm"].get("carried", 0)).sum()
        ),
        "pos": _account(purchases, ctx.result("validate")["pos"]),
    }


def _left(ctx: RunContext, crm: pl.LazyFrame, quarantined: pl.LazyFrame, customers: pl.Series) -> Left:
    """What earlier days have left to the run; an export of nobody unsubscribes nobody."""
    is_full = ctx.sync.crm_mode == "full"
    return left_to(
        ctx,
        present_in(crm, quarantined, ctx.sync.crm.delimiter) if is_full else None,
        customers,
        unsubscribe=len(customers) > 0 and ctx.sync.on_absent == "unsubscribe",
    )


def _leave_base(ctx: RunContext, crm: pl.LazyFrame, gone: pl.Series) -> str | None:
    ids = parts.frames(ctx.place, f"{validate.FOLDER}/crm/valid", ["row", "customer_id"])
    erased = tombstones.erased_rows(ctx.work, ids, validate.days_of_rows(ctx))
    out = pl.concat([gone, erased])
    rows = crm.filter(~pl.col("row").is_in(out.implode())).select(validate.contract_of(ctx.sync, "crm").columns)
    return base.leave(ctx, rows)


def _account(purchases: Purchases, validated: dict[str, Any]) -> dict[str, int]:
    return {
        "records_in": validated["records"],
        "unparsable": validated["unparsable"],
        "quarantined": validated["quarantined"],
        "deduplicated": purchases.deduplicated,
        "anonymous": purchases.anonymous,
        "orphaned": purchases.orphaned,
        "used": purchases.used,
    }


def _scan(ctx: RunContext, export: str, folder: str) -> pl.LazyFrame:
    schema = validate.quarantine_schema(validate.contract_of(ctx.sync, export))
    return parts.scan(ctx.place, f"{validate.FOLDER}/{export}/{folder}", schema)


def _originals(ctx: RunContext, rows: pl.Series) -> pl.DataFrame:
    """The quarantine of valid rows: read once more, because a valid row keeps no original record."""
    found, first = [], 0
    for file in sources(ctx, "crm"):
        read = validate.reader(ctx, file)
        for block in corrections.corrected(ctx, file.sha256, read):
            wanted = block.rows.filter((pl.col("_record") + first).is_in(rows.implode()))
            if wanted.height:
                found.append(
                    wanted.with_columns(
                        row=pl.col("_record") + first,
                        line="_line",
                        file=pl.lit(file.name),
                        record=block.raw(wanted["_record"]),
                        codes=pl.lit([_NEWER_QUARANTINED], dtype=pl.List(pl.String)),
                    )
                )
        first += read.records
    return pl.concat(found).select(*validate.quarantine_schema(validate.contract_of(ctx.sync, "crm")))
