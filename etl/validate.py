"""Validate: splits the snapshot's records into valid rows and quarantined ones, block by block.

Writes `private/validated/<export>/valid/` (the contract's columns as text, blanks as null, then `row` and `line`)
and `private/validated/<export>/quarantine/` (see `quarantine_schema`), in parts. `row` numbers an export's
records from 0 over all its files in reading order, unparsable ones included: it is a row's name from here on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl

import contracts
from etl import corrections, parts
from etl.errors import ExportError
from etl.normalise import normalised
from etl.reading import Block, Reader, read_export_file
from etl.run import RunContext
from etl.snapshot import SourceFile, sources
from etl.syncs import Export, Normalise, Sync

UNPARSABLE = "record_unparsable"
FOLDER = "private/validated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The rows of a block that keep the contract, and the quarantine of the others.

    `normalised`: how many values of each column were; `dropped`: of the valid rows, how many have lost a value of each field.
    """

    valid: pl.DataFrame
    quarantine: pl.DataFrame
    normalised: Mapping[str, int]
    dropped: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportContract:
    """What `contracts` says of one export; of columns that are required together (a tuple), one has to be there."""

    model: Any
    columns: Sequence[str]
    required: Sequence[str | tuple[str, ...]]


EXPORTS: Mapping[str, ExportContract] = {
    "crm": ExportContract(
        model=contracts.Crm,
        columns=contracts.crm.COLUMNS,
        required=("customer_id", ("email", "phone"), "updated_at"),
    ),
    "pos": ExportContract(
        model=contracts.Pos,
        columns=contracts.pos.COLUMNS,
        required=("transaction_id", "customer_id", "occurred_at", "total", "currency"),
    ),
}


def contract_of(sync: Sync, export: str) -> ExportContract:
    """The contract of an export, with the sync's own columns."""
    known = EXPORTS[export]
    if export != "crm" or not sync.own:
        return known
    return replace(known, model=contracts.with_own(known.model, sync.own), columns=(*known.columns, *sync.own))


def validate(ctx: RunContext) -> dict[str, Any]:
    """Reads and judges both exports; raises ExportError for what breaks a whole file."""
    with ctx.place.staged(FOLDER) as folder:
        folder.mkdir()
        return {name: _validate_export(ctx, name, folder / name) for name in EXPORTS}


def split(rows: pl.DataFrame, contract: ExportContract, normalise: Normalise, drop: Sequence[str] = ()) -> Split:
    """Judges rows of text (the contract's columns, then any others); `quarantine` keeps the values as they were read.

    A row in which one of the fields to `drop` is invalid is judged once more without it; if it still breaks a rule, it is
    in quarantine with all codes.
    """
    read = contracts.blank_to_null(rows)
    changes = normalised(normalise, contract.columns)
    clean = read.with_columns(**changes)
    put_right = {name: int((read[name] != clean[name]).sum()) for name in changes}
    codes = contracts.check(contract.model, clean).codes
    invalid = {name: codes.list.contains(f"{name}_invalid").fill_null(value=False) for name in drop}
    if {"latitude", "longitude"} <= invalid.keys():  # one without the other is invalid, too
        invalid["latitude"] = invalid["longitude"] = invalid["latitude"] | invalid["longitude"]
    if any(some.any() for some in invalid.values()):
        clean = clean.with_columns(pl.when(~some).then(name).alias(name) for name, some in invalid.items())
        is_changed = pl.any_horizontal(*invalid.values())
        changed = clean.with_columns(before=codes).filter(is_changed)
        after = contracts.check(contract.model, changed.drop("before")).codes
        both = changed.select(pl.when(after.is_not_null()).then(pl.col("before").list.set_union(after)))
        codes = _in_place(codes, both.to_series(), rows.select(is_changed).to_series())
    is_valid = codes.is_null()
    return Split(
        valid=clean.filter(is_valid),
        quarantine=rows.with_columns(codes=codes).filter(~is_valid),
        normalised=put_right,
        dropped={name: int((some & is_valid).sum()) for name, some in invalid.items()},
    )


def _in_place(values: pl.Series, some: pl.Series, where: pl.Series) -> pl.Series:
    """The values, with some others in the places that are true."""
    at = (where.cast(pl.Int64).cum_sum() - 1).clip(0)
    return pl.select(pl.when(where).then(pl.lit(some).gather(pl.lit(at))).otherwise(pl.lit(values))).to_series()


def quarantine_schema(contract: ExportContract) -> dict[str, pl.DataType | type[pl.DataType]]:
    """row, file, line, codes, the contract's columns with their original values, and the original record."""
    texts = dict.fromkeys((*contract.columns, "record"), pl.String)
    return {"row": pl.UInt64, "file": pl.String, "line": pl.UInt64, "codes": pl.List(pl.String), **texts}


def reader(ctx: RunContext, file: SourceFile) -> Reader:
    """Reads one file of the snapshot as its sync describes it."""
    export: Export = Export() if file.carried else getattr(ctx.sync, file.export)
    contract = contract_of(ctx.sync, file.export)
    if not ctx.work.exists(file.snapshot):  # `profile-etl purge` came between extract and this
        raise ExportError(f"the copy of {file.name} is gone: run again, it is copied anew", code="file_changed")
    return read_export_file(
        ctx.work.fetch(file.snapshot),
        format=file.format,
        columns={} if file.carried else ctx.sync.header(file.export),
        wanted=contract.columns,
        required=contract.required,
        delimiter=export.delimiter,
        encoding=export.encoding,
        name=file.name,
    )


def days_of_rows(ctx: RunContext) -> list[tuple[int, str]]:
    """The first `row` of each CRM file, and the day that its rows are of."""
    records = [entry["records"] for entry in ctx.result("validate")["crm"]["files"]]
    firsts = accumulate(records, initial=0)
    return [(first, file.day) for first, file in zip(firsts, sources(ctx, "crm"), strict=False)]


def _validate_export(ctx: RunContext, name: str, folder: Path) -> dict[str, Any]:
    contract = contract_of(ctx.sync, name)
    drop = [field for field, word in ctx.sync.on_invalid.items() if word == "drop_field"] if name == "crm" else []
    dropped = dict.fromkeys(drop, 0)
    records = carried = unparsable = quarantined = part = 0
    files, notices, changed = [], [], Counter[str]()
    for file in sources(ctx, name):
        read = reader(ctx, file)
        for block in corrections.corrected(ctx, file.sha256, read):
            done = _validate_block(block, contract, ctx.sync.normalise, drop, file.name, records)
            parts.write(folder / "valid", part, done.valid)
            parts.write(folder / "quarantine", part, done.quarantine)
            changed.update(done.normalised)
            part += 1
            unparsable += block.unparsable.height
            quarantined += done.quarantine.height - block.unparsable.height
            dropped = {field: count + done.dropped[field] for field, count in dropped.items()}
        _check_manifest(file, read.records)
        records += read.records
        carried += read.records if file.carried else 0
        files.append({"file": file.name, "records": read.records})
        notices += [{"code": notice.code, "message": notice.message} for notice in read.notices]
    if counts := [f"{column} {count:,}" for column, count in changed.items() if count]:
        notices.append({"code": "normalised", "message": f"{', '.join(counts)} ({name})"})
    return {
        "records": records,
        "carried": carried,
        "unparsable": unparsable,
        "quarantined": quarantined,
        "valid": records - unparsable - quarantined,
        "dropped": dropped,
        "files": files,
        "notices": notices,
    }


def _validate_block(
    block: Block, contract: ExportContract, normalise: Normalise, drop: Sequence[str], file: str, first: int
) -> Split:
    done = split(block.rows, contract, normalise, drop)
    schema = quarantine_schema(contract)
    bad = done.quarantine.with_columns(record=block.raw(done.quarantine["_record"]))
    unparsable = block.unparsable.with_columns(codes=pl.lit([UNPARSABLE], dtype=pl.List(pl.String)))
    quarantine = (
        pl.concat([bad, unparsable], how="diagonal")
        .sort("_record")
        .with_columns(row=pl.col("_record") + first, line=pl.col("_line"), file=pl.lit(file))
        .select(*schema)
    )
    valid = done.valid.select(*contract.columns, row=pl.col("_record") + first, line="_line")
    return replace(done, valid=valid, quarantine=quarantine)


def _check_manifest(file: SourceFile, records: int) -> None:
    if file.rows is not None and file.rows != records:
        raise ExportError(
            f"{file.name} holds {records:,} records, its manifest says {file.rows:,}: deliver it again",
            code="manifest_mismatch",
        )
