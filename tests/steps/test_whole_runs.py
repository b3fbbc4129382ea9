"""Whole runs against the emulator, held against the spec's sections 3 and 4 written down once more, row by row.

Nothing of `etl` or `contracts` is used for what is expected: the standard library reads, `email-validator`, libphonenumber
and ISO's tables judge, and the rest is plain Python, slow and obvious.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import email_validator
import phonenumbers
import polars as pl
import pycountry
import pytest
import requests

from etl import pipeline
from etl.emulator.batch import DEMO_API_KEY, DEMO_PROJECT
from etl.emulator.server import start
from etl.sample import make_sample
from etl.settings import Connection, Settings
from etl.syncs import SYNCS

COMMITTED = Path(__file__).parents[2] / "data" / "landing"
DAY = date(2026, 11, 21)
SAMPLES = {
    "committed": {"customers": 2000, "receipts": 6000, "days": 35, "seed": 2026},
    "another": {"customers": 300, "receipts": 1500, "days": 31, "seed": 7},
    "spoiled": {"customers": 300, "receipts": 900, "days": 33, "seed": 11, "defect_share": 0.4},
}

Row = dict[str, str | None]


# --- section 3: reading and contract -----------------------------------------------------------------------------------

ID_WORDS = {
    *("null", "undefined", "nil", "none", "nan", "true", "false", "infinity", "-infinity", "(null)"),
    "[object object]",
}
CONSENTS = {"legitimateInterest", "privacyPolicy", "mandatoryCookies", "cookiesPolicy"}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)


@dataclass(frozen=True)
class Moment:
    seconds: int
    nanoseconds: int
    text: str


def read(path: Path) -> Iterator[Row | None]:
    """The records of a file, None for one that cannot be parsed."""
    if path.suffix == ".parquet":
        yield from (
            {k: v if v is None or v.strip() else None for k, v in row.items()}
            for row in pl.read_parquet(path).iter_rows(named=True)
        )
        return
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8-sig")
    records = ndjson_records(text) if path.suffix == ".ndjson" else csv_records(text)
    for record in records:
        yield None if record is None else {k: v if v and v.strip() else None for k, v in {**ABSENT, **record}.items()}


def ndjson_records(text: str) -> Iterator[dict[str, str] | None]:
    for line in filter(str.strip, text.split("\n")):
        try:
            record = json.loads(line)
        except ValueError:
            yield None
        else:
            yield record if isinstance(record, dict) else None


def csv_records(text: str) -> Iterator[dict[str, str] | None]:
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    header, at = lines[0].split(","), 1
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        taken, fields = legal_record(lines[at:], len(header))
        yield None if fields is None else dict(zip(header, fields, strict=True))
        at += taken


def legal_record(lines: list[str], width: int) -> tuple[int, list[str] | None]:
    """How many lines the first record takes, and its fields: a line alone when its quotes are not legal."""
    field_ = r'(?:"(?:[^"]|"")*"|[^",]*)'
    for taken in range(1, len(lines) + 1):
        text = "\n".join(lines[:taken])
        if re.fullmatch(rf"{field_}(?:,{field_})*", text):
            fields = next(csv.reader(io.StringIO(text), strict=True))
            return taken, fields if len(fields) == width else None
        if text.count('"') % 2 == 0:
            break  # no quote is open, so no further line can help
    return 1, None


def moment(text: str) -> Moment | None:
    match = MOMENT.fullmatch(text)
    if not match or not 1900 <= int(text[:4]) <= 2999:
        return None
    clock, fraction, sign, hours, minutes = match.groups()
    try:
        local = datetime.fromisoformat(f"{clock}+00:00")
    except ValueError:
        return None
    if sign and (int(hours) > 23 or int(minutes) > 59):
        return None
    offset = timedelta(hours=int(hours), minutes=int(minutes)) if sign else timedelta()
    utc = local - offset if sign == "+" else local + offset
    return Moment(
        int(utc.timestamp()),
        int((fraction or "0").ljust(9, "0")),
        f"{utc:%Y-%m-%dT%H:%M:%S}{'.' + fraction if fraction else ''}Z",
    )


def is_day(text: str) -> bool:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == 10 and date(1900, 1, 1) <= day <= datetime.now(UTC).date()


def is_id(text: str) -> bool:
    fits = 1 <= len(text) <= 128 and not CONTROL.search(text) and text == text.strip()
    return fits and text.lower() not in ID_WORDS


def is_email(text: str) -> bool:
    try:
        email_validator.validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return False
    return True


def is_phone(text: str) -> bool:
    if not re.fullmatch(r"\+[1-9][0-9]{1,14}", text):
        return False
    try:
        return phonenumbers.is_possible_number(phonenumbers.parse(text))
    except phonenumbers.NumberParseException:
        return False


def is_text(text: str) -> bool:
    return len(text) <= 300 and not CONTROL.search(text)


def entries(text: str) -> list[str]:
    return list(dict.fromkeys(entry.strip() for entry in text.split(";") if entry.strip()))


def are_entries(text: str) -> bool:
    return len(entries(text)) <= 25 and all(map(is_text, entries(text)))


def in_range(limit: int):
    return lambda text: bool(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text)) and abs(Decimal(text)) <= limit


def is_url(text: str) -> bool:
    return len(text) <= 2048 and bool(re.fullmatch(r"https?://[^\s/?#]+\S*", text))


def one_of(words):
    return lambda text: text in words


LANGUAGES = {language.alpha_2 for language in pycountry.languages if hasattr(language, "alpha_2")}
COUNTRIES = {country.alpha_2 for country in pycountry.countries}
RULES = {
    "crm": {
        "customer_id": is_id, "email": is_email, "phone": is_phone, "first_name": is_text, "last_name": is_text,
        "birthday": is_day, "language": one_of(LANGUAGES), "country": one_of(COUNTRIES), "registered_at": moment,
        "subscribed_at": moment, "email_opt_in": one_of(("true", "false")), "sms_opt_in": one_of(("true", "false")),
        "consent": one_of(CONSENTS), "tags": are_entries, "subscriptions": are_entries, "loyalty_tier": is_text,
        "city": is_text, "latitude": in_range(90), "longitude": in_range(180), "avatar_url": is_url,
        "updated_at": moment,
    },
    "pos": {
        "transaction_id": is_text, "customer_id": is_id, "store_id": is_text, "occurred_at": moment,
        "total": lambda text: bool(re.fullmatch(r"-?[0-9]+(\.[0-9]{1,2})?", text)), "currency": one_of(("EUR",)),
        "items": lambda text: bool(re.fullmatch("[0-9]+", text)), "category": is_text,
    },
}  # fmt: skip
ABSENT = dict.fromkeys(name for rules in RULES.values() for name in rules)
REQUIRED = {
    "crm": ("customer_id", "updated_at"),
    "pos": ("transaction_id", "occurred_at", "total", "currency"),
}


def broken_rules(export: str, row: Row) -> set[str]:
    codes = {f"{name}_missing" for name in REQUIRED[export] if row[name] is None}
    codes |= {
        f"{name}_invalid" for name, rule in RULES[export].items() if row[name] is not None and not rule(row[name])
    }
    if export == "crm" and row["email"] is None and row["phone"] is None:
        codes.add("contact_missing")
    if export == "crm" and (row["latitude"] is None) != (row["longitude"] is None):
        codes.add("location_incomplete")
    return codes


# --- section 4: the profile --------------------------------------------------------------------------------------------


@dataclass
class Expected:
    crm: Counter[str] = field(default_factory=Counter)
    pos: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    profiles: dict[str, dict[str, Any]] = field(default_factory=dict)


def expect(landing: Path, day: date) -> Expected:
    """What a run of a day must count and deliver."""
    expected = Expected()
    rows = customers(landing, day, expected)
    bought = receipts(landing, day, rows, expected)
    pos_landed = any((landing / "pos" / str(day)).glob("*"))
    for customer, row in rows.items():
        expected.profiles[customer] = crm_attributes(row) | (pos_attributes(bought[customer]) if pos_landed else {})
    return expected


def customers(landing: Path, day: date, expected: Expected) -> dict[str, Row]:
    """The row of each customer that goes out."""
    valid: dict[str, list[tuple[Any, int, Row]]] = {}
    broken: dict[str, list[tuple[Any, int]]] = {}
    records = (record for path in sorted((landing / "crm" / str(day)).iterdir()) for record in read(path))
    for number, row in enumerate(records):
        expected.crm["records_in"] += 1
        if row is None:
            expected.crm["unparsable"] += 1
            expected.codes["record_unparsable"] += 1
            continue
        codes = broken_rules("crm", row)
        expected.codes.update(codes)
        updated = moment(row["updated_at"]) if row["updated_at"] else None
        order = (updated.seconds, updated.nanoseconds) if updated else None
        if codes:
            expected.crm["quarantined"] += 1
            broken.setdefault(row["customer_id"], []).append((order, number))
        else:
            valid.setdefault(row["customer_id"], []).append((order, number, row))
    out = {}
    for customer, versions in valid.items():
        order, number, newest = max(versions, key=lambda version: version[:2])
        expected.crm["deduplicated"] += len(versions) - 1
        if any(other is None or (other, line) > (order, number) for other, line in broken.get(customer, [])):
            expected.crm["quarantined"] += 1
            expected.codes["newer_version_quarantined"] += 1
        else:
            out[customer] = newest
    return out


def receipts(landing: Path, day: date, rows: dict[str, Row], expected: Expected) -> dict[str, list[Row]]:
    """The used receipts of each customer, in reading order."""
    seen, used = set(), {customer: [] for customer in rows}
    folders = [landing / "pos" / str(day - timedelta(days=back)) for back in reversed(range(30))]
    for path in (path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())):
        for row in read(path):
            bucket = judge(row, rows, seen)
            expected.pos.update(("records_in", bucket))
            if bucket == "used":
                used[row["customer_id"]].append(row)
    return used


def judge(row: Row | None, rows: dict[str, Row], seen: set[Any]) -> str:
    """The bucket of a receipt; notes in `seen` that it was there."""
    if row is None:
        return "unparsable"
    if broken_rules("pos", row):
        return "quarantined"
    at = moment(row["occurred_at"])
    key = (row["store_id"], row["transaction_id"], at.seconds, at.nanoseconds)
    if key in seen:
        return "deduplicated"
    seen.add(key)
    if row["customer_id"] is None:
        return "anonymous"
    return "used" if row["customer_id"] in rows else "orphaned"


def crm_attributes(row: Row) -> dict[str, Any]:
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
        "date(registered_at)": row["registered_at"] and moment(row["registered_at"]).text,
        "date(subscribed_at)": row["subscribed_at"] and moment(row["subscribed_at"]).text,
        "consent": row["consent"],
        "tags": entries(row["tags"] or "") or None,
        "subscriptions": entries(row["subscriptions"] or "") or None,
        "loyalty_tier": row["loyalty_tier"],
        "city": row["city"],
        "latitude": row["latitude"] and float(row["latitude"]),
        "longitude": row["longitude"] and float(row["longitude"]),
        "url(avatar_url)": row["avatar_url"],
    }
    return {name: value for name, value in attributes.items() if value is not None}


def pos_attributes(bought: list[Row]) -> dict[str, Any]:
    purchases = [row for row in bought if Decimal(row["total"]) > 0]
    attributes: dict[str, Any] = {
        "orders_30d": len(purchases),
        "spend_30d": float(sum((Decimal(row["total"]) for row in bought), Decimal(0))),
    }
    if purchases:
        when = {id(row): moment(row["occurred_at"]) for row in purchases}
        order = {key: (at.seconds, at.nanoseconds) for key, at in when.items()}
        latest = max(enumerate(purchases), key=lambda each: (order[id(each[1])], each[0]))[1]
        attributes["date(last_purchase_at)"] = when[id(latest)].text
        if latest["store_id"] is not None:
            attributes["last_store"] = latest["store_id"]
        by_category: dict[str, list[Any]] = {}
        for row in purchases:
            if row["category"] is not None:
                by_category.setdefault(row["category"], []).append(order[id(row)])
        if by_category:
            most = sorted(by_category, key=lambda c: c.encode())
            attributes["favourite_category"] = max(most, key=lambda c: (len(by_category[c]), max(by_category[c])))
    return attributes


# --- the runs ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A run, what it should have found, and what the vendor then knew."""

    report: Any
    summary: Any
    expected: Expected
    delivered: dict[str, dict[str, Any]]


def _deliver(landing: Path, work: Path | str, ledger: Path) -> tuple[Any, dict[str, dict[str, Any]]]:
    settings = Settings(landing=str(landing), work=str(work), ledger=f"sqlite:///{ledger}")
    with start() as url:
        parts = {"conn_type": "batch", "host": url, "password": DEMO_API_KEY, "extra": {"project_key": DEMO_PROJECT}}
        ctx = pipeline.context(
            SYNCS["crm_to_batch"], DAY, run_id="cli-1", destination="batch_mass_update", settings=settings,
            connection=Connection.from_parts("batch_default", parts),
        )  # fmt: skip
        try:
            report = pipeline.run(ctx)
        finally:
            ctx.ledger.close()
        kept = requests.get(f"{url}/_control/profiles", timeout=10).json()["profiles"]
    return report, {key: profile["attributes"] for key, profile in kept.items()}


@pytest.fixture(scope="module", params=SAMPLES)
def done(request, tmp_path_factory) -> Done:
    """A whole run of each sample."""
    folder = tmp_path_factory.mktemp(request.param)
    summary = make_sample(**SAMPLES[request.param], last_day=DAY, out=folder / "landing")
    landing = COMMITTED if request.param == "committed" else folder / "landing"
    report, delivered = _deliver(landing, folder / "work", folder / "ledger.db")
    return Done(report, summary, expect(landing, DAY), delivered)


def test_every_crm_record_ends_where_the_sample_says(done):
    """The report's rows are the sample's own count, and the reference's; nothing else has happened to any row."""
    found = done.summary.crm
    rows = {name: count for name, count in done.report.rows.items() if count}
    accepted = found.rows["valid"]
    spoiled = {name: found.rows[name] for name in ("unparsable", "quarantined", "deduplicated")}
    assert rows == {"records_in": found.records, **spoiled, "accepted": accepted}
    assert rows == {**done.expected.crm, "accepted": len(done.expected.profiles)}


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
    assert done.delivered.keys() == done.expected.profiles.keys()
    wrong = {
        (name, json.dumps(profile.get(name)), json.dumps(done.delivered[key].get(name)))
        for key, profile in done.expected.profiles.items()
        for name in profile.keys() | done.delivered[key].keys()
        if json.dumps(profile.get(name)) != json.dumps(done.delivered[key].get(name))
    }
    assert wrong == set()


def test_the_report_accounts_for_itself(done):
    """It balances, has looked at every file of the window, and ends with "something to look at"."""
    assert (done.report.balanced, done.report.exit_code, done.report.state) == (True, 1, "attention")
    window = {str(DAY - timedelta(days=back)) for back in range(30)}
    files = {f"crm/{DAY}/customers.csv"} | {name for name in done.summary.files if name.split("/")[1] in window}
    files = {name for name in files if name.startswith("pos/") or str(DAY) in name}
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
        _write(landing / "crm" / str(DAY) / f"part-{part}.csv", crm)
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
            _write(landing / "pos" / str(DAY - timedelta(days=back)) / f"till-{any_of('ab')}.csv", pos)


def _write(path: Path, records: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*records[0]])
        writer.writeheader()
        writer.writerows(records)


@pytest.mark.parametrize("pos_of_the_day", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_ties_and_repetitions_end_as_the_spec_says(tmp_path, seed, pos_of_the_day):
    """Versions, receipts and categories that tie; without a POS export of the day no purchase attribute is sent."""
    _land_crowded(tmp_path / "landing", seed, pos_of_the_day=pos_of_the_day)
    report, delivered = _deliver(tmp_path / "landing", tmp_path / "work", tmp_path / "ledger.db")
    expected = expect(tmp_path / "landing", DAY)
    assert {name: count for name, count in report.rows.items() if count} == {
        **expected.crm,
        "accepted": len(expected.profiles),
    }
    assert report.pos == {"unparsable": 0, **expected.pos}
    assert {reason["code"]: reason["count"] for reason in report.reasons} == expected.codes
    assert {key: json.dumps(value, sort_keys=True) for key, value in delivered.items()} == {
        key: json.dumps(value, sort_keys=True) for key, value in expected.profiles.items()
    }
    assert ("pos_incomplete" in report.notices) == (not pos_of_the_day)
    assert any("spend_30d" in profile for profile in delivered.values()) == pos_of_the_day
    gaps = next(notice for notice in report.notices if notice.startswith("pos_gaps"))
    assert "25 of 30" in gaps
