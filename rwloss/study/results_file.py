"""The files that hold the results of a study: results.json and runs.csv."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwloss._version import __version__
from rwloss.files.atomic import write_text
from rwloss.study.results import Results

_CLASS_COLUMNS = ("end_dice", "best_dice", "test_dice", "birth_step", "died", "collapsed")

COLUMNS = (
    "map", "expression", "seed", "status", "reference_failed", "step", "diverged_step",
    "end_dice_mean", "test_dice_mean", "wrong_way_mass", "largest_wrong_way_mass", "class",
    *_CLASS_COLUMNS, "residual_push_share", "residual_gradient_norm", "reason",
)  # fmt: skip
"""Columns of runs.csv."""

_NOT_IN_JSON = {"study", "class_names", "pairs"}  # study stands first; the others follow from runs


def write(results: Results, folder: Path) -> None:
    """Write results.json and runs.csv in the study folder, each whole or not at all."""
    fields = json.dumps(as_fields(results), indent=1, allow_nan=False)
    write_text(folder / "results.json", f"{fields}\n")
    write_text(folder / "runs.csv", as_csv(results))


def as_fields(results: Results) -> dict[str, Any]:
    """The results as JSON can hold them: None for unknown, "inf" as text."""
    study = results.study.model_dump(mode="json")
    return {"rwloss": __version__, "study": study, **_plain(results)}


def _plain(value: Any) -> Any:
    """A value with its dataclasses as dictionaries of their fields and properties."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        names += [name for name, of in vars(type(value)).items() if isinstance(of, property)]
        return {name: _plain(getattr(value, name)) for name in names if name not in _NOT_IN_JSON}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def as_csv(results: Results) -> str:
    """One row per run and foreground class; one row for a run without known classes."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for row in results.runs:
        outcome = row.outcome
        of_run = {
            "map": row.map,
            "expression": results.study.maps[row.map],
            "seed": row.seed,
            "status": row.status,
            "reference_failed": None
            if row.seed in results.reference_unknown
            else row.seed in results.reference_failures,
            "step": outcome.step,
            "diverged_step": outcome.diverged_step,
            "end_dice_mean": outcome.end_dice,
            "test_dice_mean": outcome.test_dice,
            "wrong_way_mass": outcome.wrong_way_mass,
            "largest_wrong_way_mass": outcome.largest_wrong_way_mass,
            "reason": row.reason,
        }
        if not outcome.classes:
            table.writerow(of_run)
        for each in outcome.classes:
            of_class = {name: getattr(each, name) for name in _CLASS_COLUMNS}
            if each.residual is not None:
                of_class["residual_push_share"] = each.residual.push_share
                of_class["residual_gradient_norm"] = each.residual.gradient_norm
            table.writerow(of_run | {"class": each.name} | of_class)
    return text.getvalue()
