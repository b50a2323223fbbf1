"""How far the runs of a study are, whoever trains them: read from their folders as they grow."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from rwloss.cli.listing import printable
from rwloss.cli.steps import columns, left
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.study.execution import RunEnd
    from rwloss.study.plan import Run

SECONDS = 30.0
"""Between plain lines, at least; a log file is no place for more."""

_SECONDS_OF_BAR = 2.0


@contextmanager
def watched(
    runs: Sequence[Run], steps: int, seconds: float | None = None
) -> Iterator[Callable[[RunEnd], None]]:
    """What to call as runs end, which says so. Meanwhile the steps of all runs are shown.

    A bar on a terminal, a line now and then elsewhere; on standard error. seconds: between looks.
    """
    ended: set[tuple[str, int]] = set()
    if not sys.stderr.isatty():
        lines = _Lines(len(runs), steps)
        with _looking(lambda: lines(_steps(runs, steps, ended)), seconds or SECONDS):
            yield lambda end: typer.echo(_told(end, ended, len(runs)), err=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns(), console=Console(stderr=True), redirect_stdout=False) as shown:
        bar = shown.add_task(f"steps of {count_of(len(runs), 'run')}", total=len(runs) * steps)

        def look() -> None:
            shown.update(bar, completed=_steps(runs, steps, ended))

        def on_end(end: RunEnd) -> None:
            shown.console.print(_told(end, ended, len(runs)), markup=False, highlight=False)

        with _looking(look, seconds or _SECONDS_OF_BAR):
            yield on_end


@contextmanager
def _looking(look: Callable[[], None], seconds: float) -> Iterator[None]:
    """Look at once, and again and again in a thread; what goes wrong there stops no training."""
    stop = threading.Event()

    def again() -> None:
        if hasattr(signal, "pthread_sigmask"):  # Ctrl-C is the main thread's, which may put it off
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        while not stop.wait(seconds):
            with suppress(Exception):
                look()

    with suppress(Exception):
        look()
    thread = threading.Thread(target=again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)  # a file system that hangs must not hold up the end


def _steps(runs: Sequence[Run], steps: int, ended: set[tuple[str, int]]) -> int:
    """Steps done of all runs. Of one that has ended nothing is left, though it may have failed."""
    from rwloss.study.execution import steps_done

    return sum(
        steps if (run.name, run.seed) in ended else min(steps_done(run), steps) for run in runs
    )


def _told(end: RunEnd, ended: set[tuple[str, int]], total: int) -> str:
    ended.add((end.name, end.seed))
    outcome = "done" if end.reason is None else f"failed: {printable(end.reason)}"
    return f"{len(ended)} of {total}: {end.name}, seed {end.seed}: {outcome}"


class _Lines:
    """A line at first, and where more steps are done since the last one."""

    def __init__(self, runs: int, steps: int) -> None:
        self.total, self.of = runs * steps, f"in {count_of(runs, 'run')}"
        self.told = -1
        self.begun: tuple[float, int] | None = None  # time and steps of the first look

    def __call__(self, done: int) -> None:
        """Told of all steps that are done."""
        if done <= self.told:  # a start forgets what its checkpoint does not hold
            return
        self.told, now = done, time.monotonic()
        line = f"{done:,} of {self.total:,} steps done {self.of}"
        if self.begun is None:
            self.begun = now, done
        elif self.begun[1] < done < self.total:
            line += left(now - self.begun[0], done - self.begun[1], self.total - done)
        typer.echo(line, err=True)
