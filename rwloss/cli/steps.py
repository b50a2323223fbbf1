"""How far trainings are: a bar for each on a terminal, plain lines elsewhere; on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

import typer

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

OnStep: TypeAlias = Callable[[int, int, float], None]
"""Index of the training, number of its step, loss of that step."""


@contextmanager
def bars(
    names: Sequence[str], steps: int, *, done: int = 0, parts: int = 4
) -> Iterator[tuple[OnStep, Callable[[str], None]]]:
    """What to call after a step, and what to print a line with meanwhile.

    done: steps of an earlier start. parts: plain lines for each training.
    """
    if not sys.stderr.isatty():
        yield _PlainLines(names, steps, done, parts), lambda text: typer.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns("loss {task.fields[loss]}"), console=Console(stderr=True)) as shown:
        tasks = [shown.add_task(name, total=steps, completed=done, loss="-") for name in names]

        def on_step(run: int, step: int, loss: float) -> None:
            shown.update(tasks[run], completed=step, loss=f"{loss:.3f}")

        yield on_step, lambda text: shown.console.print(text, markup=False, highlight=False)


def columns(*more: str) -> Iterator[ProgressColumn]:
    """Of a bar of steps: what it is of, how many are done, more texts, and the time."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    yield from (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    yield from map(TextColumn, more)
    yield from (TimeElapsedColumn(), TimeRemainingColumn())


def left(seconds: float, done: int, todo: int) -> str:
    """The time that is left, for the end of a line, where `done` steps took so long.

    >>> left(10, 2, 14)
    ', 0:01:10 left'
    """
    return f", {timedelta(seconds=round(seconds / done * todo))} left"


class _PlainLines:
    """A line for each part of each training: a log file is no place for a bar."""

    def __init__(self, names: Sequence[str], steps: int, done: int, parts: int) -> None:
        self.names, self.steps, self.of = names, steps, parts
        self.parts = [done * parts // steps] * len(names)
        # Time and step of each training's first report: one may wait for another to end.
        self.begun: dict[int, tuple[float, int]] = {}

    def __call__(self, run: int, step: int, loss: float) -> None:
        """Report one step of one training."""
        now = time.monotonic()
        started, first = self.begun.setdefault(run, (now, step))
        part = step * self.of // self.steps
        if part <= self.parts[run]:
            return
        self.parts[run] = part
        line = f"{self.names[run]}: step {step} of {self.steps}, loss {loss:.3f}"
        if first < step < self.steps:
            line += left(now - started, step - first, self.steps - step)
        typer.echo(line, err=True)
