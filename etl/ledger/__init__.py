"""The ledger: what was sent, what became of it, who may send, and how much was used."""

from etl.ledger.lease import lease
from etl.ledger.store import Account, Attempt, Ledger, LostLeaseError, QuotaSpentError, Run, batch_id

__all__ = ["Account", "Attempt", "Ledger", "LostLeaseError", "QuotaSpentError", "Run", "batch_id", "lease"]
