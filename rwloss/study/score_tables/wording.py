"""The results of tables in sentences that claim no more than the numbers show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rwloss.study.figures import decimal, significant
from rwloss.study.score_tables.results import TableResults
from rwloss.study.score_tables.table import ScoreTable
from rwloss.study.statistics import Comparison
from rwloss.words import count_of, listed

_OVER_CASES = "cases of these networks"


def question(results: TableResults) -> str:
    """The question that the tables can answer."""
    others = [name for name in results.study.maps if name != results.reference]
    if len(others) == 1:
        return f"Is {others[0]} better than {results.reference}?"
    return f"Which of {len(others)} methods are better than {results.reference}?"


def lead(results: TableResults) -> list[str]:
    """The answer in a few sentences: what can be claimed over runs, and what cannot."""
    told = [*_nothing_of_trainings(results)]
    told += [*_claims_in_settings(results)] if results.study.axes else sentences(results)
    return [*dict.fromkeys(told)]


def _nothing_of_trainings(results: TableResults) -> Iterator[str]:
    if not results.has_seeds:
        yield (
            "There is one run per method, so nothing can be said about training with these "
            "methods: with another seed, each difference might be reversed."
        )


def _claims(
    results: TableResults, metric: str, found: list[Comparison], over: str = "runs"
) -> Iterator[str]:
    """The claims about a metric. over: what was resampled."""
    known = [each for each in found if each.difference is not None]
    if not known or (over == "runs" and not results.has_seeds):
        return
    unit = "seed" if over == "runs" else "case"
    claimed = [
        f"{each.map} is {_apart(results, metric, each)} (corrected p = "
        f"{significant(each.corrected_p)})"
        for each in known
        if each.significant
    ]
    others = [each.map for each in known if not each.significant]
    if claimed:
        rest = f"; {listed(others)} {_differ(others)} significantly" if others else ""
        yield f"{metric}, over {over}: {listed(claimed)}{rest}."
    elif any(each.can_claim for each in known):
        yield f"{metric}, over {over}: no difference from {results.reference} is significant."
    else:
        needed = known[0].seeds_needed
        enough = (
            f"{count_of(needed, unit)} are needed"
            if needed
            else f"no number of {unit}s is enough for so many comparisons"
        )
        yield (
            f"{metric}, over {over}: no difference from {results.reference} is claimed: "
            f"{count_of(len(known[0].seeds), unit)} cannot show one, however large it is; {enough}."
        )


def _differ(names: list[str]) -> str:
    return "does not differ" if len(names) == 1 else "do not differ"


def _apart(results: TableResults, metric: str, each: Comparison) -> str:
    assert each.difference is not None
    mean = each.difference.mean
    better = (mean > 0) == results.directions()[metric]
    digits = 3 if abs(mean) >= 5e-4 else 6
    return (
        f"{decimal(abs(mean), digits)} {'above' if mean > 0 else 'below'} {each.reference}, "
        f"{'better' if better else 'worse'}"
    )


def _claims_in_settings(results: TableResults) -> Iterator[str]:
    """In how many settings each method is better or worse, over runs and over cases."""
    for metric in results.directions():
        if results.has_seeds:
            found = [d.comparison for d in results.whole.differences if d.metric == metric]
            yield from _settings_with_claims(results, metric, found, "runs")
        found = [each.comparison for each in results.of_cases if each.metric == metric]
        yield from _settings_with_claims(results, metric, found, _OVER_CASES)


def _settings_with_claims(
    results: TableResults, metric: str, found: list[Comparison], over: str
) -> Iterator[str]:
    told = []
    for name in results.study.maps:
        own = [each for each in found if each.map == name and each.difference is not None]
        if name == results.reference or not own:
            continue
        signs = [
            (each.difference.mean > 0) == results.directions()[metric]
            for each in own
            if each.significant and each.difference is not None
        ]
        told.append(
            f"{name} is better in {sum(signs)} of {len(own)}, worse in {len(signs) - sum(signs)}"
        )
    unit = "seeds" if over == "runs" else "cases"
    silent = {tuple(each.values.values()) for each in found if not each.can_claim}
    if told and not any(each.can_claim for each in found):
        yield (
            f"{metric}, over {over}: nothing is claimed in any setting, because so few {unit} "
            "cannot show a difference, however large it is."
        )
    elif told:
        few = f" In {len(silent)}, so few {unit} cannot show one, however large it is."
        yield (
            f"{metric}, over {over}, settings with a significant difference: {'; '.join(told)}."
            f"{few if silent else ''}"
        )


def sentences(part: TableResults) -> list[str]:
    """The claims for one combination of settings."""
    told: list[str] = []
    for metric in part.directions():
        found = [d.comparison for d in part.whole.differences if d.metric == metric]
        told += _claims(part, metric, found)
        own = [each.comparison for each in part.of_cases if each.metric == metric]
        told += _claims(part, metric, own, _OVER_CASES)
    return told


def assumptions(results: TableResults) -> list[str]:
    """What the tests assume, and to what they generalize."""
    told = []
    options, table = results.options, results.table
    if results.has_seeds and options.unpaired:
        told.append(
            "Runs are not paired (--unpaired): a seed of one method has nothing in common with the "
            "same seed of another. p is that of a two-sided permutation test of two independent "
            "samples, on the means of runs."
        )
    elif results.has_seeds:
        told.append(
            "Runs with the same seed are compared in pairs, by a two-sided sign-flip permutation "
            "test on the means of runs. This assumes that a seed means the same for all "
            "methods, such as the same split, or the same initial weights and batches. If it does "
            "not, make the page with --unpaired."
        )
    if results.has_seeds:
        told.append(
            "Runs are the unit of a claim about training with a method: another run may turn out "
            "otherwise. The interval “over cases too” draws cases as well."
        )
    if results.has_seeds and _is_cross_validation(table):
        told.append(
            "Each case was scored in one run of a method, as in a cross-validation. Its runs share "
            "most of their training cases, so they are less independent than the test assumes."
        )
    if not table.has_cases:
        told.append(
            "The tables hold a mean per run and no cases, so nothing is said about other cases."
        )
    else:
        told.append(
            "Cases are the unit of a claim about these trained networks, by a two-sided sign-flip "
            "test of the differences of each case. This assumes that cases are "
            "independent, which slices or visits of one patient are not."
        )
    if table.classes:
        told.append(
            f"The score of a case is the mean over its classes ({listed([*table.classes])})."
        )
    if len(results.study.maps) > 2 or results.study.axes:
        what = "in each setting separately" if options.correct == "setting" else "in all settings"
        where = f" {what}" if results.study.axes else ""
        told.append(
            f"p is corrected for the number of comparisons{where}, separately for each metric."
        )
    metrics = len(results.directions())
    settings = len(table.settings) if options.correct == "setting" else 1
    if metrics * settings > 1:
        several = [count_of(metrics, "metric")] * (metrics > 1)
        several += [count_of(settings, "setting")] * (settings > 1)
        told.append(
            f"Nothing corrects for the number of tests on {listed(several)}: where no method "
            f"differs, each of these {metrics * settings} groups of tests has a chance of up to "
            "5 % of a false claim."
        )
    return told


def _is_cross_validation(table: ScoreTable) -> bool:
    """Whether no two runs of a method share a case."""
    return table.has_cases and all(
        (~np.isnan(scores)).sum(axis=1).max() == 1
        for setting in table.settings
        for scores in setting.scores.values()
    )
