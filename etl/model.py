"""The frozen values that the steps hand to each other; none of them holds a value of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class BatchState(StrEnum):
    """Where a batch stands in the ledger.

    `planned` also stands for "tried, and proof that nothing left": the attempts tell. `split` and `replaced` batches
    have handed their rows on: to the halves of a bisection, or to a plan made anew. Where the vendor works on a batch
    after taking it, `processing` follows in the place of `accepted`, and ends as `complete` (its counters say for how
    many rows), `stuck`, or `unreported` when the vendor never tells. A batch whose outcome was unknown becomes
    `superseded` when something newer about each of its rows has got through.
    """

    PLANNED = "planned"
    SENDING = "sending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    SPLIT = "split"
    REPLACED = "replaced"
    PROCESSING = "processing"
    COMPLETE = "complete"
    STUCK = "stuck"
    UNREPORTED = "unreported"
    SUPERSEDED = "superseded"

    @property
    def is_settled(self) -> bool:
        """Nothing will be sent for this batch again."""
        return self not in {BatchState.PLANNED, BatchState.SENDING, BatchState.UNKNOWN}

    @property
    def keeps_its_rows(self) -> bool:
        """Its rows have not been handed on to another batch."""
        return self not in {BatchState.SPLIT, BatchState.REPLACED}

    @property
    def tells_of_its_rows(self) -> bool:
        """What became of its rows, as far as anybody knows, is for the account's state to remember."""
        return self.keeps_its_rows and self not in {BatchState.PLANNED, BatchState.SENDING, BatchState.SUPERSEDED}


class AttemptOutcome(StrEnum):
    """How one POST ended; `sending` is the intent, committed before the first byte leaves."""

    SENDING = "sending"
    ACCEPTED = "accepted"
    NOT_SENT = "not_sent"
    THROTTLED = "throttled"
    REJECTED = "rejected"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    CRASHED = "crashed"


class Bucket(StrEnum):
    """The named places in which an input row can end; the order is the report's."""

    UNPARSABLE = "unparsable"
    QUARANTINED = "quarantined"
    DEDUPLICATED = "deduplicated"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    UNSENDABLE = "unsendable"
    DEFERRED = "deferred"
    NOT_SENT = "not_sent"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    CONFIRMED = "confirmed"
    FAILED_AT_DESTINATION = "failed_at_destination"
    NOT_FOUND = "not_found"
    UNREPORTED = "unreported"
    PROCESSING = "processing"
    STUCK = "stuck"

    @property
    def needs_attention(self) -> bool:
        """A person should look at such rows (exit code 1)."""
        return self in _ATTENTION

    @property
    def is_unfinished(self) -> bool:
        """Nothing is lost, and running again goes on (exit code 3)."""
        return self in {Bucket.NOT_SENT, Bucket.UNKNOWN, Bucket.PROCESSING}


_ATTENTION = frozenset(
    {
        Bucket.UNPARSABLE,
        Bucket.QUARANTINED,
        Bucket.UNSENDABLE,
        Bucket.DEFERRED,
        Bucket.REJECTED,
        Bucket.FAILED_AT_DESTINATION,
        Bucket.NOT_FOUND,
        Bucket.UNREPORTED,
        Bucket.STUCK,
    }
)

# The vendor has got what such rows say.
DELIVERED = (Bucket.ACCEPTED.value, Bucket.CONFIRMED.value)

POS_BUCKETS = ("unparsable", "quarantined", "deduplicated", "anonymous", "orphaned", "used")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one endpoint allows one account; rows are Custom IDs at Batch. `None` means "no such limit".

    `policy` is `bucket` (per_second tokens a second, at most `burst` saved up) or `strict-window` (never more than
    `per_second` rows in any one second, counted from the answers). `open_batches` is how many batches the vendor may be
    working on at a time, `calls_at_once` how many calls of ours may be waiting for their answers, `profile_days` how long
    the vendor is sure to know a profile after it was confirmed, `rows_by_choice` the most rows for which a destination
    that may choose takes this endpoint, `refresh_days` within how many days each profile is sent once even if it is
    unchanged.
    """

    rows_per_call: int
    bytes_per_call: int
    per_second: float | None
    burst: float | None
    calls_per_minute: float | None = None
    quota: int | None = None
    quota_hours: float = 24
    policy: str = "bucket"
    attributes_per_row: int | None = None
    bytes_per_row: int | None = None
    open_batches: int | None = None
    calls_at_once: int = 4
    profile_days: int | None = None
    rows_by_choice: int | None = None
    refresh_days: int | None = None

    def our_quota(self, headroom: float) -> int | None:
        """The part of the quota that the account's other callers leave to us."""
        return None if self.quota is None else int(self.quota * (1 - headroom))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCode:
    """Something the vendor said about one row of a call: `index` counts from 0 within the payload."""

    index: int
    code: str
    rejected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The vendor took the call; `rows` names the rows, or fields of rows, that it did not take.

    `job` is where to ask what becomes of the batch. A destination that awaits completion and was given no job that may
    be asked for says why in `code`.
    """

    request_id: str | None = None
    rows: tuple[RowCode, ...] = ()
    job: str | None = field(default=None, repr=False)
    code: str | None = None


class JobState(StrEnum):
    """What a vendor says about a batch that it has taken.

    `gone`: it knows of no such batch. `unreadable`: the answer was no status, or one with an unknown word.
    """

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    STUCK = "stuck"
    GONE = "gone"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStatus:
    """One answer to a poll, with the vendor's counters as they stand there; None where one is missing.

    `code` says what was wrong with an answer that settles nothing. `failed_ids` are the keys of rows that the vendor
    names as failed; they are personal, and stand in no repr.
    """

    state: JobState
    code: str | None = None
    size: int | None = None
    consumed: int | None = None
    confirmed: int | None = None
    not_found: int | None = None
    failed: int | None = None
    failed_ids: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How the rows of a complete batch ended; together they are its rows."""

    confirmed: int
    not_found: int
    failed: int
    unreported: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One call's worth of rows, as the ledger knows it.

    `first` and `rows` are a slice of the plan's row references; `offset` and `size` the payload's place, in bytes, in
    the staged `file`.
    """

    id: str
    run: str
    endpoint: str
    plan: int
    ordinal: int
    file: str
    offset: int
    size: int
    sha256: str
    first: int
    rows: int
    state: BatchState = BatchState.PLANNED
    attempts: int = 0
    parent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What happened, as `run_report.json` says it (spec section 8).

    Of the CRM records, so many were `carried` forward; so many customers of the last day that was run are `absent` from a
    full export, None where that is not known. Of the `optouts_sent`, so many are those of absent customers.
    """

    sync: str
    date: str
    run_id: str
    destination: str
    state: str
    exit_code: int
    sources: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    pos: dict[str, int] = field(default_factory=dict)
    reasons: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    quota: dict[str, Any] = field(default_factory=dict)
    duplicates_possible: int = 0
    balanced: bool = True
    notices: list[str] = field(default_factory=list)
    carried: int = 0
    absent: int | None = None
    optouts_sent: int = 0
    absent_unsubscribed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The report in the order of spec section 8."""
        names = list(self.__dataclass_fields__)
        return {"schema_version": 1, **{name: getattr(self, name) for name in names}}
