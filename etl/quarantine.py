"""Quarantine: the rows of a run that break the contract, listed without a value of theirs, or exported with all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from etl import parts, validate
from etl.errors import ConfigError
from etl.ledger import Ledger
from etl.run import PURGED
from etl.storage import Place
from etl.transform.step import QUARANTINES

_FOLDERS = {"crm": QUARANTINES, "pos": (f"{validate.FOLDER}/pos/quarantine",)}
# What a spreadsheet takes for the beginning of a formula, or may; the last four are the wide forms of the first.
_FORMULA = r"^[=+\-@\t\r\n\u{FF1D}\u{FF0B}\u{FF0D}\u{FF20}]"


def newest(work: Place, ledger: Ledger, *, sync: str, day: str, destination: str, export: str) -> pl.DataFrame:
    """The quarantined rows of the newest run of a day that was judged, in their order.

    `file`, `line`, `codes`, then the original values, and the original record as it stood in the file. Raises
    ConfigError when there is no such run.
    """
    for run in ledger.runs(sync=sync, day=day, destination=destination):
        place = work / run.run
        if place.exists(PURGED) and not place.exists(validate.FOLDER):
            raise ConfigError(
                f"profile-etl purge has removed the rows of {run.run}; a new run of the day finds them anew"
            )
        if place.exists("validate.json"):
            schema = validate.quarantine_schema(validate.EXPORTS[export])
            frames = [frame for folder in _FOLDERS[export] for frame in parts.frames(place, folder)]
            every = pl.concat([pl.DataFrame(schema=schema), *frames], how="diagonal")
            return every.sort("row").select(pl.exclude("row", "record"), "record")
    raise ConfigError(f"no run of {sync} to {destination} for {day} has judged its export yet")


def listing(rows: pl.DataFrame) -> Iterator[str]:
    """How many rows broke which rules, and where each of them stands; no value of any row."""
    yield f"{rows.height:,} rows"
    counts = rows["codes"].explode().value_counts(sort=True).sort("count", "codes", descending=[True, False])
    yield from (f"  {count:>12,}  {code}" for code, count in counts.iter_rows())
    for file, line, codes in rows.select("file", "line", "codes").iter_rows():
        yield f"{file}:{line}  {', '.join(codes)}"


def write_csv(rows: pl.DataFrame, output: Path) -> None:
    """A CSV that a spreadsheet opens without running anything in it; readable by its owner only, as it is personal.

    A value that would begin a formula gets an apostrophe before it, as spreadsheets write a text.
    """
    texts = [name for name in rows.columns if name not in {"line", "codes"}]
    safe = rows.with_columns(
        pl.col("codes").list.join(";"),
        *(
            pl.when(pl.col(name).str.contains(_FORMULA)).then("'" + pl.col(name)).otherwise(name).alias(name)
            for name in texts
        ),
    )
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        safe.write_csv(file)
