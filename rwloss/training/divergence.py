"""The end of a training that has gone wrong."""

from __future__ import annotations

from rwloss.errors import RWLossError


class Diverged(RWLossError):
    """The loss or a weight is not finite. step: the one that failed, from 1."""

    def __init__(self, step: int, message: str) -> None:
        """What happened, and at which step."""
        super().__init__(message)
        self.step = step
