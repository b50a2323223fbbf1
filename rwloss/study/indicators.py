"""What could be known before training: static diagnostics of the maps on the training labels."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rwloss import Regions, maps, stability
from rwloss.errors import RWLossError
from rwloss.regions import IGNORED
from rwloss.study.plan import Study, runs

MAX_CASES = 32
"""Most training cases that are looked at; they are spaced evenly among all."""


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
        """The smallest pull ratio of a class."""
        return min((value for value in self.pull.values() if value is not None), default=None)


def indicators_of(study: Study, folder: Path) -> tuple[dict[str, Indicators], str]:
    """The indicators of a study in its folder, and why some are missing, or an empty text.

    Those in results.json where it has the same maps on the same data. Otherwise they are computed
    from the data; where the data are gone, those in results.json of unchanged maps are kept.
    """
    kept = _kept(study, folder)
    if kept.keys() == study.maps.keys():
        return kept, ""
    try:
        return indicators(study, folder), ""
    except RWLossError as error:
        return kept, str(error)


def _kept(study: Study, folder: Path) -> dict[str, Indicators]:
    """Those of unchanged maps; none where results.json is damaged or of other data."""
    now = study.model_dump(mode="json")
    names = [field.name for field in dataclasses.fields(Indicators)]
    kept = {}
    try:
        content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        before = content["study"]
        if any(before[name] != now[name] for name in ("data", "training")):
            return {}
        for name, each in content["indicators"].items():
            if name in study.maps and before["maps"][name] == study.maps[name]:
                # JSON holds an infinite ratio as text.
                pull = {k: None if v is None else float(v) for k, v in each["pull"].items()}
                kept[name] = Indicators(**{field: each[field] for field in names} | {"pull": pull})
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return kept


def indicators(study: Study, folder: Path) -> dict[str, Indicators]:
    """The indicators of each map, on up to MAX_CASES training cases as the runs cut them.

    folder: of the study; nothing is written. Schedules are at their first epoch.
    Raises RWLossError where a run would, and for a map that can't be made.
    """
    from rwloss.training import patch_sources, prepare

    prepared = prepare(next(runs(study, folder)).settings)
    settings, task = prepared.settings, prepared.task
    labels_of = [volume.labels[volume.labels >= 0] for volume in prepared.train]
    counts = np.sum([np.bincount(each, minlength=task.num_classes) for each in labels_of], axis=0)
    expressions = {
        name: maps.parse(text).resolved(counts.tolist()) for name, text in study.maps.items()
    }
    reports: dict[str, stability.StabilityReport] = {}
    places = np.linspace(0, len(prepared.train) - 1, min(MAX_CASES, len(prepared.train)))
    for place in places.astype(int):
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
