"""The transform step: reads what validate wrote, writes profiles, and names the rows that do not become one.

Writes `private/transformed/profiles/` (see `contracts.profiles`), `private/transformed/quarantine/` (rows with a newer
version in quarantine), `private/transformed/optouts/` (profiles of the opt-outs in quarantine) and
`private/transformed/deduplicated.parquet` (`row`).
"""

from __future__ import annotations

from typing import Any

import polars as pl

import contracts
from etl import parts, validate
from etl.extract import sources
from etl.run import RunContext
from etl.transform.duplicates import resolve_duplicates
from etl.transform.optouts import opt_outs
from etl.transform.profiles import build_profiles
from etl.transform.purchases import RECEIPT, Purchases, summarise_purchases

FOLDER = "private/transformed"
PROFILES, OPT_OUTS = f"{FOLDER}/profiles", f"{FOLDER}/optouts"
# Where quarantined CRM rows stand: those that broke a rule, and those with a newer version among them.
QUARANTINES = (f"{validate.FOLDER}/crm/quarantine", f"{FOLDER}/quarantine")
NEWER_QUARANTINED = "newer_version_quarantined"
_SAMPLE_ROWS = 1_000


def transform(ctx: RunContext) -> dict[str, Any]:
    """Resolves duplicates, sums up purchases and builds the profiles of a run."""
    crm = _scan(ctx, "crm", "valid")
    resolved = resolve_duplicates(crm, _scan(ctx, "crm", "quarantine"))
    gone = pl.concat([resolved.deduplicated, resolved.newer_quarantined])
    customers = crm.filter(~pl.col("row").is_in(gone.implode())).select("customer_id").collect().to_series()
    purchases = summarise_purchases(_scan(ctx, "pos", "valid").select(RECEIPT).collect(), customers)
    quarantined = [_scan(ctx, "crm", "quarantine")]
    with ctx.place.staged(FOLDER) as folder:
        folder.mkdir()
        resolved.deduplicated.to_frame("row").write_parquet(folder / "deduplicated.parquet")
        if len(resolved.newer_quarantined):
            originals = _originals(ctx, resolved.newer_quarantined)
            parts.write(folder / "quarantine", 0, originals)
            quarantined.append(originals.lazy())
        parts.write(folder / "optouts", 0, opt_outs(pl.concat(quarantined), customers))
        incomplete = ctx.result("extract")["pos_incomplete"]
        done = 0
        for number, part in enumerate(parts.frames(ctx.place, f"{validate.FOLDER}/crm/valid")):
            rows = part.filter(~pl.col("row").is_in(gone.implode()))
            theirs = None if incomplete else purchases.of(done, rows.height)
            profiles = build_profiles(rows, theirs)
            done += rows.height
            if number == 0:  # a sample shows a mistake in our own code, and data is no part of that promise
                contracts.require(contracts.Profiles, profiles.head(_SAMPLE_ROWS))
            parts.write(folder / "profiles", number, profiles)
    return {
        "profiles": len(customers),
        "deduplicated": len(resolved.deduplicated),
        "newer_quarantined": len(resolved.newer_quarantined),
        "pos": _account(purchases, ctx.result("validate")["pos"]),
    }


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
    schema = validate.quarantine_schema(validate.EXPORTS[export])
    return parts.scan(ctx.place, f"{validate.FOLDER}/{export}/{folder}", schema)


def _originals(ctx: RunContext, rows: pl.Series) -> pl.DataFrame:
    """The quarantine of valid rows: read once more, because a valid row keeps no original record."""
    found, first = [], 0
    for file in sources(ctx, "crm"):
        read = validate.reader(ctx, file)
        for block in read:
            wanted = block.rows.filter((pl.col("_record") + first).is_in(rows.implode()))
            if wanted.height:
                found.append(
                    wanted.with_columns(
                        row=pl.col("_record") + first,
                        line="_line",
                        file=pl.lit(file.name),
                        record=block.raw(wanted["_record"]),
                        codes=pl.lit([NEWER_QUARANTINED], dtype=pl.List(pl.String)),
                    )
                )
        first += read.records
    return pl.concat(found).select(*validate.quarantine_schema(validate.EXPORTS["crm"]))
