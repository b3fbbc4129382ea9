"""Own columns: a contract with a company's further columns behind those that it has."""

import functools
from typing import Any

from contracts import rules
from contracts.declare import Model, optional


@functools.cache
def with_own(model: Model, names: tuple[str, ...]) -> Model:
    """Add columns to a contract; each may be blank, and else keeps the rule of any text."""
    columns: dict[str, Any] = {name: optional(rules.TEXT) for name in names}
    annotations = dict.fromkeys(names, str)
    return type(model.__name__, (model,), {"__module__": __name__, "__annotations__": annotations, **columns})
