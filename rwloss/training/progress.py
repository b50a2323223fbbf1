"""What a training run reports while it runs."""

from __future__ import annotations

from collections.abc import Mapping


class TrainingProgress:
    """Called at each step; does nothing. Override the methods you need in a subclass."""

    def note(self, text: str) -> None:
        """A sentence worth knowing, before the first step."""

    def begin(self, done: int, steps: int) -> None:
        """Training starts after step `done` of `steps`."""

    def step(self, step: int, loss: float) -> None:
        """A step is done. loss: of its batch, before the step."""

    def validated(self, step: int, dice: Mapping[str, float | None], *, is_best: bool) -> None:
        """Mean Dice per foreground class over the validation cases."""

    def testing(self, cases: int) -> None:
        """Training has ended; the test cases follow."""
