"""What data must look like: the contracts of the exports and of what is loaded. Imports nothing of `etl`."""

from contracts.checking import Checked, check, require
from contracts.crm import Crm
from contracts.declare import sentences
from contracts.own import with_own
from contracts.pos import Pos
from contracts.profiles import Profiles
from contracts.values import blank_to_null

__all__ = [
    "JUDGED_ELSEWHERE",
    "SENTENCES",
    "Checked",
    "Crm",
    "Pos",
    "Profiles",
    "blank_to_null",
    "check",
    "require",
    "with_own",
]

JUDGED_ELSEWHERE = {
    "newer_version_quarantined": "A newer row of the same customer is in quarantine: sending this one could bring back a withdrawn consent.",
    "record_unparsable": "The record cannot be split into the columns of the header.",
}

SENTENCES = {**dict(sentences(Crm)), **dict(sentences(Pos)), **JUDGED_ELSEWHERE}
"""Every code that a row of an export can be reported with, and what it says to people."""
