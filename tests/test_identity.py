"""Of the customers who share an address one is sent, and an opt-out of any of them is an opt-out."""

from __future__ import annotations

from fractions import Fraction

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from etl.identity import resolved, shared_identities

ADDRESS = ("email", "phone")
SCHEMA = {
    "row": pl.UInt64,
    "email": pl.String,
    "phone": pl.String,
    "email_opt_in": pl.Boolean,
    "updated_at": pl.String,
}


def _profiles(*rows: dict[str, object]) -> pl.DataFrame:
    default = {"email": "ana@example.org", "phone": None, "email_opt_in": None, "updated_at": "2026-11-20T10:00:00Z"}
    return pl.DataFrame([{"row": n, **default, **row} for n, row in enumerate(rows)], schema=SCHEMA)


def _shared(profiles: pl.DataFrame, identity: tuple[str, ...] = ADDRESS) -> list[tuple[int, bool, bool]]:
    return shared_identities(profiles.lazy(), identity).rows()


def test_who_is_alone_is_not_looked_at():
    """A profile whose address is nobody else's is not mentioned."""
    assert _shared(_profiles({}, {"email": "ben@example.org"}, {"email": None, "phone": "+33639980001"})) == []


def test_the_phone_counts_only_without_an_e_mail_address():
    """A profile is known by the first address that it has, and by that one alone."""
    phone = "+33639980001"
    profiles = _profiles(
        {"phone": phone}, {"email": None, "phone": phone}, {"email": "ben@example.org", "phone": phone}
    )
    assert _shared(profiles) == []
    assert [row for row, *_ in _shared(profiles, ("phone",))] == [0, 1, 2]


def test_an_address_is_compared_as_it_stands():
    """Whether the vendor folds case is not documented, so that nothing is folded here."""
    assert _shared(_profiles({"email": "ana@example.org"}, {"email": "Ana@example.org"})) == []


def test_moments_are_compared_and_not_their_texts():
    """A fraction with trailing zeros, or without digits, is the same moment; then the later row speaks."""
    earlier, same = "2026-11-20T10:00:00Z", "2026-11-20T10:00:00.000Z"
    assert _shared(_profiles({"updated_at": same}, {"updated_at": earlier})) == [(0, True, False), (1, False, False)]
    last = {"updated_at": "2026-11-20T10:00:00.000000001Z"}
    assert _shared(_profiles(last, {"updated_at": same})) == [(0, False, False), (1, True, False)]


def test_a_person_who_opted_out_once_has_opted_out():
    """The one that speaks says so, whatever stood in its own row; nobody else's consent changes."""
    alone = {"email": "ben@example.org", "email_opt_in": True}
    profiles = _profiles({"email_opt_in": False}, alone, {"email_opt_in": True})
    found = resolved(profiles, shared_identities(profiles.lazy(), ADDRESS))
    assert found["email_opt_in"].to_list() == [False, True, False]
    assert found["identity_shared"].to_list() == [True, False, False]


def test_a_part_is_resolved_by_what_stands_in_all_parts():
    """Who shares an address may stand in another part; the order and the other columns stay."""
    profiles = _profiles({"email_opt_in": False}, {"email": "ben@example.org"}, {"email_opt_in": None})
    shared = shared_identities(profiles.lazy(), ADDRESS)
    part = resolved(profiles[1:], shared)
    assert part.drop("email_opt_in", "identity_shared").equals(profiles[1:].drop("email_opt_in"))
    assert part["email_opt_in"].to_list() == [None, False]
    assert part["identity_shared"].to_list() == [False, False]


def _moment(text: str) -> Fraction:
    """A moment of one day as a number; only fractions differ in these tests."""
    seconds, _, fraction = text[17:-1].partition(".")
    return Fraction(int(seconds)) + (Fraction(int(fraction), 10 ** len(fraction)) if fraction else 0)


def _reference(rows: list[dict[str, object]]) -> dict[int, tuple[bool, bool]]:
    """The rules as loops: the rows that share an address, whether each gives way, and whether the person opted out."""
    people: dict[object, list[int]] = {}
    for number, row in enumerate(rows):
        people.setdefault(row["email"] or row["phone"], []).append(number)
    found = {}
    for numbers in people.values():
        speaker = max(numbers, key=lambda n: (_moment(str(rows[n]["updated_at"])), n))
        opted_out = any(rows[n]["email_opt_in"] is False for n in numbers)
        if len(numbers) > 1:
            found |= {n: (n != speaker, opted_out) for n in numbers}
    return found


fractions = st.one_of(st.just(""), st.text("01", min_size=1, max_size=9).map(lambda digits: f".{digits}"))
contacts = st.tuples(
    st.sampled_from(["a@example.org", "A@example.org", None]), st.sampled_from(["+33639980001", "+33639980002", None])
).filter(any)
customers = st.builds(
    lambda contact, fraction, second, opt_in: {
        "email": contact[0],
        "phone": contact[1],
        "updated_at": f"2026-11-20T10:00:0{second}{fraction}Z",
        "email_opt_in": opt_in,
    },
    contacts, fractions, st.integers(0, 1), st.sampled_from([True, False, None]),
)  # fmt: skip


@given(st.lists(customers, max_size=10), st.integers(1, 4))
def test_one_of_each_identity_speaks(rows, size):
    """Equal to the plain loop over the rules, in parts of any size: nobody is lost, and every opt-out stands."""
    profiles, expected = _profiles(*rows), _reference(rows)
    shared = shared_identities(profiles.lazy(), ADDRESS)
    assert {row: (loses, opted_out) for row, loses, opted_out in shared.rows()} == expected
    parts = [resolved(profiles.slice(at, size), shared) for at in range(0, len(rows), size)]
    for number, row in enumerate(pl.concat(parts).rows(named=True) if parts else []):
        loses, opted_out = expected.get(number, (False, False))
        assert row["identity_shared"] is loses
        assert row["email_opt_in"] is (False if opted_out and not loses else rows[number]["email_opt_in"])
