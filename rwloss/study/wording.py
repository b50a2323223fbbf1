"""The results of a study in sentences that claim no more than the numbers show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from rwloss.study import axes, wording_axes
from rwloss.study.figures import MINUS, bounds, decimal, left_open, mass, significant
from rwloss.study.indicators import INFLUENCE
from rwloss.study.results import Results
from rwloss.study.statistics import ALPHA, Interval, smallest_p
from rwloss.study.summaries import MapSummary, StudyPart
from rwloss.study.ties import tie_title
from rwloss.words import count_of, few, listed, percent

FEW = 6
"""Seeds below which a bootstrap interval is not called a 95 % interval. That of 3 values is their
range, which covers the middle of a symmetric distribution 3 times in 4."""

MANY = 4
"""Largest number of maps that a sentence names: those with the highest values."""

NO_CASE = "no validation case has a foreground class"
"""Why it is not known whether a class was lost."""

NO_SCORES = "There are no test scores: the study has no test case with a foreground class."
"""Why nothing is compared although runs are finished."""


def question(results: Results, data_name: str) -> str:
    """The question that the study answers."""
    if len(results.study.maps) == 1:
        return f"Does the map {next(iter(results.study.maps))} train on {data_name}?"
    return f"Which of {len(results.study.maps)} maps train on {data_name}, and which lose a class?"


def lead(results: Results) -> list[str]:
    """The answer in a few sentences: divergence, lost classes, claims, and a caution."""
    totals = results.whole.totals
    told = [f"{each.map} {_diverged(each)}" for each in totals if each.diverged]
    divergences = [f"{few(told)}."] if told else []
    return [
        *divergences,
        *_losses_in_short(results, totals),
        *_claims_of_losses(results),
        *_claims(results),
        *_caution(results),
    ]


def sentences(results: Results) -> list[str]:
    """All results in plain words, the most important first. The tables have the single cells."""
    several = len(results.conditions) > 1
    told = [
        *_progress(results),
        *_alarms(results.whole.totals),
        *_reference(results),
        *(wording_axes.sentences(results) if several else ()),
        *_of_maps(results, several=several),
        *_null(results),
        *(() if several else _of_one_cell(results)),
    ]
    if looked_at := {
        name: value for name, value in results.runs[0].values.items() if name in INFLUENCE
    }:
        told.append(
            f"What was known before training is of the cases with {axes.named(looked_at)} alone."
        )
    return told


def _alarms(totals: Iterable[MapSummary]) -> Iterator[str]:
    for each in totals:
        if each.breaks_promise:
            most = percent(each.largest_wrong_way_mass or 0)
            yield (
                f"ALARM: {each.map} is declared stable, but up to {most} of its push went the "
                "wrong way in training."
            )


def _of_maps(results: Results, *, several: bool) -> Iterator[str]:
    """Divergence, lost classes and comparisons."""
    totals = results.whole.totals
    for each in totals:
        if each.diverged:
            yield f"{each.map} {_diverged(each)}: its loss was not finite."
    if not several:
        yield from _rates(results.whole)
    # Whether the reference kept its classes has been said.
    told = (each for each in totals if each.map != results.reference or each.lost)
    yield from _losses(told, briefly=several)
    if not several:
        yield from _comparisons(results, results.whole)


def _of_one_cell(results: Results) -> Iterator[str]:
    """Sentences for a study with one cell; with several, tables and charts show the details."""
    if (part := results.without_failures) is not None:
        where = " on the seeds where the reference did not fail"
        yield from _losses((each for each in part.maps if each.map != results.reference), where)
        yield from _comparisons(results, part, where)
    masses = [
        (each.wrong_way_mass, each.map)
        for each in results.whole.maps
        if each.wrong_way_mass is not None
    ]
    if len(masses) > MANY:
        masses.sort(key=lambda pair: -pair[0])
    shown = [f"{mass(found)} with {name}" for found, name in masses]
    if shown:
        yield f"Share of the push in training that went the wrong way: {few(shown, MANY)}."
    yield from _ties(results)


# --- In short


def _losses_in_short(results: Results, totals: Sequence[MapSummary]) -> Iterator[str]:
    done = [each for each in totals if each.done]
    if not done:
        other = "other " if any(each.diverged for each in totals) else ""
        yield f"No run is done yet, so there is no {other}answer."
        return
    known = [each for each in done if each.lost_known]
    unknown = [each.map for each in done if not each.lost_known]
    all_done = all(row.status == "done" for row in results.runs)
    losing = sorted(
        (each for each in known if each.lost), key=lambda each: -each.lost / each.lost_known
    )
    keeping = [each.map for each in known if not each.lost and not each.diverged]
    if losing:
        first, *more = losing
        runs = "runs" if all_done else "runs that are done"
        told = [f"{first.map} lost a class in {first.lost} of {first.lost_known} {runs}"]
        told += [f"{each.map} in {each.lost} of {each.lost_known}" for each in more]
        yield f"{few(told)}."
    if keeping:
        any_run = "any run" if all_done else "any run that is done"
        yield f"{few(keeping)} lost no class in {any_run}."
    for each in known:
        if each.diverged and not each.lost:
            runs = "the run that is" if each.done == 1 else f"the {each.done} runs that are"
            yield f"{each.map} lost no class in {runs} done."
    if unknown:
        maps = f" with {listed(unknown)}" if known else ""
        yield f"It is not known whether a class was lost{maps}: {NO_CASE}."
    if classes := list(dict.fromkeys(name for each in known for name in each.unknown)):
        it = "it" if len(classes) == 1 else "them"
        yield f"It is not known for {listed(classes)}: no validation case has {it}."


def _claims_of_losses(results: Results) -> Iterator[str]:
    claimed = [each for each in results.whole.losses if each.significant]
    if not claimed:
        return
    told = [
        f"{axes.cell_name(each.map, each.values)} lost a class {'more' if more else 'less'} often "
        f"(alone in {each.more}, the reference alone in {each.fewer} of {each.pairs} pairs, "
        f"corrected p = {significant(each.corrected_p)})"
        for each in claimed
        for more in [each.more > each.fewer]
    ]
    yield f"Significant against {results.reference}: {few(told)}."


def _claims(results: Results) -> Iterator[str]:
    if results.whole.untested:
        yield NO_SCORES
        return
    compared = [each for each in results.whole.comparisons if each.difference is not None]
    # The A/A test is corrected separately, and does not limit what the others can show.
    asked = [each for each in compared if each.map != results.study.null] or compared
    if not compared:
        return
    reference = compared[0].reference
    found = [(each, each.difference.mean) for each in compared if each.difference]
    claimed = [pair for pair in found if pair[0].significant]
    if len(claimed) > 2:
        above = sum(mean > 0 for _, mean in claimed)
        yield (
            f"{len(claimed)} of {len(found)} differences in test Dice from {reference} are "
            f"significant: {above} above it, {len(claimed) - above} below."
        )
    elif claimed:
        told = [
            f"{axes.cell_name(each.map, each.values)} is {abs(mean):.3f} "
            f"{'above' if mean > 0 else 'below'} {reference} "
            f"(corrected p = {significant(each.corrected_p)})"
            for each, mean in claimed
        ]
        yield f"Significant differences in test Dice: {listed(told)}."
    elif any(each.can_claim for each in asked):
        yield f"No difference in test Dice from {reference} is significant."
    else:
        yield (
            f"No difference in test Dice from {reference} is claimed: so few "
            f"{axes.unit(results.study.axes)}s cannot show one, however large it is. "
            f"{_needed(results, asked[0].seeds_needed)}"
        )


def _caution(results: Results) -> Iterator[str]:
    """Reasons other than the map for a lost class."""
    name, failures = results.reference, [*map(str, results.reference_failures)]
    if name is None:
        yield (
            "No map of the study is Dice + CE or named as the reference. So the training may be "
            "the reason for a lost class, not the map, and no map is tested against another."
        )
    elif failures:
        ended = [
            row for row in results.runs if row.map == name and row.status in {"done", "failed"}
        ]
        yield (
            f"The reference {name} itself failed or lost a class in "
            f"{sum(row.reference_failed is True for row in ended)} of "
            f"{count_of(len(ended), 'run')} (seed {few(failures)}): there the training "
            "may be the reason for a lost class, not the map."
        )


def _null(results: Results) -> Iterator[str]:
    """The A/A test: the reference against itself."""
    found = results.null
    if found is None:
        return
    unit = count_of(found.seeds, axes.unit(results.study.axes))
    share = percent(found.rate.mean)
    ends = f"{percent(found.rate.low)} to {percent(found.rate.high)}"
    if smallest_p(found.seeds) * found.comparisons > ALPHA:
        verdict = f"this shows nothing, because {unit} can claim nothing"
    elif found.holds:
        verdict = f"{share} (95 % interval {ends}), which agrees with the 5 % that may"
    else:
        verdict = f"{share} (95 % interval {ends}), MORE than the 5 % that may"
    yield (
        f"A/A test: {results.study.null} is {results.reference} with other seeds. Of "
        f"{found.studies} studies drawn from these runs, each of "
        f"{count_of(found.comparisons + 1, 'name')} and {unit}, {found.claims} claimed a "
        f"difference: {verdict}."
    )


# --- In full


def _progress(results: Results) -> Iterator[str]:
    counts = Counter(row.status for row in results.runs)
    left = [f"{counts[name]} {name}" for name in ("failed", "unfinished", "not begun")]
    rest = listed([text for text in left if not text.startswith("0 ")])
    done = f"{counts['done']} of {len(results.runs)} runs are done"
    yield f"{done}, {rest}." if rest else f"{done}."
    if counts["failed"]:
        names = [f"{row.name} (seed {row.seed})" for row in results.runs if row.status == "failed"]
        yield f"Failed runs are left out of all means and tests: {few(names)}."


def _reference(results: Results) -> Iterator[str]:
    yield from _caution(results)
    if not results.reference_failures:
        for each in results.whole.totals:
            if each.map != results.reference:
                continue
            if each.lost_known:
                yield f"The reference {each.map} {_kept(each)}."
            elif each.done or each.failed:
                yield f"It is not known whether the reference {each.map} lost a class: {NO_CASE}."


def _diverged(each: MapSummary) -> str:
    """How many of a map's ended runs diverged; unfinished ones are unknown."""
    runs = count_of(each.done + each.failed, "run")
    return f"diverged in {each.diverged} of {runs} (first at step {min(each.diverged_steps):,})"


def _losses(
    summaries: Iterable[MapSummary], where: str = "", *, briefly: bool = False
) -> Iterator[str]:
    for each in summaries:
        if not each.done:
            continue
        if not each.lost_known:
            yield f"It is not known whether {each.map} lost a class{where}: {NO_CASE}."
        elif not each.lost:
            yield f"{each.map} {_kept(each, where)}."
        else:
            lost = f"lost a class in {each.lost} of {_runs(each.lost_known, each)}{where}"
            which = []
            for tally in each.classes:
                if tally.collapsed:
                    never = tally.known - tally.born
                    how = [f"never born in {never}"] * bool(never)
                    how += [f"died in {tally.died}"] * bool(tally.died)
                    more = f" ({listed(how)})" if how and not briefly else ""
                    which.append(f"{tally.name} in {tally.collapsed} of {tally.known}{more}")
            yield f"{each.map} {lost}: {few(which)}{_aside(each)}."


def _rates(whole: StudyPart) -> Iterator[str]:
    found = [(each.map, rate) for each in whole.maps if (rate := each.lost_rate) is not None]
    if len(found) > MANY:
        found.sort(key=lambda pair: -pair[1].share)
    shown = [f"{name} {rate.count} of {rate.of} ({left_open(rate)})" for name, rate in found]
    if shown:
        told = "Runs that lost a class, and the share of runs compatible with that"
        yield f"{told}: {few(shown, MANY)}."


def _kept(each: MapSummary, where: str = "") -> str:
    """States that a map lost no class, as far as known."""
    runs = _runs(each.done, each)
    return f"lost no class in {each.lost_known} of {runs}{where}{_aside(each)}"


def _runs(count: int, each: MapSummary) -> str:
    return count_of(count, "run") + (
        (" that is done" if count == 1 else " that are done") if each.failed else ""
    )


def _aside(each: MapSummary) -> str:
    if not each.unknown:
        return ""
    it = "it" if len(each.unknown) == 1 else "them"
    return f"; not known for {listed(each.unknown)}, because no validation case has {it}"


def _needed(results: Results, seeds_needed: int | None) -> str:
    unit = axes.unit(results.study.axes)
    if seeds_needed is None:
        return f"No number of {unit}s is enough for so many comparisons: name fewer maps or values."
    return f"{count_of(seeds_needed, unit)} are needed."


def _comparisons(results: Results, part: StudyPart, where: str = "") -> Iterator[str]:
    if part.untested:
        yield from () if where else (NO_SCORES,)
        return
    unit = axes.unit(results.study.axes)
    for each in part.comparisons:
        seeds = count_of(len(each.seeds), unit)
        tests = count_of(each.comparisons, "comparison")
        if each.difference is None:
            yield f"{each.map} and {each.reference} have no {unit} in common{where}: not compared."
            continue
        difference = _signed(each.difference, unit)
        text = f"Test Dice, {each.map} {MINUS} {each.reference}{where}: {difference}, {seeds}"
        if each.can_claim:
            kind = "a significant difference" if each.significant else "no significant difference"
            p = significant(each.corrected_p)
            yield f"{text}: {kind} (corrected p = {p}, {tests})."
            continue
        yield (
            f"{text}. Nothing is claimed: the smallest corrected p that {seeds} and {tests} can "
            f"give is {significant(each.least_corrected_p)}. {_needed(results, each.seeds_needed)}"
        )


def _signed(difference: Interval, unit: str) -> str:
    mean = decimal(difference.mean, signed=True)
    ends = bounds(difference, signed=True)
    if difference.n == 1:
        return mean
    if difference.n < FEW:
        return f"{mean} (bootstrap interval {ends}, too narrow with so few {unit}s)"
    return f"{mean} (95 % interval {ends})"


def _ties(results: Results) -> Iterator[str]:
    shown = [
        f"{tie_title(tie)}: {decimal(found.rho, 2, signed=True)} (p = {significant(found.p)}, "
        f"{found.n} {tie.over})"
        for tie in results.ties
        if (found := tie.correlation).rho is not None
    ]
    if shown:
        yield (
            "Rank correlations of indicators known before training with outcomes, a description of "
            f"these maps alone (p is not corrected for their number): {'; '.join(shown)}."
        )
