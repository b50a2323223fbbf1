"""The results of a run of precompute."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeAlias, get_args

from rwloss.store import ManifestEntry

CaseState: TypeAlias = Literal["made", "kept", "failed", "missing"]


@dataclass(frozen=True)
class CaseOutcome:
    """One case: made now, kept from an earlier run, or failed with a reason.

    In a plan, "missing" is a case that a run would make; its bytes are an estimate. seconds: time
    of the worker. stored_bytes: compressed size. fatal: every other case would fail as well.
    """

    case: str
    state: CaseState
    entry: ManifestEntry | None = None
    reason: str = ""
    seconds: float = 0.0
    voxels: int = 0
    stored_bytes: int = 0
    fatal: bool = False


@dataclass(frozen=True)
class Summary:
    """A finished run: where the store is, the outcomes, and the wall-clock time in seconds.

    asked: the expression that was given. expression: what the store holds, which is its static part
    with all numbers resolved.
    """

    store: str
    asked: str
    expression: str
    num_classes: int
    outcomes: tuple[CaseOutcome, ...] = field(repr=False)
    seconds: float = 0.0

    @cached_property
    def counts(self) -> dict[CaseState, int]:
        """Number of cases in each state."""
        states = [outcome.state for outcome in self.outcomes]
        return {state: states.count(state) for state in get_args(CaseState)}

    @property
    def made(self) -> int:
        """Number of maps made in this run."""
        return self.counts["made"]

    @property
    def kept(self) -> int:
        """Number of maps that an earlier run made and that are still right."""
        return self.counts["kept"]

    @property
    def failed(self) -> tuple[CaseOutcome, ...]:
        """The cases that failed, each with its reason."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    @property
    def voxels(self) -> int:
        """Voxels of all cases that are done, or that a plan would do."""
        return sum(outcome.voxels for outcome in self.outcomes)

    @property
    def stored_bytes(self) -> int:
        """Bytes of their maps as stored."""
        return sum(outcome.stored_bytes for outcome in self.outcomes)

    @property
    def dense_bytes(self) -> int:
        """Bytes that they would have as dense float32."""
        return 4 * self.num_classes * self.voxels
