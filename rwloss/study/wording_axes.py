"""The results of a study with axes, in short sentences.

Each sentence gives the range over all values and its ends; the tables have the single cells.
"""

from __future__ import annotations

from collections.abc import Iterator

from rwloss.study import axes
from rwloss.study.figures import MINUS, decimal, mass
from rwloss.study.plan import Study
from rwloss.study.results import Results
from rwloss.study.stability_profile import KEPT_IN
from rwloss.words import count_of, few, listed


def over_axes(study: Study) -> str:
    """The axes and the number of their values; empty without axes.

    >>> over_axes(Study(data="D", maps={"rw": "rectified"}, axes={"learning_rate": [0.1, 1.0]}))
    '2 values of learning_rate'
    """
    shown = [f"{count_of(len(values), 'value')} of {name}" for name, values in study.axes.items()]
    return listed(shown)


def sentences(results: Results) -> Iterator[str]:
    """Stability, scores and comparisons over all values."""
    yield from _stability(results)
    yield from _interquartile_means(results)
    yield from _differences(results)
    yield from _wrong_way(results)


def _stability(results: Results) -> Iterator[str]:
    """The widest and the narrowest range of learning rates over which a map keeps every class."""
    found = [(each, wide.mean) for each in results.profiles if (wide := each.decades) is not None]
    if not found:
        return
    kept = f"At least {100 * KEPT_IN:.0f} % of runs keep every class over"
    most, least = (end(wide for _, wide in found) for end in (max, min))
    best = few([axes.cell_name(each.map, each.values) for each, wide in found if wide == most])
    worst = few([axes.cell_name(each.map, each.values) for each, wide in found if wide == least])
    text = f"{kept} {most:.2f} of {found[0][0].span:.2f} decades of learning rate with {best}"
    yield f"{text}." if most == least else f"{text}, and over the least, {least:.2f}, with {worst}."


def _interquartile_means(results: Results) -> Iterator[str]:
    found = sorted(
        ((each.interquartile_mean.mean, each.map) for each in results.over_cells), reverse=True
    )
    if not found:
        return
    (most, first), (least, last) = found[0], found[-1]
    text = f"Over all values of the axes, {first} has the highest interquartile mean of test Dice"
    if len(found) > 1:
        yield f"{text} ({decimal(most)}), {last} the lowest ({decimal(least)})."


def _differences(results: Results) -> Iterator[str]:
    """The range of differences of each map, and how many of them are significant."""
    names = [*axes.kept_apart(results.study.axes)]
    for name in results.study.maps:
        found = [
            (each, each.difference.mean)
            for each in results.whole.comparisons
            if each.map == name and each.difference is not None
        ]
        if not found:
            continue
        low, high = (decimal(end(mean for _, mean in found), signed=True) for end in (min, max))
        where = f"{count_of(len(found), 'value')} of {names[0]}"
        if len(names) > 1:
            where = f"{count_of(len(found), 'combination')} of values"
        claimed = sum(each.significant for each, _ in found)
        verdict = f"{claimed or 'none'} {'is' if claimed < 2 else 'are'} significant"
        yield (
            f"Test Dice, {name} {MINUS} {found[0][0].reference}: {low} to {high} over {where}; "
            f"{verdict}."
        )


def _wrong_way(results: Results) -> Iterator[str]:
    found = sorted(
        (
            (each.wrong_way_mass, each.map)
            for each in results.whole.totals
            if each.wrong_way_mass is not None
        ),
        reverse=True,
    )
    if found:
        (most, first), (least, last) = found[0], found[-1]
        rest = f", and the least, {mass(least)}, with {last}" if len(found) > 1 else ""
        yield f"Up to {mass(most)} of the push in training went the wrong way with {first}{rest}."
