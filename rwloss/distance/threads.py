"""How many threads one distance transform may use."""

from __future__ import annotations

import multiprocessing
import os

from rwloss.errors import RWLossError
from rwloss.work.tasks import available_cores

_VARIABLE = "RWLOSS_NUM_THREADS"
_chosen: int | None = None


def set_num_threads(count: int | None) -> None:
    """Set the number of threads of one distance transform; None restores the default."""
    global _chosen  # noqa: PLW0603 - one setting for the process, like torch.set_num_threads
    if count is not None and (isinstance(count, bool) or count != int(count) or count < 1):
        raise RWLossError(f"expected a number of threads of 1 or more, got {count!r}")
    _chosen = None if count is None else int(count)


def num_threads() -> int:
    """Threads of one distance transform.

    What `set_num_threads` chose, else the environment variable RWLOSS_NUM_THREADS, else 1 inside a
    worker process (the pool already uses the cores), else all cores that this process may use.
    """
    if _chosen is not None:
        return _chosen
    text = os.environ.get(_VARIABLE)
    if text:
        if not text.strip().isdecimal() or int(text) < 1:
            raise RWLossError(
                f"expected {_VARIABLE} to be a whole number of 1 or more, got {text!r}"
            )
        return int(text)
    if multiprocessing.parent_process() is not None:
        return 1
    return available_cores()
