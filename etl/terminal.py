"""Progress for people: a moving display on a terminal, plain lines elsewhere or with `NO_COLOR`; always on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Shown = Callable[[str, int, int], None]
_LINES = 10  # lines for a long step where nothing can move


@contextmanager
def progress() -> Iterator[Shown]:
    """Gives a function that is told the step, the rows done and the rows in all (0: not counted)."""
    if sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        with _display() as shown:
            yield shown
    else:
        yield _lines()


def _lines() -> Shown:
    last: dict[str, int] = {}

    def show(step: str, done: int, total: int) -> None:
        mark = done * _LINES // total if total else -1
        if last.get(step) != mark:
            last[step] = mark
            counted = f" {done:,} of {total:,} rows" if total else ""
            sys.stderr.write(f"{step}{counted}\n")

    return show


@contextmanager
def _display() -> Iterator[Shown]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                for task in tasks.values():
                    bar.update(task, total=bar.tasks[task].total or 1, completed=bar.tasks[task].total or 1)
                tasks[step] = bar.add_task(step, total=None)
            if total:
                bar.update(tasks[step], total=total, completed=done)

        yield show
