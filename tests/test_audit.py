"""The audit: planted losses are found and counted, what was updated since is not, and the bound is exact."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from itertools import pairwise
from math import comb
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import pipeline
from etl.audit import Audited, as_text, audit, most_loss
from etl.errors import ConfigError, OutcomeUnknown

MONDAY = date(2026, 3, 2)
TUESDAY = MONDAY + timedelta(days=1)
COUNT = 40


@pytest.fixture(params=["batch_update", "batch_mass_update", "adobe_target_bulk", "adobe_target_single"])
def shop(request: pytest.FixtureRequest, install: Callable[..., Any], emulator: Any) -> Any:
    """An installation with a destination whose vendor can be asked."""
    return install(emulator.url, destination=request.param)


def _audit(shop: Any, day: Any = MONDAY, *, sample: int = 1000) -> Any:
    return audit(shop.context(day, run_id="audit-1"), sample=sample, chance=random.Random(1))  # noqa: S311


def _deliver(shop: Any, customers: Any, day: Any = MONDAY, **how: str) -> None:
    """A delivery of a day; the single endpoint of Adobe updates only what the bulk one has created before."""
    if shop.destination == "adobe_target_single" and day == MONDAY:
        shop.destination = "adobe_target_bulk"
        before = (
            customers if isinstance(customers, int) else {key: {**customers[key], "city": "Nice"} for key in customers}
        )
        shop.land(before, day, city="Nice")
        shop.run(day)
        shop.destination = "adobe_target_single"
    shop.land(customers, day, **how)
    shop.run(day)


def test_what_arrived_is_found_again(shop: Any) -> None:
    """Nothing is missing, whatever the values are made of; the sample is as large as asked for."""
    key = "C 1/ä%?" if shop.vendor == "batch" else "C 1.ä%?"
    odd = {key: {"city": 'Saint-Étienne "x", & = %', "email": "odd@example.org"}}
    _deliver(shop, {**{f"C-{n}": {"email_opt_in": "true"} for n in range(COUNT)}, **odd})
    found = _audit(shop)
    assert (found.delivered, found.sample, found.missed, found.fields) == (COUNT + 1, COUNT + 1, 0, {})
    assert _audit(shop, sample=7).sample == 7


@pytest.mark.parametrize("destination", ["batch_update", "batch_mass_update"])
def test_rows_that_the_vendor_took_and_lost_are_missed(
    install: Callable[..., Any], emulator: Any, destination: str
) -> None:
    """An answer 202, and then nothing of some rows."""
    shop = install(emulator.url, destination=destination)
    emulator.faults({"lose_rows": 3, "times": 1, "path": f"/2.11/profiles/{destination[6:].replace('_', '-')}"})
    _deliver(shop, COUNT)
    found = _audit(shop)
    assert (found.absent, found.differing, found.fields) == (3, 0, {})
    assert "not there          3" in as_text(found)


def test_values_that_somebody_changed_are_counted_by_field(shop: Any, emulator: Any) -> None:
    """The name of the field and a number; no value, and no customer."""
    _deliver(shop, COUNT)
    _change(shop, emulator, "C-00003", "Rouen")
    found = _audit(shop)
    assert (found.absent, found.differing, found.fields) == (0, 1, {"city": 1})
    text = as_text(found)
    assert "city  1" in text
    assert [secret for secret in ("Rouen", "Lyon", "C-0", "@") if secret in text] == []


def _change(shop: Any, emulator: Any, key: str, city: str) -> None:
    """An update by somebody else."""
    if shop.vendor == "batch":
        operation = {"identifiers": {"custom_id": key}, "attributes": {"city": city}}
        headers = {
            "Authorization": "Bearer demo-rest-key",
            "X-Batch-Project": shop.connection_parts["extra"]["project_key"],
        }
        answer = emulator.session.post(
            f"{emulator.url}/2.11/profiles/update", json=[operation], headers=headers, timeout=9
        )
    else:
        form = {"mbox3rdPartyId": key, "profile.city": city}
        answer = emulator.session.post(f"{emulator.url}/m2/demo/profile/update", data=form, timeout=9)
    answer.raise_for_status()


def test_what_a_later_day_said_is_no_loss(shop: Any) -> None:
    """Those profiles are not in the sample of the earlier day, and are in that of the later one."""
    _deliver(shop, COUNT)
    _deliver(shop, {"C-00001": {}, "C-00002": {}}, TUESDAY, city="Metz")
    assert [(found.delivered, found.missed) for found in (_audit(shop), _audit(shop, TUESDAY))] == [
        (COUNT - 2, 0),
        (2, 0),
    ]


def test_the_vendor_is_asked_at_a_documented_pace(shop: Any, emulator: Any) -> None:
    """An export is a handful of calls, ten seconds apart; fetches are four a second at most."""
    _deliver(shop, COUNT)
    before = len(emulator.requests)
    _audit(shop)
    asked = emulator.requests[before:]
    paced = [call["at"] for call in asked if not call["path"].endswith("/exports/link")]
    gap = min(later - earlier for earlier, later in pairwise(paced))
    assert len(paced) == (4 if shop.vendor == "batch" else COUNT)
    assert gap >= (9.9 if shop.vendor == "batch" else 0.24)


def test_no_link_of_an_export_gets_the_key(install: Callable[..., Any], emulator: Any) -> None:
    """The emulator refuses a signed link with a key, as the vendor's storage would."""
    shop = install(emulator.url, destination="batch_update")
    _deliver(shop, 2)
    _audit(shop)
    assert [call["status"] for call in emulator.requests if call["path"].endswith("/link")] == [200]


def test_an_answer_that_says_nothing_is_no_loss(shop: Any, emulator: Any) -> None:
    """The audit ends with an error, which quotes nothing of the answer."""
    _deliver(shop, 2)
    emulator.faults({"body": '{"secret": "someone@example.org"'})
    with pytest.raises(OutcomeUnknown) as raised:
        _audit(shop)
    assert "someone" not in str(raised.value)
    assert raised.value.__cause__ is raised.value.__context__ is None


def test_a_vendor_that_cannot_be_asked_is_named(install: Callable[..., Any], emulator: Any) -> None:
    """Releva has no way to read; the command ends with exit code 2."""
    shop = install(emulator.url, destination="releva")
    _deliver(shop, 2)
    with pytest.raises(ConfigError, match="releva cannot be audited"):
        _audit(shop)


def test_a_day_without_a_delivery_cannot_be_audited(shop: Any) -> None:
    """Neither one that was never run, nor one of which everything was said anew since."""
    with pytest.raises(ConfigError, match="was not run"):
        _audit(shop)
    _deliver(shop, 2)
    _deliver(shop, 2, TUESDAY, city="Metz")
    with pytest.raises(ConfigError, match="updated since"):
        _audit(shop)


@pytest.mark.parametrize("attributes", [{"TOWN": "town"}, {"A": "another", "SHOE": "shoe", "TOWN": "town"}, {}])
def test_a_file_is_read_by_its_own_head(install: Callable[..., Any], emulator: Any, attributes: dict[str, str]) -> None:
    """The sync had other attributes when it was sent: what each of its cells means stands in its first line."""
    shop = install(emulator.url, destination="adobe_target_bulk")
    folder = shop.root / "landing" / "crm" / str(MONDAY)
    folder.mkdir(parents=True)
    header = "customer_id,email,updated_at,SHOE,TOWN"
    (folder / "customers.csv").write_text(f"{header}\nC-1,c1@example.org,{MONDAY}T08:00:00Z,41,Lyon\n")
    ctx = shop.context()
    pipeline.run(replace(ctx, sync=replace(ctx.sync, attributes={"SHOE": "shoe", "TOWN": "town"})))
    later = replace(shop.context(run_id="audit-1"), sync=replace(ctx.sync, attributes=attributes))
    found = audit(later, sample=1, chance=random.Random(1))  # noqa: S311
    assert (found.sample, found.missed, found.fields) == (1, 0, {})


@given(st.integers(1, 400), st.data())
def test_the_bound_is_exact(sample: int, data: st.DataObject) -> None:
    """With losses just at the bound, so few misses would come up in one audit of twenty; judged by exact fractions."""
    missed = data.draw(st.integers(0, sample - 1))
    share = most_loss(missed, sample)
    chance = sum(comb(sample, n) * share**n * (1 - share) ** (sample - n) for n in range(missed + 1))
    assert chance == pytest.approx(0.05, rel=1e-6)


def test_where_all_is_missing_there_is_no_bound() -> None:
    """That it is less than all of them would be wrong."""
    found = Audited(delivered=20, sample=20, absent=20, differing=0, fields={})
    assert "Loss" not in as_text(found)
    assert "Loss: less than" in as_text(replace(found, absent=19))


def test_known_bounds() -> None:
    """From the tables: none of 3,000 is the tenth of a percent; none of n is 1 - 0.05^(1/n)."""
    assert most_loss(0, 2995) < 0.001 < most_loss(0, 2994)
    assert most_loss(1, 10) == pytest.approx(0.3942, abs=1e-4)
    assert most_loss(10, 10) == 1.0
