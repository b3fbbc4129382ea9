"""Whole runs to Batch against the emulator, held against the spec's sections 3 and 4 written down once more, row by row.

What must be found in an export says `oracle.py`; what Batch must then be told of a customer is said here.
"""

from __future__ import annotations

import csv
import json
import random
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from etl import pipeline
from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.server import start
from etl.settings import Connection, Settings
from etl.syncs import SYNCS

SAMPLE_DAY = date(2026, 11, 21)


def batch_attributes(customer: Any) -> dict[str, Any]:
    """What Batch holds of a customer."""
    row, bought = customer.row, customer.purchases or {}
    opt = {"true": "subscribed", "false": "unsubscribed", None: None}
    attributes = {
        "$email_address": row["email"],
        "$phone_number": row["phone"],
        "$email_marketing": opt[row["email_opt_in"]],
        "$sms_marketing": opt[row["sms_opt_in"]],
        "$language": row["language"],
        "$region": row["country"],
        "first_name": row["first_name"],
        "last_name": row["last_name"],
        "date(birthday)": row["birthday"] and f"{row['birthday']}T00:00:00Z",
        "date(registered_at)": customer.utc("registered_at"),
        "date(subscribed_at)": customer.utc("subscribed_at"),
        "consent": row["consent"],
        "tags": customer.entries("tags"),
        "subscriptions": customer.entries("subscriptions"),
        "loyalty_tier": row["loyalty_tier"],
        "city": row["city"],
        "latitude": row["latitude"] and float(row["latitude"]),
        "longitude": row["longitude"] and float(row["longitude"]),
        "url(avatar_url)": row["avatar_url"],
        "orders_30d": bought.get("orders_30d"),
        "spend_30d": float(bought["spend_30d"]) if bought else None,
        "date(last_purchase_at)": bought.get("last_purchase_at"),
        "last_store": bought.get("last_store"),
        "favourite_category": bought.get("favourite_category"),
    }
    return {name: value for name, value in attributes.items() if value is not None}


# --- the runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A run, what it should have found, and what the vendor then knew."""

    report: Any
    summary: Any
    expected: Any
    delivered: dict[str, dict[str, Any]]


def _deliver(landing: Path, work: Path | str, ledger: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    settings = Settings(landing=str(landing), work=str(work), ledger=f"sqlite:///{ledger}")
    with start() as url:
        parts = {"conn_type": "batch", "host": url, "password": DEMO_API_KEY, "extra": {"project_key": DEMO_PROJECT}}
        ctx = pipeline.context(
            SYNCS["crm_to_batch"], SAMPLE_DAY, run_id="cli-1", destination="batch_mass_update", settings=settings,
            connection=Connection.from_parts("batch_default", parts),
        )  # fmt: skip
        try:
            report = pipeline.run(ctx)
        finally:
            ctx.ledger.close()
        kept = requests.get(f"{url}/_control/profiles", timeout=10).json()["profiles"]
    return report, {key: profile["attributes"] for key, profile in kept.items()}


@pytest.fixture(scope="module")
def done(sample, expect, tmp_path_factory) -> Done:
    """A whole run of each sample."""
    folder = tmp_path_factory.mktemp("batch")
    report, delivered = _deliver(sample.landing, folder / "work", folder / "ledger.db")
    return Done(report, sample.summary, expect(sample.landing, SAMPLE_DAY), delivered)


def test_every_crm_record_ends_where_the_sample_says(done):
    """The report's rows are the sample's own count, and the reference's; nothing else has happened to any row."""
    found = done.summary.crm
    rows = {name: count for name, count in done.report.rows.items() if count}
    accepted = found.rows["valid"]
    spoiled = {name: found.rows[name] for name in ("unparsable", "quarantined", "deduplicated")}
    assert rows == {"records_in": found.records, **spoiled, "accepted": accepted}
    assert rows == {**done.expected.crm, "accepted": len(done.expected.customers)}


def test_every_receipt_ends_where_the_sample_says(done):
    """The account of receipts is the sample's own, and the reference's."""
    assert done.report.pos == {"records_in": done.summary.pos.records, **done.summary.pos.rows}
    assert done.report.pos == done.expected.pos


def test_every_reason_is_counted_as_often_as_it_occurs(done):
    """All broken rules of all CRM rows, and no other reason."""
    reasons = {reason["code"]: reason["count"] for reason in done.report.reasons}
    assert reasons == done.summary.crm.codes
    assert reasons == done.expected.codes


def test_every_profile_arrives_as_the_spec_says(done):
    """The vendor holds exactly the profiles of the reference: each attribute, its value and its JSON type."""
    expected = {key: batch_attributes(customer) for key, customer in done.expected.customers.items()}
    words = {"email_opt_in": "$email_marketing", "sms_opt_in": "$sms_marketing"}
    for key, opt_out in done.expected.opt_outs.items():
        expected[key] = {words[name]: "unsubscribed" for name in opt_out.says}
    assert done.report.optouts_sent == len(done.expected.opt_outs) > 0
    assert done.delivered.keys() == expected.keys()
    wrong = {
        (name, json.dumps(profile.get(name)), json.dumps(done.delivered[key].get(name)))
        for key, profile in expected.items()
        for name in profile.keys() | done.delivered[key].keys()
        if json.dumps(profile.get(name)) != json.dumps(done.delivered[key].get(name))
    }
    assert wrong == set()


def test_the_report_accounts_for_itself(done):
    """It balances, has looked at every file of the window, and ends with "something to look at"."""
    assert (done.report.balanced, done.report.exit_code, done.report.state) == (True, 1, "attention")
    window = {str(SAMPLE_DAY - timedelta(days=back)) for back in range(30)}
    files = {f"crm/{SAMPLE_DAY}/customers.csv"} | {name for name in done.summary.files if name.split("/")[1] in window}
    files = {name for name in files if name.startswith("pos/") or str(SAMPLE_DAY) in name}
    records = {source["file"]: source["records"] for source in done.report.sources}
    assert records == {name: done.summary.files[name] for name in files}


# --- what seldom happens, often ----------------------------------------------------------------------------------------

MOMENTS = (
    "2026-11-21T08:00:00Z",
    "2026-11-21T08:00:00.0Z",
    "2026-11-21T10:00:00+02:00",
    "2026-11-21T07:59:59.999999999Z",
    "2026-11-20T23:30:00-09:00",
    "2026-11-20T12:00:00Z",
)


def _land_crowded(landing: Path, seed: int, *, pos_of_the_day: bool) -> None:
    """Few customers, stores, moments and categories, so that every kind of tie and repetition occurs, over many files."""
    dice = random.Random(seed)  # noqa: S311  (repeatable; no secret)
    any_of = dice.choice
    for part in range(3):
        crm = [
            {
                "customer_id": f"C{dice.randrange(150)}",
                "email": any_of(("a@example.org", "b@example.com", "broken", "")),
                "updated_at": any_of((*MOMENTS, *MOMENTS, "soon", "")),
                "tags": any_of(("", ";", "b;a;b", " a ; c")),
            }
            for _ in range(120)
        ]
        _write(landing / "crm" / str(SAMPLE_DAY) / f"part-{part}.csv", crm)
    for back in (0, 1, 5, 28, 29, 30):
        pos = [
            {
                "transaction_id": f"T{dice.randrange(9)}",
                "customer_id": any_of((f"C{dice.randrange(170)}", f"C{dice.randrange(10)}", "")),
                "store_id": any_of(("S1", "S2", "S10", "")),
                "occurred_at": any_of(MOMENTS),
                "total": any_of(("0.10", "0.2", "7", "0", "0.00", "-0.3", "1e3")),
                "currency": "EUR",
                "category": any_of(("shoes", "Books", "books", "\u00e9pices", "")),
            }
            for _ in range(200)
        ]
        if back or pos_of_the_day:
            _write(landing / "pos" / str(SAMPLE_DAY - timedelta(days=back)) / f"till-{any_of('ab')}.csv", pos)


def _write(path: Path, records: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*records[0]])
        writer.writeheader()
        writer.writerows(records)


@pytest.mark.parametrize("pos_of_the_day", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_ties_and_repetitions_end_as_the_spec_says(tmp_path, expect, seed, pos_of_the_day):
    """Versions, receipts and categories that tie; without a POS export of the day no purchase attribute is sent."""
    _land_crowded(tmp_path / "landing", seed, pos_of_the_day=pos_of_the_day)
    report, delivered = _deliver(tmp_path / "landing", tmp_path / "work", tmp_path / "ledger.db")
    expected = expect(tmp_path / "landing", SAMPLE_DAY)
    assert {name: count for name, count in report.rows.items() if count} == {
        **expected.crm,
        "accepted": len(expected.customers),
    }
    assert report.pos == {"unparsable": 0, **expected.pos}
    assert {reason["code"]: reason["count"] for reason in report.reasons} == expected.codes
    assert {key: json.dumps(value, sort_keys=True) for key, value in delivered.items()} == {
        key: json.dumps(batch_attributes(customer), sort_keys=True) for key, customer in expected.customers.items()
    }
    assert ("pos_incomplete" in report.notices) == (not pos_of_the_day)
    assert any("spend_30d" in profile for profile in delivered.values()) == pos_of_the_day
    gaps = next(notice for notice in report.notices if notice.startswith("pos_gaps"))
    assert f"{25 + (not pos_of_the_day)} of 30" in gaps
