"""Extract: finds the day's export files and copies them into an immutable snapshot, named by the hash of their bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from datetime import date, timedelta
from pathlib import Path
from typing import Any, BinaryIO

from etl import base, corrections
from etl.errors import ExportError
from etl.reading import Format
from etl.run import RunContext
from etl.snapshot import SNAPSHOTS, SourceFile
from etl.storage import Place

POS_DAYS = 30
MANIFEST = "manifest.json"
_FORMATS: tuple[Format, ...] = ("csv.gz", "csv", "ndjson", "parquet")
_COPY_BYTES = 1 << 20
_MANIFEST_BYTES = 1 << 24
# Two writes within one tick of the kernel's clock leave a file the same time; after a tick, a write shows.
_CLOCK_TICK_S = 0.02


def extract(ctx: RunContext) -> dict[str, Any]:
    """Takes the snapshot: the CRM export of the day and, if the sync has any, the POS exports of the 30 days up to it.

    Raises ExportError when there is no CRM export for the day, and when a file cannot be taken as it is.
    """
    known = base.newest(ctx) if ctx.sync.crm_mode == "delta" else None
    crm = _crm(ctx, known)
    days = [ctx.day - timedelta(days=back) for back in reversed(range(POS_DAYS))]
    pos = {day: list(_take(ctx, "pos", day)) for day in days} if ctx.sync.pos else {}
    exports = ("crm", "pos") if ctx.sync.pos else ("crm",)
    return {
        "files": [asdict(file) for file in (*crm, *(file for files in pos.values() for file in files))],
        "pos_gaps": [str(day) for day, files in pos.items() if not files],
        "pos_incomplete": not pos.get(ctx.day),
        "corrected": corrections.take_over(ctx, crm, carried=known.corrected if known else ()),
        "ignored": [name for export in exports for name in _ignored(ctx.landing, f"{export}/{ctx.day}")],
    }


def _crm(ctx: RunContext, known: base.Base | None) -> list[SourceFile]:
    """The day's CRM files; of exports that hold only what changed, those since the base that is known, and the base."""
    if ctx.sync.crm_mode == "full":
        files = list(_take(ctx, "crm", ctx.day))
        if files:
            return files
        folder = f"{ctx.landing.root}/crm/{ctx.day}"
        raise ExportError(
            f"no CRM export in {folder}: expected a csv, csv.gz, ndjson or parquet file", code="crm_missing"
        )
    since = known.file.day if known else ""
    days = [name for name in ctx.landing.names("crm") if since < name <= str(ctx.day) and _is_day(name)]
    landed = [file for day in days for file in _take(ctx, "crm", date.fromisoformat(day))]
    newest = max([since, *(file.day for file in landed)])
    oldest = ctx.day - timedelta(days=ctx.sync.crm_max_age_days)
    if newest < str(oldest):
        raise ExportError(
            f"no CRM export in {ctx.landing.root}/crm from {oldest} to {ctx.day}, the days that crm_max_age_days of "
            f"{ctx.sync.name} allows",
            code="crm_missing",
        )
    return [known.file, *landed] if known else landed


def _is_day(name: str) -> bool:
    with suppress(ValueError):
        return str(date.fromisoformat(name)) == name
    return False


def _take(ctx: RunContext, export: str, day: date) -> Iterator[SourceFile]:
    folder = f"{export}/{day}"
    formats = {name: form for name in ctx.landing.names(folder) if (form := format_of(name))}
    if not all(name.isprintable() for name in formats):
        raise ExportError(f"{folder} holds a file whose name cannot be printed: rename it", code="file_name")
    manifest = read_manifest(ctx.landing, folder)
    if manifest is not None and sorted(manifest) != sorted(formats):
        raise ExportError(
            f"{folder}/{MANIFEST} lists other files than the folder holds: wait for the whole export, or correct it",
            code="manifest_mismatch",
        )
    for name, form in formats.items():
        path = f"{folder}/{name}"
        sha256, size = _copy(ctx.landing, path, ctx.work)
        promised = (manifest or {}).get(name, {})
        if manifest is not None and str(promised.get("sha256")).lower() != sha256:
            raise ExportError(
                f"{path} does not match its {MANIFEST} (sha256): deliver it again", code="manifest_mismatch"
            )
        if size == 0:
            raise ExportError(f"{path} is empty (0 bytes): deliver it again", code="file_empty")
        yield SourceFile(
            export=export, day=str(day), name=path, format=form, sha256=sha256, bytes=size,
            rows=promised.get("rows"),
        )  # fmt: skip


def _ignored(landing: Place, folder: str) -> list[str]:
    """Files that a person may have meant to be read: no exports by their name, and not hidden."""
    others = (name for name in landing.names(folder) if format_of(name) is None and name != MANIFEST)
    return [f"{folder}/{name}" for name in others if name.isprintable() and not name.startswith(".")]


def format_of(name: str) -> Format | None:
    """The format of an export file by its name; None for what is no export, or hidden."""
    if name.startswith("."):
        return None
    return next((ending for ending in _FORMATS if name.endswith(f".{ending}")), None)


def read_manifest(landing: Place, folder: str) -> dict[str, dict[str, Any]] | None:
    """What the manifest of a folder promises of each file, None where there is none; raises ExportError for an odd one."""
    path = f"{folder}/{MANIFEST}"
    if not landing.exists(path):
        return None
    try:
        with open_landed(landing, path) as file:
            value = json.loads(file.read(_MANIFEST_BYTES))
        return {
            str(entry["name"]): {"sha256": entry["sha256"], "rows": int(str(entry["rows"]))} for entry in value["files"]
        }
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ExportError(
            f'{path} must be {{"files": [{{"name", "sha256", "rows"}}]}}', code="manifest_mismatch"
        ) from None


def _copy(landing: Place, name: str, work: Place) -> tuple[str, int]:
    """Copies and hashes a file; the copy takes its hash as its name. Returns the hash and the size in bytes."""
    digest, size = hashlib.sha256(), 0
    with work.bench(SNAPSHOTS) as bench:
        try:
            with open_landed(landing, name) as source, (bench / "copy").open("wb") as copy:
                before = _identity(landing, name, source)
                if landing.is_local and abs(time.time() - os.fstat(source.fileno()).st_mtime) < _CLOCK_TICK_S:
                    time.sleep(_CLOCK_TICK_S)
                while block := source.read(_COPY_BYTES):
                    digest.update(block)
                    copy.write(block)
                    size += len(block)
                unchanged = before == _identity(landing, name, source)
        except FileNotFoundError:
            unchanged = False
        except OSError as error:
            if error.errno != errno.EBUSY:  # s3fs: no longer the file that was opened
                raise
            unchanged = False
        if not unchanged:
            raise ExportError(f"{name} changed while it was read: run again when it is complete", code="file_changed")
        if not work.exists(f"{SNAPSHOTS}/{digest.hexdigest()}"):
            work.publish(bench / "copy", f"{SNAPSHOTS}/{digest.hexdigest()}")
    return digest.hexdigest(), size


def open_landed(landing: Place, name: str) -> BinaryIO:
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
    """What changes when a file is written to; raises FileNotFoundError when it is not the one of that name any more."""
    if not landing.is_local:
        return (landing.fingerprint(name),)
    found = os.fstat(source.fileno())
    if not os.path.samestat(found, (Path(landing.root) / name).stat()):
        raise FileNotFoundError(name)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
