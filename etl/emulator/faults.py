"""Faults: small callables around the handling of a call, which compose, and the schedule that says when they strike.

A fault is written as an object of actions and a schedule, `{"status": 503, "every": 4}`, or as text, `status=503:every=4`.
docs/emulator.md lists the words.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Final

from etl.emulator.wire import Answer, Call

Handler = Callable[[Call], Awaitable[Answer]]
Fault = Callable[[Handler], Handler]

JOBS: Final = (
    "stuck",
    "incomplete",
    "lost",
    "unknown_word",
    "no_counters",
    "negative_counters",
    "other_batch",
)
BOMB: Final = (
    b'<!DOCTYPE response [<!ENTITY e0 "ha">'
    + b"".join(b'<!ENTITY e%d "%b">' % (level, b"&e%d;" % (level - 1) * 10) for level in range(1, 10))
    + b"]>"
)
HTML: Final = b"<!doctype html><title>Sign in</title><p>Please sign in to the network."


# --- the callables ----------------------------------------------------------------------------------------------------


def changing_call(change: Callable[[Call], Call]) -> Fault:
    """The vendor sees another call than the one that came."""
    return lambda handler: lambda call: handler(change(call))


def changing_answer(change: Callable[[Answer], Answer]) -> Fault:
    """The caller sees another answer than the vendor's."""

    def wrap(handler: Handler) -> Handler:
        async def wrapped(call: Call) -> Answer:
            return change(await handler(call))

        return wrapped

    return wrap


def instead(answer: Answer) -> Fault:
    """The vendor never sees the call."""

    async def answered(_: Call) -> Answer:
        return answer

    return lambda _: answered


def delayed(seconds: float) -> Fault:
    """The vendor sees the call later."""

    def wrap(handler: Handler) -> Handler:
        async def wrapped(call: Call) -> Answer:
            await asyncio.sleep(seconds)
            return await handler(call)

        return wrapped

    return wrap


def together(faults: Sequence[Fault]) -> Fault:
    """One fault of several, the first one innermost."""
    return lambda handler: reduce(lambda inner, fault: fault(inner), faults, handler)


def applied(fault: Fault) -> Fault:
    """The vendor has handled the call before the fault strikes, so that only the answer suffers."""

    def wrap(handler: Handler) -> Handler:
        async def wrapped(call: Call) -> Answer:
            answer = await handler(call)
            return await fault(instead(answer)(handler))(call)

        return wrapped

    return wrap


# --- the words --------------------------------------------------------------------------------------------------------


def _header(name: str, value: str, *, on: Callable[[int], bool] = lambda _: True) -> Fault:
    return changing_answer(
        lambda answer: replace(answer, headers=(*answer.headers, (name, value))) if on(answer.status) else answer,
    )


def _status(value: Any) -> Fault:
    if not str(value).isdecimal() or not 200 <= int(value) <= 599:  # noqa: PLR2004  # what HTTP allows in a final answer
        raise ValueError("status is a number from 200 to 599")
    return instead(Answer(status=int(value)))


def _answer(**fields: Any) -> Fault:
    return changing_answer(lambda answer: replace(answer, **fields))


def _body(value: Any) -> Fault:
    return _answer(body=value.encode() if isinstance(value, str) else json.dumps(value).encode())


def _gzip_bomb(value: Any) -> Fault:
    bomb = gzip.compress(bytes(int(value) * 1_000_000))
    return together([_answer(body=bomb), _header("content-encoding", "gzip")])


def _call(word: str, read: Callable[[Any], Any]) -> Callable[[Any], Fault]:
    """An action that sets the call's field of the same name; a set grows."""

    def make(value: Any) -> Fault:
        given = read(value)

        def change(call: Call) -> Call:
            grown = getattr(call, word) | given if isinstance(given, frozenset) else given
            return replace(call, **{word: grown})

        return changing_call(change)

    return make


def _xml(change: Callable[[bytes], bytes]) -> Callable[[Any], Fault]:
    """An action that spoils the vendor's own XML."""
    return lambda _: changing_answer(
        lambda answer: replace(answer, body=change(answer.body or b"<response></response>")),
    )


def _texts(value: Any) -> frozenset[str]:
    return frozenset([value] if isinstance(value, str) else value)


def _pairs(value: Any) -> frozenset[tuple[str, str]]:
    return frozenset((text.rpartition("/")[0], text.rpartition("/")[2]) for text in _texts(value))


def _word(value: Any, *words: str | bool) -> Any:
    if value not in words:
        raise ValueError(f"{value!r} is not {' or '.join(map(str, words))}")
    return value


# In the order in which they wrap: what changes the call is innermost, what happens to the answer outermost.
ACTIONS: Final[Mapping[str, Callable[[Any], Fault]]] = {
    "rate_limit": _call("rate_limit", lambda value: _word(value, "on", "off") == "on"),
    "refuse_call_with": _call("refuse_call_with", _texts),
    "refuse_attribute": _call("refuse_attribute", _pairs),
    "job": _call("job", lambda value: _word(value, *JOBS)),
    "fail_id": _call("fail_id", _texts),
    "fail_rows": _call("fail_rows", int),
    "lose_rows": _call("lose_rows", int),
    "status_host": _call("status_host", str),
    "status": _status,
    "drop": lambda value: instead(Answer(status=0, drop=_word(value, "close", "reset"))),
    "redirect": lambda value: _header("location", str(value)),
    "body": _body,
    "html": lambda _: _answer(body=HTML, content_type="text/html"),
    "malformed_xml": _xml(lambda body: body.replace(b"</response>", b"</respons>")),
    "entity_bomb": _xml(lambda body: BOMB + body.replace(b"</response>", b"<message>&e9;</message></response>")),
    "gzip_bomb": _gzip_bomb,
    "retry_after": lambda value: _header("retry-after", str(value), on=lambda status: status in {429, 503}),
    "delay": lambda value: delayed(float(value)),
    "framing": lambda value: _answer(framing=_word(value, "length", "chunked", "close")),
    "truncate": lambda value: _answer(keep=int(value)),
}
SCHEDULE: Final = ("apply", "path", "every", "times")


def compile_fault(spec: Mapping[str, Any]) -> Fault:
    """The fault of a specification's actions. Raises ValueError."""
    unknown = spec.keys() - ACTIONS.keys() - set(SCHEDULE)
    if unknown or not spec.keys() & ACTIONS.keys():
        raise ValueError(
            f"a fault needs one of {', '.join(ACTIONS)}; it may have {', '.join(SCHEDULE)}; not {sorted(unknown)}"
        )
    actions = {"status": 307, **spec} if "redirect" in spec else spec
    try:
        fault = together([make(actions[word]) for word, make in ACTIONS.items() if word in actions])
    except TypeError as error:
        raise ValueError(f"a value of the fault has the wrong type: {error}") from error
    return applied(fault) if _word(spec.get("apply", False), True, False, "true") else fault


def parse_fault(text: str) -> dict[str, Any]:
    """A specification from text such as `status=503:every=4`. Raises ValueError."""
    pairs = [part.partition("=") for part in re.split(r":(?=[a-z_]+=)", text)]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError(f"a fault reads action=value:action=value, not {text!r}")
    spec = {word: value for word, _, value in pairs}
    Rule(spec)
    return spec


# --- the schedule -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rule:
    """One fault and its schedule: every nth call whose path ends so, at most so many times."""

    spec: Mapping[str, Any]
    seen: int = 0
    struck: int = 0
    fault: Fault = field(init=False)
    every: int = field(init=False)
    times: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.fault = compile_fault(self.spec)
        self.every = int(self.spec.get("every", 1))
        self.times = int(self.spec["times"]) if "times" in self.spec else None
        if self.every < 1 or (self.times is not None and self.times < 1):
            raise ValueError("every and times count from 1")

    def strikes(self) -> bool:
        """Count one call, and tell whether it is hit."""
        self.seen += 1
        hit = self.seen % self.every == 0
        self.struck += hit
        return hit


class Faults:
    """The faults in force: standing ones all apply, those with `times` queue, so that one after the other is used up."""

    def __init__(self, specs: Sequence[Mapping[str, Any]] = ()) -> None:
        self._rules: list[Rule] = []
        self.add(specs)

    def add(self, specs: Sequence[Mapping[str, Any]]) -> None:
        """Add all of them or none. Raises ValueError."""
        self._rules += [Rule(spec) for spec in specs]

    def clear(self) -> None:
        self._rules.clear()

    def strike(self, path: str) -> Fault:
        """The fault that this call meets; it does nothing if no rule hits it."""
        matching = [rule for rule in self._rules if path.endswith(str(rule.spec.get("path", "")))]
        queued = [rule for rule in matching if rule.times is not None][:1]
        standing = [rule for rule in matching if rule.times is None]
        hits = [rule.fault for rule in queued + standing if rule.strikes()]
        self._rules = [rule for rule in self._rules if rule.times is None or rule.struck < rule.times]
        return together(hits)

    def view(self) -> list[dict[str, Any]]:
        """The faults in force as JSON."""
        return [{**rule.spec, "seen": rule.seen, "struck": rule.struck} for rule in self._rules]
