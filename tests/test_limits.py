"""Vendor limits: each number is written down once, with where it comes from, and the emulator came to the same ones."""

from __future__ import annotations

import ast
import json
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.destinations import ENDPOINTS
from etl.emulator import adobe, releva
from etl.emulator import batch as emulated
from etl.errors import ConfigError
from etl.limits import ADJUSTABLE, documented, limits_of

ETL = Path(__file__).parents[1] / "etl"
ENTRIES = [(endpoint, name) for endpoint, table in documented().items() for name in table]
PATHS = {"batch_update": "/profiles/update", "batch_mass_update": "/profiles/mass-update"}
# Counting, the decimals of money, HTTP's answers, and the first character that JSON need not escape.
NO_LIMITS = {0, 1, 2, 202, 0x20}


@pytest.mark.parametrize(("endpoint", "name"), ENTRIES)
def test_every_limit_says_where_it_comes_from(endpoint, name):
    """Value, unit, quote, source, date, and what speaks against it; a number without a quote is contested."""
    entry = documented()[endpoint][name]
    assert set(entry) - {"ceiling"} == {"value", "unit", "quote", "source", "date", "contested"}
    assert entry["value"] > 0
    assert entry["unit"]
    assert entry["source"]
    assert isinstance(entry["date"], date)
    assert entry["quote"] or entry["contested"] or "SDK" in entry["source"]


def test_every_endpoint_has_its_limits():
    """What the registry knows can be paced and packed."""
    assert set(documented()) == set(ENDPOINTS)
    for endpoint in ENDPOINTS:
        limits = limits_of(endpoint)
        assert limits.rows_per_call > 0
        assert limits.bytes_per_call > 0


@pytest.mark.parametrize("path", sorted((ETL / "destinations").glob("*.py")), ids=lambda path: path.name)
def test_destinations_hold_no_numbers(path):
    """Limits stand in limits.toml, where an account can change them."""
    numbers = {
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool)
    }
    assert numbers <= NO_LIMITS


@pytest.mark.parametrize("endpoint", PATHS)
def test_the_emulator_came_to_the_same_limits(endpoint):
    """Both sides wrote them down from the vendor's pages, each by itself."""
    ours, theirs = limits_of(endpoint), emulated.LIMITS.endpoints[PATHS[endpoint]]
    assert (ours.rows_per_call, ours.per_second, ours.burst) == (
        theirs.items_per_call,
        theirs.per_second,
        theirs.bucket,
    )
    assert ours.bytes_per_call == emulated.LIMITS.body_bytes
    assert ours.attributes_per_row == emulated.LIMITS.attributes_per_operation


def test_the_emulator_came_to_the_same_limits_of_adobe():
    """What we send by default is more careful; what a connection may ask for at most is the vendor's own limit."""
    theirs, single, bulk = adobe.LIMITS, limits_of("adobe_target_single"), limits_of("adobe_target_bulk")
    assert (single.rows_per_call, single.bytes_per_call, single.quota) == (1, theirs.post_bytes, theirs.rows_per_day)
    assert documented()["adobe_target_single"]["bytes_per_get"]["value"] == theirs.get_bytes
    ceilings = [documented()["adobe_target_bulk"][name]["ceiling"] for name in ("rows_per_call", "bytes_per_call")]
    assert ceilings == [theirs.file_rows, theirs.file_bytes]
    assert (bulk.calls_per_minute, bulk.quota) == (theirs.calls_per_minute, theirs.rows_per_day)
    assert bulk.bytes_per_row == theirs.profile_bytes
    assert bulk.open_batches == theirs.statuses_kept - 1


def test_the_emulator_came_to_the_same_limits_of_releva():
    """Both sides assume them, as the vendor names none."""
    ours, theirs = limits_of("releva"), releva.LIMITS
    assert (ours.rows_per_call, ours.bytes_per_call) == (theirs.profiles_per_call, theirs.body_bytes)
    assert ours.calls_per_minute == theirs.calls_per_minute


@pytest.mark.parametrize(
    ("endpoint", "name", "value"),
    [
        ("adobe_target_bulk", "rows_per_call", 500_001),
        ("adobe_target_bulk", "bytes_per_call", 50_000_000),
        ("adobe_target_single", "rows_per_call", 2),
    ],
)
def test_a_vendors_hard_limit_cannot_be_raised(endpoint, name, value):
    """Up to the ceiling an account may ask for more than our careful default, and not beyond."""
    ceiling = documented()[endpoint][name]["ceiling"]
    assert getattr(limits_of(endpoint, {name: ceiling}), name) == ceiling
    with pytest.raises(ConfigError, match=name):
        limits_of(endpoint, {name: value})


def test_mass_update_is_paced_by_the_stricter_reading():
    """Never more than the limit in any second, unless an account asks for a bucket."""
    assert limits_of("batch_mass_update").policy == "strict-window"
    assert limits_of("batch_update").policy == "bucket"
    assert limits_of("batch_mass_update", {"policy": "bucket"}).policy == "bucket"


def test_an_account_may_have_other_limits():
    """The rest stays as documented."""
    limits = limits_of("batch_update", {"rows_per_call": 50, "per_second": 10.5, "quota": 1000, "burst": None})
    assert (limits.rows_per_call, limits.per_second, limits.quota, limits.burst) == (50, 10.5, 1000, None)
    assert limits.bytes_per_call == limits_of("batch_update").bytes_per_call


@pytest.mark.parametrize(
    "overrides",
    [
        {"rows_per_cal": 1}, {"attributes_per_row": 51}, {"rows_per_call": 0}, {"rows_per_call": -1},
        {"rows_per_call": None}, {"rows_per_call": "200"}, {"rows_per_call": True}, {"rows_per_call": 0.5},
        {"bytes_per_call": 1e3}, {"bytes_per_call": None}, {"quota_hours": None}, {"quota_hours": 0}, {"quota": 0.5},
        {"per_second": 0}, {"burst": []}, {"policy": "fast"}, {"policy": None}, {"per_second": float("inf")},
        {"per_second": float("nan")}, {"quota_hours": float("inf")},
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused(overrides):
    """With the endpoint and the name, before anything is planned."""
    [name] = overrides
    with pytest.raises(ConfigError, match=f"batch_update.*{name}"):
        limits_of("batch_update", overrides)


@given(st.dictionaries(st.sampled_from(sorted(ADJUSTABLE)), st.from_type(object).filter(lambda v: v is not None)))
def test_limits_are_taken_or_refused(overrides):
    """Whatever stands in a connection, the answer is usable limits or a ConfigError."""
    try:
        limits = limits_of("batch_mass_update", overrides)
    except ConfigError:
        return
    assert isinstance(limits.rows_per_call, int)
    assert limits.rows_per_call > 0
    assert json.dumps([limits.per_second, limits.burst, limits.quota], allow_nan=False)
