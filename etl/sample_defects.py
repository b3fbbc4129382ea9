"""What can be wrong with an exported row: a table of defects, each with what a run must make of it.

A defect is planted either *instead of* a sound row, or as a *second* record of the same customer or receipt that
follows the sound one. The generator's frames have columns that no export shows: `PLACE` (where the record stands),
`DAY` (of its export), `KIND` (its defect, null when sound), `FATE` (the outcome of a sound row) and `RAW` (the text of
a record that is no longer a row of fields).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

PLACE, DAY, KIND, FATE, RAW, _LINE = "_place", "_day", "_kind", "_fate", "_raw", "_line"
_Value = str | pl.Expr | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """One way to spoil a record: what one planting adds to the account of rows, and the reason codes that go with it.

    A defect that `is_second` leaves the sound record in place and adds one; any other takes the sound one's place.
    """

    kind: str
    changes: Mapping[str, pl.Expr]
    rows: Mapping[str, int]
    codes: tuple[str, ...] = ()
    is_second: bool = False
    unsendable_at: str | None = None

    @property
    def loses_customer(self) -> bool:
        """No row goes out any more under the customer id of the sound record."""
        return not self.is_second or _STALE in self.codes


def _changes(values: Mapping[str, _Value]) -> Mapping[str, pl.Expr]:
    return {name: value if isinstance(value, pl.Expr) else pl.lit(value, pl.String) for name, value in values.items()}


def _one_rule_each(values: Mapping[str, tuple[_Value, ...]]) -> Iterator[Defect]:
    for column, spoiled in values.items():
        for number, value in enumerate(spoiled):
            code = f"{column}_{'missing' if value is None else 'invalid'}"
            yield _broken(f"{code}_{number}", code, **{column: value})


def _broken(kind: str, *codes: str, **changes: _Value) -> Defect:
    return Defect(kind=kind, changes=_changes(changes), rows={"quarantined": 1}, codes=codes)


def _unparsable(kind: str, raw: pl.Expr) -> Defect:
    return Defect(kind=kind, changes={RAW: raw}, rows={"unparsable": 1}, codes=("record_unparsable",))


def _repeated(kind: str, **changes: _Value) -> Defect:
    return Defect(kind=kind, changes=_changes(changes), rows={"deduplicated": 1}, is_second=True)


def _newer(kind: str, code: str, **changes: _Value) -> Defect:
    """A broken version that is newer, or may be: the sound one must not be sent either."""
    rows = {"quarantined": 2, "valid": -1}
    return Defect(kind=kind, changes=_changes(changes), rows=rows, codes=(code, _STALE), is_second=True)


_ID = pl.col("customer_id")
_NEWER = pl.col(DAY) + "T23:59:59.5Z"
_OLDER = "2001-02-03T04:05:06Z"
_LONG = "x" * 301
_MANY = ";".join(f"entry {number}" for number in range(26))
_NO_EMAIL = "no-at-sign.example.org"
_STALE = "newer_version_quarantined"
_VALID = {"valid": 1}

_UNPARSABLE = (
    _unparsable("too_few_fields", pl.col(_LINE).str.slice(0, 12)),
    _unparsable("too_many_fields", pl.col(_LINE) + ",surplus"),
    _unparsable("stray_quote", pl.col(_LINE).str.replace(",", ',"stray" quote', literal=True)),
    _unparsable("unclosed_quote", pl.col(_LINE).str.replace(",", ',"never closed ', literal=True)),
)
_BLANK_LINE = Defect(kind="blank_line", changes=_changes({RAW: ""}), rows={}, is_second=True)

# Values that break the rule of their column, and no other; None where a value is required.
_CRM_VALUES: dict[str, tuple[_Value, ...]] = {
    "customer_id": (None, "null", "NaN", _ID + " ", _ID + "0" * 128, _ID + "\t1"),
    "email": (_NO_EMAIL, "two@@example.org", "with blank@example.com", "dot.@example.net"),
    "phone": ("0639980001", "+33 6 39 98 00 01", "+033639980001", "+٣٣٦٣٩٩٨٠٠٠١", "+33639980", "+3363998000100"),
    "first_name": (_LONG,),
    "last_name": ("Noémond\tL'Hermine",),
    "birthday": ("2999-01-01", "1899-12-31", "2001-02-29", "31/12/1990"),
    "language": ("xx", "FR"),
    "country": ("XX",),
    "registered_at": ("2024-13-01T00:00:00Z", "3000-01-01T00:00:00Z"),
    "subscribed_at": ("2024-05-06 07:08:09Z", "2024-05-06T07:08:09.1234567890Z"),
    "email_opt_in": ("yes",),
    "sms_opt_in": ("FALSE",),
    "consent": ("everything",),
    "tags": (_MANY, "vip;" + _LONG),
    "subscriptions": (_MANY,),
    "loyalty_tier": ("gold\x85",),
    "city": ("Lyon\nPart-Dieu",),
    "avatar_url": ("ftp://img.example.org/a.jpg", "https://img.example.org/" + "a" * 2048),
    "updated_at": (None, "2024-05-06T07:08:09"),
}
_POS_VALUES: dict[str, tuple[_Value, ...]] = {
    "transaction_id": (None, pl.col("transaction_id") + "\t"),
    "customer_id": ("undefined",),
    "store_id": ("S01\nS02",),
    "occurred_at": (None, pl.col(DAY), pl.col(DAY) + "T25:00:00Z"),
    "total": (None, "12.345", "12,50", "NaN"),
    "currency": (None, "USD"),
    "items": ("-1", "1.5"),
    "category": (_LONG,),
}

CRM_DEFECTS = (
    *_one_rule_each(_CRM_VALUES),
    _broken("no_contact", "contact_missing", email=None, phone=None),
    _broken("latitude_alone", "location_incomplete", latitude="45.76", longitude=None),
    _broken("longitude_alone", "location_incomplete", latitude=None, longitude="4.83"),
    _broken("latitude_too_high", "latitude_invalid", latitude="90.01", longitude="4.83"),
    _broken("latitude_with_comma", "latitude_invalid", latitude="45,76", longitude="4.83"),
    _broken("longitude_too_low", "longitude_invalid", latitude="45.76", longitude="-180.5"),
    # Whoever opens the quarantine in a spreadsheet must not run what a customer typed.
    _broken("formula", "email_invalid", email=_NO_EMAIL, first_name="=1+1"),
    _broken(
        "three_rules", "email_invalid", "birthday_invalid", "consent_invalid", email="@", birthday="?", consent="?"
    ),
    *_UNPARSABLE,
    _repeated("version_older", updated_at=_OLDER, loyalty_tier="bronze"),
    _repeated("version_newer", updated_at=_NEWER, loyalty_tier="platinum"),
    _repeated("version_tied", loyalty_tier="gold"),
    replace(_broken("older_broken", "email_invalid", email=_NO_EMAIL, updated_at=_OLDER), is_second=True),
    _newer("newer_broken", "email_invalid", email=_NO_EMAIL, updated_at=_NEWER),
    _newer("tied_broken", "consent_invalid", consent="no"),
    _newer("undated", "updated_at_missing", updated_at=None),
    _newer("unreadable_date", "updated_at_invalid", updated_at="yesterday"),
    _BLANK_LINE,
    # Valid rows that one vendor cannot take: two customers with one address, an id that Adobe forbids.
    Defect(kind="household", changes={"customer_id": _ID + "-2"}, rows=_VALID, is_second=True, unsendable_at="releva"),
    Defect(kind="id_with_slash", changes={"customer_id": _ID + "/B"}, rows=_VALID, unsendable_at="adobe_target"),
)
POS_DEFECTS = (
    *_one_rule_each(_POS_VALUES),
    _broken("two_rules", "total_invalid", "currency_invalid", total="free", currency="eur"),
    *_UNPARSABLE,
    _repeated("sent_twice"),
    _repeated("sent_twice_changed", total="0.01", category="corrected"),
    _BLANK_LINE,
    _repeated("sent_again_next_day"),
)
# An index: the generator moves these second records into the next day's file.
SENT_AGAIN_NEXT_DAY = len(POS_DEFECTS) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a run must find in some records: `rows` by outcome, which add up to `records`, and the rest beside them."""

    records: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    unsendable: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Account) -> Account:
        return Account(
            records=self.records + other.records,
            rows=self.rows + other.rows,
            codes=self.codes + other.codes,
            kinds=self.kinds + other.kinds,
            unsendable=self.unsendable + other.unsendable,
        )


def exported(records: pl.DataFrame) -> list[str]:
    """The columns that stand in a file."""
    return [column for column in records.columns if not column.startswith("_")]


def csv_line(columns: Sequence[str]) -> pl.Expr:
    """The fields as one CSV record without line end; a field is quoted only where it has to be."""
    return pl.concat_str([_csv_field(pl.col(column)) for column in columns], separator=",")


def _csv_field(text: pl.Expr) -> pl.Expr:
    quoted = '"' + text.str.replace_all('"', '""', literal=True) + '"'
    return pl.when(text.str.contains('[",\r\n]')).then(quoted).otherwise(text).fill_null("")


def plant(records: pl.DataFrame, defects: Sequence[Defect]) -> pl.DataFrame:
    """Spoil each record by the defect that its `KIND`, an index into `defects`, names; adds the column `RAW`."""
    records = records.with_columns(pl.lit(None, pl.String).alias(RAW))
    marked = records.drop_nulls(KIND).with_columns(csv_line(exported(records)).alias(_LINE))
    parts = [records.filter(pl.col(KIND).is_null())]
    for index, defect in enumerate(defects):
        base = marked.filter(pl.col(KIND) == index)
        spoiled = base.with_columns(**defect.changes)
        if defect.is_second:
            # The sound record stays, and the second comes a few lines later.
            parts.append(base.drop(_LINE).with_columns(pl.lit(None, pl.Int16).alias(KIND)))
            spoiled = spoiled.with_columns(pl.col(PLACE) + 2.5)
        parts.append(spoiled.drop(_LINE))
    return pl.concat(parts).sort(PLACE)


def account(records: pl.DataFrame, defects: Sequence[Defect]) -> Account:
    """Count records that `plant` returned; blank lines are not records."""
    sound = pl.col(KIND).is_null()
    rows = Counter(dict(records.filter(sound)[FATE].value_counts().iter_rows()))
    codes, kinds, unsendable = Counter[str](), Counter[str](), Counter[str]()
    for index, count in records.filter(~sound)[KIND].value_counts().iter_rows():
        defect = defects[index]
        kinds[defect.kind] += count
        for outcome, added in defect.rows.items():
            rows[outcome] += count * added
        codes.update(dict.fromkeys(defect.codes, count))
        if defect.unsendable_at:
            unsendable[defect.unsendable_at] += count
    blank_lines = kinds[_BLANK_LINE.kind]
    return Account(records=records.height - blank_lines, rows=rows, codes=codes, kinds=kinds, unsendable=unsendable)
