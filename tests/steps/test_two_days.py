"""Two days in a row to Adobe Target and to Releva, held against the spec's section 4 written down once more, row by row.

The first day goes to Adobe Target in bulk, which creates profiles, the second one by single updates, which never do. What
must be found in an export says `oracle.py`; what each vendor must then be told of a customer is said here.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import polars as pl
import pytest

DAY = date(2026, 11, 21)
EVE = DAY - timedelta(days=1)


# --- section 4: the vendors -------------------------------------------------------------------------------------------


@dataclass
class Account:
    """What a vendor has accepted last of each profile, what it holds since, and how often a subscription changed."""

    accepted: dict[str, dict[str, Any]] = field(default_factory=dict)
    subscription: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)
    holds: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    opt_ins: dict[tuple[str, str], str] = field(default_factory=dict)

    def learn(self, key: str, opt_ins: dict[str, str | None]) -> None:
        """The vendor has accepted opt-ins of a profile; a blank leaves what it has."""
        self.opt_ins |= {(key, name): word for name, word in opt_ins.items() if word is not None}

    def has_got(self, key: str, names: set[str]) -> bool:
        """These opt-ins were accepted as false last."""
        return all(self.opt_ins.get((key, name)) == "false" for name in names)


@dataclass
class Ends:
    """How many rows of a run end where, and why."""

    rows: Counter[str]
    codes: Counter[str]
    opt_outs: int = 0

    @classmethod
    def of(cls, expected: Any) -> Ends:
        return cls(Counter(expected.crm), Counter(expected.codes))

    def unsendable(self, code: str) -> None:
        self.rows["unsendable"] += 1
        self.codes[code] += 1


def with_values(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def purchases_as_text(customer: Any) -> dict[str, str | None]:
    """The attributes from POS where everything is text; none if the day's export has not landed."""
    bought = customer.purchases
    if bought is None:
        return {}
    return {
        "orders30d": str(bought["orders_30d"]),
        "spend30d": f"{bought['spend_30d']:.2f}",
        "lastPurchaseAt": bought.get("last_purchase_at"),
        "lastStore": bought.get("last_store"),
        "favouriteCategory": bought.get("favourite_category"),
    }


ADOBE_ATTRIBUTES = {
    *("language", "country", "registeredAt", "subscribedAt", "emailOptIn", "smsOptIn", "tags", "loyaltyTier", "city"),
    *("orders30d", "spend30d", "lastPurchaseAt", "lastStore", "favouriteCategory"),
}
OPT_INS = {"email_opt_in": "emailOptIn", "sms_opt_in": "smsOptIn"}
PERSONAL = ("email", "phone", "first_name", "last_name", "birthday")


def adobe_attributes(customer: Any) -> dict[str, str]:
    row, tags = customer.row, customer.entries("tags")
    return with_values(
        {
            "language": row["language"],
            "country": row["country"],
            "registeredAt": customer.utc("registered_at"),
            "subscribedAt": customer.utc("subscribed_at"),
            "emailOptIn": row["email_opt_in"],
            "smsOptIn": row["sms_opt_in"],
            "tags": "|".join(tags) if tags else None,
            "loyaltyTier": row["loyalty_tier"],
            "city": row["city"],
            **purchases_as_text(customer),
        }
    )


def tell_adobe_target(account: Account, expected: Any, *, single: bool) -> Ends:
    """A run to either endpoint; a single update says something, and of nobody whom bulk has not created."""
    ends = Ends.of(expected)
    for key, customer in expected.customers.items():
        said = adobe_attributes(customer)
        if re.search("[+/@]", key):
            ends.unsendable("id_not_allowed")
        elif single and not said:
            ends.unsendable("no_attributes")
        elif account.accepted.get(key) == said:
            ends.rows["unchanged"] += 1
        else:
            ends.rows["accepted" if single else "confirmed"] += 1
            account.accepted[key] = said
            account.learn(key, {name: customer.row[name] for name in OPT_INS})
            if said and (key in account.holds or not single):
                account.holds[key] = account.holds.get(key, {}) | said
    for key, opt_out in expected.opt_outs.items():
        if not re.search("[+/@]", key) and not account.has_got(key, opt_out.says):
            ends.opt_outs += 1
            account.accepted[key] = said = {OPT_INS[name]: "false" for name in opt_out.says}
            account.learn(key, dict.fromkeys(opt_out.says, "false"))
            if key in account.holds or not single:
                account.holds[key] = account.holds.get(key, {}) | said
    return ends


def releva_profile(customer: Any, opt_in: str | None) -> dict[str, Any]:
    """The profile as it is sent; `custom` as a plain dictionary."""
    row, opted_out = customer.row, opt_in == "false"
    custom = {
        "customerId": row["customer_id"],
        "language": row["language"],
        "country": row["country"],
        "loyaltyTier": row["loyalty_tier"],
        "city": row["city"],
        **purchases_as_text(customer),
    }
    located = row["latitude"] is not None
    return with_values(
        {
            "email": row["email"],
            "phoneNumber": row["phone"],
            "firstName": row["first_name"],
            "lastName": row["last_name"],
            "birthday": row["birthday"],
            "registeredAt": customer.utc("registered_at"),
            "subscribedAt": None if opted_out else customer.utc("subscribed_at"),
            "consent": row["consent"],
            "location": {"lat": float(row["latitude"]), "lon": float(row["longitude"])} if located else None,
            "addTags": customer.entries("tags"),
            "subscriptions": [] if opted_out else customer.entries("subscriptions"),
            "custom": {key: [text] for key, text in with_values(custom).items()},
        }
    )


def tell_releva(account: Account, expected: Any) -> Ends:
    """A run to Releva, which knows people by address: the newest of those who share one speaks for all of them."""
    ends = Ends.of(expected)
    people: dict[str, list[Any]] = defaultdict(list)
    for customer in expected.customers.values():
        people[customer.row["email"] or customer.row["phone"]].append(customer)
    outs = [each for each in expected.opt_outs.values() if "email_opt_in" in each.says and (each.email or each.phone)]
    alone = {each.email or each.phone: each for each in outs}
    for key, customers in people.items():
        for _ in customers[1:]:
            ends.unsendable("identity_shared")
        speaker = max(customers, key=lambda customer: customer.newest[:2])
        opted_out = any(customer.row["email_opt_in"] == "false" for customer in customers) or key in alone
        opt_in = "false" if opted_out else speaker.row["email_opt_in"]
        said, subscription = releva_profile(speaker, opt_in), (speaker.utc("subscribed_at"), opt_in)
        if account.accepted.get(key) == said:
            ends.rows["unchanged"] += 1
            continue
        ends.rows["accepted"] += 1
        if key in account.accepted:
            account.changes[key] += account.subscription[key] != subscription
        else:
            account.changes[key] += subscription[0] is not None and opt_in != "false"
        account.accepted[key], account.subscription[key] = said, subscription
        account.learn(key, {"email_opt_in": opt_in})
        held = account.holds.get(key, {})
        tags = [*dict.fromkeys([*held.get("tags", []), *said.get("addTags", [])])]
        fields = {name: value for name, value in said.items() if name != "addTags"}
        account.holds[key] = held | fields | ({"tags": tags} if tags else {})
    for key in alone.keys() - people.keys():
        if not account.has_got(key, {"email_opt_in"}):
            ends.opt_outs += 1
            account.changes[key] += key in account.accepted
            account.accepted[key] = said = {"email" if "@" in key else "phoneNumber": key, "subscriptions": []}
            account.subscription[key] = (None, "false")
            account.learn(key, {"email_opt_in": "false"})
            account.holds[key] = account.holds.get(key, {}) | said
    return ends


# --- the landing folders ----------------------------------------------------------------------------------------------

MOMENTS = (
    "2026-11-19T08:00:00Z",
    "2026-11-19T10:00:00+02:00",
    "2026-11-19T08:00:00.5Z",
    "2026-11-18T23:30:00-09:00",
    "2026-11-17T12:00:00Z",
)
# What Adobe Target does not take as an id, and what it has to be told in other letters.
ODD_IDS = ("a+b", "a/b", "ana@example.org", "+33639980001", "a b,c&d=e%41", "|ж|", "0007")
COLUMNS = {
    "customer_id": (*(f"C{number}" for number in range(90)), *ODD_IDS),
    "email": (*(f"p{number}@example.org" for number in range(60)), *["P1@example.org", None] * 9),
    "phone": (*(f"+336399800{number:02}" for number in range(30)), *[None] * 15),
    "first_name": ("Éloïse", "桜子", 'Ro"wan\\', None),
    "last_name": ("Fauvette, fils", "O'Merrin", None),
    "birthday": ("1986-01-17", "2000-02-29", None),
    "language": ("fr", "el", None),
    "country": ("FR", "GR", None),
    "registered_at": (*MOMENTS, None),
    "subscribed_at": (*MOMENTS, None),
    "email_opt_in": (*["true", "false", None] * 6, "yes"),
    "sms_opt_in": ("true", "false", None),
    "consent": ("legitimateInterest", "privacyPolicy", None),
    "tags": ("vip", " a|b ;; été;vip ", 'x&y=z;100% +;"q\\', ";", None),
    "subscriptions": ("newsletter", "newsletter;offers", ";", None),
    "loyalty_tier": ("gold", "bronze", None),
    "city": ("Lyon", "Θεσσαλονίκη", "A&B, C=D +1 100%41", None),
    "avatar_url": ("https://img.example.org/a.png", None),
    "updated_at": MOMENTS,
}  # fmt: skip
NEEDED = ("customer_id", "email", "phone", "updated_at")
PLACES = ((None, None), ("45.0", "-4.83"), ("-0.000001", "180"))
RECEIPTS = {
    "transaction_id": tuple(f"T{number}" for number in range(200)),
    "customer_id": (*COLUMNS["customer_id"][:40], *ODD_IDS, None),
    "store_id": ("S1", "S 2, été", None),
    "occurred_at": MOMENTS,
    "total": ("0.29", "19.90", "1234567890.07", "-0.10", "-0.00", "0", "7"),
    "currency": ("EUR",),
    "category": ("shoes", "épicerie & vin", "home, kitchen", None),
}
# What may change from one day to the next.
NEWS = ("subscribed_at", "email_opt_in", "city", "tags", "subscriptions", "email", "updated_at", "loyalty_tier")
CROWDS = {"crowd": (EVE, DAY), "crowd without receipts of the first day": (DAY,), "and of the second": (EVE,)}


def land_crowd(landing: Path, seed: int, tills: tuple[date, ...]) -> None:
    """Customers who share addresses and ids, or have nothing else; texts to be encoded; changes overnight; three formats."""
    dice = random.Random(seed)  # noqa: S311  (repeatable; no secret)

    def record(columns: dict[str, tuple[str | None, ...]]) -> dict[str, str | None]:
        return {name: dice.choice(values) for name, values in columns.items()}

    def customer() -> dict[str, str | None]:
        known = record(COLUMNS) | dict(zip(("latitude", "longitude"), dice.choice(PLACES), strict=True))
        silent = dice.random() < 0.1
        return {name: value if name in NEEDED or not silent else None for name, value in known.items()}

    def overnight(known: dict[str, str | None]) -> dict[str, str | None]:
        news = {name: dice.choice(COLUMNS[name]) for name in dice.sample(NEWS, dice.randrange(3))}
        return known | news

    eve = [customer() for _ in range(150)]
    today = [overnight(known) for known in eve[5:]] + [customer() for _ in range(8)]
    write(landing / "crm" / str(EVE) / "part-1.csv", eve[:70])
    write(landing / "crm" / str(EVE) / "part-2.ndjson", eve[70:])
    write(landing / "crm" / str(DAY) / "part-1.parquet", today[:50])
    write(landing / "crm" / str(DAY) / "part-2.ndjson", today[50:])
    for day in (EVE - timedelta(days=29), EVE - timedelta(days=9), *tills):
        write(landing / "pos" / str(day) / "till.csv", [record(RECEIPTS) for _ in range(60)])


def write(path: Path, records: list[dict[str, str | None]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pl.DataFrame(records).write_parquet(path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".ndjson":
            file.writelines(json.dumps(with_values(record)) + "\n" for record in records)
        else:
            writer = csv.DictWriter(file, [*records[0]])
            writer.writeheader()
            writer.writerows(records)


@pytest.fixture(params=["committed", "another", "spoiled", *CROWDS])
def landing(request, sample_named, tmp_path) -> Path:
    """Two days that have landed: of each sample, and of crowds in which much is shared."""
    if request.param not in CROWDS:
        (tmp_path / "landing").symlink_to(sample_named(request.param).landing)
    else:
        land_crowd(tmp_path / "landing", [*CROWDS].index(request.param), CROWDS[request.param])
    return tmp_path / "landing"


# --- the runs ---------------------------------------------------------------------------------------------------------


def accounts_for(report: Any, ends: Ends, expected: Any) -> None:
    """The report says of every record, every receipt and every reason what the reference says."""
    assert {name: count for name, count in report.rows.items() if count} == +ends.rows
    assert {reason["code"]: reason["count"] for reason in report.reasons} == ends.codes
    assert {name: count for name, count in report.pos.items() if count} == expected.pos
    attention = any(ends.rows[bucket] for bucket in ("unparsable", "quarantined", "unsendable"))
    assert (report.exit_code, report.state) == ((1, "attention") if attention else (0, "done"))
    assert ("pos_incomplete" in report.notices) == (not expected.pos_landed)
    assert report.optouts_sent == ends.opt_outs
    assert (
        sum(batch["rows"] for batch in report.batches) == ends.rows["confirmed"] + ends.rows["accepted"] + ends.opt_outs
    )


def forms(work: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The id and the attributes in each row of a file, and in each single update, that was staged for Adobe Target."""
    for path in work.rglob("payloads"):
        first, *others = filter(None, path.read_text("ascii").splitlines())
        if first.startswith("batch="):
            _, *names = first.split(",")
            for line in others:
                key, *values = map(unquote, line.split(","))
                yield key, {name: value for name, value in zip(names, values, strict=True) if value}
        else:
            for line in (first, *others):
                (kind, key), *pairs = parse_qsl(line, strict_parsing=True)
                assert kind == "mbox3rdPartyId"
                yield key, {name.removeprefix("profile."): value for name, value in pairs}


def test_adobe_target_holds_what_the_spec_says(landing, install, emulator, expect):
    """Two days, in bulk and by single updates: each attribute and its text, each bucket and reason; nothing personal."""
    account, told = Account(), 0
    personal: dict[str, set[str]] = defaultdict(set)
    for day, destination in ((EVE, "adobe_target_bulk"), (DAY, "adobe_target_single")):
        expected = expect(landing, day)
        ends = tell_adobe_target(account, expected, single=destination.endswith("single"))
        accounts_for(install(emulator.url, destination=destination).run(day), ends, expected)
        held = emulator.profiles_of("adobe_target")
        assert {key: profile["attributes"] for key, profile in held.items()} == account.holds
        told += ends.rows["confirmed"] + ends.rows["accepted"] + ends.opt_outs
        for key, customer in expected.customers.items():
            personal[key] |= {customer.row[name] for name in PERSONAL} - {None}
    sent = list(forms(landing.parent / "work"))
    assert len(sent) == told
    assert {name for _, said in sent for name in said} <= ADOBE_ATTRIBUTES
    texts = ((key, text) for key, said in sent for text in (key, *said.values()))
    assert [(key, text) for key, text in texts if any(private in text for private in personal[key])] == []


def test_releva_holds_what_the_spec_says(landing, install, emulator, expect):
    """Two days: each field, each custom text, each opt-out, each changed subscription, each bucket and reason."""
    account = Account()
    for day in (EVE, DAY):
        expected = expect(landing, day)
        ends = tell_releva(account, expected)
        accounts_for(install(emulator.url, destination="releva").run(day), ends, expected)
        held = emulator.profiles_of("releva")
        assert {key: plain(profile["attributes"]) for key, profile in held.items()} == account.holds
        assert Counter({key: profile["subscription_changes"] for key, profile in held.items()}) == account.changes


def plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as Releva holds them, with `custom` as a plain dictionary."""
    if "custom" not in attributes:  # of an opt-out alone
        return attributes
    assert attributes["custom"].keys() == {"string"}
    custom = {entry["key"]: entry["values"] for entry in attributes["custom"]["string"]}
    assert len(custom) == len(attributes["custom"]["string"])
    return attributes | {"custom": custom}
