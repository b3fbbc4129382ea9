"""A disk that fails at any moment ends a run with a sentence; nothing is lost, and running it again completes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etl import pipeline
from etl.errors import StorageError
from etl.model import BatchState
from etl.report import read_report
from faulty_disk import COMMIT, FaultyDisk
from soak import SOAK, every

BY_TENS = {"limits": {name: {"rows_per_call": 10} for name in ("batch_update", "adobe_target_bulk")}}
DELIVERED = (BatchState.ACCEPTED, BatchState.COMPLETE)
CUSTOMERS = 35


@pytest.fixture(params=["batch_update", "adobe_target_bulk"])
def fresh(install, emulator, request):
    """Makes new installations with the same export, each beside an emulator that has forgotten everything, and fails twice."""
    first = install(emulator.url, destination=request.param, extra=BY_TENS)
    made = []

    def make():
        emulator.session.post(f"{emulator.url}/_control/reset", timeout=10).raise_for_status()
        made.append(replace(first, root=first.root / str(len(made)), ledgers=[]))
        made[-1].land(CUSTOMERS)
        emulator.faults({"status": 503, "times": 2})
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


def _cases(writes: list[str]) -> list[tuple[int, bool]]:
    """Which write fails, and whether the disk stays full; commits first, as they say what was sent."""
    commits = [at for at, name in enumerate(writes) if name == COMMIT]
    others = [at for at, name in enumerate(writes) if name != COMMIT]
    if SOAK:
        return [(at, stays) for at in range(len(writes)) for stays in (False, True)]
    return [(at, bool(n % 2)) for n, at in enumerate([*every(commits, 8), *every(others, 4)])]


def test_a_disk_that_is_full_at_any_write_loses_nothing(fresh, emulator):
    """For once or for good: no row is called accepted that is not, no account is false, and the next try completes it."""
    undisturbed, disk = fresh(), FaultyDisk()
    with disk.spinning():
        whole = pipeline.run(undisturbed.context())
    expected = _held(undisturbed, emulator)
    assert len(expected) == CUSTOMERS
    stopped = 0
    for case in _cases(disk.writes):
        installation, faulty = fresh(), FaultyDisk(*case)
        said = None
        try:
            with faulty.spinning():
                pipeline.run(installation.context())
        except StorageError as error:
            said = str(error)
        assert said is None or "run it again" in said, case
        stopped += said is not None
        ctx = installation.context()
        delivered = sum(b.rows for b in ctx.ledger.batches(ctx.name) if b.state in DELIVERED)
        assert delivered <= len(_held(installation, emulator)), case
        calls = sum(request["method"] == "POST" for request in emulator.requests)
        assert calls <= len(ctx.ledger.attempts(ctx.name)), case
        report = read_report(ctx.place)
        assert report is None or report.balanced, case
        again = pipeline.run(ctx)
        assert _ended(again) == _ended(whole), case
        assert again.balanced, case
        assert _held(installation, emulator) == expected, case
    assert stopped > 8
