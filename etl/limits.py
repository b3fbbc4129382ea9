"""Reads `limits.toml` and lays a connection's own numbers over it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from importlib import resources
from typing import Any

from etl.errors import ConfigError
from etl.model import Limits

ADJUSTABLE = frozenset(
    {
        "rows_per_call",
        "bytes_per_call",
        "per_second",
        "burst",
        "calls_per_minute",
        "quota",
        "quota_hours",
        "policy",
        "refresh_days",
    }
)
POLICIES = ("strict-window", "bucket")
_WHOLE = frozenset({"rows_per_call", "bytes_per_call", "quota", "refresh_days"})
_DEFAULT_POLICY = {"batch_mass_update": "strict-window"}


@cache
def documented() -> dict[str, dict[str, dict[str, Any]]]:
    """`limits.toml` as it stands: endpoint, limit, then value, unit, quote, source, date, contested, perhaps ceiling."""
    return tomllib.loads(resources.files("etl").joinpath("limits.toml").read_text("utf-8"))


def limits_of(endpoint: str, overrides: Mapping[str, Any] | None = None) -> Limits:
    """The limits of one endpoint, with an account's overrides; raises ConfigError for what is no limit."""
    table = documented()[endpoint]
    known = {f.name for f in fields(Limits)}
    values = {name: entry["value"] for name, entry in table.items() if name in known}
    limits = Limits(
        **{"per_second": None, "burst": None, **values},
        policy=_DEFAULT_POLICY.get(endpoint, "bucket"),
    )
    overrides = dict(overrides or {})
    if strange := sorted(set(overrides) - ADJUSTABLE):
        raise ConfigError(f"limits of {endpoint}: {', '.join(strange)} is not a limit; known: {sorted(ADJUSTABLE)}")
    for name, value in overrides.items():
        _check(endpoint, name, value, table.get(name, {}).get("ceiling", math.inf))
    return replace(limits, **overrides)


def _check(endpoint: str, name: str, value: object, ceiling: float) -> None:
    if name == "policy":
        if value not in POLICIES:
            raise ConfigError(f"limits of {endpoint}: policy is one of {', '.join(POLICIES)}")
        return
    may_be_missing = name not in {"rows_per_call", "bytes_per_call", "quota_hours"}
    if value is None and may_be_missing:
        return
    kind = int if name in _WHOLE else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        number = "whole number" if name in _WHOLE else "number"
        raise ConfigError(
            f"limits of {endpoint}: {name} must be a {number} above 0{' or null' if may_be_missing else ''}"
        )
    if value > ceiling:
        raise ConfigError(f"limits of {endpoint}: the vendor takes no {name} above {ceiling:,}")
