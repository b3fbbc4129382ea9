"""A blank leaves what the vendor has, unless the sync says that it clears it: then the vendor forgets what the CRM forgot."""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import date

import pytest

from etl import pipeline
from etl.errors import ConfigError
from etl.syncs import OPTIONAL, Sync

MONDAY, TUESDAY, WEDNESDAY = (date(2026, 3, day) for day in (2, 3, 4))
FULL = {
    "email": "c1@example.org", "phone": "+33639980001", "first_name": "Ana", "last_name": "Li", "birthday": "1986-01-17",
    "language": "fr", "country": "FR", "registered_at": "2024-02-03T10:00:00Z", "subscribed_at": "2025-02-03T10:00:00Z",
    "tags": "vip", "subscriptions": "weekly", "loyalty_tier": "gold", "city": "Lyon", "latitude": "45.0",
    "longitude": "-4.83", "avatar_url": "https://img.example.org/a.png",
}  # fmt: skip


def _run(installation, day, row, clear=()):
    """A day of one customer, under a sync that clears some fields."""
    folder = installation.root / "landing" / "crm" / str(day)
    folder.mkdir(parents=True)
    record = {"customer_id": "C-1", **row, "updated_at": f"{day}T08:00:00Z"}
    with (folder / "customers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*record])
        writer.writeheader()
        writer.writerow(record)
    ctx = installation.context(day, run_id=f"cli-{day}")
    return pipeline.run(replace(ctx, sync=replace(ctx.sync, on_blank=dict.fromkeys(clear, "clear"))))


@pytest.mark.parametrize("kept", ["email", "phone"])
def test_batch_forgets_every_field_that_is_to_be_cleared(installation, emulator, kept):
    """Among them the phone number, so that no SMS leaves; said once, and then the profile is unchanged."""
    _run(installation, MONDAY, FULL, OPTIONAL)
    blank = dict.fromkeys(FULL, "") | {kept: FULL[kept], "sms_opt_in": ""}
    assert _run(installation, TUESDAY, blank, OPTIONAL).rows["accepted"] == 1
    held = emulator.profiles["C-1"]["attributes"]
    assert held == {{"email": "$email_address", "phone": "$phone_number"}[kept]: FULL[kept]}
    assert _run(installation, WEDNESDAY, blank, OPTIONAL).rows["unchanged"] == 1


def test_a_blank_leaves_what_is_not_to_be_cleared(installation, emulator):
    """By default everything; with one field to clear, the others."""
    _run(installation, MONDAY, FULL)
    before = emulator.profiles["C-1"]["attributes"]
    _run(installation, TUESDAY, dict.fromkeys(FULL, "") | {"email": FULL["email"]}, ["phone"])
    assert emulator.profiles["C-1"]["attributes"] == {k: v for k, v in before.items() if k != "$phone_number"}


def test_an_opt_out_alone_clears_nothing(installation, emulator):
    """What a quarantined row leaves blank is not what the customer left blank."""
    _run(installation, MONDAY, FULL, OPTIONAL)
    before = emulator.profiles["C-1"]["attributes"]
    report = _run(installation, TUESDAY, {"email": "nobody", "phone": "", "email_opt_in": "false"}, OPTIONAL)
    assert (report.rows["quarantined"], report.optouts_sent) == (1, 1)
    assert emulator.profiles["C-1"]["attributes"] == before | {"$email_marketing": "unsubscribed"}


@pytest.mark.parametrize(("destination", "left"), [("releva", "city"), ("adobe_target_bulk", "subscriptions, city")])
def test_what_a_vendor_cannot_clear_stays_and_is_said(install, emulator, destination, left):
    """Releva clears subscriptions and tags; Adobe Target nothing."""
    installation = install(emulator.url, destination=destination)
    _run(installation, MONDAY, FULL)
    report = _run(
        installation, TUESDAY, {**FULL, "subscriptions": "", "city": "", "language": "el"}, ["subscriptions", "city"]
    )
    assert [n.rpartition(": ")[2] for n in report.notices if n.startswith("not_cleared")] == [left]
    if destination == "releva":
        assert emulator.profiles_of("releva")["c1@example.org"]["attributes"]["subscriptions"] == []


def test_a_field_is_not_cleared_because_it_is_invalid():
    """Dropping an invalid value and clearing blanks do not go together, and the sync says so at once."""
    settings = {"on_invalid": {"phone": "drop_field"}, "on_blank": {"phone": "clear"}}
    with pytest.raises(ConfigError, match="phone would be cleared at the vendor when it is invalid"):
        Sync(name="mine", destination="batch", connection="c", **settings)
