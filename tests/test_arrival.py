"""Whether an export has landed whole, on a local landing folder and on one by URL."""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path

import fsspec
import pytest

from etl import arrival
from etl.storage import Place

DAY = date(2026, 11, 21)
LATER = 3600.0
ROWS = b"customer_id\nC-1\n"


@pytest.fixture(params=["path", "url"])
def landing(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(str(tmp_path) if request.param == "path" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def land(landing: Place) -> Callable[..., None]:
    """Puts files, and a manifest of some of them, into the day's folder."""

    def land(files: dict[str, bytes], *, manifest: dict[str, bytes] | None = None) -> None:
        if manifest is not None:
            entries = [
                {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "rows": 1}
                for name, content in manifest.items()
            ]
            files = files | {"manifest.json": json.dumps({"files": entries}).encode()}
        for name, content in files.items():
            landing.write_bytes(f"crm/{DAY}/{name}", content)

    return land


def _missing(landing: Place, *, after: float = LATER) -> str | None:
    return arrival.missing(landing, DAY, now=time.time() + after)


def test_an_export_is_there_when_nobody_writes_to_it_any_more(landing: Place, land: Callable[..., None]) -> None:
    """A file of the last minute may still grow, so it is waited for a little longer."""
    assert "no csv" in str(_missing(landing))
    land({"customers.csv": ROWS})
    assert "last minute" in str(_missing(landing, after=10))
    assert _missing(landing) is None


def test_what_is_no_export_does_not_count(landing: Place, land: Callable[..., None]) -> None:
    """Neither a hidden file, under which name an upload may go on, nor another kind."""
    land({".customers.csv": ROWS, "customers.csv.part": ROWS, "readme.txt": b"hello"})
    assert _missing(landing) is not None


@pytest.mark.parametrize(
    ("files", "manifest"),
    [
        ({"a.csv": ROWS}, {"a.csv": ROWS, "b.csv": ROWS}),
        ({"a.csv": ROWS, "b.csv": ROWS}, {"a.csv": ROWS}),
        ({"a.csv": ROWS[:-4]}, {"a.csv": ROWS}),
        ({}, {}),
        ({"a.csv": ROWS, "manifest.json": b'{"files": [{'}, None),
    ],
)
def test_a_manifest_that_is_there_has_to_match(
    landing: Place, land: Callable[..., None], files: dict[str, bytes], manifest: dict[str, bytes] | None
) -> None:
    """Every file of it, whole, and no other; one that is half written is waited for, too."""
    land(files, manifest=manifest)
    assert _missing(landing) is not None
    land({"a.csv": ROWS, "b.csv": ROWS}, manifest={"a.csv": ROWS, "b.csv": ROWS})
    assert _missing(landing) is None


def test_a_file_is_hashed_again_only_after_it_has_changed(
    landing: Place, land: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of waiting beside a large file that does not match cost one reading of it."""
    opened: list[str] = []
    really = arrival.open_landed

    def counted(where: Place, name: str) -> object:
        opened.append(name)
        return really(where, name)

    monkeypatch.setattr(arrival, "open_landed", counted)
    land({"a.csv": ROWS[:-4]}, manifest={"a.csv": ROWS})
    assert [_missing(landing) is None for _ in range(3)] == [False, False, False]
    assert len(opened) == 1
    time.sleep(0.02)
    land({"a.csv": ROWS})
    assert _missing(landing) is None
    assert len(opened) == 2


def test_a_file_that_goes_away_meanwhile_is_waited_for(
    landing: Place, land: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever delivers renames files when they are whole."""
    land({"a.csv": ROWS})

    def gone(_: Place, name: str) -> float:
        raise FileNotFoundError(name)

    monkeypatch.setattr(Place, "modified", gone)
    assert _missing(landing) == "its files change"


def test_the_looks_are_a_minute_apart_and_the_last_one_is_at_the_deadline(landing: Place) -> None:
    """A look is one listing; nothing is asked for after the deadline."""
    assert [arrival.pause(landing, DAY, until=100.0, now=now) for now in (0.0, 70.0, 100.0)] == [60.0, 30.0, None]


def test_a_clock_that_is_ahead_does_not_hold_an_export_back_for_long(tmp_path: Path) -> None:
    """A time of modification in the far future is as settled as one of long ago."""
    file = tmp_path / "crm" / str(DAY) / "customers.csv"
    file.parent.mkdir(parents=True)
    file.write_bytes(ROWS)
    os.utime(file, (time.time() + LATER, time.time() + LATER))
    assert _missing(Place(str(tmp_path)), after=0) is None


def teardown_module() -> None:
    """The memory file system outlives the tests."""
    fsspec.filesystem("memory").store.clear()
