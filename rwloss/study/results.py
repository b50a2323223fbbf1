"""The results of a study as far as it has come, and the files that hold them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rwloss._version import __version__
from rwloss.errors import RWLossError
from rwloss.files.atomic import write_text
from rwloss.files.csv_text import csv_text
from rwloss.files.journal import read_regular
from rwloss.study.differences import Difference, differences
from rwloss.study.indicators import Indicators
from rwloss.study.outcomes import METRICS, ClassOutcome, RunOutcome, known_of, mean_of, read_outcome
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

    damaged: its folder can't be read, so nothing is known of its outcome.
    """

    map: str
    seed: int
    status: Status
    outcome: RunOutcome
    reason: str = ""
    damaged: bool = False

    @property
    def tested(self) -> Mapping[str, Any] | None:
        """test.json of a run that is done; that of another run may be of fewer steps."""
        return self.outcome.log.test if self.status == "done" else None


@dataclass(frozen=True)
class ClassTally:
    """One class of one map. known: runs that are done in which a validation case has the class.

    born, died, collapsed: numbers of these runs. birth_steps: of those in which it was born.
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
    runs in which a validation case has any class. wrong_way_mass: mean over runs.
    breaks_promise: the map promises to be stable, and largest_wrong_way_mass, of a record of any
    run, is above WRONG_WAY_ALARM.
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
        """Number of diverged runs."""
        return len(self.diverged_steps)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes that no validation case of some run has: they may have been lost there."""
        return tuple(tally.name for tally in self.classes if tally.known < self.done)


@dataclass(frozen=True)
class StudyPart:
    """Summaries of all maps, and comparisons of their test Dice with that of the reference.

    differences: the same comparisons for every score of the test, with more figures.
    """

    maps: tuple[MapSummary, ...]
    comparisons: tuple[Comparison, ...]
    differences: tuple[Difference, ...] = ()

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
    failures, unknown = [], []
    for row in rows:
        is_done = row.map == reference and row.status == "done"
        if (is_done and row.outcome.lost) or (row.map == reference and row.status == "failed"):
            failures.append(row.seed)
        if is_done and not row.outcome.knows_losses:
            unknown.append(row.seed)
    whole = _part(study, rows, reference, found)
    kept = [row for row in rows if row.seed not in failures]
    return Results(
        study=study,
        reference=reference,
        reference_failures=tuple(failures),
        reference_unknown=tuple(unknown),
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
        reason = _reason(run)
    elif outcome.diverged_step is not None:  # trained alone, or the reason could not be written
        status, reason = "failed", f"the loss was not finite at step {outcome.diverged_step}"
    return RunRow(run.name, run.seed, status, outcome, reason)


def _reason(run: Run) -> str:
    """Why the run failed, as far as the file can be read."""
    try:
        return read_regular(run.failure).decode(errors="replace").strip()
    except OSError as error:
        return f"its reason can't be read: {error.strerror}"


def _part(
    study: Study,
    rows: Sequence[RunRow],
    reference: str | None,
    found: Mapping[str, Indicators],
) -> StudyPart:
    summaries = []
    scores: dict[str, dict[int, float]] = {}
    outcomes: dict[str, dict[int, RunOutcome]] = {}
    for name, text in study.maps.items():
        of_map = [row for row in rows if row.map == name]
        outcomes[name] = {row.seed: row.outcome for row in of_map if row.status == "done"}
        dice = {seed: outcome.test_dice for seed, outcome in outcomes[name].items()}
        scores[name] = {seed: value for seed, value in dice.items() if value is not None}
        summaries.append(_summary(name, text, of_map, found.get(name)))
    comparisons = compare(scores, reference) if reference is not None else []
    further = differences(outcomes, reference) if reference is not None else ()
    return StudyPart(tuple(summaries), tuple(comparisons), further)


def _summary(
    name: str, expression: str, rows: Sequence[RunRow], indicators: Indicators | None
) -> MapSummary:
    done = [row.outcome for row in rows if row.status == "done"]
    failed = [row.outcome for row in rows if row.status == "failed"]
    largest = max(known_of(outcome.largest_wrong_way_mass for outcome in done), default=None)
    promised = indicators is not None and indicators.promises_stable
    classes = [each for outcome in done for each in outcome.classes]
    tested, ended = (known_of(getattr(o, name) for o in done) for name in ("test_dice", "end_dice"))
    return MapSummary(
        map=name,
        expression=expression,
        done=len(done),
        failed=len(failed),
        diverged_steps=tuple(o.diverged_step for o in failed if o.diverged_step is not None),
        lost=sum(bool(outcome.lost) for outcome in done),
        lost_known=sum(outcome.knows_losses for outcome in done),
        test_dice=interval(tested) if tested else None,
        end_dice=interval(ended) if ended else None,
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
    died, collapsed = (sum(bool(getattr(e, end)) for e in found) for end in ("died", "collapsed"))
    return ClassTally(name, len(found), len(births), died, collapsed, births)


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
            yield _tie(indicator, outcome, "maps", pairs)
    for outcome, of_class in _OF_CLASSES.items():
        pairs = [
            Pair(each.map, tally.name, pull, of_class(tally))
            for each in summaries
            for tally in each.classes
            if (pull := found[each.map].pull.get(tally.name)) is not None and tally.known
        ]
        yield _tie("pull", outcome, "classes of maps", pairs)


def _tie(
    indicator: str, outcome: str, over: Literal["maps", "classes of maps"], pairs: Sequence[Pair]
) -> Tie:
    sides = [pair.indicator for pair in pairs], [pair.outcome for pair in pairs]
    return Tie(indicator, outcome, over, rank_correlation(*sides), tuple(pairs))


# --- Files

_RUN_COLUMNS = ("step", "diverged_step", "wrong_way_mass", "largest_wrong_way_mass")
_CLASS_COLUMNS = ("end_dice", "best_dice", "test_dice", "birth_step", "died", "collapsed")
_TEST_COLUMNS = {f"test_{name}": name for name in METRICS if name != "dice"}

COLUMNS = (
    "map", "expression", "seed", "status", "reference_failed", "step", "diverged_step",
    "end_dice_mean", "test_dice_mean", "wrong_way_mass", "largest_wrong_way_mass", "class",
    *_CLASS_COLUMNS, *_TEST_COLUMNS, *(f"{name}_mean" for name in _TEST_COLUMNS),
    "residual_push_share", "residual_gradient_norm", "reason",
)  # fmt: skip
"""Columns of runs.csv."""

# study stands first; the others follow from the runs.
_NOT_IN_JSON = {"study", "class_names", "pairs", "log", "tested"}


def write(results: Results, folder: Path) -> None:
    """Write results.json and runs.csv in the study folder, each whole or not at all."""
    fields = json.dumps(as_fields(results), indent=1, allow_nan=False)
    write_text(folder / "results.json", f"{fields}\n")
    write_text(folder / "runs.csv", as_csv(results))


def as_fields(results: Results) -> dict[str, Any]:
    """The results as JSON can hold them: None for unknown, "inf" as text."""
    study = results.study.model_dump(mode="json")
    return {"rwloss": __version__, "study": study, **_plain(results)}


def _plain(value: Any) -> Any:
    """A value with its dataclasses as dictionaries of their fields and properties."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, of in vars(type(value)).items() if isinstance(of, property)]
        return {name: _plain(getattr(value, name)) for name in names if name not in _NOT_IN_JSON}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def as_csv(results: Results) -> str:
    """One row per run and foreground class; one row for a run without known classes."""
    rows = []
    for row in results.runs:
        outcome, failed = row.outcome, row.seed in results.reference_failures
        of_run = {
            **{name: getattr(row, name) for name in ("map", "seed", "status", "reason")},
            **{name: getattr(outcome, name) for name in _RUN_COLUMNS},
            "expression": results.study.maps[row.map],
            "reference_failed": None if row.seed in results.reference_unknown else failed,
            "end_dice_mean": outcome.end_dice,
            "test_dice_mean": outcome.test_dice,
            **{f"{name}_mean": outcome.tested(metric) for name, metric in _TEST_COLUMNS.items()},
        }
        if not outcome.classes:
            rows.append(of_run)
        for each in outcome.classes:
            of_class = {name: getattr(each, name) for name in _CLASS_COLUMNS}
            of_class |= {name: each.test.get(metric) for name, metric in _TEST_COLUMNS.items()}
            if each.residual is not None:
                of_class["residual_push_share"] = each.residual.push_share
                of_class["residual_gradient_norm"] = each.residual.gradient_norm
            rows.append(of_run | {"class": each.name} | of_class)
    return csv_text(COLUMNS, rows)
