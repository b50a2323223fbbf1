"""What could have been known before training: static diagnostics on the labels trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwloss import Regions, maps, stability
from rwloss.regions import IGNORED
from rwloss.study.plan import Study, runs

MAX_CASES = 32
"""Training cases that are looked at, at most: evenly spaced among all."""


@dataclass(frozen=True)
class Indicators:
    """Diagnostics of one map at uniform probabilities; see `rwloss.stability.StabilityReport`.

    promises_stable: every term says that it obeys the principle, whatever the labels. pull: ratio
    of each foreground class; None for a map that depends on the prediction, and where undefined.
    """

    promises_stable: bool
    violating: float
    pushed_up: float
    wrong_way_mass: float
    pull: Mapping[str, float | None]
    verdict: str

    @property
    def least_pull(self) -> float | None:
        """Of all classes."""
        return min((value for value in self.pull.values() if value is not None), default=None)


def indicators(study: Study, folder: Path) -> dict[str, Indicators]:
    """The indicators of each map, on up to MAX_CASES training cases as the runs cut them.

    folder: of the study; nothing is written. Schedules stand at their first epoch.
    Raises RWLossError for what a training would, and for a map that can't be made.
    """
    from rwloss.training import patch_sources, prepare

    prepared = prepare(next(runs(study, folder)).settings)
    settings, task = prepared.settings, prepared.task
    counts = np.zeros(task.num_classes, dtype=np.int64)
    for volume in prepared.train:
        counts += np.bincount(volume.labels[volume.labels >= 0], minlength=task.num_classes)
    expressions = {}
    for name, text in study.maps.items():
        expression = maps.parse(text)
        if expression.needs_class_counts:
            expression = expression.resolved([int(count) for count in counts])
        expressions[name] = expression
    reports: dict[str, stability.StabilityReport] = {}
    places = np.linspace(0, len(prepared.train) - 1, min(MAX_CASES, len(prepared.train)))
    for place in sorted({int(place) for place in places}):
        sources = patch_sources(
            [prepared.train[place]], dims=settings.dims, slice_axis=settings.slice_axis
        )
        labels = np.stack([source.labels.numpy() for source in sources])
        regions = Regions(labels, task.num_classes, sources[0].spacing_mm, IGNORED)
        for name, expression in expressions.items():
            report = stability.check_expression(expression, regions)
            reports[name] = reports[name] + report if name in reports else report
    return {
        name: _indicators(expressions[name], report, task.class_names)
        for name, report in reports.items()
    }


def promises_stable(expression: maps.Expression) -> bool:
    """Whether every term is stable by its own tags, and none is subtracted.

    >>> [promises_stable(maps.parse(text)) for text in ("rectified", "rectified + dice")]
    [True, False]
    """
    leaves = expression.leaves(0, 2)
    return all(leaf.weight >= 0 and leaf.term.is_stable for leaf in leaves)


def _indicators(
    expression: maps.Expression, report: stability.StabilityReport, names: tuple[str, ...]
) -> Indicators:
    pull = [float(value) for value in report.pull]
    known = expression.is_static
    return Indicators(
        promises_stable=promises_stable(expression),
        violating=report.violating,
        pushed_up=report.pushed_up,
        wrong_way_mass=report.wrong_way_mass,
        pull={
            names[k]: pull[k] if known and not np.isnan(pull[k]) else None
            for k in range(1, len(names))
        },
        verdict=stability.verdict(report, names, is_static=known),
    )
