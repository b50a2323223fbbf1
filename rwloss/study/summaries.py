"""Summaries of runs: a row per run, a summary per cell, and the cells against the reference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from rwloss.metrics import known
from rwloss.study import axes
from rwloss.study.axes import AxisValues
from rwloss.study.differences import Difference, differences_in
from rwloss.study.indicators import Indicators
from rwloss.study.outcomes import ClassOutcome, RunOutcome, known_of, mean_of
from rwloss.study.plan import Study
from rwloss.study.rates import BirthCurve, LossComparison, Rate, birth_curve, compare_losses, rate
from rwloss.study.statistics import Comparison, Interval, interval

Status: TypeAlias = Literal["done", "failed", "unfinished", "not begun"]

WRONG_WAY_ALARM = 1e-4
"""Wrong-way mass in training above which a map that is declared stable is not. Rounding in float32
stays below 1e-5; boundary maps have 0.005 and more."""


@dataclass(frozen=True)
class RunRow:
    """One run. reason: why it failed, else empty. Only finished runs count in means and tests.

    damaged: its folder cannot be read, so its outcome is unknown. values: one per axis.
    reference_failed: whether the reference failed or lost a class with the same seed and values;
    None if no validation case shows it. trained_seed: the seed used in training; runs with the same
    `seed` are a pair, but the A/A test trains with another seed.
    """

    map: str
    seed: int
    status: Status
    outcome: RunOutcome
    reason: str = ""
    damaged: bool = False
    values: AxisValues = field(default_factory=dict)
    learning_rate: float | None = None
    reference_failed: bool | None = False
    trained_seed: int | None = None

    @property
    def name(self) -> str:
        """The map with the values of the run."""
        return axes.cell_name(self.map, self.values)

    @property
    def condition(self) -> AxisValues:
        """The values that make a cell with the map."""
        return axes.kept_apart(self.values)

    @property
    def repeat(self) -> int | str:
        """The seed, with the split if the study has several: it identifies a run within a cell."""
        return cell_seed(self.seed, self.values)

    @property
    def tested(self) -> Mapping[str, Any] | None:
        """test.json of a finished run; that of another run may be from fewer steps."""
        return self.outcome.log.test if self.status == "done" else None


def cell_seed(seed: int, values: AxisValues) -> int | str:
    """A seed, with its split if there are several.

    >>> cell_seed(0, {"split_seed": 2, "learning_rate": 0.1})
    '0 (split_seed 2)'
    """
    drawn = axes.drawn(values)
    return axes.cell_name(str(seed), drawn) if drawn else seed


@dataclass(frozen=True)
class ClassTally:
    """One class of one map. known: finished runs in which a validation case has the class.

    born, died, collapsed: numbers of these runs. birth_steps: of those in which it was born.
    rate: of the collapsed. births: when it is born; both None without runs.
    """

    name: str
    known: int
    born: int
    died: int
    collapsed: int
    birth_steps: tuple[int, ...]
    rate: Rate | None
    births: BirthCurve | None


@dataclass(frozen=True)
class MapSummary:
    """One cell over seeds: a map with one value per axis, if there are any.

    done, failed: numbers of runs; all other numbers use finished runs.
    diverged_steps: the step at which the loss was not finite, for each failed run that diverged.
    test_dice, end_dice: mean over foreground classes, on test cases with the best checkpoint and on
    validation cases at the end. lost: runs that ended with a collapsed class, out of the lost_known
    runs in which a validation case has any class. wrong_way_mass: mean over runs.
    test: each metric that was tested, as test_dice.
    breaks_promise: the map is declared stable, but largest_wrong_way_mass, of a record of any run,
    is above WRONG_WAY_ALARM.
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
    values: AxisValues = field(default_factory=dict)
    test: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The map with its values."""
        return axes.cell_name(self.map, self.values)

    @property
    def lost_rate(self) -> Rate | None:
        """Share of the runs that lost a class."""
        return rate(self.lost, self.lost_known)

    @property
    def diverged(self) -> int:
        """Number of diverged runs."""
        return len(self.diverged_steps)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes that no validation case of some run has; they may have been lost in that run."""
        return tuple(tally.name for tally in self.classes if tally.known < self.done)


@dataclass(frozen=True)
class StudyPart:
    """Summaries of all cells, and their differences from the reference in every tested score.

    A cell is compared with the reference at the same values. losses: how often it loses a class, in
    pairs of runs; empty if splits differ, because their runs are not independent.
    """

    maps: tuple[MapSummary, ...]
    differences: tuple[Difference, ...] = ()
    losses: tuple[LossComparison, ...] = ()

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Those of test Dice."""
        return tuple(each.comparison for each in self.differences if each.metric == "dice")

    @cached_property
    def totals(self) -> tuple[MapSummary, ...]:
        """Each map over all its cells: counts are summed, and masses are the largest of a cell.

        Scores and birth curves exist only for cells.
        """
        names = dict.fromkeys(each.map for each in self.maps)
        return tuple(_total([each for each in self.maps if each.map == name]) for name in names)

    @property
    def untested(self) -> bool:
        """Whether runs are finished but none has a test score: no test case has a foreground
        class."""
        done = [each for each in self.maps if each.done]
        return bool(done) and all(each.test_dice is None for each in done)

    def at(self, values: AxisValues) -> StudyPart:
        """The cells with these values."""
        return StudyPart(
            tuple(each for each in self.maps if each.values == values),
            tuple(each for each in self.differences if each.comparison.values == values),
            tuple(each for each in self.losses if each.values == values),
        )


def part_of(
    study: Study,
    rows: Sequence[RunRow],
    reference: str | None,
    found: Mapping[str, Indicators],
) -> StudyPart:
    """The cells of some runs of a study. found: the known indicators of the maps."""
    conditions = axes.combinations(axes.kept_apart(study.axes))
    summaries = []
    outcomes: list[dict[str, dict[tuple[str, int], RunOutcome]]] = []
    for values in conditions:
        of_condition = [row for row in rows if row.condition == values]
        outcomes.append({})
        for name, text in study.maps.items():
            of_cell = [row for row in of_condition if row.map == name]
            summaries.append(_summary(name, text, of_cell, found.get(name), values))
            outcomes[-1][name] = {
                (axes.named(axes.drawn(row.values)), row.seed): row.outcome
                for row in of_cell
                if row.status == "done"
            }
    if reference is None:
        return StudyPart(tuple(summaries))
    return StudyPart(
        tuple(summaries),
        tuple(_differences(study, outcomes, conditions, reference)),
        tuple(_losses(study, rows, reference)) if axes.unit(study.axes) == "seed" else (),
    )


def _losses(study: Study, rows: Sequence[RunRow], reference: str) -> Iterator[LossComparison]:
    """Compare every cell with the reference at the same values. A diverged run keeps no class."""
    lost = {
        (row.map, axes.named(row.values), row.seed): row.status == "failed"
        or bool(row.outcome.lost)
        for row in rows
        if (row.status == "done" and row.outcome.knows_losses)
        or (row.status == "failed" and row.outcome.diverged_step is not None)
    }
    pairs: dict[str, dict[str, list[tuple[bool, bool]]]] = defaultdict(lambda: defaultdict(list))
    for (name, values, seed), here in lost.items():
        there = lost.get((reference, values, seed))
        if name != reference and there is not None:
            pairs[name][values].append((here, there))
    named = {axes.named(row.values): row.condition for row in rows}
    # As for scores, the A/A test does not reduce the power of the others.
    for names in ({*study.maps} - {study.null}, {study.null}):
        yield from compare_losses(
            [
                (name, named[values], found)
                for name in study.maps
                if name in names
                for values, found in pairs[name].items()
            ]
        )


def _differences(
    study: Study,
    outcomes: Sequence[Mapping[str, Mapping[tuple[str, int], RunOutcome]]],
    conditions: Sequence[AxisValues],
    reference: str,
) -> Iterator[Difference]:
    """Differences of every cell from the reference at the same values, for each of `conditions`."""
    unit = 0 if axes.unit(study.axes) == "split" else 1
    # The A/A test is not part of the study's question, so it does not reduce the power of the
    # others.
    for names in ({*study.maps} - {study.null}, {reference, study.null}):
        of_names = [{name: runs[name] for name in study.maps if name in names} for runs in outcomes]
        compared = differences_in(of_names, reference, unit_of=lambda key: key[unit])
        for values, found in zip(conditions, compared, strict=True):
            for each in found:
                yield replace(each, comparison=replace(each.comparison, values=values))


def _summary(
    name: str,
    expression: str,
    rows: Sequence[RunRow],
    indicators: Indicators | None,
    values: AxisValues,
) -> MapSummary:
    done = [row.outcome for row in rows if row.status == "done"]
    failed = [row.outcome for row in rows if row.status == "failed"]
    largest = max(known_of(outcome.largest_wrong_way_mass for outcome in done), default=None)
    promised = indicators is not None and indicators.promises_stable
    classes = [(each, outcome.step) for outcome in done for each in outcome.classes]
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
            _tally(name, [each for each in classes if each[0].name == name])
            for name in dict.fromkeys(each.name for each, _ in classes)
        ),
        wrong_way_mass=mean_of(outcome.wrong_way_mass for outcome in done),
        largest_wrong_way_mass=largest,
        breaks_promise=promised and largest is not None and largest > WRONG_WAY_ALARM,
        values=values,
        test={
            metric: interval(found)
            for metric in known(name for outcome in done for name in outcome.metrics)
            if (found := known_of(outcome.tested(metric) for outcome in done))
        },
    )


def _total(cells: Sequence[MapSummary]) -> MapSummary:
    """Cells of one map as one."""
    if len(cells) == 1:
        return cells[0]
    classes = [tally for each in cells for tally in each.classes]
    return replace(
        cells[0],
        done=sum(each.done for each in cells),
        failed=sum(each.failed for each in cells),
        lost=sum(each.lost for each in cells),
        lost_known=sum(each.lost_known for each in cells),
        wrong_way_mass=max(known_of(each.wrong_way_mass for each in cells), default=None),
        largest_wrong_way_mass=max(
            known_of(each.largest_wrong_way_mass for each in cells), default=None
        ),
        diverged_steps=tuple(step for each in cells for step in each.diverged_steps),
        test_dice=None,
        end_dice=None,
        classes=tuple(
            _total_of_class([tally for tally in classes if tally.name == name])
            for name in dict.fromkeys(tally.name for tally in classes)
        ),
        breaks_promise=any(each.breaks_promise for each in cells),
        values={},
        test={},
    )


def _total_of_class(tallies: Sequence[ClassTally]) -> ClassTally:
    counts = ("known", "born", "died", "collapsed")
    total = {name: sum(getattr(each, name) for each in tallies) for name in counts}
    return ClassTally(
        tallies[0].name,
        **total,
        birth_steps=tuple(step for each in tallies for step in each.birth_steps),
        rate=rate(total["collapsed"], total["known"]),
        births=None,
    )


def _tally(name: str, outcomes: Sequence[tuple[ClassOutcome, int]]) -> ClassTally:
    """outcomes: of the class, each with the last step of its run."""
    known = [pair for pair in outcomes if pair[0].end_dice is not None]
    found = [each for each, _ in known]
    births = tuple(each.birth_step for each in found if each.birth_step is not None)
    never = [last for each, last in known if each.birth_step is None]
    died, collapsed = (sum(bool(getattr(e, end)) for e in found) for end in ("died", "collapsed"))
    return ClassTally(
        name,
        len(found),
        len(births),
        died,
        collapsed,
        births,
        rate(collapsed, len(found)),
        birth_curve(births, never),
    )
