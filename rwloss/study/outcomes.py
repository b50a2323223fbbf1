"""The outcome of one run, from its log: births, deaths, collapse, divergence, wrong-way mass."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from rwloss.errors import RWLossError
from rwloss.metrics import find, known
from rwloss.training.run_folder import RunFolder

BORN_ABOVE = 0.1
"""Validation Dice above which a class has been born."""

DEAD_BELOW = 0.02
"""Final validation Dice below which a class that was born has died."""

COLLAPSED_BELOW = 0.05
"""Final validation Dice below which a class is lost, whether or not it was ever born."""

Curve: TypeAlias = Sequence[tuple[int, float | None]]
"""Values over training steps; None if a value is unknown."""


@dataclass(frozen=True)
class Residual:
    """The remaining gradient in records where a class of the batch is predicted nowhere.

    push_share: mean share of Σ|dL/dlogit| at voxels of the class. gradient_norm: mean L2 norm of
    the gradient with respect to all weights, divided by that of the first record of the run, so
    that losses of any scale are comparable; None if that was 0. Both are None if all overflowed.
    """

    records: int
    push_share: float | None
    gradient_norm: float | None


@dataclass(frozen=True)
class ClassOutcome:
    """The outcome of one foreground class. Dice is of whole validation cases, in 0..1.

    end_dice, best_dice: at the last, and at the best validation for this class; None if no
    validation case has it. birth_step: of the first validation above BORN_ABOVE; None for never.
    residual: None if the class was predicted in every record. test: mean over test cases of each
    tested metric, with the weights of the best checkpoint; None if no test case has the class.
    """

    name: str
    end_dice: float | None = None
    best_dice: float | None = None
    birth_step: int | None = None
    residual: Residual | None = None
    test: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def test_dice(self) -> float | None:
        """Mean Dice over test cases."""
        return self.test.get("dice")

    @property
    def died(self) -> bool | None:
        """Whether it was born and ended below DEAD_BELOW; None if its end is unknown."""
        if self.end_dice is None:
            return None
        return self.birth_step is not None and self.end_dice < DEAD_BELOW

    @property
    def collapsed(self) -> bool | None:
        """Whether it ended below COLLAPSED_BELOW; None if its end is unknown."""
        return None if self.end_dice is None else self.end_dice < COLLAPSED_BELOW


@dataclass(frozen=True)
class RunLog:
    """The parts of a run's files that the report needs.

    dice: validation Dice of each foreground class over the steps. wrong_way_mass, gradient_norm: of
    the records.
    starts: hardware and versions of each start. test: test.json; None before the run is tested.
    """

    dice: Mapping[str, Curve] = field(default_factory=dict)
    wrong_way_mass: Curve = ()
    gradient_norm: Curve = ()
    starts: Sequence[Mapping[str, Any]] = ()
    test: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunOutcome:
    """The outcome of one run, finished or not.

    step: of the last line of its log. finished: whether it was tested. diverged_step: where the
    loss became NaN or infinite. wrong_way_mass: Σ|g| of pushes that raise a wrong class or lower
    the true one, divided by Σ|g| of all pushes; mean over the records, and the largest of a record.
    """

    step: int
    finished: bool
    classes: tuple[ClassOutcome, ...]
    diverged_step: int | None = None
    wrong_way_mass: float | None = None
    largest_wrong_way_mass: float | None = None
    log: RunLog = RunLog()

    @property
    def lost(self) -> tuple[str, ...]:
        """Classes that ended collapsed."""
        return tuple(each.name for each in self.classes if each.collapsed)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes without a known end, because no validation case has them."""
        return tuple(each.name for each in self.classes if each.end_dice is None)

    @property
    def knows_losses(self) -> bool:
        """Whether the end of any class is known; false without validation cases."""
        return len(self.unknown) < len(self.classes)

    @property
    def end_dice(self) -> float | None:
        """Mean over classes of their final validation Dice."""
        return mean_of(each.end_dice for each in self.classes)

    @property
    def test_dice(self) -> float | None:
        """Mean over classes of their test Dice."""
        return self.tested("dice")

    def tested(self, metric: str) -> float | None:
        """Mean over classes of a metric, over test cases; None if it was not tested."""
        return self._means.get(metric)

    def tested_cases(self, metric: str) -> dict[str, float]:
        """A metric per test case, mean over classes; cases without a class are left out."""
        return self._of_cases.get(metric, {})

    @cached_property
    def metrics(self) -> tuple[str, ...]:
        """The tested metrics by name, in the order of the tables."""
        return known(name for each in self.classes for name in each.test)

    # Cached, because every comparison needs it.
    @cached_property
    def _means(self) -> dict[str, float | None]:
        return {
            metric: mean_of(each.test.get(metric) for each in self.classes)
            for metric in self.metrics
        }

    @cached_property
    def _of_cases(self) -> dict[str, dict[str, float]]:
        cases = [(case["name"], case) for case in (self.log.test or {}).get("cases", ())]
        return {
            metric: {
                name: mean
                for name, case in cases
                if (mean := mean_of(_case_score(case, of, metric) for of in case["classes"]))
                is not None
            }
            for metric in self.metrics
        }


def directions_of(outcomes: Iterable[RunOutcome]) -> dict[str, bool]:
    """The tested metrics that have a better side, and whether higher is better.

    In the order of the tables; Dice, which is always tested, comes first.
    """
    names = known({"dice", *(name for each in outcomes for name in each.metrics)})
    return {name: higher for name in names if (higher := find(name).higher_is_better) is not None}


def read_outcome(run: str | Path) -> RunOutcome:
    """The outcome of a run folder, finished or not.

    Raises RWLossError for a damaged or incomplete metrics.jsonl or test.json.
    """
    folder = RunFolder(Path(run))
    test = folder.read_test() if folder.test.exists() else None
    lines = list(folder.lines())
    file, what, fix = folder.test, "test", "delete it, and rerun the study to test"
    try:
        tested = outcome_of((), test)
        for metric in ("dice", *tested.metrics):
            _check_finite([tested.tested(metric), *tested.tested_cases(metric).values()])
        file, what = folder.metrics, "log"
        fix = f"delete {str(folder.path)!r}, and rerun the study to train"
        outcome = outcome_of(lines, test)
        _check_finite(dice for curve in outcome.log.dice.values() for _, dice in curve)
        return outcome
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise RWLossError(
            f"{str(file)!r} is not the {what} of a run ({type(error).__name__}: {error}): {fix} "
            "the run again"
        ) from error


def outcome_of(lines: Sequence[dict[str, Any]], test: dict[str, Any] | None = None) -> RunOutcome:
    """The outcome from the lines of a metrics.jsonl and the content of a test.json.

    >>> outcome = outcome_of([
    ...     {"kind": "validation", "step": 10, "dice": {"lesion": 0.3}},
    ...     {"kind": "validation", "step": 20, "dice": {"lesion": 0.0}},
    ... ])
    >>> [lesion] = outcome.classes
    >>> lesion.birth_step, lesion.died, outcome.lost
    (10, True, ('lesion',))
    """
    records = [line for line in lines if line["kind"] == "record"]
    validations = [line for line in lines if line["kind"] == "validation"]
    diverged = [line["step"] for line in lines if line["kind"] == "diverged"]
    tested = _means_of_test(test)
    names = list(validations[0]["dice"]) if validations else list(tested)
    log = RunLog(
        dice={
            name: [(line["step"], line["dice"][name]) for line in validations]
            for name in (names if validations else ())
        },
        wrong_way_mass=[(line["step"], _finite(line["wrong_way_mass"])) for line in records],
        gradient_norm=[(line["step"], _finite(line["gradient_norm"])) for line in records],
        starts=[line for line in lines if line["kind"] == "start"],
        test=test,
    )
    masses = known_of(mass for _, mass in log.wrong_way_mass)
    return RunOutcome(
        step=max((line["step"] for line in lines), default=0),
        finished=test is not None,
        classes=tuple(
            _class_outcome(name, label, log.dice.get(name, ()), records, tested.get(name, {}))
            for label, name in enumerate(names, 1)
        ),
        diverged_step=diverged[-1] if diverged else None,
        wrong_way_mass=mean_of(masses),
        largest_wrong_way_mass=max(masses, default=None),
        log=log,
    )


def _check_finite(scores: Iterable[float | None]) -> None:
    """Raise ValueError or TypeError for a score that is not a number."""
    if not all(map(math.isfinite, known_of(scores))):
        raise ValueError("a score is not finite")


def _means_of_test(test: dict[str, Any] | None) -> dict[str, dict[str, float | None]]:
    """Means per class over the test cases, for each tested metric."""
    found: dict[str, dict[str, float | None]] = {}
    if test is None:
        return found
    for index, each in enumerate(test["summary"]):
        pairs = [(case, case["classes"][index]) for case in test.get("cases", ())]
        measured = known(dict.fromkeys(name for _, of_class in pairs for name in of_class))
        found[each["name"]] = {"dice": each["dice"]["mean"]} | {
            metric: mean_of(_case_score(*pair, metric) for pair in pairs)
            for metric in measured
            if metric != "dice"
        }
    return found


def _case_score(case: Mapping[str, Any], of_class: Mapping[str, Any], metric: str) -> float | None:
    """A score of one class of one test case; a distance to a missing surface is the diagonal.

    None for a metric that a test by an earlier version does not have.
    """
    if find(metric).is_distance and of_class.get("state") in {"missed", "false alarm"}:
        return float(case["diagonal_mm"])
    return of_class.get(metric)


def _class_outcome(
    name: str,
    label: int,
    curve: Curve,
    records: Sequence[dict[str, Any]],
    test: Mapping[str, float | None],
) -> ClassOutcome:
    known = [(step, dice) for step, dice in curve if dice is not None]
    if len(known) < len(curve):
        known = []  # no validation case has the class: other values count false positives
    return ClassOutcome(
        name=name,
        end_dice=known[-1][1] if known else None,
        best_dice=max((dice for _, dice in known), default=None),
        birth_step=next((step for step, dice in known if dice > BORN_ABOVE), None),
        residual=_residual(label, records),
        test=test,
    )


def _residual(label: int, records: Sequence[dict[str, Any]]) -> Residual | None:
    of_class = [line for line in records if line["true_volume"][label] > 0]
    empty = [line for line in of_class if line["predicted_volume"][label] == 0]
    if not empty:
        return None
    first = _finite(records[0]["gradient_norm"])
    norm = mean_of(_finite(line["gradient_norm"]) for line in empty)
    return Residual(
        records=len(empty),
        push_share=mean_of(_finite(line["gradient_share"][label]) for line in empty),
        gradient_norm=None if norm is None or not first else norm / first,
    )


def _finite(value: float | None) -> float | None:
    """A number of a log; None if it overflowed."""
    return value if value is not None and math.isfinite(value) else None


def known_of(values: Iterable[float | None]) -> list[float]:
    """The values that are not None."""
    return [value for value in values if value is not None]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of the known values; None if there are none."""
    known = known_of(values)
    return statistics.fmean(known) if known else None
