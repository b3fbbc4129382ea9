"""Reads invented files with any block size, and gathers what came out."""

import gzip
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from etl.reading import Reader
from etl.reading.blocks import Layout


@dataclass(frozen=True)
class Result:
    """`rows`: (record, line, values); `unparsable`: (record, line, text); `originals`: text of the rows' records."""

    rows: list[tuple[Any, ...]]
    unparsable: list[tuple[Any, ...]]
    originals: list[str]
    reader: Reader

    @property
    def values(self) -> list[tuple[Any, ...]]:
        return [values for _, _, values in self.rows]

    @property
    def notices(self) -> list[str]:
        return [notice.code for notice in self.reader.notices]


def _layout(**overrides: Any) -> Layout:
    defaults = {"name": "crm.csv", "columns": {}, "wanted": ("a", "b"), "required": ("a", "b")}
    return Layout(**defaults | overrides)


def _gather(reader: Reader) -> Result:
    rows, unparsable, originals = [], [], []
    for block in reader:
        frame = block.rows.drop("_line", "_record")
        rows += zip(block.rows["_record"], block.rows["_line"], frame.rows(), strict=True)
        unparsable += block.unparsable.select("_record", "_line", "record").rows()
        originals += block.raw(block.rows["_record"]).to_list()
    return Result(rows, unparsable, originals, reader)


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """`read(content, format=..., **layout)` writes a file and reads it; session-wide, so that Hypothesis may use it."""
    path = tmp_path_factory.mktemp("reading") / "export"

    def run(content: bytes, *, format: str = "csv", **layout: Any) -> Result:  # noqa: A002
        path.write_bytes(gzip.compress(content) if format == "csv.gz" else content)
        return _gather(Reader(path=path, format=format, layout=_layout(**layout)))

    return run


@pytest.fixture(scope="session")
def read_path() -> Callable[..., Result]:
    """As `read`, of a file that stands already."""

    def run(path: os.PathLike[str], *, format: str, **layout: Any) -> Result:  # noqa: A002
        return _gather(Reader(path=path, format=format, layout=_layout(**layout)))

    return run
