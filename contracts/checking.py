"""Checking a frame against a contract, so that no rule can be switched off and no value of a row gets out.

pandera would do neither by itself: environment variables turn it off, lazy frames pass with their schema checked only,
and its errors print the failing values. So it runs here alone, under a fixed configuration, on eager frames, and its
errors end here.
"""

import functools
from dataclasses import dataclass
from typing import Any

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context

from contracts.declare import Model, broken_code, missing_code

_FOUND = pl.DataFrame(schema={"row": pl.UInt32, "code": pl.String})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The rows of a frame that keep the contract, and `codes`: for each row of the frame the list of the rules that it
    breaks, in the order of the contract; null for a good row."""

    valid: pl.DataFrame
    codes: pl.Series


def check(model: Model, frame: pl.DataFrame) -> Checked:
    """Judge every row by every rule. Blanks must be null already; columns that the model does not know are kept.

    Raises TypeError for a lazy frame, ValueError for a frame without the model's columns and types, and RuntimeError
    when pandera lets known bad rows pass. No message holds a value.
    """
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"a contract is checked on collected frames only, not on a {type(frame).__name__}")
    _prove(model)
    codes = _codes(model, frame)
    return Checked(valid=frame.filter(codes.is_null()), codes=codes)


def require(model: Model, frame: pl.DataFrame) -> None:
    """Make sure that every row of our own making keeps its promise; otherwise a ValueError names the broken rules."""
    broken = check(model, frame).codes.drop_nulls()
    if len(broken):
        codes = ", ".join(broken.explode().unique().sort())
        raise ValueError(f"{len(broken)} of {frame.height} rows do not keep the contract {model.__name__}: {codes}")


@functools.cache
def _prove(model: Model) -> None:
    """See once a process that the checks run at all: a row of nulls and one of control characters must not pass."""
    columns = model.to_schema().columns
    schema = {name: column.dtype.type for name, column in columns.items()}
    junk = {name: "\x00" for name, dtype in schema.items() if dtype == pl.String}
    of_nulls, of_junk = _codes(model, pl.DataFrame([{}, junk], schema=schema)).to_list()
    required = {missing_code(name) for name, column in columns.items() if not column.nullable}
    if not required.issubset(of_nulls or ()) or not of_junk:
        raise RuntimeError(f"the checks of {model.__name__} do not run: rows that are known to be bad passed")


def _codes(model: Model, frame: pl.DataFrame) -> pl.Series:
    broken = [_FOUND.clear()]
    for code, kept in _broken_rules(model, frame):
        rows = (~kept).arg_true()
        broken.append(pl.DataFrame({"row": rows, "code": pl.repeat(code, len(rows), eager=True)}, schema=_FOUND.schema))
    by_row = pl.concat(broken).group_by("row").agg(codes="code")
    every_row = pl.DataFrame({"row": pl.int_range(frame.height, dtype=pl.UInt32, eager=True)})
    return every_row.join(by_row, on="row", how="left", maintain_order="left")["codes"]


def _broken_rules(model: Model, frame: pl.DataFrame) -> list[tuple[str, pl.Series]]:
    """Give the code of each rule that some row breaks, and which rows keep it, in the order of the contract."""
    rules = []
    for error in _errors(model, frame):
        if error.check_output is None:
            where = error.column_name or error.failure_cases  # both name a column
            raise ValueError(f"the frame does not fit {model.__name__}: {where} ({error.reason_code.value})")
        column = error.column_name
        code = broken_code(column, error.check) if isinstance(error.check, pa.Check) else missing_code(column)
        rules.append((code, error.check_output.to_series()))
    return rules


def _errors(model: Model, frame: pl.DataFrame) -> list[Any]:
    """Run pandera; its errors hold values, so none is raised on, chained to, or logged."""
    with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
        try:
            model.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as found:
            return found.schema_errors
    return []
