"""Scores of tables as the results of a study, so that the same page and export show them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from rwloss.study.axes import DRAWN
from rwloss.study.differences import Difference, differences_in
from rwloss.study.outcomes import RunOutcome
from rwloss.study.plan import Study
from rwloss.study.results import Results
from rwloss.study.score_tables.options import TableOptions
from rwloss.study.score_tables.readers import Found, natural, read
from rwloss.study.score_tables.table import ScoreTable, SettingScores, assemble
from rwloss.study.score_tables.unpaired import (
    smallest_unpaired_p,
    unpaired_differences,
    unpaired_seeds_needed,
)
from rwloss.study.statistics import Comparison, compare_all, holm, interval, seeds_needed, smallest_p
from rwloss.study.summaries import MapSummary, RunRow, StudyPart


@dataclass(frozen=True)
class ScoredRun(RunOutcome):
    """A run of which only scores are known. means: metric -> mean over its cases. of_cases: metric
    -> case -> score."""

    means: Mapping[str, float] = field(default_factory=dict)
    of_cases: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def tested(self, metric: str) -> float | None:
        return self.means.get(metric)

    def tested_cases(self, metric: str) -> dict[str, float]:
        return dict(self.of_cases.get(metric, {}))


@dataclass(frozen=True)
class CaseComparison:
    """A method against the reference in one metric, paired by case, over the mean of all runs."""

    metric: str
    comparison: Comparison


@dataclass(frozen=True)
class TableResults(Results):
    """The results of tables. metric_directions: whether higher is better. of_cases: comparisons with
    cases as units. seed_names: as the tables write them."""

    metric_directions: Mapping[str, bool] = field(default_factory=dict)
    of_cases: tuple[CaseComparison, ...] = ()
    seed_names: Mapping[int, str] = field(default_factory=dict)
    options: TableOptions | None = None
    table: ScoreTable | None = None
    found: Found | None = None

    def directions(self) -> Mapping[str, bool]:
        return self.metric_directions

    def title(self, metric: str) -> str:
        return metric

    def unit_of(self, metric: str) -> str:
        return ""

    def at(self, values: Mapping[str, Any]) -> TableResults:
        """The results with these settings."""
        return replace(
            self,
            study=self.study.model_copy(update={"axes": {}}),
            runs=tuple(row for row in self.runs if row.values == values),
            whole=self.whole.at(values),
            of_cases=tuple(each for each in self.of_cases if each.comparison.values == values),
            values=values,
        )

    @cached_property
    def conditions(self) -> tuple[TableResults, ...]:  # type: ignore[override]
        """The results with each combination of settings that the tables have."""
        if not self.study.axes:
            return (self,)
        found = {tuple(row.values.items()): row.values for row in self.runs}
        return tuple(map(self.at, found.values()))


def collect_table(options: TableOptions) -> TableResults:
    """The results of the tables that options name. Raises RWLossError as `read` and `assemble`."""
    found = read(options)
    table = assemble(found, options)
    texts = dict.fromkeys(seed for setting in table.settings for seed in setting.seeds)
    numbers = _numbered([*texts])
    maker = _Maker(options, table, numbers)
    summaries, differences, of_cases, rows = maker.all()
    axes = {
        _axis(name): tuple(dict.fromkeys(setting.settings[name] for setting in table.settings))
        for name in table.fields
    }
    study = Study(
        data=options.source.name,
        maps={name: name for name in table.methods},
        seeds=tuple(numbers.values()),
        reference=options.reference,
        axes=axes,
    )
    return TableResults(
        study=study,
        reference=options.reference,
        runs=tuple(rows),
        whole=StudyPart(maps=tuple(summaries), differences=tuple(differences)),
        without_failures=None,
        indicators={},
        ties=(),
        metric_directions=options.metrics,
        of_cases=tuple(of_cases),
        seed_names={number: name for name, number in numbers.items()},
        options=options,
        table=table,
        found=found,
    )


def _axis(name: str) -> str:
    """A setting as the name of an axis; splits are no settings of a study."""
    return f"setting {name}" if name in DRAWN else name


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """A number for each seed: itself where all are numbers, else its place."""
    ordered = sorted(names, key=natural)
    if all(name.isascii() and name.isdigit() and str(int(name)) == name for name in ordered):
        return {name: int(name) for name in ordered}
    return {name: number for number, name in enumerate(ordered, 1)}


class _Maker:
    def __init__(
        self, options: TableOptions, table: ScoreTable, numbers: Mapping[str, int]
    ) -> None:
        self.options, self.table, self.numbers = options, table, numbers

    def all(
        self,
    ) -> tuple[list[MapSummary], list[Difference], list[CaseComparison], list[RunRow]]:
        """Summaries of cells, differences by run and by case, and a row per run."""
        summaries: list[MapSummary] = []
        differences: list[Difference] = []
        of_cases: list[CaseComparison] = []
        rows: list[RunRow] = []
        for setting in self.table.settings:
            values = {_axis(name): value for name, value in setting.settings.items()}
            outcomes = self._outcomes(setting)
            rows += [
                RunRow(method, seed, "done", outcome, values=values)
                for method, runs in outcomes.items()
                for seed, outcome in runs.items()
            ]
            summaries += [self._summary(name, runs, values) for name, runs in outcomes.items()]
            made = (
                unpaired_differences(outcomes, self.options.reference, self.options.metrics)
                if self.options.unpaired
                else differences_in(
                    [outcomes], self.options.reference, metrics=self.options.metrics
                )[0]
            )
            differences += [
                replace(each, comparison=replace(each.comparison, values=values)) for each in made
            ]
            of_cases += self._by_case(setting, values)
        if self.options.correct == "all":
            differences = self._corrected(differences)
            of_cases = self._corrected_cases(of_cases)
        return summaries, differences, of_cases, rows

    def _outcomes(self, setting: SettingScores) -> dict[str, dict[int, ScoredRun]]:
        """method -> seed -> run, of the runs that have scores."""
        found: dict[str, dict[int, ScoredRun]] = {}
        for m, method in enumerate(setting.methods):
            found[method] = {}
            for s, seed in enumerate(setting.seeds):
                if not setting.runs[m, s]:
                    continue
                means, of_cases = {}, {}
                for metric, scores in setting.scores.items():
                    known = ~np.isnan(scores[m, s])
                    if not known.any():
                        continue
                    means[metric] = float(scores[m, s][known].mean())
                    if setting.cases:
                        of_cases[metric] = {
                            setting.cases[c]: value
                            for c, value in zip(
                                np.flatnonzero(known), scores[m, s][known].tolist(), strict=True
                            )
                        }
                found[method][self.numbers[seed]] = ScoredRun(
                    step=1, finished=True, classes=(), means=means, of_cases=of_cases
                )
        return found

    def _summary(
        self, name: str, runs: Mapping[int, ScoredRun], values: Mapping[str, str]
    ) -> MapSummary:
        test = {
            metric: interval(known)
            for metric in self.options.metrics
            if (known := [run.means[metric] for run in runs.values() if metric in run.means])
        }
        return MapSummary(
            map=name,
            expression="",
            done=len(runs),
            failed=0,
            diverged_steps=(),
            lost=0,
            lost_known=0,
            test_dice=test.get(next(iter(self.options.metrics))),
            end_dice=None,
            classes=(),
            wrong_way_mass=None,
            largest_wrong_way_mass=None,
            breaks_promise=False,
            values=values,
            test=test,
        )

    def _by_case(
        self, setting: SettingScores, values: Mapping[str, str]
    ) -> Iterator[CaseComparison]:
        """Cases as units: the mean of all runs of a method for each case, in pairs."""
        if len(setting.cases) < 2:
            return
        for metric, scores in setting.scores.items():
            known = ~np.isnan(scores)
            total = np.where(known, scores, 0.0).sum(axis=1)
            means = total / np.maximum(known.sum(axis=1), 1)
            of_methods = {
                method: {
                    case: float(means[m, c])
                    for c, case in enumerate(setting.cases)
                    if known[m, :, c].any()
                }
                for m, method in enumerate(setting.methods)
            }
            for each in compare_all([of_methods], self.options.reference)[0]:
                yield CaseComparison(metric, replace(each, values=values))

    def _corrected(self, differences: Sequence[Difference]) -> list[Difference]:
        """The same, each metric corrected over all settings together."""
        base_runs = {
            tuple(setting.settings.values()): int(
                setting.runs[setting.methods.index(self.options.reference)].sum()
            )
            for setting in self.table.settings
        }

        def least(found: Comparison) -> float:
            if self.options.unpaired:
                of_base = base_runs[tuple(found.values.values())]
                return smallest_unpaired_p(len(found.seeds), of_base)
            return smallest_p(len(found.seeds))

        corrected = {}
        needed = unpaired_seeds_needed if self.options.unpaired else seeds_needed
        for metric in self.options.metrics:
            places = [n for n, each in enumerate(differences) if each.metric == metric]
            of_metric = [differences[n].comparison for n in places]
            made = _together(of_metric, [*map(least, of_metric)], needed(max(1, len(of_metric))))
            corrected |= dict(zip(places, made, strict=True))
        return [replace(each, comparison=corrected[n]) for n, each in enumerate(differences)]

    def _corrected_cases(self, found: Sequence[CaseComparison]) -> list[CaseComparison]:
        corrected = {}
        for metric in self.options.metrics:
            places = [n for n, each in enumerate(found) if each.metric == metric]
            of_metric = [found[n].comparison for n in places]
            least = [smallest_p(len(each.seeds)) for each in of_metric]
            made = _together(of_metric, least, seeds_needed(max(1, len(of_metric))))
            corrected |= dict(zip(places, made, strict=True))
        return [replace(each, comparison=corrected[n]) for n, each in enumerate(found)]


def _together(
    found: Sequence[Comparison], least: Sequence[float], needed: int | None
) -> list[Comparison]:
    """The comparisons, corrected for the number of all of them. least: smallest p of each."""
    return [
        replace(
            each,
            corrected_p=p,
            least_corrected_p=smallest,
            seeds_needed=needed,
            comparisons=len(found),
        )
        for each, p, smallest in zip(
            found, holm([each.p for each in found]), holm(least), strict=True
        )
    ]
