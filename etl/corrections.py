"""Corrections: records of a day's CRM export that a person has put right, read in the place of what the file holds.

A run keeps its own in `private/corrections/`, `released.arrow` as `profile-etl quarantine release` gave them and
`used.arrow` as the run reads them; the next run of the day takes these over. They are of a file (`sha256`) and a `line`, so
an export that is delivered anew knows nothing of them; `run` is the one whose quarantine was put right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import polars as pl

from etl.reading import Block
from etl.run import RunContext
from etl.storage import Place

FOLDER = "private/corrections"
_RELEASED, _USED = f"{FOLDER}/released.arrow", f"{FOLDER}/used.arrow"
_IDENTITY = ("sha256", "line")
_NONE = pl.DataFrame(schema={"sha256": pl.String, "line": pl.UInt64, "run": pl.String})


def note(ctx: RunContext, fixes: pl.DataFrame) -> None:
    """Gives a run that has not begun its own corrections: `sha256`, `line`, `run`, and the contract's columns."""
    _write(ctx, _RELEASED, fixes)


def take_over(ctx: RunContext, files: Iterable[str]) -> dict[str, Any]:
    """Settles what the run reads: its own corrections, then those of the newest other run of the day that has some.

    `rows` counts those of the given files (by their hashes), `outdated` the others, which are left out; `of` names the
    runs that they belong to.
    """
    own = _read(ctx.place, _RELEASED)
    others = (
        ctx.work / run.run for run in ctx.ledger.runs(sync=ctx.sync.name, day=str(ctx.day)) if run.run != ctx.name
    )
    earlier = (_read(place, name) for place in others for name in (_USED, _RELEASED) if place.exists(name))
    every = pl.concat([own, next(earlier, _NONE)], how="diagonal").unique(_IDENTITY, keep="first", maintain_order=True)
    used = every.filter(pl.col("sha256").is_in(list(files)))
    if every.height:
        _write(ctx, _USED, used)
    return {"rows": used.height, "outdated": every.height - used.height, "of": sorted(used["run"].unique())}


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


def _read(place: Place, name: str) -> pl.DataFrame:
    return pl.read_ipc(place.fetch(name)) if place.exists(name) else _NONE


def _write(ctx: RunContext, name: str, fixes: pl.DataFrame) -> None:
    with ctx.place.staged(name) as path:
        fixes.write_ipc(path)
