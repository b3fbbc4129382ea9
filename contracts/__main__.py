"""Print the contracts as a page for people: `python -m contracts > docs/contracts.md`. A test keeps the page so."""

import sys
from collections.abc import Iterable, Iterator

import pandera.polars as pa

from contracts import JUDGED_ELSEWHERE, Crm, Pos
from contracts.declare import Model, broken_code, missing_code

_HEAD = """# Contracts

<!-- Generated: python -m contracts > docs/contracts.md -->

Every row of an export is judged by every rule below. A row that breaks any goes to quarantine with the codes of all
that it breaks; the other rows go on. A blank (empty or white space only) is "no value" and breaks nothing but
"required". Rules are written in `contracts/`; a column of your own is one line there.
"""


def page() -> str:
    """Write the whole page, Markdown."""
    return "\n".join([_HEAD, *_export("CRM export", Crm), *_export("POS export", Pos), *_elsewhere()])


def _export(title: str, model: Model) -> Iterator[str]:
    columns = model.to_schema().columns.items()
    yield f"## {title}\n\n{model.__doc__}\n"
    yield from _table(("column", "required", "must be", "codes"), (_column(name, column) for name, column in columns))
    across = [
        (f"`{check.error}`", f"{check.description}.") for _, column in columns for check in column.checks if check.error
    ]
    if across:
        yield from _table(("code", "rule over several columns"), across)


def _column(name: str, column: pa.Column) -> tuple[str, ...]:
    own = [check for check in column.checks if not check.error]
    codes = [] if column.nullable else [missing_code(name)]
    codes += [broken_code(name, check) for check in own]
    must = "; ".join(str(check.description) for check in own)
    return f"`{name}`", "" if column.nullable else "yes", must, ", ".join(f"`{code}`" for code in codes)


def _elsewhere() -> Iterator[str]:
    yield "## Codes given outside these rules\n"
    yield from _table(("code", "meaning"), ((f"`{code}`", sentence) for code, sentence in JUDGED_ELSEWHERE.items()))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(cells)} |"
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
