"""Audit: reads a sample of what a day's runs delivered back from the vendor, and says how much loss that excludes.

Only what was said last of a profile can be found again. So the sample is of profiles of which the account's state still
knows just the record that was delivered, before the vendor is asked and after it; an update that came later is no loss.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from etl.client import Client
from etl.destinations import connect
from etl.destinations.base import Destination, ReadsBack
from etl.ends import batch_rows, row_ends
from etl.errors import Busy, ConfigError, EtlError
from etl.model import DELIVERED, Batch
from etl.pacing import Allowance, Pacer
from etl.run import PURGED, RunContext
from etl.state import absorb, load_state

CONFIDENCE = 0.95
# A file of an export has at most 100 MB.
_LARGEST_ANSWER = 128 * 1024 * 1024
_HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What an audit found: profiles that were `delivered` and are still as they were, those of them in the `sample`,
    those of these that the vendor does not know (`absent`) or holds otherwise (`differing`, with how many by `field`).
    """

    delivered: int
    sample: int
    absent: int
    differing: int
    fields: Mapping[str, int]

    @property
    def missed(self) -> int:
        """Profiles of the sample that are not there as they were sent."""
        return self.absent + self.differing


def audit(ctx: RunContext, *, sample: int, chance: random.Random) -> Audited:
    """Asks the vendor; raises ConfigError where it cannot be asked, or nothing of the day can be asked about."""
    with Client(timeout_s=ctx.connection.timeout_s, max_answer_bytes=_LARGEST_ANSWER) as client:
        rows, batches = _delivered(ctx)
        asked = {
            name: connect(name, ctx.connection, client, ctx.sync.own)
            for name in {batch.endpoint for batch in batches.values()}
        }
        for destination in asked.values():
            if not isinstance(destination, ReadsBack):
                raise ConfigError(
                    f"{destination.name} cannot be audited: the vendor has no way to ask what it holds of a profile"
                )
        current = _as_known(ctx, rows)
        if current.is_empty():
            raise ConfigError(
                f"nothing that {ctx.sync.name} delivered to {ctx.destination} for {ctx.day} can be audited: there is no such "
                "delivery, or every profile was updated since"
            )
        drawn = current.sample(min(sample, current.height), seed=chance.randrange(2**32))
        said = dict(_said(ctx, drawn, batches, asked))
        held = _held(ctx, said, next(iter(asked.values())))
    still = _as_known(ctx, drawn)["key"].to_list()
    wrong = {key: _differing(said[key], held[key]) for key in still if key in held}
    return Audited(
        delivered=current.height,
        sample=len(still),
        absent=sum(key not in held for key in still),
        differing=sum(bool(fields) for fields in wrong.values()),
        fields=dict(sorted(Counter(name for fields in wrong.values() for name in fields).items())),
    )


def most_loss(missed: int, sample: int) -> float:
    """The share of losses that is excluded: the one-sided upper bound of Clopper and Pearson at CONFIDENCE."""
    if missed >= sample:
        return 1.0
    if missed == 0:
        return 1 - math.pow(1 - CONFIDENCE, 1 / sample)
    low, high = missed / sample, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(missed, sample, middle) > 1 - CONFIDENCE else (low, middle)
    return high


def as_text(found: Audited) -> str:
    """The result for people."""
    lines = [
        f"{found.sample:,} of {found.delivered:,} profiles that were delivered, and not updated since, were asked for",
        f"  as they were sent  {found.sample - found.missed:,}",
        f"  not there          {found.absent:,}",
        f"  different          {found.differing:,}",
        *(f"    {name}  {count:,}" for name, count in found.fields.items()),
    ]
    if found.missed < found.sample:
        bound = math.ceil(most_loss(found.missed, found.sample) * 100_000) / 1_000
        lines.append(f"Loss: less than {bound:g} % of them, at {CONFIDENCE:.0%} confidence.")
    if found.missed:
        lines.append(
            "Vendors take up to a day to apply an update, and others may have changed a profile: ask again before you act."
        )
    return "\n".join(lines)


def _delivered(ctx: RunContext) -> tuple[pl.DataFrame, dict[str, Batch]]:
    """What the day's runs delivered, each profile once, and the batches that took it."""
    frames, batches = [], dict[str, Batch]()
    for run in ctx.ledger.runs(sync=ctx.sync.name, day=str(ctx.day), destination=ctx.destination):
        if run.account == ctx.connection.account and not (ctx.work / run.run).exists(PURGED):
            of_run = ctx.ledger.batches(run.run)
            batches |= {batch.id: batch for batch in of_run}
            ends = row_ends(ctx.ledger, ctx.work, run.run, of_run).filter(pl.col("end").is_in(DELIVERED))
            frames.append(ends.select("key", "fingerprint", "batch", "index"))
    if not frames:
        raise ConfigError(f"{ctx.sync.name} was not run to {ctx.destination} for {ctx.day}, or its files are purged")
    rows = pl.concat(frames).unique("key", keep="first", maintain_order=True)
    return rows, {batch: batches[batch] for batch in rows["batch"].unique()}


def _as_known(ctx: RunContext, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows whose record is the last one that was said of the profile."""
    account = ctx.connection.account
    with ctx.lease() as fence:
        absorb(ctx.work, ctx.ledger, account, fence=fence)
    known = load_state(ctx.work, ctx.ledger, account).find(rows["key"])
    is_last = (known["fingerprint"] == rows["fingerprint"]) & known["outcome"].cast(pl.String).is_in(DELIVERED)
    return rows.filter(is_last.fill_null(value=False))


def _said(
    ctx: RunContext, rows: pl.DataFrame, batches: Mapping[str, Batch], asked: Mapping[str, Destination]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """What the payloads said of each profile."""
    for (name,), group in rows.group_by("batch"):
        batch = batches[str(name)]
        destination = asked[batch.endpoint]
        with ctx.work.fetch(batch.file).open("rb") as file:
            file.seek(batch.offset)
            payload = file.read(batch.size)
        sizes = batch_rows(ctx.work, batch)["size"].to_list()
        envelope = destination.envelope.of(payload, sizes)
        records = envelope.split(payload, sizes)
        for key, index in group.select("key", "index").iter_rows():
            assert isinstance(destination, ReadsBack)  # noqa: S101  (audit has looked)
            yield key, destination.said(records[index], envelope.prefix)


def _held(
    ctx: RunContext, said: Mapping[str, Mapping[str, Any]], destination: Destination
) -> dict[str, dict[str, Any]]:
    """What the vendor holds of the profiles that it knows, asked at its audits' own pace."""
    assert isinstance(destination, ReadsBack)  # noqa: S101  (audit has looked)
    fields = {name for attributes in said.values() for name in attributes}
    return dict(destination.held(said.keys(), fields, _pace(ctx, destination.name, destination.questions_per_minute)))


def _pace(ctx: RunContext, endpoint: str, per_minute: float) -> Callable[[], None]:
    """Waits for the next question's turn, which several audits of the account share; raises EtlError when told to stop."""
    allowance = Allowance(
        rows_per_call=1, per_second=None, capacity=0, window=None,
        call_gap=60 / (per_minute * (1 - ctx.connection.headroom)),
    )  # fmt: skip
    pacer = Pacer(
        ctx.ledger, account=ctx.connection.account, endpoint=f"{endpoint}/audit", allowance=allowance, sleep=ctx.sleep
    )
    until = ctx.ledger.now() + ctx.connection.polling.timeout_s

    def wait() -> None:
        if ctx.ledger.now() > until:
            raise Busy("the vendor has not answered the audit within `polling.timeout_s`", wait=3600)
        if pacer.wait_for(1) is None:
            raise EtlError("the audit was stopped; nothing was changed")

    return wait


def _differing(said: Mapping[str, Any], held: Mapping[str, Any]) -> list[str]:
    return [name for name, value in said.items() if not _same(value, held.get(name))]


def _same(said: Any, held: Any) -> bool:
    """Whether two values mean the same: moments by time, lists by what is in them."""
    if isinstance(said, list) and isinstance(held, list):
        return set(said) == set(held)
    if said != held and isinstance(said, str) and isinstance(held, str):
        try:
            return datetime.fromisoformat(said) == datetime.fromisoformat(held)
        except (ValueError, TypeError):
            return False
    return bool(said == held)


def _at_most(missed: int, sample: int, share: float) -> float:
    """The probability of at most so many misses, if each profile is lost with a probability of `share`."""
    if share >= 1:
        return 0.0
    whole = math.lgamma(sample + 1)
    logs = (
        whole
        - math.lgamma(n + 1)
        - math.lgamma(sample - n + 1)
        + n * math.log(share)
        + (sample - n) * math.log1p(-share)
        for n in range(missed + 1)
    )
    return math.fsum(map(math.exp, logs))
