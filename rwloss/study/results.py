"""The results of a study as far as it has come: runs, maps, comparisons, correlations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rwloss.errors import RWLossError
from rwloss.study.indicators import Indicators
from rwloss.study.outcomes import ClassOutcome, RunOutcome, known_of, mean_of, read_outcome
from rwloss.study.plan import Run, Study, reference_of, runs
from rwloss.study.statistics import (
    Comparison,
    Correlation,
    Interval,
    compare,
    interval,
    rank_correlation,
)

Status: TypeAlias = Literal["done", "failed", "unfinished", "not begun"]

WRONG_WAY_ALARM = 1e-4
"""Wrong-way mass in training above which a map breaks a promise to be stable. Rounding in float32
stays below 1e-5; boundary maps have 0.005 and more."""


@dataclass(frozen=True)
class RunRow:
    """One run. reason: why it failed, else empty. Only runs that are done count in means and tests.

    A failed run whose outcome has a diverged_step has diverged; others lacked disk, memory, ...
    damaged: its folder can't be read, so nothing is known of its outcome.
    """

    map: str
    seed: int
    status: Status
    outcome: RunOutcome
    reason: str = ""
    damaged: bool = False


@dataclass(frozen=True)
class ClassTally:
    """One class of one map: in how many of its runs that are done each end was seen.

    known: runs in which a validation case has the class; the other numbers are of these.
    birth_steps: one for each run in which the class was born.
    """

    name: str
    known: int
    born: int
    died: int
    collapsed: int
    birth_steps: tuple[int, ...]


@dataclass(frozen=True)
class MapSummary:
    """One map over seeds. done, failed: numbers of runs; all figures are of runs that are done.

    diverged_steps: the step at which the loss was not finite, for each failed run that diverged.
    test_dice, end_dice: mean over foreground classes, on test cases with the best checkpoint and on
    validation cases at the end. lost: runs that ended with a collapsed class, of the lost_known
    runs in which a validation case has any class. wrong_way_mass: mean over runs;
    largest_wrong_way_mass: of a record of any run. breaks_promise: the map promises to be stable,
    and this is above WRONG_WAY_ALARM.
    """

    map: str
    expression: str
    done: int
    failed: int
    diverged_steps: tuple[int, ...]
    lost: int
    lost_known: int
    test_dice: Interval | None
    end_dice: Interval | None
    classes: tuple[ClassTally, ...]
    wrong_way_mass: float | None
    largest_wrong_way_mass: float | None
    breaks_promise: bool

    @property
    def diverged(self) -> int:
        """Number of runs that diverged."""
        return len(self.diverged_steps)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes that no validation case of some run has: they may have been lost there."""
        return tuple(tally.name for tally in self.classes if tally.known < self.done)


@dataclass(frozen=True)
class StudyPart:
    """Summaries of all maps, and comparisons of their test Dice with that of the reference."""

    maps: tuple[MapSummary, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def untested(self) -> bool:
        """Whether runs are done and none has a test score: no test case has a foreground class."""
        done = [each for each in self.maps if each.done]
        return bool(done) and all(each.test_dice is None for each in done)


@dataclass(frozen=True)
class Pair:
    """One point of a correlation: a map, or a class of a map (class_name None for all classes)."""

    map: str
    class_name: str | None
    indicator: float
    outcome: float


@dataclass(frozen=True)
class Tie:
    """How an indicator and an outcome rank together, over maps or over classes of maps."""

    indicator: str
    outcome: str
    over: Literal["maps", "classes of maps"]
    correlation: Correlation
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Results:
    """All of a study. reference_failures: seeds on which the reference failed or lost a class.

    reference_unknown: seeds on which it is done, and no validation case shows if it lost a class.
    whole: over all seeds. without_failures: over the seeds on which the reference did not fail;
    None where it failed on none.
    """

    study: Study
    reference: str | None
    reference_failures: tuple[int, ...]
    reference_unknown: tuple[int, ...]
    runs: tuple[RunRow, ...]
    whole: StudyPart
    without_failures: StudyPart | None
    indicators: Mapping[str, Indicators]
    ties: tuple[Tie, ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Foreground classes, as the runs name them."""
        return tuple(dict.fromkeys(each.name for row in self.runs for each in row.outcome.classes))

    def done(self, map_name: str) -> list[RunRow]:
        """The runs of a map that are done."""
        return [row for row in self.runs if row.map == map_name and row.status == "done"]


def collect(study: Study, folder: Path, found: Mapping[str, Indicators] | None = None) -> Results:
    """The results in a study folder. found: indicators of the maps, as far as they are known.

    A run whose folder can't be read counts as failed; the others are kept.
    """
    found = found or {}
    rows = tuple(_row(run, study.steps) for run in runs(study, folder))
    reference = reference_of(study)
    of_reference = [row for row in rows if row.map == reference]
    failures = tuple(
        row.seed
        for row in of_reference
        if row.status == "failed" or (row.status == "done" and row.outcome.lost)
    )
    whole = _part(study, rows, reference, found)
    kept = [row for row in rows if row.seed not in failures]
    return Results(
        study=study,
        reference=reference,
        reference_failures=failures,
        reference_unknown=tuple(
            row.seed
            for row in of_reference
            if row.status == "done" and not row.outcome.knows_losses
        ),
        runs=rows,
        whole=whole,
        without_failures=_part(study, kept, reference, found) if failures else None,
        indicators=found,
        ties=tuple(_ties(whole, found)),
    )


def _row(run: Run, steps: int) -> RunRow:
    try:
        outcome = read_outcome(run.folder)
    except (RWLossError, OSError) as error:
        nothing = RunOutcome(step=0, finished=False, classes=())
        return RunRow(run.name, run.seed, "failed", nothing, str(error), damaged=True)
    status: Status = "unfinished" if outcome.step else "not begun"
    reason = ""
    if outcome.finished and outcome.step >= steps:
        status = "done"
    elif run.failure.exists():
        status = "failed"
        reason = run.failure.read_text(encoding="utf-8", errors="replace").strip()
    elif outcome.diverged_step is not None:  # trained alone, or the reason could not be written
        status, reason = "failed", f"the loss was not finite at step {outcome.diverged_step}"
    return RunRow(run.name, run.seed, status, outcome, reason)


def _part(
    study: Study,
    rows: Sequence[RunRow],
    reference: str | None,
    found: Mapping[str, Indicators],
) -> StudyPart:
    by_map = {name: [row for row in rows if row.map == name] for name in study.maps}
    scores = {
        name: {
            row.seed: row.outcome.test_dice
            for row in of_map
            if row.status == "done" and row.outcome.test_dice is not None
        }
        for name, of_map in by_map.items()
    }
    return StudyPart(
        maps=tuple(
            _summary(name, study.maps[name], of_map, found.get(name))
            for name, of_map in by_map.items()
        ),
        comparisons=tuple(compare(scores, reference)) if reference is not None else (),
    )


def _summary(
    name: str, expression: str, rows: Sequence[RunRow], indicators: Indicators | None
) -> MapSummary:
    done = [row.outcome for row in rows if row.status == "done"]
    failed = [row.outcome for row in rows if row.status == "failed"]
    largest = max(known_of(outcome.largest_wrong_way_mass for outcome in done), default=None)
    promised = indicators is not None and indicators.promises_stable
    classes = [each for outcome in done for each in outcome.classes]
    return MapSummary(
        map=name,
        expression=expression,
        done=len(done),
        failed=len(failed),
        diverged_steps=tuple(o.diverged_step for o in failed if o.diverged_step is not None),
        lost=sum(bool(outcome.lost) for outcome in done),
        lost_known=sum(outcome.knows_losses for outcome in done),
        test_dice=_interval(outcome.test_dice for outcome in done),
        end_dice=_interval(outcome.end_dice for outcome in done),
        classes=tuple(
            _tally(name, [each for each in classes if each.name == name])
            for name in dict.fromkeys(each.name for each in classes)
        ),
        wrong_way_mass=mean_of(outcome.wrong_way_mass for outcome in done),
        largest_wrong_way_mass=largest,
        breaks_promise=promised and largest is not None and largest > WRONG_WAY_ALARM,
    )


def _tally(name: str, outcomes: Sequence[ClassOutcome]) -> ClassTally:
    found = [each for each in outcomes if each.end_dice is not None]
    births = tuple(each.birth_step for each in found if each.birth_step is not None)
    return ClassTally(
        name=name,
        known=len(found),
        born=len(births),
        died=sum(bool(each.died) for each in found),
        collapsed=sum(bool(each.collapsed) for each in found),
        birth_steps=births,
    )


def _interval(values: Iterable[float | None]) -> Interval | None:
    known = known_of(values)
    return interval(known) if known else None


_OF_MAPS: Mapping[str, Callable[[MapSummary], float | None]] = {
    "runs that lost a class": lambda each: each.lost / each.lost_known if each.lost_known else None,
    "test Dice": lambda each: None if each.test_dice is None else each.test_dice.mean,
}
_OF_CLASSES: Mapping[str, Callable[[ClassTally], float]] = {
    "collapsed": lambda tally: tally.collapsed / tally.known,
    # Never is later than every step.
    "birth step": lambda tally: (
        sum(tally.birth_steps) / tally.known if tally.born == tally.known else math.inf
    ),
}


def _ties(whole: StudyPart, found: Mapping[str, Indicators]) -> Iterator[Tie]:
    """Each indicator against each outcome: of maps, and for the pull of classes of maps."""
    summaries = [each for each in whole.maps if each.done and each.map in found]
    for indicator in ("violating", "pushed_up", "wrong_way_mass"):
        for outcome, of_map in _OF_MAPS.items():
            pairs = [
                Pair(each.map, None, float(getattr(found[each.map], indicator)), value)
                for each in summaries
                if (value := of_map(each)) is not None
            ]
            yield Tie(indicator, outcome, "maps", _correlation(pairs), tuple(pairs))
    for outcome, of_class in _OF_CLASSES.items():
        pairs = [
            Pair(each.map, tally.name, pull, of_class(tally))
            for each in summaries
            for tally in each.classes
            if (pull := found[each.map].pull.get(tally.name)) is not None and tally.known
        ]
        yield Tie("pull", outcome, "classes of maps", _correlation(pairs), tuple(pairs))


def _correlation(pairs: Sequence[Pair]) -> Correlation:
    return rank_correlation([pair.indicator for pair in pairs], [pair.outcome for pair in pairs])
