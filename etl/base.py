"""Base: all customers up to a day, where a CRM export holds only those who changed (`crm_mode="delta"`).

A run reads the newest base of an earlier day as if it were the first file of its export, then what has landed since, and
leaves a base of its own behind: of each customer the row that won. So a customer who is carried forward is judged and
accounted for like any other. A base is made of landing files, with what was put right in them, and can be made again.

`private/base/<sync>/<day>.json` names the snapshot that has the rows (`file`), and every landing file that they were ever
taken from, with its mark (`made_of`, `corrections.mark`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date

import polars as pl

from etl import corrections
from etl.run import RunContext
from etl.snapshot import SNAPSHOTS, SourceFile, sources
from etl.storage import Place

FOLDER = "private/base"


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The customers up to `file.day`, and the landing files that they are from, each with its mark."""

    sync: str
    file: SourceFile
    made_of: Mapping[str, str]

    @property
    def name(self) -> str:
        """Where it is described in the work place."""
        return f"{FOLDER}/{self.sync}/{self.file.day}.json"

    @property
    def corrected(self) -> set[str]:
        """The hashes of the landing files that were read with corrections."""
        return {sha256 for sha256, plus, _ in (mark.partition("+") for mark in self.made_of.values()) if plus}

    def of(self, day: str) -> dict[str, str]:
        """What it is made of, as far as that landed for this day or an earlier one."""
        return {name: mark for name, mark in self.made_of.items() if landed_for(name) <= day}


def landed_for(name: str) -> str:
    """The day of a landing file."""
    return name.split("/")[1]


def newest(ctx: RunContext) -> Base | None:
    """The base that a run begins with; None if it has to read the whole landing folder."""
    earlier = [base for base in bases(ctx.work, ctx.sync.name) if base.file.day < str(ctx.day)]
    return earlier[-1] if earlier else None


def bases(work: Place, sync: str) -> list[Base]:
    """The bases of a sync whose rows are there, by day."""
    names = [name for name in work.names(f"{FOLDER}/{sync}") if name.endswith(".json")]
    found = [value for name in names if (value := work.read_json(f"{FOLDER}/{sync}/{name}")) is not None]
    every = [Base(sync=sync, file=SourceFile(**value["file"]), made_of=value["made_of"]) for value in found]
    return [base for base in every if work.exists(base.file.snapshot)]


def everyones(work: Place) -> Iterator[Base]:
    """The bases of all syncs."""
    return (base for sync in work.names(FOLDER) for base in bases(work, sync))


def leave(ctx: RunContext, rows: pl.LazyFrame) -> str | None:
    """Leaves the base of a run's newest landing file behind; says why not, where a person has to know.

    Bases of later days that were made of other files up to that day are removed: the next run makes them again. Where an
    earlier day was told anew while the run was under way, it leaves none, and the next run makes one.
    """
    files = sources(ctx, "crm")
    landed = {file.name: corrections.mark(ctx, file.sha256) for file in files if not file.carried}
    known = bases(ctx.work, ctx.sync.name)
    read = [base for base in known if base.file in files]
    if not landed or (files[0].carried and not read):
        return None
    day = max(map(landed_for, landed))
    made_of = {name: mark for base in read for name, mark in base.made_of.items()} | landed
    if any(base.file.day < day and not base.made_of.items() <= made_of.items() for base in known):
        return None
    stale = [base for base in known if base.file.day >= day and base.of(day) != made_of]
    gone = {name for base in stale for name in base.made_of if name not in made_of and not ctx.landing.exists(name)}
    if gone:
        return (
            f"later runs go on without what is new here: {min(gone)} has left the landing folder, and could not be read "
            f"again. Put it back and run this day again, or remove {FOLDER}/{ctx.sync.name} of the work folder"
        )
    for base in stale:
        ctx.work.remove(base.name)
    write(ctx.work, ctx.sync.name, day, rows, made_of)
    return None


def write(work: Place, sync: str, day: str, rows: pl.LazyFrame, made_of: Mapping[str, str]) -> None:
    """Writes a base; without any rows there is none, and the next run reads the files again."""
    with work.bench(SNAPSHOTS) as bench:
        path = bench / "base"
        rows.sink_parquet(path)
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        file = SourceFile(
            export="crm", day=day, name=f"carried forward from {day}", format="parquet", sha256=sha256,
            bytes=path.stat().st_size, carried=True,
        )  # fmt: skip
        base = Base(sync=sync, file=file, made_of=made_of)
        if pl.scan_parquet(path).limit(1).collect().is_empty():
            work.remove(base.name)
            return
        work.publish(path, file.snapshot)
    work.write_json(base.name, {"file": asdict(file), "made_of": dict(made_of)})


def forget(work: Place, customer_id: str) -> None:
    """Takes a customer out of all bases; the snapshots with the rows as they were are left to the purge."""
    is_one = pl.col("customer_id") == customer_id
    for base in everyones(work):
        rows = pl.scan_parquet(work.fetch(base.file.snapshot))
        if not rows.filter(is_one).limit(1).collect().is_empty():
            write(work, base.sync, base.file.day, rows.filter(~is_one), base.made_of)


def thin(work: Place, *, oldest: date) -> None:
    """Removes the bases of days before one, but for the newest two of each sync: there may be no files to make them again.

    The newest is what the next day begins with, the one before what its own day does when it is run again.
    """
    for sync in work.names(FOLDER):
        for base in bases(work, sync)[:-2]:
            if base.file.day < str(oldest):
                work.remove(base.name)
