"""Scores of tables in the form of a study's results, for the same page and export."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from rwloss.study.statistics import (
    Comparison,
    compare_all,
    holm,
    interval,
    seeds_needed,
    smallest_p,
)
from rwloss.study.summaries import MapSummary, RunRow, StudyPart
from rwloss.words import listed


@dataclass(frozen=True)
class ScoredRun(RunOutcome):
    """A run with known scores only. means: metric -> mean over its cases. of_cases: metric -> case
    -> score."""

    means: Mapping[str, float] = field(default_factory=dict)
    of_cases: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def knows_losses(self) -> bool:
        """Drawn as a run that lost no class, because the tables do not show lost classes."""
        return True

    def tested(self, metric: str) -> float | None:
        """Mean of a metric over cases."""
        return self.means.get(metric)

    def tested_cases(self, metric: str) -> dict[str, float]:
        """A metric of each case; empty if the table holds means."""
        return dict(self.of_cases.get(metric, {}))


@dataclass(frozen=True, kw_only=True)
class TableResults(Results):
    """The results of tables. of_cases: comparisons with cases as units. seed_names: as the tables
    write them."""

    options: TableOptions
    table: ScoreTable
    found: Found
    of_cases: tuple[Difference, ...]
    seed_names: Mapping[int, str]

    def directions(self) -> Mapping[str, bool]:
        """The metrics, and whether higher is better."""
        return self.options.metrics

    def title(self, metric: str) -> str:
        """A metric as the user named it."""
        return metric

    def unit_of(self, metric: str) -> str:
        """Not known."""
        return ""

    def about_scores(self) -> str:
        """Whether higher scores are better, in a sentence."""
        lower = [name for name, higher in self.options.metrics.items() if not higher]
        return f"Lower is better: {listed(lower)}." if lower else "Higher is better."

    @property
    def has_seeds(self) -> bool:
        """Whether a method may have several runs."""
        return self.table.has_seeds

    def at(self, values: Mapping[str, Any]) -> TableResults:
        """The results with these settings, like those of tables without settings."""
        part = self.whole.at(values)
        runs = tuple(row for row in self.runs if row.values == values)
        return replace(
            self,
            study=self.study.model_copy(update={"axes": {}}),
            runs=runs,
            whole=StudyPart(
                maps=tuple(replace(each, values={}) for each in part.maps),
                differences=tuple(map(_without_values, part.differences)),
            ),
            of_cases=tuple(
                _without_values(each) for each in self.of_cases if each.comparison.values == values
            ),
            values=values,
        )

    @cached_property
    def conditions(self) -> tuple[TableResults, ...]:
        """The results for each combination of settings in the tables."""
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
        steps=1,
        null=None,
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
        of_cases=tuple(of_cases),
        seed_names={number: name for name, number in numbers.items()},
        options=options,
        table=table,
        found=found,
    )


def _axis(name: str) -> str:
    """A setting as the name of an axis; splits are not settings of a study."""
    return f"setting {name}" if name in DRAWN else name


def _numbered(names: Sequence[str]) -> dict[str, int]:
    """A number for each seed: the seed itself if all are numbers, else its index."""
    ordered = sorted(names, key=natural)
    if all(name.isascii() and name.isdigit() and str(int(name)) == name for name in ordered):
        return {name: int(name) for name in ordered}
    return {name: number for number, name in enumerate(ordered, 1)}


def _without_values(each: Difference) -> Difference:
    return replace(each, comparison=replace(each.comparison, values={}))


class _Maker:
    def __init__(
        self, options: TableOptions, table: ScoreTable, numbers: Mapping[str, int]
    ) -> None:
        self.options, self.table, self.numbers = options, table, numbers

    def all(
        self,
    ) -> tuple[list[MapSummary], list[Difference], list[Difference], list[RunRow]]:
        """Summaries of cells, differences by run and by case, and a row per run."""
        summaries: list[MapSummary] = []
        differences: list[Difference] = []
        of_cases: list[Difference] = []
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
            differences = self._corrected(differences, self._least)
            of_cases = self._corrected(of_cases, lambda found: smallest_p(len(found.seeds)))
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

    def _by_case(self, setting: SettingScores, values: Mapping[str, str]) -> Iterator[Difference]:
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
                yield Difference(metric, replace(each, values=values), {}, None, None, None)

    def _least(self, found: Comparison) -> float:
        """The smallest p that so many runs can give."""
        if not self.options.unpaired:
            return smallest_p(len(found.seeds))
        values = tuple(found.values.values())
        [at] = [each for each in self.table.settings if tuple(each.settings.values()) == values]
        of_base = at.runs[at.methods.index(self.options.reference)].sum()
        return smallest_unpaired_p(len(found.seeds), int(of_base))

    def _corrected(
        self, found: Sequence[Difference], least: Callable[[Comparison], float]
    ) -> list[Difference]:
        """The same comparisons, each metric corrected over all settings together. least: smallest p
        of each."""
        made = [*found]
        needed = unpaired_seeds_needed if self.options.unpaired else seeds_needed
        for metric in self.options.metrics:
            places = [n for n, each in enumerate(found) if each.metric == metric]
            own = [found[n].comparison for n in places]
            corrected, smallest = holm([each.p for each in own]), holm([*map(least, own)])
            for n, each, p, low in zip(places, own, corrected, smallest, strict=True):
                comparison = replace(
                    each,
                    corrected_p=p,
                    least_corrected_p=low,
                    seeds_needed=needed(len(own)),
                    comparisons=len(own),
                )
                made[n] = replace(found[n], comparison=comparison)
        return made
