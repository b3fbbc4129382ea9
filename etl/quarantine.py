"""Quarantine: the rows of a run that break the contract, listed without a value of theirs, or exported with all of them.

What was put right in the exported CSV comes back as corrections (`etl.corrections`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import polars_hash as plh

from contracts import blank_to_null
from etl import corrections, parts, validate
from etl.errors import ConfigError
from etl.ledger import Ledger
from etl.run import PURGED
from etl.storage import Place
from etl.transform.folders import QUARANTINES

_FOLDERS = {"crm": QUARANTINES, "pos": (f"{validate.FOLDER}/pos/quarantine",)}
# What a spreadsheet takes for the beginning of a formula, or may; the last four are the wide forms of the first.
_FORMULA = r"[=+\-@\t\r\n\u{FF1D}\u{FF0B}\u{FF0D}\u{FF20}]"
_CUSTOMER_ID_CODES = ["customer_id_missing", "customer_id_invalid", validate.UNPARSABLE]
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """The quarantined rows of a run, in their order: `file`, `line`, `codes`, the original values, the original record."""

    run: str
    place: Place
    rows: pl.DataFrame

    @property
    def put_right(self) -> pl.DataFrame:
        """The records that the run has read as a person put them right."""
        return corrections.of(self.place)

    @property
    def files(self) -> pl.DataFrame:
        """`file` and `sha256` of the CRM export."""
        files = (self.place.read_json("extract.json") or {"files": []})["files"]
        crm = [(file["name"], file["sha256"]) for file in files if file["export"] == "crm"]
        return pl.DataFrame(crm, schema={"file": pl.String, "sha256": pl.String}, orient="row")


def newest(work: Place, ledger: Ledger, *, sync: str, day: str, destination: str, export: str) -> Quarantined:
    """The quarantined rows of the newest run of a day that was judged; raises ConfigError when there is no such run."""
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
            rows = every.sort("row").select(pl.exclude("row", "record"), "record")
            return Quarantined(run=run.run, place=place, rows=rows)
    raise ConfigError(f"no run of {sync} to {destination} for {day} has judged its export yet")


def listing(found: Quarantined) -> Iterator[str]:
    """How many rows broke which rules, and where each of them stands; no value of any row."""
    rows, put_right = found.rows, found.put_right.height
    yield f"{rows.height:,} rows" + (f"; {put_right:,} records count as they were put right" if put_right else "")
    counts = rows["codes"].explode().value_counts(sort=True).sort("count", "codes", descending=[True, False])
    yield from (f"  {count:>12,}  {code}" for code, count in counts.iter_rows())
    for file, line, codes in rows.select("file", "line", "codes").iter_rows():
        yield f"{file}:{line}  {', '.join(codes)}"


def write_csv(rows: pl.DataFrame, output: Path) -> None:
    """A CSV that a spreadsheet opens without running anything in it; readable by its owner only, as it is personal.

    A value that would begin a formula gets an apostrophe before it, as spreadsheets write a text; and so does one that
    looks as if it had got it, so that `put_right` can tell.
    """
    texts = [name for name in rows.columns if name not in {"line", "codes"}]
    begins = pl.col(texts).str.contains(rf"^'*{_FORMULA}")
    safe = rows.with_columns(
        pl.col("codes").list.join(";"), pl.when(begins).then("'" + pl.col(texts)).otherwise(pl.col(texts)).name.keep()
    )
    with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        safe.write_csv(file)


def read_csv(file: Path) -> pl.DataFrame:
    """What `write_csv` wrote, and a person or a spreadsheet after it: all texts, blanks as null.

    Raises ConfigError, without any text of the file, for one that is none.
    """
    try:
        content = file.read_bytes()
        head = re.match(rb'(?:\xef\xbb\xbf)?"?file"?([,;\t])', content)
        if head is None:
            raise ConfigError(f"{file} does not begin with the columns of quarantine export: file, line, codes")
        texts = pl.read_csv(content, separator=head[1].decode(), infer_schema=False)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except pl.exceptions.PolarsError:  # its message would quote the row
        raise ConfigError(f"{file} is not a CSV in UTF-8: save it as 'CSV UTF-8'") from None
    added = pl.all().str.contains(rf"^'+{_FORMULA}")
    return blank_to_null(texts.with_columns(pl.when(added).then(pl.all().str.slice(1)).otherwise(pl.all()).name.keep()))


def put_right(file: Path, found: Quarantined) -> pl.DataFrame:
    """The rows of an exported CSV that are other than they were, as corrections.

    Raises ConfigError, with their places in the CSV, for rows that the run did not quarantine, that come twice, or that
    are another customer's now although nothing was wrong with their id.
    """
    given = read_csv(file)
    columns = [name for name in found.rows.columns if name not in {"file", "line", "codes", "record"}]
    originals = blank_to_null(found.rows.select(columns)).select(original=_fingerprint(columns))
    quarantined = found.rows.hstack(originals)
    earlier = found.put_right.join(found.files, on="sha256").drop("sha256", "run")
    every = pl.concat([quarantined, earlier], how="diagonal")
    if missing := {"line", *columns} - set(given.columns):
        raise ConfigError(
            f"{file} lacks columns of a CRM quarantine export (receipts cannot be released): {', '.join(sorted(missing))}"
        )
    known = every.unique(["file", "line"], keep="first")
    before = known.with_columns(*blank_to_null(known.select(columns)), is_known=pl.lit(value=True))
    rows = (
        given.select("file", pl.col("line").cast(pl.UInt64, strict=False), *columns)
        .with_row_index("place", offset=1)
        .join(before, on=["file", "line"], how="left", suffix="_before", maintain_order="left")
        .join(found.files, on="file", how="left", maintain_order="left")
    )
    _refuse(file, rows.filter(pl.col("is_known").is_null()), "name no row that is quarantined")
    _refuse(file, rows.filter(pl.struct("file", "line").is_duplicated()), "name the same row")
    # What stands as the export had it was not touched: in an older copy, also what somebody has put right since.
    is_other = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_before")) for name in columns)
    rows = rows.filter(is_other & _fingerprint(columns).ne_missing(pl.col("original")))
    was_right = ~pl.col("codes").list.eval(pl.element().is_in(_CUSTOMER_ID_CODES)).list.any().fill_null(value=False)
    is_another = pl.col("customer_id").ne_missing(pl.col("customer_id_before"))
    _refuse(file, rows.filter(was_right & is_another), "have another customer_id than they had (leading zeros?)")
    return rows.select("sha256", "line", *columns, "original", run=pl.lit(Path(found.run).name))


def unreleased(file: Path, found: Quarantined) -> int:
    """How many rows of a file were put right and not released; none where it is no export of this quarantine."""
    try:
        return put_right(file, found).height
    except ConfigError:
        return 0


def _fingerprint(columns: Sequence[str]) -> pl.Expr:
    """64 bits of a row's values, the same in every version (xxh3)."""
    values = (pl.col(name).fill_null("\0") for name in columns)
    bits: pl.Expr = plh.concat_str(*values, separator="\1").nchash.xxh3_64()
    return bits


def _refuse(file: Path, rows: pl.DataFrame, why: str) -> None:
    if rows.height:
        places = ", ".join(str(place) for place in rows["place"].head(_SHOWN))
        more = ", ..." if rows.height > _SHOWN else ""
        raise ConfigError(f"rows {places}{more} under the header of {file} {why}; nothing was released")
