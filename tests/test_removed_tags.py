"""Tags at Releva, which only adds: where the sync clears them, those that were accepted and have left are taken away by name."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import date, timedelta
from itertools import count

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canaries import found_in_files
from etl import pipeline
from etl.erase import erase
from etl.state import load_state

MONDAY = date(2026, 3, 2)
TUESDAY, WEDNESDAY, THURSDAY = (MONDAY + timedelta(days=n) for n in (1, 2, 3))
EMAIL = "c1@example.org"


@pytest.fixture
def releva(install, emulator):
    return install(emulator.url, destination="releva")


def _run(installation, day, tags, *, clears=True, email=EMAIL, key="C-1", **row):
    """A day on which the export holds one customer with some tags."""
    folder = installation.root / "landing" / "crm" / str(day)
    folder.mkdir(parents=True, exist_ok=True)
    known = {"customer_id": key, "email": email, "updated_at": f"{day}T08:00:00Z", "tags": ";".join(tags)} | row
    with (folder / "customers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*known])
        writer.writeheader()
        writer.writerow(known)
    ctx = installation.context(day, run_id=pipeline.new_run_id("cli"))
    sync = replace(ctx.sync, on_blank={"tags": "clear"} if clears else {})
    report = pipeline.run(replace(ctx, sync=sync))
    assert report.balanced
    return {name: rows for name, rows in report.rows.items() if rows and name != "records_in"}


def _held(emulator, email=EMAIL):
    return set(emulator.profiles_of("releva")[email]["attributes"].get("tags", []))


def _remembered(installation):
    ctx = installation.context()
    return load_state(ctx.work, ctx.ledger, ctx.connection.account).find(pl.Series([EMAIL]))["tags"].to_list()


def test_tags_that_have_left_are_taken_away_once(releva, emulator):
    """Some of them, or all; the others stay, and so do those that somebody else has set."""
    assert _run(releva, MONDAY, ["new", "vip"]) == {"accepted": 1}
    _somebody_adds(emulator, releva, "theirs")
    assert _run(releva, TUESDAY, ["vip", "w"]) == {"accepted": 1}
    assert (_held(emulator), _remembered(releva)) == ({"theirs", "vip", "w"}, [["vip", "w"]])
    assert _run(releva, WEDNESDAY, []) == {"accepted": 1}
    assert (_held(emulator), _remembered(releva)) == ({"theirs"}, [[]])
    assert _run(releva, THURSDAY, []) == {"unchanged": 1}


def _somebody_adds(emulator, installation, tag):
    entry = {"profile": {"email": EMAIL, "addTags": [tag]}, "subscribedAtChanged": False}
    headers = {"Authorization": f"Bearer {installation.connection_parts['password']}"}
    url = f"{emulator.url}/api/v0/profiles"
    emulator.session.post(url, json={"profiles": [entry]}, headers=headers, timeout=9).raise_for_status()


def test_without_a_word_of_the_sync_tags_stay_and_are_not_remembered(releva, emulator):
    """As ever; and what a sync had sent before it cleared tags is not known to be ours."""
    for day, tags in ((MONDAY, ["vip"]), (TUESDAY, [])):
        _run(releva, day, tags, clears=False)
    assert (_held(emulator), _remembered(releva)) == ({"vip"}, [None])
    _run(releva, WEDNESDAY, ["w"])
    assert (_held(emulator), _remembered(releva)) == ({"vip", "w"}, [["w"]])
    _run(releva, THURSDAY, [], clears=False)
    assert (_held(emulator), _remembered(releva)) == ({"vip", "w"}, [["w"]])


@pytest.mark.parametrize(
    ("fault", "bucket"),
    [
        ({"refuse_call_with": EMAIL}, "rejected"),
        ({"status": 500}, "unknown"),
        ({"status": 500, "apply": True}, "unknown"),
        ({"drop": "reset", "apply": True, "times": 1}, "accepted"),
    ],
    ids=["rejected", "in doubt and lost", "in doubt and taken", "sent again"],
)
@pytest.mark.parametrize("last", [[], ["a"], ["c"]])
def test_whatever_became_of_a_record_its_tags_do_not_outlive_it(releva, emulator, fault, bucket, last):
    """Those of a record that the vendor may have taken are taken away as well as those of the one before."""
    _run(releva, MONDAY, ["a"])
    emulator.faults(fault)
    assert _run(releva, TUESDAY, ["b"]) == {bucket: 1}
    emulator.heal()
    assert _run(releva, WEDNESDAY, last) == {"accepted": 1}
    assert (_held(emulator), _remembered(releva)) == (set(last), [last])


def test_an_opt_out_alone_takes_no_tag_away(releva, emulator):
    """What a quarantined row says of tags is not believed; they are still known afterwards."""
    _run(releva, MONDAY, ["a"])
    assert _run(releva, TUESDAY, [], birthday="soon", email_opt_in="false") == {"quarantined": 1}
    assert (_held(emulator), _remembered(releva)) == ({"a"}, [["a"]])
    _run(releva, WEDNESDAY, [])
    assert _held(emulator) == set()


def test_no_call_is_over_the_limit_and_no_tag_stays_for_that(install, emulator):
    """A profile that no call can hold with its removals is unsendable; any other has the tags of its export then."""
    tag = st.text(
        st.characters(codec="utf-8", exclude_characters=";", exclude_categories=["Cc", "Cs", "Z"]), min_size=1
    )
    days, limit = count(), 330
    limits = {"releva": {"bytes_per_call": limit, "calls_per_minute": 60_000}}
    shop = install(emulator.url, destination="releva", extra={"limits": limits})

    @settings(max_examples=5)
    @given(st.lists(st.lists(tag, unique=True, max_size=5), min_size=2, max_size=3))
    def check(told):
        customer = next(days)
        email = f"c{customer}@example.org"
        for tags in told:
            day = MONDAY + timedelta(days=next(days))
            [bucket] = _run(shop, day, tags, email=email, key=f"C-{customer}")
            assert bucket in {"accepted", "unchanged", "unsendable"}
            if bucket != "unsendable":
                assert _held(emulator, email) == set(tags)

    check()
    assert max(_sizes(shop)) <= limit


def test_a_removal_that_no_call_can_hold_is_said(releva, emulator):
    """To the byte: the profile is unsendable, and goes as soon as there is room."""
    assert _run(releva, MONDAY, ["x" * 100]) == {"accepted": 1}
    [size] = _sizes(releva)
    size += len(',"removeTags":["') + 100 + len('"]')
    for limit, bucket in ((size - 1, "unsendable"), (size, "accepted")):
        releva.extra = {"limits": {"releva": {"bytes_per_call": limit}}}
        assert _run(releva, TUESDAY, ["y" * 100]) == {bucket: 1}
        assert _held(emulator) == {("x" if bucket == "unsendable" else "y") * 100}
    assert max(_sizes(releva)) == size


def _sizes(installation):
    """The bytes of every call that was planned."""
    ledger = installation.context().ledger
    return [batch.size for run in ledger.runs() for batch in ledger.batches(run.run)]


def test_an_erased_customer_leaves_no_tag_behind(releva):
    """What is remembered of them goes with the rest of the state."""
    _run(releva, MONDAY, ["canary-tag"])
    work = releva.root / "work"
    assert any("/state/" in name for name in found_in_files(["canary-tag"], work)), "the search can find something"
    ctx = releva.context()
    assert erase(ctx.ledger, ctx.work, "C-1").states == 1
    assert found_in_files(["canary-tag"], work) == {}
