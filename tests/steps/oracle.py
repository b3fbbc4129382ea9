"""Sections 3 and 4 of the spec written down once more: which rows and receipts count, and what they say of a customer.

Nothing of `etl` or `contracts` is used: the standard library reads, `email-validator`, libphonenumber and ISO's tables
judge, and the rest is plain Python, slow and obvious. What a vendor is told of a customer stands with the vendor's tests.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import email_validator
import phonenumbers
import polars as pl
import pycountry

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


@cache
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


@cache
def is_email(text: str) -> bool:
    try:
        email_validator.validate_email(text, check_deliverability=False)
    except email_validator.EmailNotValidError:
        return False
    return True


@cache
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


# --- section 4: who goes out, and what they bought ---


class Version(NamedTuple):
    """A valid CRM row; of two the larger one is newer."""

    updated: tuple[int, int]
    number: int
    row: Row


@dataclass(frozen=True)
class Customer:
    """Who goes out: the newest row, and what the window's receipts say, None where the day's have not landed."""

    newest: Version
    purchases: dict[str, Any] | None

    @property
    def row(self) -> Row:
        return self.newest.row

    def utc(self, name: str) -> str | None:
        """A moment as it is sent."""
        return self.row[name] and moment(self.row[name]).text

    def entries(self, name: str) -> list[str] | None:
        """A list as it is sent."""
        return entries(self.row[name] or "") or None


@dataclass
class OptOut:
    """What is sent of a customer whose rows are all in quarantine: the opt-ins that are false, and the valid addresses."""

    says: set[str]
    email: str | None
    phone: str | None


@dataclass
class Expected:
    """What a run must count and know before it speaks to any vendor."""

    crm: Counter[str] = field(default_factory=Counter)
    pos: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    customers: dict[str, Customer] = field(default_factory=dict)
    opt_outs: dict[str, OptOut] = field(default_factory=dict)
    pos_landed: bool = True


def expect(landing: Path, day: date) -> Expected:
    """What a run of a day must find."""
    expected = Expected(pos_landed=any((landing / "pos" / str(day)).glob("*")))
    newest = newest_rows(landing, day, expected)
    bought = receipts(landing, day, newest, expected)
    for customer, version in newest.items():
        purchases = purchases_of(bought[customer]) if expected.pos_landed else None
        expected.customers[customer] = Customer(version, purchases)
    return expected


def newest_rows(landing: Path, day: date, expected: Expected) -> dict[str, Version]:
    """The row of each customer that goes out."""
    valid: dict[str, list[Version]] = {}
    broken: dict[str, list[tuple[Any, int, Row, set[str]]]] = {}
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
            broken.setdefault(row["customer_id"], []).append((order, number, row, codes))
        else:
            valid.setdefault(row["customer_id"], []).append(Version(order, number, row))
    out = {}
    for customer, versions in valid.items():
        newest = max(versions, key=lambda version: version[:2])
        expected.crm["deduplicated"] += len(versions) - 1
        if any(other is None or (other, line) > newest[:2] for other, line, *_ in broken.get(customer, [])):
            expected.crm["quarantined"] += 1
            expected.codes["newer_version_quarantined"] += 1
            broken[customer].append((*newest, set()))
        else:
            out[customer] = newest
    for customer, rows in broken.items():
        if customer and is_id(customer) and customer not in out and (opt_out := opt_out_of(rows)).says:
            expected.opt_outs[customer] = opt_out
    return out


def opt_out_of(rows: list[tuple[Any, int, Row, set[str]]]) -> OptOut:
    """The newest word on each opt-in; one of an unknown moment is the newest if it is false, the oldest if it is true."""
    after = (10**18, 0)
    in_order = sorted(rows, key=lambda each: (each[0] or after, each[1]))
    says = set()
    for name in ("email_opt_in", "sms_opt_in"):
        words = [
            (order or (after if row[name] == "false" else (-(10**18), 0)), number, row[name])
            for order, number, row, _ in rows
            if row[name] in {"true", "false"}
        ]
        if words and max(words)[2] == "false":
            says.add(name)
    spoken = [
        (row, codes) for *_, row, codes in in_order if {row["email_opt_in"], row["sms_opt_in"]} & {"true", "false"}
    ]
    email, phone = (
        next((row[name] for row, codes in reversed(spoken) if row[name] and f"{name}_invalid" not in codes), None)
        for name in ("email", "phone")
    )
    return OptOut(says, email, phone)


def receipts(landing: Path, day: date, rows: dict[str, Version], expected: Expected) -> dict[str, list[Row]]:
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


def judge(row: Row | None, rows: dict[str, Version], seen: set[Any]) -> str:
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


def purchases_of(bought: list[Row]) -> dict[str, Any]:
    """What a customer's receipts add up to; what they do not say is left out."""
    purchases = [row for row in bought if Decimal(row["total"]) > 0]
    found: dict[str, Any] = {
        "orders_30d": len(purchases),
        "spend_30d": sum((Decimal(row["total"]) for row in bought), Decimal("0.00")),
    }
    if purchases:
        when = {id(row): moment(row["occurred_at"]) for row in purchases}
        order = {key: (at.seconds, at.nanoseconds) for key, at in when.items()}
        latest = max(enumerate(purchases), key=lambda each: (order[id(each[1])], each[0]))[1]
        found["last_purchase_at"] = when[id(latest)].text
        if latest["store_id"] is not None:
            found["last_store"] = latest["store_id"]
        by_category: dict[str, list[Any]] = {}
        for row in purchases:
            if row["category"] is not None:
                by_category.setdefault(row["category"], []).append(order[id(row)])
        if by_category:
            most = sorted(by_category, key=lambda c: c.encode())
            found["favourite_category"] = max(most, key=lambda c: (len(by_category[c]), max(by_category[c])))
    return found
