"""A disk that is full at its n-th write: for once, or from there on."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
from sqlalchemy.engine.default import DefaultDialect

COMMIT = "do_commit"
FULL = f"{os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})"


@dataclass
class FaultyDisk:
    """`writes` names what was to be written, in order; number `at` (from 0) fails, with `stays` all that follow, too."""

    at: int | None = None
    stays: bool = False
    writes: list[str] = field(default_factory=list)

    @contextmanager
    def spinning(self) -> Iterator[None]:
        """Everything that the steps write goes over this disk: files by Python and by polars, folders, moves, commits."""
        by_sqlite = sqlite3.OperationalError("database or disk is full")
        by_sqlite.sqlite_errorname = "SQLITE_FULL"
        by_python = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        by_polars = pl.exceptions.ComputeError(f"parquet: underlying IO error: {FULL}")
        writes = [
            (Path, "write_bytes", by_python),
            (Path, "mkdir", by_python),
            (Path, "rename", by_python),
            (Path, "replace", by_python),
            (Path, "open", by_python),
            (os, "fsync", by_python),
            (tempfile, "mkdtemp", by_python),
            (pl.DataFrame, "write_ipc", OSError(FULL)),
            (pl.DataFrame, "write_parquet", by_polars),
            (DefaultDialect, COMMIT, by_sqlite),
        ]
        patches = [patch.object(owner, name, self._failing(owner, name, error)) for owner, name, error in writes]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in patches:
                each.stop()

    def _failing(self, owner: Any, name: str, error: Exception) -> Callable[..., Any]:
        method = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "open" or {*args[1:], *kwargs.values()} & {"wb", "ab"}:
                number = len(self.writes)
                self.writes.append(name)
                if self.at is not None and (number == self.at or (self.stays and number > self.at)):
                    raise error
            return method(*args, **kwargs)

        return call
