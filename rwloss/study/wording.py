"""What the results say, in sentences that say no more than the numbers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator

from rwloss.study.results import MapSummary, Part, Results, Tie
from rwloss.study.statistics import Comparison, Interval
from rwloss.words import listed, percent

FEW = 6
"""Seeds below which a bootstrap interval is not called one of 95 %: that of 3 values is their
range, which holds the middle of a symmetric distribution 3 times in 4."""

NO_CASE = "no validation case has one"
"""Why it is not known whether a class was lost."""

NO_SCORES = "There are no test scores: the study has no test case with a foreground class."
"""Why nothing is compared where runs are done."""

_ROUNDING = 1e-7

PAIRS = 5
"""Pairs from which a rank correlation is told: of 4, no order at all has a p below 0.05."""


def mass(wrong_way_mass: float) -> str:
    """A wrong-way mass in percent. What single precision rounds away is none.

    >>> mass(0.04), mass(1e-49)
    ('4.0 %', '0 %')
    """
    return percent(wrong_way_mass if wrong_way_mass > _ROUNDING else 0.0)


def sentences(results: Results) -> list[str]:
    """The results in plain words, what matters most first."""
    return [
        *_progress(results),
        *_alarms(results.whole),
        *_reference(results),
        *_divergences(results.whole),
        *_losses(results.whole, "", results.reference),
        *_comparisons(results.whole, ""),
        *_without(results),
        *_pushes(results.whole),
        *_ties(results),
    ]


def _progress(results: Results) -> Iterator[str]:
    counts = Counter(row.status for row in results.runs)
    total = len(results.runs)
    left = [f"{counts[name]} {name}" for name in ("failed", "unfinished", "not begun")]
    rest = listed([text for text in left if not text.startswith("0 ")])
    yield f"{counts['done']} of {total} runs are done" + (f", {rest}." if rest else ".")
    if counts["failed"]:
        names = listed(
            [f"{row.map} (seed {row.seed})" for row in results.runs if row.status == "failed"]
        )
        yield f"Failed runs have no part in any mean or test: {names}."


def _alarms(part: Part) -> Iterator[str]:
    for each in part.maps:
        if each.breaks_promise:
            yield (
                f"ALARM: {each.map} calls itself stable, and up to "
                f"{percent(each.largest_wrong_way_mass or 0)} of its push went the wrong way in "
                "training: its map is not what it says."
            )


def _reference(results: Results) -> Iterator[str]:
    name = results.reference
    if name is None:
        yield (
            "No map of the study is Dice + CE or named as the reference, so a lost class may be "
            "the fault of a training that is too short, and no map is tested against another."
        )
        return
    summary = next(each for each in results.whole.maps if each.map == name)
    seen = summary.done + summary.failed
    if results.reference_failures:
        seeds = listed([str(seed) for seed in results.reference_failures])
        yield (
            f"The reference {name} itself failed or lost a class in "
            f"{len(results.reference_failures)} of {seen} runs (seed {seeds}): there the training "
            "may be at fault, not the map."
        )
    elif summary.lost_known:
        yield f"The reference {name} {kept(summary)}."
    elif seen:
        yield f"Whether the reference {name} lost a class is not known: {NO_CASE}."


def diverged(each: MapSummary) -> str:
    """In how many runs a map diverged, of all that came to an end.

    Of an unfinished one nobody knows.
    """
    first = min(each.diverged_steps)
    of = each.done + each.failed
    return f"diverged in {each.diverged} of {of} runs (first at step {first:,})"


def _divergences(part: Part) -> Iterator[str]:
    for each in part.maps:
        if each.diverged:
            yield f"{each.map} {diverged(each)}: its loss was not finite there."


def kept(each: MapSummary, where: str = "") -> str:
    """That a map lost no class, as far as that is known."""
    runs = "runs that are done" if each.failed else "runs"
    text = f"lost no class in {each.lost_known} of {each.done} {runs}{where}"
    return f"{text}{_aside(each)}"


def _aside(each: MapSummary) -> str:
    if not each.unknown:
        return ""
    cases = "no validation case has it" if len(each.unknown) == 1 else "no validation case has them"
    return f"; of {listed(each.unknown)} it is not known, for {cases}"


def _losses(part: Part, where: str, told: str | None = None) -> Iterator[str]:
    """told: the map of which it was said already whether it lost anything, unless it did."""
    for each in part.maps:
        if not each.done or (each.map == told and not each.lost):
            continue
        if not each.lost_known:
            yield f"Whether {each.map} lost a class is not known{where}: {NO_CASE}."
            continue
        if not each.lost:
            yield f"{each.map} {kept(each, where)}."
            continue
        details = []
        for tally in each.classes:
            if tally.collapsed:
                never = tally.known - tally.born
                how = [f"never born in {never}"] if never else []
                how += [f"died in {tally.died}"] if tally.died else []
                more = f" ({listed(how)})" if how else ""
                details.append(f"{tally.name} in {tally.collapsed} of {tally.known}{more}")
        runs = "runs that are done" if each.failed else "runs"
        lost = f"{each.map} lost a class in {each.lost} of {each.lost_known} {runs}{where}"
        yield f"{lost}: {listed(details)}{_aside(each)}."


def _comparisons(part: Part, where: str) -> Iterator[str]:
    if part.untested:
        yield from () if where else (NO_SCORES,)
        return
    for each in part.comparisons:
        yield _comparison(each, len(part.comparisons), where)


def _comparison(each: Comparison, comparisons: int, where: str) -> str:
    if each.difference is None:
        return f"{each.map} and {each.reference} have no seed in common{where}: not compared."
    count = len(each.seeds)
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    text = (
        f"Test Dice of {each.map} less that of {each.reference}{where}: "
        f"{_signed(each.difference)}, {seeds}"
    )
    tests = "1 comparison" if comparisons == 1 else f"{comparisons} comparisons"
    if not each.can_claim:
        return (
            f"{text}; nothing is claimed, for the smallest corrected p that {seeds} and {tests} "
            f"can give is {each.least_corrected_p:.2g}: {each.seeds_needed} seeds would be needed."
        )
    verdict = "a significant difference" if each.significant else "no significant difference"
    return f"{text}; {verdict} (corrected p = {each.corrected_p:.2g}, {tests})."


def _signed(difference: Interval) -> str:
    if difference.n == 1:
        return f"{difference.mean:+.3f}"
    bounds = f"{difference.low:+.3f} to {difference.high:+.3f}"
    if difference.n < FEW:
        return f"{difference.mean:+.3f} (bootstrap {bounds}, too narrow for so few seeds)"
    return f"{difference.mean:+.3f} (95 % interval {bounds})"


def _without(results: Results) -> Iterator[str]:
    if results.without_failures is not None:
        where = " on the seeds where the reference did not fail"
        others = [each for each in results.without_failures.maps if each.map != results.reference]
        yield from _losses(dataclasses.replace(results.without_failures, maps=tuple(others)), where)
        yield from _comparisons(results.without_failures, where)


def _pushes(part: Part) -> Iterator[str]:
    known: list[MapSummary] = [each for each in part.maps if each.wrong_way_mass is not None]
    if known:
        shown = [f"{mass(each.wrong_way_mass or 0)} with {each.map}" for each in known]
        yield f"Of the push in training, this part went the wrong way: {listed(shown)}."


def _ties(results: Results) -> Iterator[str]:
    known = [
        tie
        for tie in results.ties
        if tie.correlation.rho is not None and tie.correlation.n >= PAIRS
    ]
    if not known:
        return
    shown = [_tie(tie) for tie in known]
    yield (
        "Known before training against what came of it, rank correlation and its p, not corrected "
        f"for their number: {'; '.join(shown)}."
    )


INDICATORS = {
    "violating": "violating voxels",
    "pushed_up": "wrong classes pushed up",
    "wrong_way_mass": "wrong-way mass",
    "pull": "pull ratio",
}
"""What could be known before training, in words."""

OUTCOMES = {
    "runs that lost a class": "runs losing a class, share",
    "test Dice": "mean test Dice",
    "collapsed": "runs losing the class, share",
    "birth step": "mean birth step",
}
"""What came of it, in words: a share or a mean over the runs of a map."""


def _tie(tie: Tie) -> str:
    found = tie.correlation
    return (
        f"{INDICATORS[tie.indicator]} against {OUTCOMES[tie.outcome]}: {found.rho:+.2f} "
        f"(p = {found.p:.2g}, {found.n} {tie.over})"
    )
