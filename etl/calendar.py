"""Calendar: over how many days a load goes that does not fit into the rolling quota; pure arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from etl.ledger import QUOTA_PATIENCE_S, quota_until

_DAY_S = 86_400.0


def calendar(
    rows: int, *, quota: int, quota_hours: float, held: Iterable[tuple[float, int]], now: float
) -> Iterator[int]:
    """How many of the rows each day's run delivers, if one begins now and one every 24 hours, until all are delivered.

    `held` is what counts against the quota already: until which moment, and how many rows. A run waits for what is given
    back within its patience. Without a quota that lets a row through there are no days.
    """
    counting = list(held)
    while rows > 0 and quota > 0:
        counting = sorted((until, used) for until, used in counting if until > now)
        soon = [(until, used) for until, used in counting if until <= now + QUOTA_PATIENCE_S]
        room, sent = quota - sum(used for _, used in counting), 0
        for at, freed in [(now, 0), *soon]:
            room += freed
            some = min(rows - sent, max(0, room))
            counting.append((quota_until(at, quota_hours), some))
            room, sent = room - some, sent + some
        yield sent
        rows -= sent
        now += _DAY_S
