"""Parts: folders of numbered frames that one step writes and a later one reads, a frame at a time.

Arrow files without compression: they live as long as their run, and cost a quarter of Parquet's processor time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from etl.storage import Place


def write(folder: Path, number: int, frame: pl.DataFrame) -> None:
    """Adds a part to a folder that is being staged; an empty frame makes none."""
    folder.mkdir(parents=True, exist_ok=True)
    if frame.height:
        frame.write_ipc(folder / f"part-{number:05d}.arrow")


def paths(place: Place, folder: str) -> list[Path]:
    """The parts of a folder in order, as local files; none when the folder has none."""
    names = place.names(folder)
    root = place.fetch(folder) if names else Path()
    return [root / name for name in names]


def frames(place: Place, folder: str, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    """The parts of a folder, or some of their columns, one after the other."""
    return (pl.read_ipc(path, columns=columns) for path in paths(place, folder))


def scan(place: Place, folder: str, schema: dict[str, pl.DataType | type[pl.DataType]]) -> pl.LazyFrame:
    """All parts of a folder as one lazy frame; `schema` is that of a folder without parts."""
    found = paths(place, folder)
    return pl.scan_ipc(found) if found else pl.LazyFrame(schema=schema)
