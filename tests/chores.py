"""Work for worker processes, in a module that they can import."""

from __future__ import annotations

import os
import signal
import time
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
    """Kills its process, always or as long as a file is there, which it removes."""

    once: Path | None = None

    def trouble(self) -> None:
        if self.once is not None:
            if not self.once.exists():
                return
            self.once.unlink()
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
