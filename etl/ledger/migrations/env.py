"""Runs the migrations on the connection that `etl.ledger.store` hands over."""

from __future__ import annotations

from alembic import context

from etl.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
