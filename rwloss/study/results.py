"""The results of a study as far as it has come: runs, maps, comparisons, indicators."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rwloss._version import __version__
from rwloss.errors import RWLossError
from rwloss.files.atomic import whole_file
from rwloss.study.indicators import Indicators
from rwloss.study.outcomes import Outcome, read
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

COLUMNS = (
    "map", "expression", "seed", "status", "reference_failed", "step", "diverged_step",
    "end_dice_mean", "test_dice_mean", "wrong_way_mass", "largest_wrong_way_mass", "class",
    "end_dice", "best_dice", "test_dice", "birth_step", "died", "collapsed",
    "residual_push_share", "residual_gradient_norm", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class RunRow:
    """One run. reason: why it failed, else empty. Only what is done counts in means and tests.

    A failed one whose outcome has a diverged_step has diverged; others lacked disk, memory, ...
    damaged: its folder can't be read, so nothing of its outcome is known.
    """

    map: str
    seed: int
    status: Status
    outcome: Outcome
    reason: str = ""
    damaged: bool = False


@dataclass(frozen=True)
class ClassTally:
    """One class of one map over its runs that are done. birth_steps: of those where it was born."""

    name: str
    known: int
    born: int
    died: int
    collapsed: int
    birth_steps: tuple[int, ...]


@dataclass(frozen=True)
class MapSummary:
    """One map over seeds. done, failed: numbers of runs; all figures are of those that are done.

    diverged_steps: of the failed runs, those whose loss was not finite, and at which step.
    test_dice, end_dice: mean over foreground classes, on test cases with the best checkpoint and on
    validation cases at the end. lost: runs that ended with a collapsed class, of lost_known runs in
    which a validation case has any class. wrong_way_mass: mean over runs; largest_wrong_way_mass:
    of a record of any run. breaks_promise: the map calls itself stable, and this is above
    WRONG_WAY_ALARM.
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
        """Classes that no validation case of some run has, so that nobody knows if it lost them."""
        return tuple(tally.name for tally in self.classes if tally.known < self.done)


@dataclass(frozen=True)
class Part:
    """Summaries of all maps, and comparisons of their test Dice with the reference's."""

    maps: tuple[MapSummary, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def untested(self) -> bool:
        """Whether runs are done, and none of them has a test score: no test case has a class."""
        done = [each for each in self.maps if each.done]
        return bool(done) and all(each.test_dice is None for each in done)


@dataclass(frozen=True)
class Tie:
    """How an indicator and an outcome rank together. over: what the pairs are."""

    indicator: str
    outcome: str
    over: Literal["maps", "classes of maps"]
    correlation: Correlation


@dataclass(frozen=True)
class Results:
    """All of a study. reference_failures: seeds on which the reference failed or lost a class.

    reference_unknown: seeds on which it is done, and no validation case tells if it lost a class.
    whole: over all seeds. without_failures: over the others; None where there are none of these.
    """

    study: Study
    reference: str | None
    reference_failures: tuple[int, ...]
    reference_unknown: tuple[int, ...]
    runs: tuple[RunRow, ...]
    whole: Part
    without_failures: Part | None
    indicators: Mapping[str, Indicators]
    ties: tuple[Tie, ...]


def collect(study: Study, folder: Path, found: Mapping[str, Indicators] | None = None) -> Results:
    """The results in a study folder. found: of `indicators`; without them nothing is said of these.

    A run whose folder can't be read has failed; the others count.
    """
    rows = tuple(_row(run, study.steps) for run in runs(study, folder))
    reference = reference_of(study)
    failures = tuple(
        row.seed
        for row in rows
        if row.map == reference
        and (row.status == "failed" or (row.status == "done" and row.outcome.lost))
    )
    unknown = tuple(
        row.seed
        for row in rows
        if row.map == reference and row.status == "done" and not row.outcome.knows_losses
    )
    given = found or {}
    whole = _part(study, rows, reference, given)
    kept = tuple(row for row in rows if row.seed not in failures)
    return Results(
        study=study,
        reference=reference,
        reference_failures=failures,
        reference_unknown=unknown,
        runs=rows,
        whole=whole,
        without_failures=_part(study, kept, reference, given) if failures else None,
        indicators=given,
        ties=tuple(_ties(whole, given)),
    )


def _row(run: Run, steps: int) -> RunRow:
    try:
        outcome = read(run.folder)
    except (RWLossError, OSError) as error:
        nothing = Outcome(step=0, finished=False, classes=())
        return RunRow(run.name, run.seed, "failed", nothing, str(error), damaged=True)
    if outcome.finished and outcome.step >= steps:
        return RunRow(run.name, run.seed, "done", outcome)
    if run.failure.exists():
        reason = run.failure.read_text(encoding="utf-8", errors="replace").strip()
        return RunRow(run.name, run.seed, "failed", outcome, reason)
    if outcome.diverged_step is not None:  # trained by itself, or the reason could not be written
        reason = f"the loss was not finite at step {outcome.diverged_step}"
        return RunRow(run.name, run.seed, "failed", outcome, reason)
    return RunRow(run.name, run.seed, "unfinished" if outcome.step else "not begun", outcome)


def _part(
    study: Study,
    rows: Iterable[RunRow],
    reference: str | None,
    found: Mapping[str, Indicators],
) -> Part:
    by_map = {name: [row for row in rows if row.map == name] for name in study.maps}
    scores = {
        name: {
            row.seed: row.outcome.test_dice
            for row in of_map
            if row.status == "done" and row.outcome.test_dice is not None
        }
        for name, of_map in by_map.items()
    }
    return Part(
        maps=tuple(
            _summary(name, study.maps[name], of_map, found.get(name))
            for name, of_map in by_map.items()
        ),
        comparisons=tuple(compare(scores, reference)) if reference is not None else (),
    )


def _summary(
    name: str, expression: str, rows: Iterable[RunRow], indicators: Indicators | None
) -> MapSummary:
    rows = list(rows)
    done = [row.outcome for row in rows if row.status == "done"]
    largest = max(
        (
            outcome.largest_wrong_way_mass
            for outcome in done
            if outcome.largest_wrong_way_mass is not None
        ),
        default=None,
    )
    masses = [o.wrong_way_mass for o in done if o.wrong_way_mass is not None]
    promised = indicators is not None and indicators.promises_stable
    return MapSummary(
        map=name,
        expression=expression,
        done=len(done),
        failed=sum(row.status == "failed" for row in rows),
        diverged_steps=tuple(
            row.outcome.diverged_step
            for row in rows
            if row.status == "failed" and row.outcome.diverged_step is not None
        ),
        lost=sum(bool(outcome.lost) for outcome in done),
        lost_known=sum(outcome.knows_losses for outcome in done),
        test_dice=_interval(outcome.test_dice for outcome in done),
        end_dice=_interval(outcome.end_dice for outcome in done),
        classes=tuple(_tallies(done)),
        wrong_way_mass=math.fsum(masses) / len(masses) if masses else None,
        largest_wrong_way_mass=largest,
        breaks_promise=promised and largest is not None and largest > WRONG_WAY_ALARM,
    )


def _tallies(done: list[Outcome]) -> Iterable[ClassTally]:
    names = dict.fromkeys(each.name for outcome in done for each in outcome.classes)
    for name in names:
        found = [
            each
            for outcome in done
            for each in outcome.classes
            if each.name == name and each.end_dice is not None
        ]
        births = [each.birth_step for each in found if each.birth_step is not None]
        yield ClassTally(
            name=name,
            known=len(found),
            born=len(births),
            died=sum(bool(each.died) for each in found),
            collapsed=sum(bool(each.collapsed) for each in found),
            birth_steps=tuple(births),
        )


def _interval(values: Iterable[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return interval(known) if known else None


def _ties(whole: Part, found: Mapping[str, Indicators]) -> Iterable[Tie]:
    """Each indicator against each outcome: of maps, and for the pull of classes of maps."""
    summaries = [each for each in whole.maps if each.done and each.map in found]
    by_map: dict[str, Callable[[MapSummary], float | None]] = {
        "runs that lost a class": lambda each: (
            each.lost / each.lost_known if each.lost_known else None
        ),
        "test Dice": lambda each: None if each.test_dice is None else each.test_dice.mean,
    }
    for indicator in ("violating", "pushed_up", "wrong_way_mass"):
        for outcome, figure in by_map.items():
            pairs = [
                (float(getattr(found[each.map], indicator)), value)
                for each in summaries
                if (value := figure(each)) is not None
            ]
            yield _tie(indicator, outcome, "maps", pairs)
    by_class: dict[str, Callable[[ClassTally], float]] = {
        "collapsed": lambda tally: tally.collapsed / tally.known,
        # Never is later than every step.
        "birth step": lambda tally: (
            sum(tally.birth_steps) / tally.known if tally.born == tally.known else math.inf
        ),
    }
    for outcome, of_class in by_class.items():
        pairs = [
            (pull, of_class(tally))
            for each in summaries
            for tally in each.classes
            if (pull := found[each.map].pull.get(tally.name)) is not None and tally.known
        ]
        yield _tie("pull", outcome, "classes of maps", pairs)


def _tie(
    indicator: str,
    outcome: str,
    over: Literal["maps", "classes of maps"],
    pairs: list[tuple[float, float]],
) -> Tie:
    first, second = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Tie(indicator, outcome, over, rank_correlation(first, second))


def as_fields(results: Results) -> dict[str, Any]:
    """All of it as JSON can hold it: None for unknown, "inf" as text."""
    fields = {
        field.name: _plain(getattr(results, field.name))
        for field in dataclasses.fields(results)
        if field.name != "study"
    }
    return {"rwloss": __version__, "study": results.study.model_dump(mode="json"), **fields}


def _plain(value: Any) -> Any:
    """A value with its dataclasses as dictionaries, and what these compute."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, of in vars(type(value)).items() if isinstance(of, property)]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def as_csv(results: Results) -> str:
    """A row for each run and foreground class; one for a run of which no class is known."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for row in results.runs:
        outcome = row.outcome
        of_run = {
            "map": row.map,
            "expression": results.study.maps[row.map],
            "seed": row.seed,
            "status": row.status,
            "reference_failed": None
            if row.seed in results.reference_unknown
            else row.seed in results.reference_failures,
            "step": outcome.step,
            "diverged_step": outcome.diverged_step,
            "end_dice_mean": outcome.end_dice,
            "test_dice_mean": outcome.test_dice,
            "wrong_way_mass": outcome.wrong_way_mass,
            "largest_wrong_way_mass": outcome.largest_wrong_way_mass,
            "reason": row.reason,
        }
        for each in outcome.classes:
            residual = each.residual
            table.writerow(
                {
                    **of_run,
                    "class": each.name,
                    "end_dice": each.end_dice,
                    "best_dice": each.best_dice,
                    "test_dice": each.test_dice,
                    "birth_step": each.birth_step,
                    "died": each.died,
                    "collapsed": each.collapsed,
                    "residual_push_share": residual and residual.push_share,
                    "residual_gradient_norm": residual and residual.gradient_norm,
                }
            )
        if not outcome.classes:
            table.writerow(of_run)
    return text.getvalue()


def write(results: Results, folder: Path) -> None:
    """results.json and runs.csv in the study folder, each whole or not at all."""
    content = {
        "results.json": json.dumps(as_fields(results), indent=1, allow_nan=False) + "\n",
        "runs.csv": as_csv(results),
    }
    for name, text in content.items():
        try:
            with whole_file(folder / name) as part:
                part.write_text(text, encoding="utf-8", newline="")
        except OSError as error:
            raise RWLossError(
                f"cannot write {str(folder / name)!r}: {error.strerror or error}"
            ) from error
