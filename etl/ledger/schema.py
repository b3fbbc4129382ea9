"""The ledger's tables, as the newest migration leaves them. No column ever holds personal data."""

from __future__ import annotations

import sqlalchemy as sa

REVISION = "0002"  # the newest migration
metadata = sa.MetaData()

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("account", sa.String, primary_key=True),
    # The lease: `fence` grows with every holder, so that a holder which slept through its own end is told apart.
    sa.Column("fence", sa.Integer, nullable=False, default=0),
    sa.Column("holder", sa.String),
    sa.Column("expires_at", sa.Float, nullable=False, default=0),
    # What the account last accepted of each profile: the state file of this generation.
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    sa.Column("state_path", sa.String),
)

paces = sa.Table(
    "paces",
    metadata,
    sa.Column("account", sa.String, primary_key=True),
    sa.Column("endpoint", sa.String, primary_key=True),
    # Seconds since the epoch; see etl.pacing for what each means.
    sa.Column("full_at", sa.Float, nullable=False, default=0),
    sa.Column("next_call_at", sa.Float, nullable=False, default=0),
    sa.Column("blocked_until", sa.Float, nullable=False, default=0),
    sa.Column("factor", sa.Float, nullable=False, default=1),
    sa.Column("recent", sa.String, nullable=False, default="[]"),
)

quota_slices = sa.Table(
    "quota_slices",
    metadata,
    sa.Column("account", sa.String, primary_key=True),
    sa.Column("endpoint", sa.String, primary_key=True),
    sa.Column("slot", sa.Integer, primary_key=True),
    sa.Column("used", sa.BigInteger, nullable=False),
)

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run", sa.String, primary_key=True),  # sync/date/destination/run_id, also its folder
    sa.Column("sync", sa.String, nullable=False),
    sa.Column("day", sa.String, nullable=False),
    sa.Column("destination", sa.String, nullable=False),
    sa.Column("run_id", sa.String, nullable=False),
    sa.Column("account", sa.String, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    sa.Column("exit_code", sa.Integer),
    sa.Column("records_in", sa.BigInteger),
    sa.Column("plan", sa.Integer, nullable=False, default=0),  # number of the plan whose batches count
    sa.Index("runs_by_sync", "sync", "day", "destination", "started_at"),
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("run", sa.String, sa.ForeignKey("runs.run"), nullable=False),
    sa.Column("account", sa.String, nullable=False),
    sa.Column("endpoint", sa.String, nullable=False),
    sa.Column("plan", sa.Integer, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("file", sa.String, nullable=False),
    sa.Column("offset", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("parent", sa.String),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("absorbed", sa.Boolean, nullable=False, default=False),  # its outcome stands in the account's state file
    sa.Index("batches_by_run", "run", "plan", "ordinal"),
    sa.Index("batches_by_account", "account", "absorbed", "state"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("batch", sa.String, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),  # the quota slice that was debited
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("code", sa.String),
    sa.Column("status", sa.Integer),
    sa.Column("request_id", sa.String),
)

row_codes = sa.Table(
    "row_codes",
    metadata,
    sa.Column("batch", sa.String, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("row_index", sa.Integer, primary_key=True),
    sa.Column("code", sa.String, primary_key=True),
    sa.Column("rejected", sa.Boolean, nullable=False),  # the whole row, or only a field of it
)

# What became of a batch that the vendor works on after taking it.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("batch", sa.String, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("account", sa.String, nullable=False),
    sa.Column("url", sa.String, nullable=False),
    sa.Column("opened_at", sa.Float, nullable=False),
    sa.Column("next_poll_at", sa.Float, nullable=False),
    sa.Column("claimed_until", sa.Float, nullable=False, default=0),  # somebody is asking about it now
    sa.Column("polls", sa.Integer, nullable=False, default=0),
    sa.Column("gone", sa.Integer, nullable=False, default=0),  # answers in a row that knew of no such batch
    sa.Column("code", sa.String),  # why the newest answer settled nothing
    sa.Column("confirmed", sa.Integer),  # these four from the moment on at which the batch is complete
    sa.Column("not_found", sa.Integer),
    sa.Column("failed", sa.Integer),
    sa.Column("unreported", sa.Integer),
    sa.Index("jobs_by_account", "account", "next_poll_at"),
)

polls = sa.Table(
    "polls",
    metadata,
    sa.Column("batch", sa.String, sa.ForeignKey("batches.id"), primary_key=True),
    sa.Column("n", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("state", sa.String),  # the vendor's word; null where no answer came
    sa.Column("code", sa.String),
    sa.Column("size", sa.BigInteger),  # the counters as the vendor gave them
    sa.Column("consumed", sa.BigInteger),
    sa.Column("confirmed", sa.BigInteger),
    sa.Column("not_found", sa.BigInteger),
    sa.Column("failed", sa.BigInteger),
)
