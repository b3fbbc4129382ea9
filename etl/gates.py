"""Gates: an export that looks wrong as a whole, although each of its rows may be right, waits for a person's word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

VOLUME, BAD_SHARE, OPT_INS = "volume_unusual", "bad_share_high", "opt_ins_flipped"
CODES = (VOLUME, BAD_SHARE, OPT_INS)
DAYS = 3
_RECORDS = 1_000  # of fewer, chance alone makes unusual shares
_LOW, _HIGH = 0.5, 3.0
_FLIPPED = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is judged of a CRM export.

    `earlier` are the records of the last days that had some; `bad` the unparsable and quarantined ones, of which
    `bad_share` is usual among those that were not `carried` forward; `known` the customers of whom the account was told
    before, and `flipped` those of them whom the run would opt in or out against what the account has accepted.
    """

    records: int
    carried: int
    earlier: Sequence[int]
    bad: int
    bad_share: float
    known: int
    flipped: int


def shut(figures: Figures) -> dict[str, str]:
    """The gates that are shut to an export: their codes, each with the reason in words."""
    why = {}
    usual = median(figures.earlier) if len(figures.earlier) == DAYS else 0
    if usual >= _RECORDS and not _LOW * usual <= figures.records <= _HIGH * usual:
        why[VOLUME] = f"{figures.records:,} CRM records, where the last {DAYS} days had about {usual:,.0f}"
    landed = figures.records - figures.carried
    if landed >= _RECORDS and figures.bad > figures.bad_share * landed:
        share = f"{figures.bad:,} of {landed:,} CRM records"
        why[BAD_SHARE] = f"{share} break the contract, where up to {figures.bad_share:.0%} are usual"
    # A cut export has few records, but customers who have disappeared from it are among the known.
    if max(figures.records, figures.known) >= _RECORDS and figures.flipped > _FLIPPED * figures.known:
        share = f"{figures.flipped:,} of {figures.known:,} known customers"
        why[OPT_INS] = f"{share} are opted in or out at once, where up to {_FLIPPED:.0%} are usual"
    return why
