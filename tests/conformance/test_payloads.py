"""Payloads: whatever the profiles are, each of them is in one call, calls are within the limits, and bytes are stable."""

from __future__ import annotations

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from sample_profiles import STRANGER

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=25)
SOME = st.none() | ANY_TEXT
PROFILES = st.lists(
    st.fixed_dictionaries(
        {
            "customer_id": ANY_TEXT,
            # Few enough that several customers share one.
            "email": st.integers(0, 20).map("c{}@example.org".format),
            "phone": st.none() | st.integers(0, 9).map("+3363998000{}".format),
            "first_name": SOME,
            "city": SOME,
            "loyalty_tier": SOME,
            "tags": st.none() | st.lists(ANY_TEXT, min_size=1, max_size=3),
            "email_opt_in": st.none() | st.booleans(),
            "subscribed_at": st.none() | st.just("2026-03-01T08:00:00Z"),
            "latitude": st.none() | st.floats(-90, 90),
            "orders_30d": st.none() | st.integers(0, 2**31),
            "spend_30d": st.none() | st.integers(-(10**9), 10**9).map(lambda cents: cents / 100),
            "favourite_category": SOME,
        }
    ),
    max_size=25,
    unique_by=lambda profile: profile["customer_id"],
)
ROWS = st.integers(1, 7)
BYTES = st.integers(250, 1500)


def test_a_record_is_rendered_for_every_profile(account, frame_of):
    """In their order, with the columns and types of the port; a profile without a reason has a key and a record."""
    profiles = frame_of({"customer_id": f"C-{n}", "email": f"c{n}@example.org", "city": "Lyon"} for n in range(3))
    with account.endpoint() as endpoint:
        for given_rows in (3, 0):
            rendered = endpoint.render(profiles.head(given_rows).lazy()).collect()
            assert dict(rendered.schema) == {
                "row": pl.UInt64, "key": pl.String, "record": pl.String, "reason": pl.String, "memory": pl.UInt64,
                "tags": pl.List(pl.String),
            }  # fmt: skip
            assert rendered["row"].to_list() == list(range(given_rows))
            assert rendered["reason"].null_count() == given_rows
            assert rendered.select("key", "record").null_count().row(0) == (0, 0)
            finished = endpoint.finish(rendered.with_columns(**STRANGER))
            assert (finished.dtype, len(finished), finished.null_count()) == (pl.String, given_rows, 0)


def test_limits_hold_for_any_profiles(account, frame_of):
    """Rows and encoded bytes of a call, one call a key, and no profile is lost or made up."""

    @settings(max_examples=20)
    @given(PROFILES, ROWS, BYTES, st.integers(1, 30))
    def check(profiles, rows, size, part_rows):
        rows = account.stand.rows(rows)
        staged = account.stage(frame_of(profiles), part_rows=part_rows, rows_per_call=rows, bytes_per_call=size)
        wanted = staged.records.filter(pl.col("reason").is_null())
        assert [len(payload) for payload in staged.payloads] == [batch.size for batch in staged.batches]
        assert all(batch.size <= size and 1 <= batch.rows <= rows for batch in staged.batches)
        assert sum(batch.rows for batch in staged.batches) == wanted.height
        assert staged.records.height == len(profiles)
        assert staged.sent["key"].to_list() == wanted["key"].to_list()
        assert staged.sent["key"].is_unique().all()
        with account.endpoint() as endpoint:
            for batch, payload in zip(staged.batches, staged.payloads, strict=True):
                sizes = staged.sent["size"].slice(batch.first, batch.rows)
                records = endpoint.envelope.split(payload, sizes.to_list())
                assert endpoint.envelope.frame(records) == payload

    check()


def test_limits_hold_to_the_byte(account, frame_of):
    """A call that is just full is sent; where no call can hold a profile, it is unsendable."""
    profiles = frame_of([{"customer_id": "C-1", "email": "c1@example.org", "city": "Saint-Étienne"}])
    [payload] = account.stage(profiles, part_rows=1).payloads
    sent = {}
    for limit in range(len(payload) - 3, len(payload) + 4):
        staged = account.stage(profiles, part_rows=1, bytes_per_call=limit)
        sent[limit] = len(staged.payloads)
        assert staged.records["reason"].to_list() == [None if sent[limit] else "record_too_large"]
    assert [sent[limit] for limit in sent if limit < len(payload)] == [0, 0, 0]
    assert sent[len(payload) + 3] == 1  # a destination may keep a byte or two for what it does not know yet


def test_the_same_profiles_make_the_same_bytes(account, frame_of):
    """Run after run, and in parts of whatever size; so do their fingerprints."""

    @settings(max_examples=10)
    @given(PROFILES, st.integers(1, 30))
    def check(profiles, part_rows):
        rows = account.stand.rows(5)
        one, other = (account.stage(frame_of(profiles), part_rows=n, rows_per_call=rows) for n in (part_rows, 30))
        assert one.payloads == other.payloads
        assert [batch.sha256 for batch in one.batches] == [batch.sha256 for batch in other.batches]
        assert one.records.equals(other.records)

    check()


def test_no_text_can_pass_for_what_stands_between_records(account, frame_of):
    """No value brings a control character into a record, not even one that no contract would let pass."""
    nasty = "".join(map(chr, range(0x20))) + "\x7f\x85\u2028\u2029,&=\"'"
    profile = {"customer_id": f"C{nasty}", "email": f"c{nasty}@example.org", "city": nasty, "tags": [nasty, "b"]}
    with account.endpoint() as endpoint:
        rendered = endpoint.render(frame_of([profile]).lazy()).collect()
        [text] = endpoint.finish(rendered.with_columns(**STRANGER))
        assert min(text.encode()) >= 0x20
        twice = [text.encode()] * 2
        assert endpoint.envelope.split(endpoint.envelope.frame(twice), [*map(len, twice)]) == twice
