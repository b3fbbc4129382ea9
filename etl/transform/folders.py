"""Folders: where in a run the transform step leaves what goes out, what goes alone, and what stays behind."""

from __future__ import annotations

from etl import validate

FOLDER = "private/transformed"
PROFILES, OPT_OUTS, HELD = (f"{FOLDER}/{name}" for name in ("profiles", "optouts", "held"))
# Valid rows whose customer has a newer version in quarantine, and all CRM rows that are quarantined.
NEWER = f"{FOLDER}/quarantine"
QUARANTINES = (f"{validate.FOLDER}/crm/quarantine", NEWER)
DEDUPLICATED = f"{FOLDER}/deduplicated.parquet"
