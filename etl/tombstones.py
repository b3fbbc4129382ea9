"""Tombstones: who was erased, and when, so that an older export does not bring them back.

Each is an empty file `private/erased/<keyed hash of the customer_id>-<day>`: nobody learns an id from it without the
install secret, `private/key`, and two erasures at once cannot lose one another's.
"""

from __future__ import annotations

import hmac
import secrets
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from datetime import date
from hashlib import sha256

import polars as pl

from etl.storage import Place

FOLDER = "private/erased"
KEY = "private/key"


def note(work: Place, customer_id: str, today: date) -> None:
    """Notes that a customer was erased."""
    digest = _keyed_hash(_key(work))(customer_id)
    work.write_bytes(f"{FOLDER}/{digest}-{today}", b"")


def erased_rows(work: Place, profiles: Iterable[pl.DataFrame], days: Sequence[tuple[int, str]]) -> pl.Series:
    """The `row` of the profiles whose `customer_id` was erased on the day of their export, or after it.

    `days` has the first row of each file, and its day.
    """
    noted = sorted(name.split("-", 1) for name in work.names(FOLDER) if not name.startswith("."))
    last = dict(noted)  # of several erasures, the last
    rows = [pl.Series("row", dtype=pl.UInt64)]
    if any(on >= day for on in last.values() for _, day in days):
        hashed, firsts = _keyed_hash(_key(work)), [first for first, _ in days]
        for part in profiles:
            erased = (last.get(hashed(id_), "") for id_ in part["customer_id"])
            is_gone = [
                on >= days[bisect_right(firsts, row) - 1][1] for row, on in zip(part["row"], erased, strict=True)
            ]
            rows.append(part["row"].filter(pl.Series(is_gone, dtype=pl.Boolean)))
    return pl.concat(rows)


def _key(work: Place) -> bytes:
    """The install secret, made at the first need."""
    return bytes.fromhex(work.agree(KEY, secrets.token_hex().encode()).decode())


def _keyed_hash(key: bytes) -> Callable[[str], str]:
    """HMAC-SHA-256; the key is taken in once, as there may be millions of texts."""
    keyed = hmac.new(key, digestmod=sha256)

    def digest(text: str) -> str:
        one = keyed.copy()
        one.update(text.encode())
        return one.hexdigest()

    return digest
