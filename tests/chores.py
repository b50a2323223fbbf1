"""Work for worker processes, in a module that they can import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwloss import distance


@dataclass(frozen=True)
class Chore:
    """Gives its number, the process that did it, and the threads that a distance may use there."""

    number: int

    def __call__(self) -> Any:
        self.trouble()
        return self.number, os.getpid(), distance.num_threads()

    def trouble(self) -> None:
        """Nothing, by default."""

    def died(self) -> Any:
        return self.number, None, None


@dataclass(frozen=True)
class Deadly(Chore):
    """Kills its process, always or as long as a file is there, which it removes.

    log: gets a line with its number each time.
    """

    once: Path | None = None
    log: Path | None = None

    def trouble(self) -> None:
        if self.once is not None:
            if not self.once.exists():
                return
            self.once.unlink()
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{self.number}\n")
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Long(Chore):
    """Says in a folder who does it, and, if it gets that far, that it is done."""

    folder: Path

    def trouble(self) -> None:
        (self.folder / str(os.getpid())).touch()
        time.sleep(20)
        (self.folder / "done").touch()


@dataclass(frozen=True)
class Faulty(Chore):
    """Raises an error."""

    def trouble(self) -> None:
        raise ZeroDivisionError(f"chore {self.number}")


@dataclass(frozen=True)
class Unloadable(Chore):
    """Can be packed, but not unpacked."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def numbers(results: Iterable[Any]) -> list[int]:
    """Which chores these results are of."""
    return sorted(number for number, _, _ in results)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from chores import Chore
from rwloss.work.tasks import run_tasks
list(run_tasks([Chore(0), Chore(1)], {options}))
"""


def run_script(folder: Path, options: str) -> str:
    """The last line on standard error of a script that has no `if __name__ == "__main__"`."""
    script = folder / "script.py"
    tests = os.path.dirname(__file__)
    script.write_text(SCRIPT.format(tests=tests, options=options))
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 1
    return ended.stderr.splitlines()[-1]


@dataclass(frozen=True)
class Variable(Chore):
    """Gives an environment variable of the process that does it."""

    name: str = ""

    def __call__(self) -> Any:
        time.sleep(0.2)  # so that one process does not do it all
        return os.environ.get(self.name)
