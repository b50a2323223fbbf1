"""Rank correlations between what was known before training and outcomes, over maps and classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rwloss.study.axes import AxisValues
from rwloss.study.indicators import Indicators
from rwloss.study.statistics import Correlation, rank_correlation
from rwloss.study.summaries import ClassTally, MapSummary, StudyPart

MAPS_IN_CORRELATIONS = 6
"""Smallest number of maps for which a rank correlation is given; fewer show nothing."""


INDICATORS = {
    "violating": "violating voxels",
    "pushed_up": "wrong classes pushed up",
    "wrong_way_mass": "wrong-way mass",
    "pull": "pull ratio",
}
"""What could be known before training, in words."""

OUTCOMES = {
    "runs that lost a class": "share of runs losing a class",
    "test Dice": "mean test Dice",
    "collapsed": "share of runs losing the class",
    "birth step": "mean birth step",
}
"""Outcomes in words: a share of the runs of a map, or a mean over them."""


@dataclass(frozen=True)
class Pair:
    """One point of a correlation: a map, or a class of a map (class_name None for all classes)."""

    map: str
    class_name: str | None
    indicator: float
    outcome: float


@dataclass(frozen=True)
class Tie:
    """The rank correlation of an indicator and an outcome, over maps or over classes of maps.

    values: of the axes, which all points share.
    """

    indicator: str
    outcome: str
    over: Literal["maps", "classes of maps"]
    correlation: Correlation
    pairs: tuple[Pair, ...]
    values: AxisValues = field(default_factory=dict)


def tie_title(tie: Tie) -> str:
    """The variables of a correlation, in words."""
    return f"{INDICATORS[tie.indicator]} and {OUTCOMES[tie.outcome]}"


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


def ties_of(whole: StudyPart, found: Mapping[str, Indicators], values: AxisValues) -> Iterator[Tie]:
    """Each indicator against each outcome: for maps, and for pull also for classes of maps."""
    summaries = [each for each in whole.maps if each.done and each.map in found]
    for indicator in ("violating", "pushed_up", "wrong_way_mass"):
        for outcome, of_map in _OF_MAPS.items():
            pairs = [
                Pair(each.map, None, float(getattr(found[each.map], indicator)), value)
                for each in summaries
                if (value := of_map(each)) is not None
            ]
            yield _tie(indicator, outcome, "maps", pairs, values)
    for outcome, of_class in _OF_CLASSES.items():
        pairs = [
            Pair(each.map, tally.name, pull, of_class(tally))
            for each in summaries
            for tally in each.classes
            if (pull := found[each.map].pull.get(tally.name)) is not None and tally.known
        ]
        yield _tie("pull", outcome, "classes of maps", pairs, values)


def _tie(
    indicator: str,
    outcome: str,
    over: Literal["maps", "classes of maps"],
    pairs: Sequence[Pair],
    values: AxisValues,
) -> Tie:
    sides = [pair.indicator for pair in pairs], [pair.outcome for pair in pairs]
    found = Correlation(len(pairs))
    if len({pair.map for pair in pairs}) >= MAPS_IN_CORRELATIONS:
        found = rank_correlation(*sides)
    return Tie(indicator, outcome, over, found, tuple(pairs), values)
