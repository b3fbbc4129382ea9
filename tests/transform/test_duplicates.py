"""One row a customer goes out, and never an older version than one that is in quarantine."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from etl.transform.duplicates import resolve_duplicates

SCHEMA = {"row": pl.UInt64, "customer_id": pl.String, "updated_at": pl.String}


def _at(hour: int) -> str:
    return f"2026-11-20T{hour:02d}:00:00Z"


def _rows(*rows: tuple[int, str | None, str | None]) -> pl.LazyFrame:
    return pl.LazyFrame(rows, schema=SCHEMA, orient="row")


def test_the_latest_version_wins():
    """Of a customer's rows the one updated last goes out; the others are deduplicated."""
    found = resolve_duplicates(_rows((0, "A", _at(1)), (1, "A", _at(3)), (2, "A", _at(2)), (3, "B", _at(1))), _rows())
    assert found.deduplicated.to_list() == [0, 2]
    assert found.newer_quarantined.to_list() == []


def test_at_a_tie_the_later_row_wins():
    """The same moment, however it is written, is a tie, and the later row goes out."""
    found = resolve_duplicates(_rows((0, "A", "2026-11-20T02:00:00+01:00"), (1, "A", _at(1))), _rows())
    assert found.deduplicated.to_list() == [0]


def test_fractions_of_a_second_count():
    """Nine digits of fraction tell versions apart."""
    valid = _rows((0, "A", "2026-11-20T01:00:00.000000002Z"), (1, "A", "2026-11-20T01:00:00.000000001Z"))
    assert resolve_duplicates(valid, _rows()).deduplicated.to_list() == [1]


def test_a_newer_version_in_quarantine_takes_the_valid_one_with_it():
    """A stale consent must not be sent, so the winner is held back; older quarantined versions do not matter."""
    valid = _rows((0, "A", _at(1)), (1, "A", _at(5)), (2, "B", _at(5)))
    found = resolve_duplicates(valid, _rows((3, "A", _at(6)), (4, "B", _at(4))))
    assert found.newer_quarantined.to_list() == [1]
    assert found.deduplicated.to_list() == [0]


def test_a_quarantined_version_without_a_readable_moment_counts_as_newer():
    """Blank and broken `updated_at` alike: nobody can say that it is older."""
    valid = _rows((0, "A", _at(1)), (1, "B", _at(1)), (2, "C", _at(1)))
    found = resolve_duplicates(valid, _rows((3, "A", None), (4, "B", "yesterday"), (5, "C", "  ")))
    assert found.newer_quarantined.to_list() == [0, 1, 2]


def test_at_a_tie_with_quarantine_the_later_row_counts():
    """A quarantined row of the same moment is newer only if it stands later."""
    valid = _rows((1, "A", _at(1)), (3, "B", _at(1)))
    found = resolve_duplicates(valid, _rows((2, "A", _at(1)), (0, "B", _at(1))))
    assert found.newer_quarantined.to_list() == [1]


def test_a_million_versions_of_one_customer_leave_one_row():
    """However many there are."""
    count = 1_000_000
    row = pl.int_range(count, dtype=pl.UInt64)
    versions = pl.select(row=row, customer_id=pl.lit("A"), updated_at=pl.lit(_at(1))).lazy()
    found = resolve_duplicates(versions, _rows())
    assert found.deduplicated.equals(pl.select(row=pl.int_range(count - 1, dtype=pl.UInt64)).to_series())


def _reference(valid, quarantined):
    """The rules as a loop."""
    winners = {}
    for row, customer, hour in valid:
        best = winners.get(customer)
        if best is None or (hour, row) > best:
            winners[customer] = (hour, row)
    gone = {row for row, customer, _ in valid if winners[customer][1] != row}
    newer = set()
    for row, customer, hour in quarantined:
        if customer in winners and (hour is None or (hour, row) > winners[customer]):
            newer.add(winners[customer][1])
    return sorted(gone), sorted(newer)


VERSIONS = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 3), st.booleans(), st.booleans()), max_size=12)


@given(VERSIONS)
def test_every_customer_keeps_at_most_one_row(versions):
    """Equal to the plain loop over the rules, for any mix of valid and quarantined versions."""
    valid = [(n, c, h) for n, (c, h, bad, _) in enumerate(versions) if not bad]
    quarantined = [(n, c, None if blank else h) for n, (c, h, bad, blank) in enumerate(versions) if bad]
    found = resolve_duplicates(
        _rows(*((n, c, _at(h)) for n, c, h in valid)),
        _rows(*((n, c, None if h is None else _at(h)) for n, c, h in quarantined)),
    )
    assert (found.deduplicated.to_list(), found.newer_quarantined.to_list()) == _reference(valid, quarantined)
