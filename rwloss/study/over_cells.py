"""Aggregates of a map over many cells: interquartile mean, performance profile, P(better).

Source: Agarwal et al., NeurIPS 2021 (arXiv 2108.13264), with the stratified bootstrap of rliable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rwloss.errors import RWLossError
from rwloss.study.differences import (
    RESAMPLES,
    CellScores,
    Floats,
    interval_of,
    probability_of_improvement,
    times_drawn,
)
from rwloss.study.statistics import Interval


@dataclass(frozen=True)
class ProfilePoint:
    """Share of runs with a score above a threshold, mean over cells, with its interval."""

    threshold: float
    share: Interval


@dataclass(frozen=True)
class OverCells:
    """One map over cells. runs: number of runs with a score, over all cells.

    improvement: see `probability_of_improvement`, against the reference; None for the reference.
    """

    map: str
    runs: int
    interquartile_mean: Interval
    improvement: Interval | None
    profile: tuple[ProfilePoint, ...]


def interquartile_mean(scores: CellScores, *, seed: int = 0) -> Interval:
    """Mean of the middle half of all runs of all cells, with a bootstrap within each cell.

    Less noisy than the median, and unaffected by a few collapsed runs. Source: as
    `probability_of_improvement`. Raises RWLossError without a run.

    >>> interquartile_mean({"a": [0.0, 0.5], "b": [0.7, 9.0]}).mean
    0.6
    """
    from scipy.stats import trim_mean

    cells, rng = _with_runs(scores), np.random.default_rng(seed)
    drawn = np.concatenate([rng.choice(each, (RESAMPLES, each.size)) for each in cells], axis=1)
    whole = np.concatenate(cells)
    return interval_of(float(trim_mean(whole, 0.25)), trim_mean(drawn, 0.25, axis=1), whole.size)


def performance_profile(
    scores: CellScores, thresholds: Sequence[float], *, seed: int = 0
) -> tuple[ProfilePoint, ...]:
    """Share of runs with a score above each threshold, over all cells, each with a pointwise band.

    Source: as `probability_of_improvement`. Raises RWLossError without a run.

    >>> [point.share.mean for point in performance_profile({"": [0.2, 0.6]}, [0.1, 0.5, 0.9])]
    [1.0, 0.5, 0.0]
    """
    cells = _with_runs(scores)
    above = [np.greater.outer(each, thresholds).astype(np.float64) for each in cells]  # (n t)
    total = sum(each.size for each in cells)
    shares = sum(each.sum(axis=0) for each in above) / total
    drawn = sum(
        times_drawn(len(each), seed, place).astype(np.float64) @ each
        for place, each in enumerate(above)
    )
    return tuple(
        ProfilePoint(limit, interval_of(float(share), of_limit / total, total))
        for limit, share, of_limit in zip(thresholds, shares, np.transpose(drawn), strict=True)
    )


def over_cells(
    scores: Mapping[str, CellScores], thresholds: Sequence[float], reference: str | None
) -> tuple[OverCells, ...]:
    """Every map over the cells in which all maps have a run; empty if there is no such cell.

    scores: of each map. thresholds: of the performance profiles.
    """
    shared = [
        cell
        for cell in next(iter(scores.values()))
        if all(of_map.get(cell) for of_map in scores.values())
    ]
    if not shared:
        return ()
    kept = {name: {cell: of_map[cell] for cell in shared} for name, of_map in scores.items()}
    return tuple(
        OverCells(
            name,
            sum(map(len, own.values())),
            interquartile_mean(own),
            None
            if reference in (None, name)
            else probability_of_improvement(own, kept[str(reference)]),
            performance_profile(own, thresholds),
        )
        for name, own in kept.items()
    )


def _with_runs(scores: CellScores) -> list[Floats]:
    cells = [np.asarray(values, dtype=np.float64) for values in scores.values() if len(values)]
    if not cells:
        raise RWLossError("expected one run or more")
    return cells
