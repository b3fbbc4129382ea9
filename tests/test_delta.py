"""Only what an account does not know yet is sent, and an older export never overrules a newer one."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from etl.delta import OPT_INS, STATE, Seen, State, decide, evened, fingerprint, updated

DAY = date(2026, 3, 2)
KEYS = [f"C-{number}" for number in range(6)]

days = st.integers(0, 5).map(lambda number: DAY + timedelta(days=number))
keys = st.sampled_from(KEYS)


@dataclass(frozen=True)
class Known:
    """What the model remembers of one profile."""

    fingerprint: int | None
    as_of: date
    outcome: str
    code: str | None = None
    memory: int | None = None
    confirmed_on: date | None = None
    email_opt_in: bool | None = None
    sms_opt_in: bool | None = None
    tags: list[str] | None = None


STAYS = ("processing", "failed_at_destination", "not_found", "unreported", "stuck")
memories = st.none() | st.integers(0, 2**64 - 1)
opt_in = st.none() | st.booleans()
opt_ins = st.tuples(opt_in, opt_in)
tags = st.none() | st.lists(st.sampled_from("abc"), unique=True)
known = st.one_of(
    st.builds(
        Known, st.integers(0, 3), days, st.just("accepted"), st.none(), memories, st.none(), opt_in, opt_in, tags
    ),
    st.builds(Known, st.integers(0, 3), days, st.just("confirmed"), st.none(), memories, days, opt_in, opt_in, tags),
    st.builds(Known, st.integers(0, 3), days, st.just("rejected"), st.sampled_from(["http_400", "http_422"])),
    st.builds(Known, st.integers(0, 3), days, st.sampled_from(STAYS), tags=tags),
    st.builds(Known, st.integers(0, 3), days, st.just("unidentified"), st.sampled_from(["batch-1", "batch-2"])),
    st.builds(Known, st.none(), days, st.just("unknown"), tags=tags),
)


def frame(model: dict[str, Known]) -> pl.DataFrame:
    return pl.DataFrame([{"key": key, **asdict(k)} for key, k in model.items()], schema=STATE)


def records(
    wanted: dict[str, int],
    told: dict[str, tuple[bool | None, bool | None]] | None = None,
    *,
    opt_out: bool = False,
    said_on: date | None = None,
) -> pl.DataFrame:
    schema = {name: STATE[name] for name in ("key", "fingerprint", *OPT_INS)}
    rows = [(key, print_, *(told or {}).get(key, (None, None))) for key, print_ in wanted.items()]
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        opt_out=pl.lit(opt_out), said_on=pl.lit(said_on, dtype=pl.Date)
    )


def judged(model: Known | None, print_: int, day: date, *, full: bool, retry: bool, confirms: bool):
    """The rule in plain words."""
    if model is None:
        return None, None
    doubted = confirms and model.outcome == "accepted" and model.confirmed_on is None
    tried_again = retry and model.outcome not in {"accepted", "confirmed", "processing"}
    if model.fingerprint == print_ and not full and not doubted and not tried_again:
        return ("unchanged" if model.outcome in {"accepted", "confirmed"} else model.outcome), model.code
    return ("superseded", None) if model.as_of > day else (None, None)


@given(
    st.dictionaries(keys, known),
    st.dictionaries(keys, st.integers(0, 3)),
    days,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_decide_agrees_with_the_rule(model, wanted, day, full, retry, confirms):
    """As it ended before, spoken of by a later day, or to be sent: the same as row by row."""
    decided = decide(records(wanted), State.load([frame(model)]), day, full=full, retry=retry, confirms=confirms)
    expected = [
        judged(model.get(key), print_, day, full=full, retry=retry, confirms=confirms) for key, print_ in wanted.items()
    ]
    assert decided.select("bucket", "code").rows() == expected
    remembered = [model.get(key, Known(None, day, "")) for key in wanted]
    assert decided.select("known", "known_tags", "confirmed_on").rows() == [
        (k.memory, k.tags, k.confirmed_on) for k in remembered
    ]


@given(st.dictionaries(keys, known), st.dictionaries(keys, opt_ins))
def test_an_opt_in_flips_when_it_turns_into_its_opposite(model, told):
    """Against what was accepted last; a blank on either side says nothing, and of a stranger nothing is known."""

    def flips(key: str) -> bool | None:
        if (old := model.get(key)) is None:
            return None
        return any({a, b} == {True, False} for a, b in zip(told[key], (old.email_opt_in, old.sms_opt_in), strict=True))

    decided = decide(records(dict.fromkeys(told, 1), told), State.load([frame(model)]), DAY)
    assert decided["flips"].to_list() == [flips(key) for key in told]


@given(known, opt_ins, days, st.none() | st.integers(1, 3))
def test_an_opt_out_alone_is_as_before_if_the_account_has_got_it(old, told, day, back):
    """With whatever was accepted last; what is in doubt, or may have been half applied, does not count. Else it is a turn.

    One that an earlier day has left is superseded by the days between, too, but not by an earlier try of the day itself.
    """
    said_on = back and day - timedelta(days=back)
    out = tuple(False if word is False else None for word in told)
    wanted = records({"C-0": 9}, {"C-0": out}, opt_out=True, said_on=said_on)
    model = State.load([frame({"C-0": old})])
    has_got_it = all(
        word is None or word is had for word, had in zip(out, (old.email_opt_in, old.sms_opt_in), strict=True)
    )
    is_through = old.outcome in {"accepted", "confirmed"}
    is_older = old.as_of > day or bool(said_on and said_on < old.as_of < day)
    expected = "unchanged" if has_got_it and is_through else "superseded" if is_older else None
    [found] = decide(wanted, model, day).rows(named=True)
    assert (found["bucket"], found["sent"], found["flips"]) == (expected, old.fingerprint, not has_got_it)
    full = decide(wanted, model, day, full=True)["bucket"].item()
    assert full == ("superseded" if is_older else None)


@given(st.lists(st.dictionaries(keys, known), max_size=5), st.lists(st.sampled_from([*KEYS, "C-unknown"])))
def test_a_key_is_found_in_whichever_part_it_stands(parts, asked):
    """Looking up keys, known or not, repeated or not, gives what a dictionary would."""
    model: dict[str, Known] = {}
    kept = []
    for part in parts:
        kept.append({key: value for key, value in part.items() if key not in model})
        model |= kept[-1]
    found = State.load(frame(part) for part in kept).find(pl.Series(asked, dtype=pl.String))
    expected = [(k.fingerprint, k.as_of, k.outcome, k.code) if (k := model.get(key)) else (None,) * 4 for key in asked]
    assert found.select("fingerprint", "as_of", "outcome", "code").rows() == expected


@settings(max_examples=15)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=1), st.integers(0, 13), st.sets(st.integers(1, 20)))
def test_every_unchanged_profile_is_refreshed_once_in_seven_days(customers, first, missed):
    """In any seven days in a row exactly once; where days were missed, on the next one with a run."""
    day = DAY + timedelta(days=first)
    parts = [frame({key: Known(1, day, "confirmed", confirmed_on=day) for key in customers})]
    turns: dict[str, list[int]] = {key: [] for key in customers}
    days_run = [number for number in range(1, 22) if number not in missed]
    for number in days_run:
        today = day + timedelta(days=number)
        asked = records(dict.fromkeys(customers, 1))
        due = asked.filter(decide(asked, State.load(parts), today, refresh_days=7)["due"])
        for key in due["key"]:
            turns[key].append(number)
        news = frame({key: Known(1, today, "confirmed", confirmed_on=today) for key in due["key"]})
        parts = list(updated(parts, news, [Seen.of(today, [asked])]))
        again = decide(asked, State.load(parts), today, refresh_days=7)
        assert not again["due"].any()
    for sent in turns.values():
        for begin in range(1, 16):
            assert missed or len([number for number in sent if begin <= number < begin + 7]) == 1
        for number in range(7, 22):
            runs = [ran for ran in days_run if ran >= number]
            assert not runs or any(number - 7 < ran <= runs[0] for ran in sent)


@given(known, st.booleans())
def test_only_what_is_delivered_and_of_a_later_day_is_refreshed(model, retry):
    """Not for an older export, not by `retry`, not where something else is the matter with the profile."""
    asked = records({"C-1": 1})
    state = State.load([frame({"C-1": model})])
    later, earlier = (
        decide(asked, state, model.as_of + timedelta(days=d), refresh_days=7, retry=retry) for d in (9, 0)
    )
    is_well = model.fingerprint == 1 and model.outcome in {"accepted", "confirmed"}
    assert later["due"].to_list() == [is_well and not retry]
    assert earlier["due"].to_list() == [False]
    assert not decide(asked, state, model.as_of + timedelta(days=9))["due"].any()


def after(old: Known, new: Known) -> Known:
    """What is known of a profile once there are news of it, in plain words."""
    confirmed = [day for day in (old.confirmed_on, new.confirmed_on) if day]
    may_be_there = [] if new.outcome in {"accepted", "confirmed"} else old.tags or []
    return replace(
        new,
        as_of=max(new.as_of, old.as_of),
        memory=old.memory if new.memory is None else new.memory,
        confirmed_on=max(confirmed) if confirmed and new.outcome != "not_found" else None,
        email_opt_in=old.email_opt_in if new.email_opt_in is None else new.email_opt_in,
        sms_opt_in=old.sms_opt_in if new.sms_opt_in is None else new.sms_opt_in,
        tags=old.tags if new.tags is None else [*dict.fromkeys([*may_be_there, *new.tags])],
    )


class StateMachine(RuleBasedStateMachine):
    """States follow each other as a dictionary would, for whatever news comes."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[pl.DataFrame] = []
        self.model: dict[str, Known] = {}

    @rule(news=st.dictionaries(keys, known), seen=st.dictionaries(keys, st.integers(0, 3)), day=days)
    def learn(self, news: dict[str, Known], seen: dict[str, int], day: date) -> None:
        as_known = Seen.of(day, [records(seen)])
        assert {key for part in self.parts for key in part.filter(as_known.tells_more(part))["key"]} == {
            key
            for key, print_ in seen.items()
            if (old := self.model.get(key)) and old.fingerprint == print_ and old.as_of < day
        }
        self.parts = list(evened(updated(self.parts, frame(news), [as_known]), 2))
        for key, print_ in seen.items():
            if (old := self.model.get(key)) and old.fingerprint == print_:
                self.model[key] = old if key in news else replace(old, as_of=max(old.as_of, day))
        for key, new in news.items():
            old = self.model.get(key)
            self.model[key] = after(old, new) if old else new

    @invariant()
    def every_profile_stands_once(self) -> None:
        state = pl.concat([frame({}), *self.parts])
        assert {row[0]: Known(*row[1:]) for row in state.rows()} == self.model
        assert state.height == len(self.model)
        assert [part.height for part in self.parts[:-1]] == [2] * (len(self.parts) - 1)


TestStateMachine = StateMachine.TestCase
TestStateMachine.settings = settings(max_examples=20, stateful_step_count=8)


def test_a_state_of_an_earlier_version_is_read():
    """It has no memory, no confirmation, no opt-ins and no tags, and fewer ways to end."""
    old = frame({"C-1": Known(1, DAY, "accepted"), "C-2": Known(2, DAY, "rejected", "http_400")})
    earlier = old.drop("memory", "confirmed_on", "tags", *OPT_INS).cast(
        {"outcome": pl.Enum(["accepted", "rejected", "unknown"])}
    )
    assert pl.concat(updated([earlier], frame({}))).equals(old)
    assert State.load([earlier]).find(pl.Series(["C-2"]))["code"].to_list() == ["http_400"]


def test_a_profile_that_changes_back_is_sent_again():
    """A, then B, then A: what counts is what was accepted last, not what was ever accepted."""
    model = {"C-1": Known(1, DAY, "accepted")}
    parts = list(updated([frame(model)], frame({"C-1": Known(2, DAY + timedelta(days=1), "accepted")})))
    decided = decide(records({"C-1": 1}), State.load(parts), DAY + timedelta(days=2), full=False)
    assert decided["bucket"].to_list() == [None]


def test_an_unknown_outcome_forgets_what_was_accepted():
    """Nobody knows which of two records the account holds, so that either of them is sent again."""
    parts = list(updated([frame({"C-1": Known(1, DAY, "accepted")})], frame({"C-1": Known(None, DAY, "unknown")})))
    for print_ in (1, 2):
        decided = decide(records({"C-1": print_}), State.load(parts), DAY, full=False)
        assert decided["bucket"].to_list() == [None]


@given(st.lists(st.text(min_size=1, max_size=10), unique=True, min_size=2))
def test_different_records_have_different_fingerprints(column):
    """A fingerprint stands for a record's text, and for nothing else."""
    prints = pl.DataFrame({"record": column}).select(fingerprint("record")).to_series()
    assert prints.n_unique() == len(column)


@pytest.mark.parametrize(("text", "expected"), [('{"a":1}', 2504162130902189472), ("é👍", 3704269135901656270)])
def test_a_fingerprint_is_the_same_on_every_machine(text, expected):
    """State files outlive versions and machines: these numbers may never change without a new fingerprint version."""
    assert pl.DataFrame({"record": [text]}).select(fingerprint("record")).item() == expected
