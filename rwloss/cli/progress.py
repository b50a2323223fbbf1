"""How far a run over many cases is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import typer

from rwloss.words import count_of


class Progress(Protocol):
    """Told of each case that is through, in one phase of a run after the other."""

    def step(self, phase: str, total: int, *, failed: bool = False) -> None:
        """One more case of `total` in this phase."""


class Pace:
    """What is done of one phase, and how fast it goes.

    bad: the word for cases that failed. clock: seconds that only grow. began: when the first case
    was begun, by that clock; now by default.
    """

    def __init__(
        self,
        total: int,
        bad: str,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        """Begin with nothing done."""
        self.total, self.bad, self.clock = total, bad, clock
        self.done = self.failed = 0
        # Cases that are kept go faster than those that are made: only the newest tenth counts.
        self._times = deque([clock() if began is None else began], maxlen=1 + max(20, total // 10))

    def step(self, *, failed: bool) -> None:
        """Count one case."""
        self.done += 1
        self.failed += failed
        self._times.append(self.clock())

    @property
    def facts(self) -> str:
        """Rate, remaining time and failures, as far as there are any."""
        seconds = self._times[-1] - self._times[0]
        facts = []
        if seconds > 0:
            rate = (len(self._times) - 1) / seconds
            facts.append(f"{rate:.3g} cases/s" if rate < 100 else f"{rate:.0f} cases/s")
            if left := self.total - self.done:
                facts.append(f"{timedelta(seconds=round(left / rate))} left")
        if self.failed:
            facts.append(f"{self.failed:,} {self.bad}")
        return ", ".join(facts)


@contextmanager
def progress(bad: str = "failed") -> Iterator[Progress]:
    """A bar for each phase on a terminal, a line for each tenth of it elsewhere; on stderr.

    bad: the word for cases that failed.
    """
    if not sys.stderr.isatty():
        yield Lines(bad)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True)),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        yield _Bars(bars, bad)


@contextmanager
def stoppable(told: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C ends the program with one line, what `told` says, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped: {told()}", err=True)
        raise typer.Exit(130) from None


class Lines:
    """A line for each tenth and at the end, but not more than one a second."""

    def __init__(self, bad: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now, with no phase."""
        self.bad, self.clock, self.told = bad, clock, clock()
        self.began = self.told  # of the case that is under way
        self.paces: dict[str, Pace] = {}

    def step(self, phase: str, total: int, *, failed: bool = False) -> None:
        """Count one case of a phase, and say so now and then."""
        if phase not in self.paces:
            self.paces[phase] = Pace(total, self.bad, self.clock, self.began)
        pace = self.paces[phase]
        pace.step(failed=failed)
        self.began = self.clock()
        is_tenth = pace.done * 10 // total > (pace.done - 1) * 10 // total
        if pace.done == total or (is_tenth and self.clock() - self.told >= 1):
            self.told = self.clock()
            line = f"{phase}: {pace.done} of {count_of(total, 'case')}"
            typer.echo(", ".join(filter(None, [line, pace.facts])), err=True)


class _Bars:
    def __init__(self, bars: Any, bad: str) -> None:
        self.bars, self.bad = bars, bad
        self.began = time.monotonic()  # of the case that is under way
        self.paces: dict[str, tuple[Pace, Any]] = {}

    def step(self, phase: str, total: int, *, failed: bool = False) -> None:
        if phase not in self.paces:
            self.paces[phase] = (
                Pace(total, self.bad, began=self.began),
                self.bars.add_task(phase, total=total, facts=""),
            )
        pace, task = self.paces[phase]
        pace.step(failed=failed)
        self.began = time.monotonic()
        self.bars.update(task, completed=pace.done, facts=pace.facts)
