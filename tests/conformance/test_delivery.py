"""Delivery: nothing is sent for nothing, what is sent arrives as it left, and guilty rows end alone."""

from __future__ import annotations

from math import ceil, log2

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.rules import _NOTHING as NO_IDS
from etl.destinations import connect
from etl.errors import ConfigError, Refused

ODD_TEXTS = (
    "a&b=c+d%e#f?g", "one,two;three|four:five", "`'\"\\ {}[]<>", "%41%2C%00%", "0007", "00359881", "=cmd|'/c calc'!A1",
    "@SUM(1)", "-1+1", "null", "1e5", "שָׁלוֹם עולם", "\u202eevil\u202c", "e\u0301\u0323", "é", "ﬁ", "👩‍👩‍👧 🇫🇷", "𝒜𠜎",
    "a\u00a0b\u200d", "ß ẞ İ \u0131", "日本語", "\ufeffbom", "</response>", "&amp;&#65;", "$batch", "profile.x", "😀" * 30,
)  # fmt: skip
# What the contract lets pass, and every vendor's stand-in, too: no control character, no line, and no blank at an end.
FAIR_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20).filter(
    lambda text: text.strip() == text and text.lower() not in NO_IDS
)
# Where a list travels as one text, nobody could tell a bar within an entry from one between two.
TAG = FAIR_TEXT.filter(lambda text: "|" not in text)
PEOPLE = st.lists(
    st.fixed_dictionaries({"customer_id": FAIR_TEXT, "city": FAIR_TEXT, "loyalty_tier": FAIR_TEXT},
                          optional={"tags": st.lists(TAG, min_size=1, max_size=3, unique=True)}),
    min_size=1, max_size=4, unique_by=lambda person: person["customer_id"],
)  # fmt: skip


def _customers(count: int) -> list[dict[str, str]]:
    numbers = range(count)
    return [{"customer_id": f"C-{n:03}", "email": f"c{n:03}@example.org", "city": "Lyon"} for n in numbers]


def _ends(report) -> dict[str, int]:
    """The buckets that hold rows, of a report that balances; delivered is whatever is as good as it gets there."""
    assert report.balanced
    ends = {bucket: count for bucket, count in report.rows.items() if count and bucket != "records_in"}
    delivered = ends.pop("accepted", 0) + ends.pop("confirmed", 0)
    return ends | ({"delivered": delivered} if delivered else {})


# --- nothing for nothing ----------------------------------------------------------------------------------------------


def test_an_empty_export_sends_nothing(account):
    """A header without rows is a valid day."""
    account.land([])
    report = account.run()
    assert (_ends(report), report.exit_code) == ({}, 0)
    assert account.calls == []


def test_profiles_that_are_all_unsendable_send_nothing(account):
    """No call of this account could hold one of them."""
    account.land(_customers(5))
    before = len(account.calls)
    report = account.run(bytes_per_call=1)
    assert _ends(report) == {"unsendable": 5}
    assert report.reasons == [{"code": "record_too_large", "count": 5}]
    assert len(account.calls) == before


def test_profiles_that_are_all_unchanged_send_nothing(account):
    """A finished day is not sent again."""
    account.land(_customers(30))
    assert _ends(account.run()) == {"delivered": 30}
    assert account.cities == {f"C-{n:03}": "Lyon" for n in range(30)}
    before = len(account.calls)
    assert _ends(account.run()) == {"unchanged": 30}
    assert len(account.calls) == before


# --- what arrives -----------------------------------------------------------------------------------------------------


def _arrive(account, frame_of, people) -> None:
    account.session.post(f"{account.url}/_control/reset", timeout=10)
    profiles = [{"email": f"p{n}@example.org", **person} for n, person in enumerate(people)]
    rendered = account.deliver(frame_of(profiles))
    sent = [person for person, reason in zip(people, rendered["reason"], strict=True) if reason is None]
    not_sent = [person["customer_id"] for person in people if person not in sent]
    assert not_sent == [p["customer_id"] for p in people if set(p["customer_id"]) & set(account.stand.ids_without)]
    expected = {person["customer_id"]: {"tags": None} | person for person in sent}
    assert {person["customer_id"]: person for person in account.people if person["city"]} == expected


def test_odd_texts_arrive_as_they_left(account, frame_of):
    """In an id as in a value: what means something to some format, other scripts, zeros in front, formulas."""
    people = [
        {"customer_id": f"{text}-" if text in NO_IDS else text, "city": text, "loyalty_tier": text,
         "tags": [text.replace("|", "/"), "b"]}
        for text in ODD_TEXTS
    ]  # fmt: skip
    _arrive(account, frame_of, people)


def test_any_text_arrives_as_it_left(account, frame_of):
    """For whatever the contract lets pass."""

    @settings(max_examples=20)
    @given(PEOPLE)
    def check(people):
        _arrive(account, frame_of, people)

    check()


def test_ids_that_the_vendor_does_not_take_are_unsendable(account, frame_of):
    """With a reason, before anything is sent; every other id goes."""
    ids = ["a+b", "a/b", "a@b", "a-b", "a b", "a%2Bb"]
    profiles = frame_of({"customer_id": key, "email": f"c{n}@example.org"} for n, key in enumerate(ids))
    with account.endpoint() as endpoint:
        rendered = endpoint.render(profiles.with_columns(city=pl.lit("Lyon")).lazy()).collect()
    taken = [key for key, reason in zip(ids, rendered["reason"], strict=True) if reason is None]
    assert taken == [key for key in ids if not set(key) & set(account.stand.ids_without)]


# --- what does not ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("customers", "guilty"),
    [(1, {0}), (40, {17}), (40, {0, 1, 39}), (40, {3, 19, 20, 38}), (7, set(range(7)))],
    ids=["the only one", "one", "at the ends", "in every call", "all"],
)
def test_guilty_rows_end_rejected_and_the_others_delivered(account, customers, guilty):
    """A call that is refused for some of its rows is halved until these stand alone; and it is not done again."""
    people = _customers(customers)
    account.land(people)
    with account.endpoint() as endpoint:
        keys = [next(p[name] for name in endpoint.identity if name in p) for p in people]
    account.faults({"refuse_call_with": [keys[n] for n in guilty]})
    before = len(account.calls)
    rows = account.stand.rows(16)
    report = account.run(rows_per_call=rows)
    fine = {f"C-{n:03}": "Lyon" for n in range(customers) if n not in guilty}
    expected = {"rejected": len(guilty)} | ({"delivered": len(fine)} if fine else {})
    assert _ends(report) == expected
    assert account.cities == fine
    made = len(account.calls) - before
    planned = account.made[-1].result("plan")["calls"]
    assert made - planned <= 2 * len(guilty) * ceil(log2(max(customers, 2))) + 1
    again = account.run(rows_per_call=rows)
    assert _ends(again) == {"rejected": len(guilty)} | ({"unchanged": len(fine)} if fine else {})
    assert len(account.calls) - before == made


# --- connections ------------------------------------------------------------------------------------------------------


def test_a_check_asks_and_changes_nothing(account):
    """An account that is let in is told so; another one learns it, too."""
    with account.endpoint() as endpoint:
        endpoint.check()
    with account.endpoint(password="wrong") as endpoint, pytest.raises(Refused):
        endpoint.check()
    assert account.people == []


def test_a_connection_of_another_vendor_is_refused(account, stands):
    """`profile-etl status` and `doctor` try endpoints on connections, and rely on the ConfigError."""
    own = account.stand.connection["conn_type"]
    others = [stand for stand in stands if stand.connection["conn_type"] != own]
    assert others
    for stand in others:
        foreign = type(account)(
            stand=stand, url=account.url, clock=account.clock, root=account.root, session=account.session
        ).connection()
        with pytest.raises(ConfigError) as refused:
            connect(account.stand.endpoint, foreign, None)
        assert "canary" not in str(refused.value)
