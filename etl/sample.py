"""Make landing folders of invented customers and receipts, with every kind of defect in a known share.

The same arguments make the same bytes. E-mail domains are those reserved for examples; phone numbers come from the
ranges that Arcep, Ofcom and NANPA keep for fiction.
"""

from __future__ import annotations

import gzip
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from etl import sample_defects as defects
from etl.errors import ConfigError
from etl.sample_defects import DAY, FATE, KIND, PLACE, RAW, Account

_CHUNK = 100_000
_DAY_S = 86_400
_SOUND = -1
_NEW_A_DAY, _CHANGED_A_DAY = 0.001, 0.03
_FILES = {"crm": "customers", "pos": "receipts"}
_DEFECTS = {"crm": defects.CRM_DEFECTS, "pos": defects.POS_DEFECTS}
# How many landing days a run reads of each export.
_WINDOW = {"crm": 1, "pos": 30}

_Ints = npt.NDArray[np.integer]
_Mask = npt.NDArray[np.bool_]
_Random = np.random.Generator
_Exports = Iterator[tuple[str, date, pl.DataFrame]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Style:
    """How one file is written."""

    suffix: str = ".csv"
    start: bytes = b""
    line_end: str = "\n"
    ends: bool = True


_PLAIN = _Style()
# By export and days before the last one: each way in which a file may land.
_STYLES = {
    **{("crm", age): _Style(suffix=".csv.gz") for age in (1, 2, 3)},
    ("pos", 3): _Style(suffix=".csv.gz"),
    ("pos", 5): _Style(suffix=".ndjson"),
    ("pos", 7): _Style(suffix=".parquet"),
    ("pos", 9): _Style(start=b"\xef\xbb\xbf", line_end="\r\n"),
    ("pos", 11): _Style(ends=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary:
    """What a run of the last day must find.

    `files` maps each file, relative to the landing folder, to its records. `crm` counts the last day's records, `pos`
    the receipts of its 30-day window; `crm.rows` has the outcomes unparsable, quarantined, deduplicated and valid,
    `pos.rows` instead of valid the run report's anonymous, orphaned and used.
    """

    files: Mapping[str, int]
    crm: Account
    pos: Account


def make_sample(
    *,
    customers: int,
    receipts: int,
    days: int,
    seed: int,
    out: Path,
    last_day: date = date(2026, 11, 21),
    defect_share: float = 0.02,
    crm_days: int = 4,
    plain: bool = False,
) -> SampleSummary:
    """Write `days` days of receipts and the last `crm_days` daily customer exports below `out`; say what is in them.

    `defect_share` of the records are spoiled, and each kind of defect occurs at least once where half of the records
    suffice for that. Unless `plain` (every file CSV), the files show the formats that may land. Memory stays bounded.
    ConfigError when `out` holds exports already: invented customers must never mix with real ones.
    """
    if min(customers, days, crm_days) < 1 or receipts < 0 or not 0 <= defect_share <= 1:
        raise ConfigError("a sample needs a customer, a day, no negative number, and a share of defects from 0 to 1")
    if any((out / export).exists() for export in _FILES):
        raise ConfigError(f"{out} holds exports already: name a folder without crm/ and pos/")
    joining = int(customers * _NEW_A_DAY)
    # Only those whom the first export knows are spoiled, so that every export has the same defects.
    known = max(customers - joining * (crm_days - 1), 1)
    crm_kinds = np.append(_plan(known, "crm", defect_share, seed), np.full(customers - known, _SOUND, np.int16))
    pos_kinds = _plan(receipts, "pos", defect_share, seed)
    lost = np.isin(crm_kinds, [index for index, defect in enumerate(_DEFECTS["crm"]) if defect.loses_customer])

    files: Counter[str] = Counter()
    accounts = dict.fromkeys(_FILES, Account())
    for export, day, records in chain(
        _crm_exports(crm_kinds, joining, _days(last_day, crm_days), seed),
        _pos_exports(pos_kinds, lost, _days(last_day, days), seed),
    ):
        age = (last_day - day).days
        style = _PLAIN if plain else _STYLES.get((export, age), _PLAIN)
        # Parquet has rows of fields and nothing else.
        written = records.filter(pl.col(RAW).is_null()) if style.suffix == ".parquet" else records
        name = f"{export}/{day}/{_FILES[export]}{style.suffix}"
        _append(out / name, style, written)
        found = defects.account(written, _DEFECTS[export])
        files[name] += found.records
        if age < _WINDOW[export]:
            accounts[export] += found
    return SampleSummary(files=files, **accounts)


def _days(last: date, count: int) -> list[date]:
    return [last - timedelta(back) for back in reversed(range(count))]


def _random(seed: int, *part: int) -> _Random:
    """A stream of random numbers for each part of the sample, so that parts do not depend on each other."""
    return np.random.Generator(np.random.PCG64([seed, *part]))


def _plan(rows: int, export: str, share: float, seed: int) -> _Ints:
    """For each row the index of its defect, `_SOUND` for most; all kinds occur equally often, give or take one."""
    count = len(_DEFECTS[export])
    spoiled = min(rows // 2, max(count, round(rows * share))) if share else 0
    kinds = np.full(rows, _SOUND, np.int16)
    kinds[_random(seed, 1, count).choice(rows, spoiled, replace=False)] = np.arange(spoiled) % count
    return kinds


def _append(path: Path, style: _Style, records: pl.DataFrame) -> None:
    """Add records to a file, which begins with its header; only CSV grows by more than one call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = defects.exported(records)
    if style.suffix == ".parquet":
        records.select(columns).write_parquet(path)
        return
    as_json = style.suffix == ".ndjson"
    line = pl.struct(columns).struct.json_encode() if as_json else defects.csv_line(columns)
    header = b"" if as_json or path.exists() else style.start + (",".join(columns) + style.line_end).encode()
    lines = io.BytesIO()
    records.select(pl.coalesce(RAW, line)).write_csv(
        lines, include_header=False, quote_style="never", line_terminator=style.line_end
    )
    content = header + lines.getvalue()
    if not style.ends:
        content = content.removesuffix(style.line_end.encode())
    with path.open("ab") as file:
        if style.suffix == ".csv.gz":
            # The time 0 keeps the bytes the same from run to run.
            with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
                packed.write(content)
        else:
            file.write(content)


# --- customers -------------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    language: str
    country: str
    first_names: str
    last_names: str
    city: str
    latitude: float
    longitude: float


_PLACES = (
    _Place("fr", "FR", "Maëlys Loïc Zoé Éloïse", "Briançonnet|d'Arvelle|Fauvette, fils|Noémond", "Lyon", 45.764, 4.836),
    _Place("fr", "FR", "Théophane Anaïs Solène Gaël", "L'Hermine|Côtebrune|Aubépin|de la Roë", 'Vire "le Val"', 48.84, -0.89),
    _Place("en", "GB", "Rowan Imogen Tamsin Corin", "O'Merrin|Thistlewood|Fernsby-Vale|Ashlark", "Manchester", 53.481, -2.243),
    _Place("en", "US", "Juniper Marlo Sutton Ellis", 'Quillfeather, Jr.|Larkmoor|Rook "Ace" Hill|Stonebrook', "Springfield, IL", 39.782, -89.65),
    _Place("de", "DE", "Jörg Käthe Friederike Ännchen", "Weißdorn|Mühlgraben|von der Aue|Größlich", "Köln", 50.938, 6.96),
    _Place("el", "GR", "Ελπινίκη Ορέστης Δανάη Φαίδων", "Αστροπούλου|Θαλασσινός|Ανεμίδη|Ροδίτης", "Θεσσαλονίκη", 40.64, 22.944),
    _Place("bg", "BG", "Зорница Стоян Ралица Любен", "Ветрова|Гороломов|Снежинска|Речев", "Пловдив", 42.135, 24.745),
    _Place("pl", "PL", "Łucja Żaneta Świętosław Jaśmina", "Źródlińska|Brzozogaj|Ćwierkot|Dąbrówkowa", "Łódź", 51.759, 19.456),
    _Place("ja", "JP", "桜子 蓮太 ひまり みなと", "星ヶ丘|霧島谷|風早坂|雪ノ下", "札幌市", 43.062, 141.355),
)  # fmt: skip
_FIRST_NAMES = [name for place in _PLACES for name in place.first_names.split()]
_LAST_NAMES = [name for place in _PLACES for name in place.last_names.split("|")]
_HANDLES = ("blue.heron", "sunny", "o'kite", "post+news", "x_walker", "m-lune", "tea4two", "hello.there")
_DOMAINS = ("@example.org", "@example.com", "@example.net")
_OPT_INS = (*["true"] * 6, *["false"] * 2, None, None)
_CONSENTS = ("legitimateInterest", "privacyPolicy", "mandatoryCookies", "cookiesPolicy", None, None)
_TAGS = ("vip", " vip ; vip ;; outlet", "winter sale;vip", "famille 👨‍👩‍👧", "click, collect", "été;soldes", " ", None)
_SUBSCRIPTIONS = ("newsletter", "newsletter;offers", "offers;;stores", "magazine", None)
_TIERS = ("bronze", "bronze", "silver", "gold", "platinum", None)


def _crm_exports(kinds: _Ints, joining: int, days: Sequence[date], seed: int) -> _Exports:
    """Each day's full export, chunk by chunk; `joining` customers are new each day."""
    for start in range(0, len(kinds), _CHUNK):
        random = _random(seed, 2, start)
        people = _people(kinds[start : start + _CHUNK], start, days[0], random)
        for later, day in enumerate(days):
            people = _a_day_later(people, day, random) if later else people
            known = len(kinds) - joining * (len(days) - 1 - later)
            records = people.filter(pl.col(PLACE) < known).with_columns(pl.lit(str(day)).alias(DAY))
            yield "crm", day, defects.plant(records, _DEFECTS["crm"])


def _people(kinds: _Ints, start: int, first_day: date, random: _Random) -> pl.DataFrame:
    """The customers numbered from `start`, as they stood before the first export."""
    rows = len(kinds)
    numbers = np.arange(start, start + rows)
    place = random.integers(0, len(_PLACES), rows)
    known_by = random.choice(["both", "email", "phone"], rows, p=[0.7, 0.18, 0.12])
    email = _pick(_HANDLES, rows, random) + "." + _text(numbers) + _pick(_DOMAINS, rows, random)
    born = pl.Series(random.integers(-14_000, 13_800, rows)).cast(pl.Int32).cast(pl.Date)
    first_export = _midnight(first_day)
    registered = first_export - random.integers(400 * _DAY_S, 4000 * _DAY_S, rows)
    subscribed = registered + random.integers(0, 30 * _DAY_S, rows)
    updated = first_export - random.integers(1, 365 * _DAY_S, rows)
    located = random.choice(np.array([True, False]), rows, p=[0.6, 0.4])
    latitude, longitude = (
        pl.Series(np.array(centre)[place] + random.normal(0, 0.03, rows)).round(4).cast(pl.String)
        for centre in ([each.latitude for each in _PLACES], [each.longitude for each in _PLACES])
    )
    return pl.DataFrame(
        {
            "customer_id": _customer_ids(numbers),
            "email": _where(known_by != "phone", email),
            "phone": _where(known_by != "email", _phones().gather(numbers * 7919 % len(_phones()))),
            "first_name": _some(_of_place(_FIRST_NAMES, place, random), 0.95, random),
            "last_name": _some(_of_place(_LAST_NAMES, place, random), 0.95, random),
            "birthday": _some(born.dt.to_string("%Y-%m-%d"), 0.7, random),
            "language": _some(_of_place([each.language for each in _PLACES], place, random), 0.9, random),
            "country": _some(_of_place([each.country for each in _PLACES], place, random), 0.9, random),
            "registered_at": _timestamps(registered, random),
            "subscribed_at": _some(_timestamps(subscribed, random), 0.6, random),
            "email_opt_in": _pick(_OPT_INS, rows, random),
            "sms_opt_in": _pick(_OPT_INS, rows, random),
            "consent": _pick(_CONSENTS, rows, random),
            "tags": _pick(_TAGS, rows, random),
            "subscriptions": _pick(_SUBSCRIPTIONS, rows, random),
            "loyalty_tier": _pick(_TIERS, rows, random),
            "city": _some(_of_place([each.city for each in _PLACES], place, random), 0.85, random),
            "latitude": _where(located, latitude),
            "longitude": _where(located, longitude),
            "avatar_url": _some("https://img.example.org/a/" + _text(numbers) + ".jpg", 0.3, random),
            "updated_at": _timestamps(updated, random),
            PLACE: numbers.astype(np.float64),
            KIND: pl.Series(kinds, dtype=pl.Int16).replace(_SOUND, None),
            FATE: pl.repeat("valid", rows, eager=True),
        }
    )


def _a_day_later(people: pl.DataFrame, day: date, random: _Random) -> pl.DataFrame:
    """The same customers after `day`: a few have changed their tier, moved out of town, opted in or out."""
    rows = people.height
    changed = pl.Series(random.random(rows) < _CHANGED_A_DAY)
    news = {
        "email_opt_in": _pick(("true", "false"), rows, random),
        "loyalty_tier": _pick(_TIERS, rows, random),
        "city": _pick([place.city for place in _PLACES], rows, random),
        "updated_at": _timestamps(_midnight(day) + random.integers(0, 22 * 3600, rows), random),
    }
    return people.with_columns(value.zip_with(changed, people[name]).alias(name) for name, value in news.items())


def _customer_ids(numbers: _Ints) -> pl.Series:
    """Ids such as C0000123; one in 500 comes from an older system and is digits with leading zeros."""
    text = _text(numbers)
    return text.str.zfill(8).zip_with(pl.Series(numbers % 500 == 1), "C" + text.str.zfill(7))


@cache
def _phones() -> pl.Series:
    """Every number of the ranges kept for fiction, in E.164: Arcep's and Ofcom's, and NANPA's in twelve area codes."""
    france = [(f"+33{prefix}", 4) for prefix in (19900, 26191, 35301, 46571, 53649, 63998)]
    america = [(f"+1{area}55501", 2) for area in (202, 206, 212, 303, 305, 312, 404, 415, 512, 617, 702, 808)]
    return pl.concat(
        prefix + _text(np.arange(10**digits)).str.zfill(digits)
        for prefix, digits in (*france, ("+447700900", 3), *america)
    )


# --- receipts --------------------------------------------------------------------------------------------------

_CATEGORIES = ("bakery", "épicerie", "garden", "toys", "home, kitchen", "shoes", "books", None)
_STORES = tuple(f"S{number:02}" for number in range(1, 41))
_MONDAY_TO_SUNDAY = np.array([0.9, 0.9, 1.0, 1.0, 1.2, 1.5, 0.5])


def _pos_exports(kinds: _Ints, lost: _Mask, days: Sequence[date], seed: int) -> _Exports:
    """Each day's receipts; those of a customer who is `lost`, of whom no row goes out, are orphaned."""
    weights = _MONDAY_TO_SUNDAY[[day.weekday() for day in days]]
    ends = np.cumsum(_random(seed, 3).multinomial(len(kinds), weights / weights.sum()))
    window_starts = days[-1] - timedelta(_WINDOW["pos"] - 1)
    again = pl.col(KIND).eq_missing(defects.SENT_AGAIN_NEXT_DAY)
    late: list[pl.DataFrame] = []
    for day, start, end in zip(days, [0, *ends[:-1]], ends, strict=True):
        receipts = _receipts(kinds[start:end], lost, day, _random(seed, 4, day.toordinal()))
        records = defects.plant(receipts, _DEFECTS["pos"])
        # On the window's first day a repetition would be the first of its kind that a run sees, and count.
        yield "pos", day, pl.concat([*(late if day != window_starts else ()), records.filter(~again)])
        late = [records.filter(again)]


def _receipts(kinds: _Ints, lost: _Mask, day: date, random: _Random) -> pl.DataFrame:
    """One day's receipts in order of time: few customers buy often, some are anonymous, some unknown to the CRM."""
    rows = len(kinds)
    customer = (len(lost) * random.random(rows) ** 1.5).astype(np.int64)
    fate = random.choice(["used", "anonymous", "orphaned"], rows, p=[0.9, 0.08, 0.02])
    ids = _customer_ids(customer).zip_with(pl.Series(fate != "orphaned"), "X" + _text(customer).str.zfill(7))
    fate[(fate == "used") & lost[customer]] = "orphaned"
    cents = np.exp(random.normal(8, 0.9, rows)).astype(np.int64) * random.choice([1, -1, 0], rows, p=[0.94, 0.05, 0.01])
    total = _text(abs(cents) // 100) + "." + _text(abs(cents) % 100).str.zfill(2)
    return pl.DataFrame(
        {
            # Tills number their receipts anew each day.
            "transaction_id": "T" + _text(np.arange(rows)).str.zfill(6),
            "customer_id": _where(fate != "anonymous", ids),
            "store_id": _pick(_STORES, rows, random),
            "occurred_at": _timestamps(_midnight(day) + np.sort(random.integers(7 * 3600, 20 * 3600, rows)), random),
            "total": ("-" + total).zip_with(pl.Series(cents < 0), total),
            "currency": pl.repeat("EUR", rows, eager=True),
            "items": _some(_text(random.integers(0, 12, rows)), 0.9, random),
            "category": _pick(_CATEGORIES, rows, random),
            PLACE: np.arange(rows, dtype=np.float64),
            DAY: pl.repeat(str(day), rows, eager=True),
            KIND: pl.Series(kinds, dtype=pl.Int16).replace(_SOUND, None),
            FATE: pl.Series(fate, dtype=pl.String),
        }
    )


# --- columns ---------------------------------------------------------------------------------------------------

# One instant is written in several ways: what follows the seconds, and the offset from UTC that it stands for.
_NOTATIONS = {"Z": 0, ".25Z": 0, ".123456789Z": 0, "+00:00": 0, "+01:00": 3600, ".5+02:00": 7200, "-05:00": -18_000}


def _timestamps(seconds: _Ints, random: _Random) -> pl.Series:
    """Seconds since 1970 as RFC 3339, in several notations."""
    notation = random.integers(0, len(_NOTATIONS), len(seconds))
    local = pl.from_epoch(pl.Series(seconds + np.array([*_NOTATIONS.values()])[notation]), time_unit="s")
    return local.dt.to_string("%Y-%m-%dT%H:%M:%S") + pl.Series([*_NOTATIONS]).gather(notation)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _text(numbers: _Ints) -> pl.Series:
    return pl.Series(numbers).cast(pl.String)


def _pick(choices: Sequence[str | None], rows: int, random: _Random) -> pl.Series:
    return pl.Series(choices, dtype=pl.String).gather(random.integers(0, len(choices), rows))


def _of_place(values: Sequence[str], place: _Ints, random: _Random) -> pl.Series:
    """One of each place's own `values`, which hold equally many for every place, in order."""
    each = len(values) // len(_PLACES)
    return pl.Series(values).gather(place * each + random.integers(0, each, len(place)))


def _where(mask: _Mask, values: pl.Series) -> pl.Series:
    """`values`, blank where the mask is false."""
    return values.zip_with(pl.Series(mask), pl.Series([None], dtype=pl.String))


def _some(values: pl.Series, share: float, random: _Random) -> pl.Series:
    return _where(random.random(len(values)) < share, values)
