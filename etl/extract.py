"""Extract: finds the day's export files and copies them into an immutable snapshot, named by the hash of their bytes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from etl.errors import ExportError
from etl.reading import Format
from etl.run import RunContext
from etl.storage import Place

SNAPSHOTS = "private/snapshots"
POS_DAYS = 30
MANIFEST = "manifest.json"
_FORMATS: tuple[Format, ...] = ("csv.gz", "csv", "ndjson", "parquet")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One export file of the snapshot.

    `name` is its path in the landing folder, `sha256` and `bytes` are of the file as stored; `rows` is what a manifest
    promised, if there was one.
    """

    export: str
    day: str
    name: str
    format: Format
    sha256: str
    bytes: int
    rows: int | None = None

    @property
    def snapshot(self) -> str:
        """Where the copy stands in the work place."""
        return f"{SNAPSHOTS}/{self.sha256}"


def extract(ctx: RunContext) -> dict[str, Any]:
    """Takes the snapshot: the CRM export of the day and the POS exports of the 30 days that end with it.

    Raises ExportError when there is no CRM export for the day, and when a file cannot be taken as it is.
    """
    crm = list(_take(ctx, "crm", ctx.day))
    if not crm:
        folder = f"crm/{ctx.day}"
        raise ExportError(
            f"no CRM export in {folder}: expected a csv, csv.gz, ndjson or parquet file", code="crm_missing"
        )
    days = [ctx.day - timedelta(days=back) for back in reversed(range(POS_DAYS))]
    pos = {day: list(_take(ctx, "pos", day)) for day in days}
    gaps = [str(day) for day in days if not pos[day]]
    return {
        "files": [asdict(file) for file in (*crm, *(file for day in days for file in pos[day]))],
        "pos_gaps": gaps,
        "pos_incomplete": not pos[ctx.day],
    }


def sources(ctx: RunContext, export: str) -> list[SourceFile]:
    """The files of one export in reading order: by day, then by name."""
    files = (SourceFile(**entry) for entry in ctx.result("extract")["files"])
    return [file for file in files if file.export == export]


def _take(ctx: RunContext, export: str, day: date) -> Iterator[SourceFile]:
    folder = f"{export}/{day}"
    formats = {name: form for name in ctx.landing.names(folder) if (form := _format(name))}
    manifest = _manifest(ctx.landing, folder)
    if manifest is not None and sorted(manifest) != sorted(formats):
        raise ExportError(
            f"{folder}/{MANIFEST} lists other files than the folder holds: wait for the whole export, or correct it",
            code="manifest_mismatch",
        )
    for name, form in formats.items():
        path = f"{folder}/{name}"
        sha256, size = _copy(ctx.landing, path, ctx.work)
        promised = (manifest or {}).get(name, {})
        if manifest is not None and promised.get("sha256") != sha256:
            raise ExportError(
                f"{path} does not match its {MANIFEST} (sha256): deliver it again", code="manifest_mismatch"
            )
        if size == 0:
            raise ExportError(f"{path} is empty (0 bytes): deliver it again", code="file_empty")
        yield SourceFile(
            export=export, day=str(day), name=path, format=form, sha256=sha256, bytes=size,
            rows=promised.get("rows"),
        )  # fmt: skip


def _format(name: str) -> Format | None:
    if name.startswith("."):
        return None
    return next((ending for ending in _FORMATS if name.endswith(f".{ending}")), None)


def _manifest(landing: Place, folder: str) -> dict[str, dict[str, Any]] | None:
    path = f"{folder}/{MANIFEST}"
    if not landing.exists(path):
        return None
    try:
        with _open(landing, path) as file:
            value = json.loads(file.read())
        return {
            str(entry["name"]): {"sha256": entry.get("sha256"), "rows": entry.get("rows")} for entry in value["files"]
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ExportError(
            f'{path} must be {{"files": [{{"name", "sha256", "rows"}}]}}', code="manifest_mismatch"
        ) from None


def _copy(landing: Place, name: str, work: Place) -> tuple[str, int]:
    """Copies and hashes a file; the copy takes its hash as its name. Returns the hash and the size in bytes."""
    digest, size = hashlib.sha256(), 0
    with work.bench(SNAPSHOTS) as bench, _open(landing, name) as source:
        before = _identity(landing, name, source)
        with (bench / "copy").open("wb") as copy:
            while block := source.read(_COPY_BYTES):
                digest.update(block)
                copy.write(block)
                size += len(block)
        if before != _identity(landing, name, source):
            raise ExportError(f"{name} changed while it was read: run again when it is complete", code="file_changed")
        if not work.exists(f"{SNAPSHOTS}/{digest.hexdigest()}"):
            work.publish(bench / "copy", f"{SNAPSHOTS}/{digest.hexdigest()}")
    return digest.hexdigest(), size


def _open(landing: Place, name: str) -> BinaryIO:
    """Opens a landing file; locally only a regular file that stands inside the landing folder, links resolved."""
    if not landing.is_local:
        return landing.open(name)
    root = Path(landing.root).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise ExportError(f"{name} leads out of the landing folder: put the file itself there", code="file_outside")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ExportError(f"{name} is not a regular file", code="file_outside")
    return path.open("rb")


def _identity(landing: Place, name: str, source: BinaryIO) -> tuple[object, ...]:
    """What changes when a file is written to or replaced: of the open file, and of what stands at its name now."""
    if not landing.is_local:
        return (landing.fingerprint(name),)
    try:
        seen = (os.fstat(source.fileno()), (Path(landing.root) / name).stat())
    except FileNotFoundError:
        return ()
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in seen)
