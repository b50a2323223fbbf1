"""Progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from typing import Any

import typer

from rwloss.words import count_of

SECONDS_BETWEEN_LOOKS = {True: 2.0, False: 30.0}
"""How often `watched` polls, on a terminal and elsewhere."""


class Pace:
    """How much of a task is done, and how fast.

    unit: what is counted. bad: the word for failures. began: start time in seconds.
    """

    def __init__(self, total: int, unit: str, bad: str, began: float, done: int = 0) -> None:
        """Begin with `done` of `total`."""
        self.total, self.unit, self.bad, self.done, self.failed = total, unit, bad, done, 0
        # Kept cases are faster than new ones, and validation is slow: the rate is that of the
        # latest tenth.
        self._reports = deque([(began, done)], maxlen=1 + max(20, total // 10))

    def update(self, done: int, now: float) -> None:
        """Update the number done."""
        self.done = done
        self._reports.append((now, done))

    @property
    def facts(self) -> str:
        """Rate, remaining time and failures, if any."""
        (began, before), (now, done) = self._reports[0], self._reports[-1]
        facts = []
        if now > began and done > before:
            rate = (done - before) / (now - began)
            figure = f"{rate:.3g}" if rate < 100 else f"{rate:.0f}"
            facts.append(f"{figure} {self.unit}s/s")
            if left := self.total - done:
                facts.append(f"{timedelta(seconds=round(left / rate))} left")
        if self.failed:
            facts.append(f"{self.failed:,} {self.bad}")
        return ", ".join(facts)


class Progress:
    """Progress of several tasks.

    On a terminal, one bar per task. Elsewhere, one line per tenth of a task and at its end, but at
    most one per second; and one per minute if a tenth takes longer.
    """

    def __init__(
        self, bars: Any = None, bad: str = "failed", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """bars: rich's, None for plain lines. bad: the word for cases that failed."""
        self.bars, self.bad, self.clock = bars, bad, clock
        self.began = self.printed = clock()  # of the case under way, and of the last line
        self.paces: dict[str, Pace] = {}
        self.tasks: dict[str, Any] = {}

    def done(self, task: str) -> int:
        """Number of cases of a task that were completed without failure."""
        return self.paces[task].done - self.paces[task].failed if task in self.paces else 0

    def line(self, text: str) -> None:
        """Print a line, above the bars."""
        if self.bars is None:
            typer.echo(text, err=True)
        else:
            self.bars.console.print(text, markup=False, highlight=False)

    def step(self, task: str, total: int, *, failed: bool = False) -> None:
        """Count one more case of a task."""
        if task not in self.paces:
            self.paces[task] = Pace(total, "case", self.bad, self.began)
        pace = self.paces[task]
        pace.failed += failed
        self._show(task, pace.done + 1)
        self.began = self.clock()

    def update(self, task: str, done: int, total: int, note: str = "") -> None:
        """Update the training steps of a task. The first call prints a line."""
        if task not in self.paces:
            self.paces[task] = Pace(total, "step", self.bad, self.clock(), done)
            self._print(task)
        elif done > self.paces[task].done:
            self._show(task, done, note)

    def _show(self, task: str, done: int, note: str = "") -> None:
        pace, now = self.paces[task], self.clock()
        is_tenth = done * 10 // pace.total > pace.done * 10 // pace.total
        pace.update(done, now)
        is_due = now - self.printed >= (1 if is_tenth else 60)
        if self.bars is not None or done == pace.total or is_due:
            self._print(task, note)

    def _print(self, task: str, note: str = "") -> None:
        pace = self.paces[task]
        facts = ", ".join(filter(None, [note, pace.facts]))
        if self.bars is None:
            self.printed = self.clock()
            done = f"{task}: {pace.done:,} of {count_of(pace.total, pace.unit)}"
            typer.echo(", ".join(filter(None, [done, facts])), err=True)
            return
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=pace.total, facts="")
        self.bars.update(self.tasks[task], completed=pace.done, facts=facts)


@contextmanager
def progress(left: Callable[[Progress], str], bad: str = "failed") -> Iterator[Progress]:
    """The progress display of a command. bad: the word for cases that failed.

    Ctrl-C ends the program with exit code 130 and one line that describes what is `left`.
    """
    with ExitStack() as stack:
        bars = None
        if sys.stderr.isatty():
            from rich import progress as rich
            from rich.console import Console
            from rich.table import Column

            columns = (
                rich.TextColumn("{task.description}"),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TimeElapsedColumn(),
                rich.TextColumn("{task.fields[facts]}", table_column=Column(no_wrap=True)),
            )
            console = Console(stderr=True)
            bars = rich.Progress(*columns, console=console, redirect_stdout=False)
            stack.enter_context(bars)
        shown = Progress(bars, bad)
        try:
            yield shown
        except KeyboardInterrupt:
            stack.close()
            typer.echo(f"interrupted: {left(shown)}", err=True)
            raise typer.Exit(130) from None


@contextmanager
def watched(
    task: str, total: int, look: Callable[[], int], left: str, seconds: float | None = None
) -> Iterator[Progress]:
    """The progress of work in other processes: `look` updates the steps, every few seconds.

    It is called in a thread. An exception in it does not stop the work. left: printed after Ctrl-C.
    """
    stop = threading.Event()

    def again() -> None:
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C is the main thread's, which may put it off
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while not stop.wait(seconds or SECONDS_BETWEEN_LOOKS[shown.bars is not None]):
            with suppress(Exception):
                shown.update(task, look(), total)

    with progress(lambda _: left) as shown:
        with suppress(Exception):
            shown.update(task, look(), total)
        thread = threading.Thread(target=again, daemon=True)
        thread.start()
        try:
            yield shown
        finally:
            stop.set()
            thread.join(5)  # a file system that hangs must not hold up the end
