"""The error tree, grouped by what the caller does about it.

EtlError
├── ConfigError          fix the settings; nothing was sent
├── ExportError          the export as a whole cannot be used; nothing was sent (bad rows are data, not exceptions)
├── StorageError         the disk or the ledger does not work: put it right and run again; nothing is lost
│   └── LedgerError      the ledger: nothing more is sent before it can be used
├── Busy                 somebody else holds the account, or the vendor asks for a long pause: come back later
└── DeliveryError        one call went wrong; knows destination, batch, status and request id, never a value of a row
    ├── NotSent          proof that no byte of the request left: try again freely
    ├── Throttled        wait `retry_after`; no retry is used up
    ├── Rejected         this payload is wrong: split it until the guilty rows stand alone
    ├── Refused          credentials, permission or address: stop this destination
    └── OutcomeUnknown   sent, and no trustworthy answer: resolve by the destination's rule, never assume
        └── Redirected   answered by a redirect: as above, and stop this destination
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path


class EtlError(Exception):
    """Everything that profile-etl raises on purpose. Messages are for people and hold no personal value."""


class ConfigError(EtlError):
    """A setting, connection, sync name or option cannot be used."""


class ExportError(EtlError):
    """An export file breaks a file-level rule; `code` is stable, the message names the file and the remedy."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class StorageError(EtlError):
    """Files or the ledger cannot be written or read; what was sent, or may have been, stands in the ledger."""


class LedgerError(StorageError):
    """The ledger is out of reach, damaged, full, or not the one that belongs here; the message says what to do."""


class Busy(EtlError):
    """Nothing can be sent now; `wait` is the number of seconds after which it is worth asking again."""

    def __init__(self, message: str, *, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class DeliveryError(EtlError):
    """A call that did not end in an acknowledgement.

    `code` is a stable word for the report, `status` the HTTP status if there was one, `request_id` the vendor's,
    and `retry_after` the seconds that the vendor asked us to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after


class NotSent(DeliveryError):
    """No byte of the request left this machine."""


class Throttled(DeliveryError):
    """The vendor asks for a pause; nothing of this call was taken."""


class Rejected(DeliveryError):
    """The vendor read the payload and refused it whole."""


class Refused(DeliveryError):
    """The vendor refuses us, not the payload."""


class OutcomeUnknown(DeliveryError):
    """The request may or may not have been taken."""


class Redirected(OutcomeUnknown):
    """The vendor's address answered with a redirect, which is never followed."""


def unforeseen(error: BaseException) -> str:
    """What to say of an error that nobody raised on purpose: its kind and place, as its text may hold a value of a row."""
    full = f"(os error {errno.ENOSPC})"  # how Polars says it
    if isinstance(error, OSError) and (error.errno in {errno.ENOSPC, errno.EDQUOT} or full in str(error)):
        return "no room is left on the disk: make some"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"internal error: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}"
