"""The results of a study, finished or not, and the files that hold them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rwloss._version import __version__
from rwloss.errors import RWLossError
from rwloss.files.atomic import write_text
from rwloss.files.csv_text import csv_text
from rwloss.files.journal import read_regular
from rwloss.metrics import DEFAULT, find, known
from rwloss.study import axes
from rwloss.study.axes import AxisValues
from rwloss.study.differences import (
    NULL_STUDIES,
    NullCertificate,
    null_certificate,
)
from rwloss.study.indicators import Indicators
from rwloss.study.outcomes import RunOutcome, directions_of, known_of, read_outcome
from rwloss.study.over_cells import OverCells, over_cells
from rwloss.study.plan import Run, Study, reference_of, runs
from rwloss.study.stability_profile import StabilityProfile, profiles
from rwloss.study.statistics import means_by_unit
from rwloss.study.summaries import RunRow, Status, StudyPart, part_of
from rwloss.study.ties import Tie, ties_of
from rwloss.words import length_unit

THRESHOLDS = tuple(n / 50 for n in range(51))
"""Thresholds of test Dice in performance profiles."""


@dataclass(frozen=True)
class Results:
    """The results of a whole study, or of its runs with the same values of the axes.

    whole: over all seeds. without_failures: over the seeds on which the reference did not fail;
    None if it failed on none. profiles: if learning rates are an axis. values: those that all runs
    share, if the study has axes.
    """

    study: Study
    reference: str | None
    runs: tuple[RunRow, ...]
    whole: StudyPart
    without_failures: StudyPart | None
    indicators: Mapping[str, Indicators]
    ties: tuple[Tie, ...]
    profiles: tuple[StabilityProfile, ...] = ()
    values: AxisValues = field(default_factory=dict)

    @property
    def reference_failures(self) -> tuple[int | str, ...]:
        """Seeds on which the reference failed or lost a class."""
        return self._seeds_of_reference(failed=True)

    @property
    def reference_unknown(self) -> tuple[int | str, ...]:
        """Seeds on which it is done, but no validation case shows whether it lost a class."""
        return self._seeds_of_reference(failed=None)

    def _seeds_of_reference(self, *, failed: bool | None) -> tuple[int | str, ...]:
        rows = (row for row in self.runs if row.map == self.reference)
        return tuple(dict.fromkeys(row.repeat for row in rows if row.reference_failed is failed))

    @cached_property
    def repeats(self) -> tuple[int | str, ...]:
        """Seeds, with splits if the study has several."""
        return tuple(dict.fromkeys(row.repeat for row in self.runs))

    @cached_property
    def conditions(self) -> tuple[Results, ...]:
        """The results for each combination of values, like those of a study without these axes."""
        apart = axes.kept_apart(self.study.axes)
        return tuple(map(self._at, axes.combinations(apart))) if apart else (self,)

    def _at(self, values: AxisValues) -> Results:
        rows = tuple(row for row in self.runs if row.condition == values)
        without = self.without_failures
        failed = any(row.reference_failed for row in rows)
        return replace(
            self,
            study=self.study.at(values),
            runs=rows,
            whole=self.whole.at(values),
            without_failures=without.at(values) if without and failed else None,
            ties=tuple(tie for tie in self.ties if tie.values == values),
            profiles=(),
            values=values,
        )

    @cached_property
    def null(self) -> NullCertificate | None:
        """How often studies drawn from the reference's runs alone claim a difference.

        They are drawn separately at each combination of values. None if the study has no A/A test,
        or fewer than two of its runs are tested.
        """
        parts = [part._null(len(self.conditions)) for part in self.conditions]
        if not (found := [each for each in parts if each is not None]):
            return None
        return NullCertificate(
            sum(each.studies for each in found),
            min(each.seeds for each in found),
            found[0].comparisons,
            sum(each.claims for each in found),
        )

    def _null(self, parts: int) -> NullCertificate | None:
        """The certificate of one combination of values, with the study's number of comparisons."""
        if self.study.null is None:
            return None
        dice = {
            (row.map, axes.unit_of(self.study.axes, row.seed, row.values), row.repeat): value
            for row in self.runs
            if row.map in (self.reference, self.study.null) and row.status == "done"
            if (value := row.outcome.test_dice) is not None
        }
        of_units = [*means_by_unit(dice, lambda key: key[:2]).values()]
        return null_certificate(
            of_units,
            comparisons=max(1, len(self.study.maps) - 2),
            studies=-(-NULL_STUDIES // parts),
        )

    @cached_property
    def over_cells(self) -> tuple[OverCells, ...]:
        """Every map over all combinations of values of the axes, in test Dice.

        Uses the combinations in which every map has a tested run; empty if the study has only one.
        """
        if len(self.conditions) < 2:
            return ()
        scores = {
            name: {
                axes.named(part.values): known_of(
                    row.outcome.test_dice for row in part.done(name, part.values)
                )
                for part in self.conditions
            }
            for name in self.study.maps
        }
        return over_cells(scores, THRESHOLDS, self.reference)

    @cached_property
    def distance_unit(self) -> str:
        """The unit of the tested distances: "mm", or "voxels" if no spacing is known."""
        tests = [row.tested for row in self.runs if row.tested is not None]
        cases = (case for test in tests for case in test.get("cases", ()))
        return length_unit(case.get("spacing_mm") is not None for case in cases)

    def directions(self) -> Mapping[str, bool]:
        """The tested scores, and whether higher is better."""
        return self._directions

    @cached_property
    def _directions(self) -> Mapping[str, bool]:
        return directions_of(row.outcome for row in self.runs)

    def asked_for(self) -> list[str]:
        """The tested scores that are not measured by default."""
        return [name for name in self.directions() if name not in DEFAULT]

    def title(self, metric: str) -> str:
        """The title of a score in tables and charts."""
        return find(metric).title

    def unit_of(self, metric: str) -> str:
        """The unit of a score, or an empty text."""
        return self.distance_unit if find(metric).is_distance else ""

    def titled(self, metric: str) -> str:
        """The title of a score with its unit."""
        return ", ".join(filter(None, (self.title(metric), self.unit_of(metric))))

    def about_scores(self) -> str:
        """What a reader must know about the scores."""
        return (
            "Distances and errors: lower is better. If a class is missed or a false alarm, a "
            "distance is the diagonal of the image."
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the foreground classes in the runs."""
        return tuple(dict.fromkeys(each.name for row in self.runs for each in row.outcome.classes))

    def done(self, map_name: str, values: AxisValues | None = None) -> list[RunRow]:
        """The finished runs of a map, with these values of the axes or with any."""
        return [
            row
            for row in self.runs
            if row.map == map_name and row.status == "done" and values in (None, row.condition)
        ]


def collect(study: Study, folder: Path, found: Mapping[str, Indicators] | None = None) -> Results:
    """The results in a study folder. found: the known indicators of the maps.

    A run with an unreadable folder counts as failed; the others are kept.
    """
    found, reference = found or {}, reference_of(study)
    rows = [_row(run, study.steps) for run in runs(study, folder)]
    failed = {
        (*row.condition.values(), row.repeat): _has_failed(row)
        for row in rows
        if row.map == reference
    }
    rows = [
        replace(row, reference_failed=failed.get((*row.condition.values(), row.repeat), False))
        for row in rows
    ]
    whole = part_of(study, rows, reference, found)
    kept = [row for row in rows if not row.reference_failed]
    without = part_of(study, kept, reference, found) if len(kept) < len(rows) else None
    conditions = axes.combinations(axes.kept_apart(study.axes))
    once = {name: known for name, known in found.items() if name != study.null}
    ties = [tie for values in conditions for tie in ties_of(whole.at(values), once, values)]
    return Results(
        study, reference, tuple(rows), whole, without, found, tuple(ties), profiles(study, rows)
    )


def _has_failed(row: RunRow) -> bool | None:
    """Whether a run of the reference failed or lost a class; None if unknown."""
    if row.status == "done" and not row.outcome.knows_losses:
        return None
    return row.status == "failed" or (row.status == "done" and bool(row.outcome.lost))


def _row(run: Run, steps: int) -> RunRow:
    try:
        outcome = read_outcome(run.folder)
    except (RWLossError, OSError) as error:
        nothing = RunOutcome(step=0, finished=False, classes=())
        return _of_run(run, "failed", nothing, str(error), damaged=True)
    status: Status = "unfinished" if outcome.step else "not begun"
    reason = ""
    if outcome.finished and outcome.step >= steps:
        status = "done"
    elif run.failure.exists():
        status = "failed"
        reason = _reason(run)
    elif outcome.diverged_step is not None:  # trained alone, or the reason could not be written
        status, reason = "failed", f"the loss was not finite at step {outcome.diverged_step}"
    return _of_run(run, status, outcome, reason)


def _of_run(
    run: Run, status: Status, outcome: RunOutcome, reason: str, *, damaged: bool = False
) -> RunRow:
    return RunRow(
        run.map,
        run.seed,
        status,
        outcome,
        reason,
        damaged,
        run.values,
        learning_rate=run.settings.learning_rate,
        trained_seed=run.settings.seed,
    )


def _reason(run: Run) -> str:
    """Why the run failed, if the file can be read."""
    try:
        return read_regular(run.failure).decode(errors="replace").strip()
    except OSError as error:
        return f"its reason can't be read: {error.strerror}"


# --- Files

_ROW_COLUMNS = (
    *("map", "seed", "trained_seed", "learning_rate", "status", "reference_failed", "reason"),
)
_RUN_COLUMNS = ("step", "diverged_step", "wrong_way_mass", "largest_wrong_way_mass")
_CLASS_COLUMNS = ("end_dice", "best_dice", "test_dice", "birth_step", "died", "collapsed")
_ALWAYS = ("dice", "hd95_mm", "assd_mm", "nsd")
"""Metrics with a column in every runs.csv, tested or not."""

# study comes first; the others are derived from the runs.
_NOT_IN_JSON = {"study", "class_names", "pairs", "log", "tested", "condition", "repeat"}


def write(results: Results, folder: Path) -> None:
    """Write results.json and runs.csv in the study folder, each atomically."""
    fields = json.dumps(as_fields(results), indent=1, allow_nan=False)
    write_text(folder / "results.json", f"{fields}\n")
    write_text(folder / "runs.csv", as_csv(results))


def as_fields(results: Results) -> dict[str, Any]:
    """The results in types that JSON supports: None for unknown, "inf" as text."""
    study = results.study.model_dump(mode="json")
    return {"rwloss": __version__, "study": study, **_plain(results)}


def _plain(value: Any) -> Any:
    """A value with its dataclasses as dictionaries of their fields and properties."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        members = (each for kind in type(value).__mro__ for each in vars(kind).items())
        names += [name for name, of in members if isinstance(of, property)]
        return {name: _plain(getattr(value, name)) for name in names if name not in _NOT_IN_JSON}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def as_csv(results: Results) -> str:
    """One row per run and foreground class; one row for a run without known classes.

    Each tested metric has two columns: for the class, and for the mean over classes.
    """
    rows = []
    tested = {name for row in results.runs for name in row.outcome.metrics}
    of_test = {f"test_{name}": name for name in known({*_ALWAYS, *tested}) if name != "dice"}
    for row in results.runs:
        outcome = row.outcome
        of_run = {
            **{name: axes.text_of(value) for name, value in row.values.items()},
            **{name: getattr(row, name) for name in _ROW_COLUMNS},
            **{name: getattr(outcome, name) for name in _RUN_COLUMNS},
            "expression": results.study.maps[row.map],
            "end_dice_mean": outcome.end_dice,
            "test_dice_mean": outcome.test_dice,
            **{f"{name}_mean": outcome.tested(metric) for name, metric in of_test.items()},
        }
        if not outcome.classes:
            rows.append(of_run)
        for each in outcome.classes:
            of_class = {name: getattr(each, name) for name in _CLASS_COLUMNS}
            of_class |= {name: each.test.get(metric) for name, metric in of_test.items()}
            if each.residual is not None:
                of_class["residual_push_share"] = each.residual.push_share
                of_class["residual_gradient_norm"] = each.residual.gradient_norm
            rows.append(of_run | {"class": each.name} | of_class)
    columns = (
        "map", "expression", "seed", "learning_rate", "status", "reference_failed", "step",
        "diverged_step", "end_dice_mean", "test_dice_mean", "wrong_way_mass",
        "largest_wrong_way_mass", "class", *_CLASS_COLUMNS, *of_test,
        *(f"{name}_mean" for name in of_test), "residual_push_share", "residual_gradient_norm",
        "reason", "trained_seed", *results.study.axes,
    )  # fmt: skip
    return csv_text(tuple(dict.fromkeys(columns)), rows)
