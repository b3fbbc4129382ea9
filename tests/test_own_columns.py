"""Own columns at each vendor: they arrive as texts under their names, and a name is part of what was said."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import pipeline
from etl.destinations.base import Envelope

MONDAY = date(2026, 3, 2)
HEADER = "customer_id,email,updated_at,city,BRAND,SHOE"


def _run(installation, **sync):
    ctx = installation.context(run_id=pipeline.new_run_id("cli"))
    return pipeline.run(replace(ctx, sync=replace(ctx.sync, **sync))).rows


def _held(emulator, vendor):
    """The own attributes that the vendor has of C-1, as texts."""
    [held] = [p["attributes"] for p in emulator.profiles_of(vendor).values() if "C-1" in str(p) or vendor != "releva"]
    if vendor == "releva":
        held = {entry["key"]: entry["values"][0] for entry in held["custom"]["string"]}
    return {name: value for name, value in held.items() if "brand" in name or "shoe" in name}


@pytest.mark.parametrize("destination", ["batch_update", "adobe_target_bulk", "adobe_target_single", "releva"])
def test_own_columns_arrive_and_their_names_count(install, emulator, destination):
    """Once: the next run finds them unchanged, in whatever order they are written down; another name is news."""
    vendor = "adobe_target" if destination.startswith("adobe") else destination.partition("_")[0]
    limits = {"adobe_target_single": {"quota": None}}
    installation = install(emulator.url, destination=destination, extra={"limits": limits} if vendor != "batch" else {})
    folder = installation.root / "landing" / "crm" / str(MONDAY)
    folder.mkdir(parents=True)
    (folder / "c.csv").write_text(f'{HEADER}\nC-1,c1@example.org,{MONDAY}T08:00:00Z,Lyon,"A, ""B"" & Ç",\n')
    both = {"BRAND": "brand", "SHOE": "shoe"}
    assert _run(installation, attributes=both)["records_in"] == 1
    if destination != "adobe_target_single":  # which creates no profile
        assert _held(emulator, vendor) == {"brand": 'A, "B" & Ç'}
    assert _run(installation, attributes=dict(reversed(both.items())))["unchanged"] == 1
    renamed = _run(installation, attributes={"BRAND": "brand_2", "SHOE": "shoe"})
    assert renamed["accepted"] + renamed["confirmed"] == 1
    if destination != "adobe_target_single":
        assert _held(emulator, vendor)["brand_2"] == 'A, "B" & Ç'


RECORD = st.binary(max_size=20)


@given(st.binary(max_size=30), st.sampled_from([b"", b"\n", b"]"]), st.lists(RECORD, min_size=1, max_size=6))
def test_a_payload_is_cut_by_the_head_that_it_has(head, suffix, records):
    """Not by that of today: a batch of another sync, or of an earlier version, has other columns in its head."""
    payload = Envelope(prefix=head, separator=b"\n", suffix=suffix).frame(records)
    found = Envelope(prefix=b"another", separator=b"\n", suffix=suffix).of(payload, [len(r) for r in records])
    assert found.prefix == head
    assert found.split(payload, [len(r) for r in records]) == records
