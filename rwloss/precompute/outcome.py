"""What became of the cases of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias

from rwloss.store import Entry

State: TypeAlias = Literal["made", "kept", "failed", "missing"]


@dataclass(frozen=True)
class Outcome:
    """What became of one case: made now, kept from an earlier run, or failed with a reason.

    In a plan, "missing" is a case that a run would make; its bytes are an estimate. seconds: of
    the worker. stored_bytes: compressed. fatal: the failure would be that of every other case.
    """

    case: str
    state: State
    entry: Entry | None = None
    reason: str = ""
    seconds: float = 0.0
    voxels: int = 0
    stored_bytes: int = 0
    fatal: bool = False


@dataclass(frozen=True)
class Summary:
    """A finished run: where the store is, the outcomes, and the wall-clock time in seconds.

    asked: the expression that was given; expression: its static part with all numbers resolved,
    which the store holds.
    """

    store: str
    asked: str
    expression: str
    num_classes: int
    outcomes: tuple[Outcome, ...] = field(repr=False)
    seconds: float = 0.0

    @cached_property
    def counts(self) -> dict[State, int]:
        """Number of cases by what became of them."""
        counts: dict[State, int] = {"made": 0, "kept": 0, "failed": 0, "missing": 0}
        for outcome in self.outcomes:
            counts[outcome.state] += 1
        return counts

    @property
    def made(self) -> int:
        """Number of maps made in this run."""
        return self.counts["made"]

    @property
    def kept(self) -> int:
        """Number of maps that an earlier run had made and that are still right."""
        return self.counts["kept"]

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The cases that could not be done, with the reason of each."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    @property
    def voxels(self) -> int:
        """Voxels of all cases that are done (or would be)."""
        return sum(outcome.voxels for outcome in self.outcomes)

    @property
    def stored_bytes(self) -> int:
        """Size of their maps as stored."""
        return sum(outcome.stored_bytes for outcome in self.outcomes)

    @property
    def dense_bytes(self) -> int:
        """Size that they would have as dense float32."""
        return 4 * self.num_classes * self.voxels
