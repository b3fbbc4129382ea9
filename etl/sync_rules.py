"""Sync rules: what can be wrong with a sync before any file is read, each a sentence; `etl.syncs` imports too little to know."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from itertools import chain
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import contracts
from contracts.profiles import COLUMNS
from etl.destinations import DESTINATIONS
from etl.syncs import Export, Sync

# Batch's rule for the name of an attribute; what every vendor takes.
_NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
_CONTRACTS = {"crm": contracts.crm.COLUMNS, "pos": contracts.pos.COLUMNS}
_CRON = re.compile(r"@(yearly|annually|quarterly|monthly|weekly|daily|midnight|hourly)|[\w*/,#?-]+( +[\w*/,#?-]+){4}")
# Columns of our own files.
_TAKEN = {*contracts.crm.COLUMNS, *COLUMNS, "row", "line", "file", "codes", "record", "memory"}


def problems(sync: Sync) -> list[str]:
    """All that is wrong with how a sync is written."""
    if sync.destination in DESTINATIONS:
        unknown = []
    else:
        unknown = [f"there is no destination {sync.destination!r}{_meant(sync.destination, DESTINATIONS)}"]
    exports = {"crm": sync.crm, "pos": sync.pos}
    return [
        *unknown,
        *chain.from_iterable(_of_export(name, export) for name, export in exports.items() if export),
        *_of_attributes(sync),
        *_of_schedule(sync),
    ]


def _of_export(name: str, export: Export) -> Iterator[str]:
    for theirs, ours in export.columns.items():
        if ours not in _CONTRACTS[name]:
            yield f"columns of {name} call {theirs!r} {ours!r}, which docs/contracts.md does not know{_meant(ours, _CONTRACTS[name])}"
    if len(export.delimiter.encode()) != 1 or export.delimiter in '"\r\n':
        yield f"the delimiter of {name} must be one character of ASCII, and no quotation mark"
    try:
        codecs.lookup(export.encoding)
    except LookupError:
        yield f"the encoding of {name}, {export.encoding!r}, is not one that Python knows"


def _of_attributes(sync: Sync) -> Iterator[str]:
    for theirs, ours in sync.attributes.items():
        if not _NAME.fullmatch(ours):
            yield f"attributes call {theirs!r} {ours!r}: a name has small letters, digits and _, 30 at most, and begins with a letter"
        elif ours in _TAKEN:
            yield f"attributes call {theirs!r} {ours!r}, which is a name of ours: use columns, or another name"
        if theirs in sync.crm.columns:
            yield f"{theirs!r} stands under both columns and attributes"
    if len(set(sync.own)) < len(sync.own):
        yield "two attributes have the same name"


def _of_schedule(sync: Sync) -> Iterator[str]:
    try:
        ZoneInfo(sync.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield f"there is no timezone {sync.timezone!r}{_meant(sync.timezone, available_timezones())}"
    if not _CRON.fullmatch(sync.schedule):
        yield f"the schedule {sync.schedule!r} is no cron expression: five fields, as in 0 2 * * *, or one word, as in @daily"
    if region := sync.normalise.phone_region:
        from phonenumbers import SUPPORTED_REGIONS  # of many files: only where it is needed

        if region not in SUPPORTED_REGIONS:
            yield f"normalise has the phone_region {region!r}, which is none; one is written like FR"


def _meant(word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1)
    return f"; do you mean {close[0]}?" if close else ""
