"""The snapshot: the files that a run reads, each an immutable copy that is named by the hash of its bytes."""

from __future__ import annotations

from dataclasses import dataclass

from etl.reading import Format
from etl.run import RunContext

SNAPSHOTS = "private/snapshots"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One export file of the snapshot.

    `name` is its path in the landing folder, `sha256` and `bytes` are of the file as stored; `rows` is what a manifest
    promised, if there was one. `carried` is not from the landing folder: `etl.base` has made it, of earlier files.
    """

    export: str
    day: str
    name: str
    format: Format
    sha256: str
    bytes: int
    rows: int | None = None
    carried: bool = False

    @property
    def snapshot(self) -> str:
        """Where the copy stands in the work place."""
        return f"{SNAPSHOTS}/{self.sha256}"


def sources(ctx: RunContext, export: str) -> list[SourceFile]:
    """The files of one export in reading order: by day, then by name."""
    files = (SourceFile(**entry) for entry in ctx.result("extract")["files"])
    return [file for file in files if file.export == export]
