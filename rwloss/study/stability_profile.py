"""The range of learning rates over which a map keeps every class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rwloss.study import axes
from rwloss.study.axes import AxisValues
from rwloss.study.plan import Study
from rwloss.study.rates import Rate, rate
from rwloss.study.statistics import ALPHA, Interval
from rwloss.study.summaries import RunRow

KEPT_IN = 0.95
"""Share of runs that must keep every class."""

_RESAMPLES = 9999


@dataclass(frozen=True)
class StabilityProfile:
    """Share of runs that keep every class, by learning rate, for a map and values of other axes.

    A diverged run keeps none. Not counted: other failed runs, unfinished runs, and runs in which no
    validation case has a foreground class. Learning rates without a counted run are left out.
    decades: see `decades_kept`, with a percentile bootstrap over seeds, or splits if there are
    several, whose runs of all learning rates are drawn together; None for fewer than two learning
    rates.
    """

    map: str
    learning_rates: tuple[float, ...]
    kept: tuple[Rate, ...]
    decades: Interval | None
    values: AxisValues = field(default_factory=dict)

    @property
    def span(self) -> float:
        """Decades between the lowest and the highest learning rate."""
        rates = self.learning_rates
        return math.log10(rates[-1] / rates[0]) if rates else 0.0


def decades_kept(
    learning_rates: Sequence[float], shares: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Decades of learning rate over which at least KEPT_IN of the runs keep every class.

    shares (... rates), at ascending learning rates. Between two of them the share is interpolated
    linearly over the logarithm; nothing is counted outside their range. (...).

    >>> decades_kept([1e-3, 1e-2, 1e-1], np.array([1.0, 1.0, 0.5])).tolist()
    1.1
    """
    lengths = np.diff(np.log10(learning_rates))
    first, second = shares[..., :-1], shares[..., 1:]
    high, low = np.maximum(first, second), np.minimum(first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.clip((high - KEPT_IN) / (high - low), 0.0, 1.0)
    # Up to rounding, because 19 of 20 are 95 %.
    reaches = np.where(low >= KEPT_IN - 1e-9, 1.0, np.where(high < KEPT_IN, 0.0, part))
    return np.asarray((reaches * lengths).sum(axis=-1))


def profiles(study: Study, rows: Sequence[RunRow]) -> tuple[StabilityProfile, ...]:
    """The profile of each map with each combination of values of the other axes.

    Empty without an axis of two or more learning rates.
    """
    if len(study.axes.get("learning_rate", ())) < 2:
        return ()
    others = axes.combinations(axes.kept_apart(_others(study.axes)))
    return tuple(
        _profile(name, values, study, [row for row in rows if row.map == name and _of(row, values)])
        for values in others
        for name in study.maps
    )


def _others(values: AxisValues) -> AxisValues:
    return {name: value for name, value in values.items() if name != "learning_rate"}


def _of(row: RunRow, values: AxisValues) -> bool:
    return _others(row.condition) == values


def _keeps(row: RunRow) -> bool | None:
    """Whether a run kept every class; None if unknown."""
    if row.status == "failed" and row.outcome.diverged_step is not None:
        return False
    is_known = row.status == "done" and row.outcome.knows_losses
    return not row.outcome.lost if is_known else None


def _profile(
    name: str, values: AxisValues, study: Study, rows: Sequence[RunRow]
) -> StabilityProfile:
    units = list(dict.fromkeys(axes.unit_of(study.axes, row.seed, row.values) for row in rows))
    rates = sorted(study.axes["learning_rate"])
    kept = np.zeros((len(units), len(rates)))
    known = np.zeros_like(kept)
    for row in rows:
        if (keeps := _keeps(row)) is not None:
            unit = axes.unit_of(study.axes, row.seed, row.values)
            place = units.index(unit), rates.index(row.values["learning_rate"])
            kept[place] += keeps
            known[place] += 1
    counted = np.asarray(known.any(axis=0))
    rates = [rate for rate, counts in zip(rates, counted, strict=True) if counts]
    begun = known.any(axis=1)  # a seed to come says nothing, and is not counted
    kept, known = kept[begun][:, counted], known[begun][:, counted]
    pairs = zip(kept.sum(axis=0).tolist(), known.sum(axis=0).tolist(), strict=True)
    shares = (rate(int(count), int(of)) for count, of in pairs)
    return StabilityProfile(
        name,
        tuple(rates),
        tuple(share for share in shares if share is not None),
        _decades(rates, kept, known) if len(rates) > 1 else None,
        values,
    )


def _decades(
    learning_rates: Sequence[float], kept: NDArray[np.float64], known: NDArray[np.float64]
) -> Interval:
    """kept, known: numbers of runs, (units rates)."""
    n = len(kept)
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES)
    total, counts = draws @ kept, draws @ known
    whole = (counts > 0).all(axis=1)  # a resample without a run at some rate says nothing there
    drawn = decades_kept(learning_rates, total[whole] / counts[whole])
    mean = decades_kept(learning_rates, kept.sum(axis=0) / known.sum(axis=0))
    ends = np.quantile(drawn, [ALPHA / 2, 1 - ALPHA / 2])
    found, low, high = (round(float(value), 12) for value in (mean, *ends))
    return Interval(found, low, high, n)
