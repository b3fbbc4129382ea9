"""Arrival: whether the CRM export of a day has landed whole, judged from outside and without taking it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from etl.errors import ExportError
from etl.extract import MANIFEST, format_of, open_landed, read_manifest
from etl.storage import Place

LOOK_AGAIN_S = 60.0
# What was written to so lately may still grow.
_SETTLED_S = 60.0
_BLOCK = 1 << 20


def missing(landing: Place, day: date, *, now: float) -> str | None:
    """What the export lacks, for the end of a sentence; None when it is whole. A manifest that is there must match."""
    folder = f"crm/{day}"
    try:
        files = [name for name in landing.names(folder) if format_of(name)]
        manifest = read_manifest(landing, folder)
        if manifest is not None and sorted(manifest) != sorted(files):
            return f"{MANIFEST} lists other files than the folder holds"
        if not files:
            return "it holds no csv, csv.gz, ndjson or parquet file"
        return _unsettled(landing, [f"{folder}/{name}" for name in files], manifest or {}, now)
    except ExportError as error:
        return str(error)
    except FileNotFoundError:
        return "its files change"


def _unsettled(landing: Place, paths: Sequence[str], manifest: Mapping[str, Any], now: float) -> str | None:
    # Another machine's clock may be ahead a little.
    if any(abs(now - landing.modified(path)) < _SETTLED_S for path in paths):
        return "a file of it was written to within the last minute"
    promised = {path: str(manifest[path.rpartition("/")[2]]["sha256"]).lower() for path in paths if manifest}
    if any(_sha256(landing, path, landing.fingerprint(path)) != digest for path, digest in promised.items()):
        return f"a file of it does not match its {MANIFEST}"
    return None


def pause(landing: Place, day: date, *, until: float, now: float) -> float | None:
    """Seconds until the next look; None when the export is there, or the time `until` is over."""
    waits = now < until and missing(landing, day, now=now)
    return min(LOOK_AGAIN_S, until - now) if waits else None


@lru_cache(maxsize=64)
def _sha256(landing: Place, name: str, _fingerprint: str) -> str:
    """A file is read anew only after it has changed, however often it is looked at."""
    digest = hashlib.sha256()
    with open_landed(landing, name) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
