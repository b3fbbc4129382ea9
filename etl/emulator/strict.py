"""Strict JSON and rules of a value's shape: what the vendors that speak JSON have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

JSON_TYPE = re.compile(r"application/json(\s*;\s*charset=\"?utf-8\"?)?", re.IGNORECASE)


def header_problem(headers: Mapping[str, str]) -> str | None:
    """What is wrong with the headers of a body that should be plain JSON, or None."""
    if headers.get("content-encoding", "identity").lower() != "identity":
        return "unknown Content-Encoding"
    return None if JSON_TYPE.fullmatch(headers.get("content-type", "")) else "the Content-Type is not application/json"


Rule = Callable[[Any], str | None]
"""What is wrong with a value, or None."""


def shaped(pattern: re.Pattern[str], what: str, *, at_most: int | None = None) -> Rule:
    """The rule of a string with one shape."""

    def problem(value: Any) -> str | None:
        fits = isinstance(value, str) and (at_most is None or len(value) <= at_most) and pattern.fullmatch(value)
        return None if fits else f"not {what}"

    return problem


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key that stands twice is an error."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def not_a_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def parse(body: bytes) -> Any:
    """Strict JSON: UTF-8 without lone surrogates, no key twice, no NaN. Raises ValueError."""
    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=not_a_number)
        if b"\\u" in body:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    return document
