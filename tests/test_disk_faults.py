"""A disk that fails at any moment ends a run with a sentence; nothing is lost, and running it again completes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etl import pipeline
from etl.errors import StorageError
from etl.model import BatchState
from etl.report import read_report
from faulty_disk import FaultyDisk
from soak import every

BY_TENS = {"limits": {name: {"rows_per_call": 10} for name in ("batch_update", "adobe_target_bulk")}}
DELIVERED = (BatchState.ACCEPTED, BatchState.COMPLETE)
CUSTOMERS = 35


@pytest.fixture(params=["batch_update", "adobe_target_bulk"])
def fresh(install, emulator, request):
    """Makes new installations with the same export, each beside an emulator that has forgotten everything."""
    first = install(emulator.url, destination=request.param, extra=BY_TENS)
    made = []

    def make():
        emulator.session.post(f"{emulator.url}/_control/reset", timeout=10).raise_for_status()
        made.append(replace(first, root=first.root / str(len(made)), ledgers=[]))
        made[-1].land(CUSTOMERS)
        return made[-1]

    yield make
    for installation in made:
        for ledger in installation.ledgers:
            ledger.close()


def _ended(report) -> dict[str, int]:
    return {name: count for name, count in report.rows.items() if count}


def _held(installation, emulator) -> dict[str, object]:
    """What the vendor holds of each profile."""
    profiles = emulator.profiles_of(installation.vendor)
    return {key: profile["attributes"] for key, profile in profiles.items()}


@pytest.mark.parametrize("stays", [False, True])
def test_a_disk_that_is_full_at_any_write_loses_nothing(fresh, emulator, stays):
    """For once or for good: no row is called accepted that is not, no account is false, and the next try completes it."""
    undisturbed, disk = fresh(), FaultyDisk()
    with disk.spinning():
        whole = pipeline.run(undisturbed.context())
    expected = _held(undisturbed, emulator)
    assert len(expected) == CUSTOMERS
    assert disk.writes > 50
    stopped = 0
    for at in every(range(1, disk.writes + 1), 8):
        installation, faulty = fresh(), FaultyDisk(at=at, stays=stays)
        try:
            with faulty.spinning():
                pipeline.run(installation.context())
        except StorageError as error:
            stopped += 1
            said = str(error)
            assert "run it again" in said, at
        ctx = installation.context()
        delivered = sum(b.rows for b in ctx.ledger.batches(ctx.name) if b.state in DELIVERED)
        assert delivered <= len(_held(installation, emulator)), at
        calls = sum(request["method"] == "POST" for request in emulator.requests)
        assert calls <= len(ctx.ledger.attempts(ctx.name)), at
        report = read_report(ctx.place)
        assert report is None or report.balanced, at
        again = pipeline.run(ctx)
        assert _ended(again) == _ended(whole), at
        assert again.balanced, at
        assert _held(installation, emulator) == expected, at
    assert stopped > 3
