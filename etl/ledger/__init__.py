"""The ledger: what was sent, what became of it, who may send, and how much was used."""

from etl.ledger.jobs import Job, claim_due, codes_of, counts_of, give_back, note_poll, open_jobs, submissions_since
from etl.ledger.lease import LEASE_S, lease
from etl.ledger.store import (
    QUOTA_PATIENCE_S,
    Account,
    Attempt,
    Ending,
    Ledger,
    LostLeaseError,
    QuotaSpentError,
    Run,
    batch_id,
    quota_until,
)

__all__ = [
    "LEASE_S",
    "QUOTA_PATIENCE_S",
    "Account",
    "Attempt",
    "Ending",
    "Job",
    "Ledger",
    "LostLeaseError",
    "QuotaSpentError",
    "Run",
    "batch_id",
    "claim_due",
    "codes_of",
    "counts_of",
    "give_back",
    "lease",
    "note_poll",
    "open_jobs",
    "quota_until",
    "submissions_since",
]
