"""Corrections: records of a day's CRM export that a person has put right, read in the place of what the file holds.

A run keeps its own in `private/corrections/`, `released.arrow` as `profile-etl quarantine release` gave them and
`used.arrow` as the run reads them; whichever run reads the file next takes these over. They are of a file (`sha256`) and a
`line`, so an export that is delivered anew knows nothing of them; `run` is the one whose quarantine was put right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from etl.reading import Block
from etl.run import RunContext
from etl.snapshot import SourceFile
from etl.storage import Place

FOLDER = "private/corrections"
_RELEASED, _USED = f"{FOLDER}/released.arrow", f"{FOLDER}/used.arrow"
_IDENTITY = ("sha256", "line")
_NONE = pl.DataFrame(schema={"sha256": pl.String, "line": pl.UInt64, "run": pl.String})


def note(ctx: RunContext, fixes: pl.DataFrame) -> None:
    """Gives a run that has not begun its own corrections: `sha256`, `line`, `run`, and the contract's columns."""
    _write(ctx, _RELEASED, fixes)


def take_over(ctx: RunContext, files: Sequence[SourceFile], *, carried: Collection[str] = ()) -> dict[str, Any]:
    """Settles what the run reads: its own corrections, then those of the other runs that may have read its files.

    `rows` counts those of the files, `outdated` those of this day whose file is neither among them nor `carried` forward as
    it was put right (by its hash): they are left out; `of` names the runs that they belong to.
    """
    read = [file.sha256 for file in files]
    days = [file.day for file in files if not file.carried]
    newest = _newest_of_days(ctx, since=min(days, default=str(ctx.day)))
    own = _read(ctx.place, _RELEASED)
    of_day = _first([own, newest.get(str(ctx.day), _NONE)])
    every = _first([own, *newest.values()])
    used = every.filter(pl.col("sha256").is_in(read))
    if every.height:
        _write(ctx, _USED, used)
    outdated = of_day.filter(~pl.col("sha256").is_in([*read, *carried]))
    return {"rows": used.height, "outdated": outdated.height, "of": sorted(used["run"].unique())}


def mark(ctx: RunContext, sha256: str) -> str:
    """What a run has read of a file: its hash, and that of the corrections, if there are any."""
    fixes = of(ctx.place).filter(pl.col("sha256") == sha256).drop("sha256", "run").sort("line")
    if fixes.is_empty():
        return sha256
    return f"{sha256}+{hashlib.sha256(fixes.select(sorted(fixes.columns)).write_csv().encode()).hexdigest()}"


def of(place: Place) -> pl.DataFrame:
    """The corrections that a run reads."""
    return _read(place, _USED)


def corrected(ctx: RunContext, sha256: str, blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks of a file with the corrected records in their places, also of those that could not be parsed."""
    fixes = of(ctx.place).filter(pl.col("sha256") == sha256).rename({"line": "_line"})
    if fixes.is_empty():
        yield from blocks
        return
    for block in blocks:
        places = pl.concat([frame.select("_line", "_record") for frame in (block.rows, block.unparsable)])
        fixed = fixes.join(places, on="_line")
        if fixed.is_empty():
            yield block
            continue
        is_fixed = pl.col("_record").is_in(fixed["_record"].implode())
        as_read = block.rows.filter(~is_fixed)
        put_right = pl.concat([as_read.clear(), fixed], how="diagonal").select(as_read.columns)
        yield replace(
            block,
            rows=pl.concat([as_read, put_right]).sort("_record"),
            unparsable=block.unparsable.filter(~is_fixed),
        )


def _newest_of_days(ctx: RunContext, *, since: str) -> dict[str, pl.DataFrame]:
    """The corrections of the newest other run of each day that has some, those of the run that began last first."""
    found: dict[str, tuple[float, pl.DataFrame]] = {}
    for run in ctx.ledger.runs_of_days(ctx.sync.name, since=since):
        place = ctx.work / run.run
        name = next((name for name in (_USED, _RELEASED) if place.exists(name)), None)
        if name and run.run != ctx.name and run.day not in found:
            found[run.day] = (run.started_at, _read(place, name))
    in_order = sorted(found.items(), key=lambda each: each[1][0], reverse=True)
    return {day: fixes for day, (_, fixes) in in_order}


def _first(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The first correction of each record."""
    return pl.concat(frames, how="diagonal").unique(_IDENTITY, keep="first", maintain_order=True)


def _read(place: Place, name: str) -> pl.DataFrame:
    return pl.read_ipc(place.fetch(name)) if place.exists(name) else _NONE


def _write(ctx: RunContext, name: str, fixes: pl.DataFrame) -> None:
    with ctx.place.staged(name) as path:
        fixes.write_ipc(path)
