"""How a contract is written down: columns that are required or optional, and the rules that they keep.

A rule is a pandera check. Its description ends a sentence that begins with the column's name, and states the rule
without any value. Null is "no value" and keeps every rule.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pandera.polars as pa
import polars as pl

Model = type[pa.DataFrameModel]


def required(*rules: pa.Check) -> Any:
    """Declare a column that every row must fill."""
    return _field(rules, nullable=False)


def optional(*rules: pa.Check) -> Any:
    """Declare a column that may be blank."""
    return _field(rules, nullable=True)


def rule(sentence: str, holds: Callable[[pl.Expr], pl.Expr]) -> pa.Check:
    """Make a rule for one column; a value keeps it only where `holds` gives true, not null."""

    def check(data: pa.PolarsData) -> pl.LazyFrame:
        value = pl.col(data.key)
        return data.lazyframe.select(value.is_null() | holds(value).fill_null(value=False))

    return _check(check, description=sentence)


def matches(sentence: str, pattern: str) -> pa.Check:
    """Make the rule that a text matches a pattern; give the pattern its own `^` and `$`."""
    return rule(sentence, lambda text: text.str.contains(pattern))


def one_of(sentence: str, words: Iterable[str]) -> pa.Check:
    """Make the rule that a text is one of a closed set."""
    known = sorted(words)
    return rule(sentence, lambda text: text.is_in(known))


def row_rule(code: str, sentence: str, holds: pl.Expr) -> pa.Check:
    """Make a rule over several columns, with a code of its own, to stand at any one of them.

    At one of them, since pandera turns each row that fails at frame level into a Python dict, values and all.
    """
    return _check(lambda data: data.lazyframe.select(holds), error=code, description=sentence)


def missing_code(column: str) -> str:
    """Name the code of a required value that is blank."""
    return f"{column}_missing"


def broken_code(column: str, check: pa.Check) -> str:
    """Name the code of a broken rule: `<column>_invalid`, unless the rule brings its own."""
    return check.error or f"{column}_invalid"


def sentences(model: Model) -> Iterator[tuple[str, str]]:
    """Give each code that a model can report, in the order of the columns, with its sentence for people."""
    for name, column in model.to_schema().columns.items():
        if not column.nullable:
            yield missing_code(name), f"{name} is required, and is blank."
        for check in column.checks:
            subject = "" if check.error else f"{name} must be "
            yield broken_code(name, check), f"{subject}{check.description}."


def _field(rules: Iterable[pa.Check], *, nullable: bool) -> Any:
    field = pa.Field(nullable=nullable)
    field.checks.extend(rules)
    return field


def _check(function: Callable[[pa.PolarsData], pl.LazyFrame], **words: Any) -> pa.Check:
    # pandera copies failing values into its messages, which nobody may see: one is enough.
    return pa.Check(function, n_failure_cases=1, **words)
