"""Compare two folders of label maps, one score per pair of files, and write the scores."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import data
from rwloss._version import __version__
from rwloss.data.cases import DatasetPart
from rwloss.data.formats import MAX_VOXELS, check_max_voxels
from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors, whole_file
from rwloss.files.csv_text import csv_text
from rwloss.metrics.registry import require, select
from rwloss.precompute.cases import LabelCount
from rwloss.regions import IGNORED
from rwloss.training.scores import (
    TOLERANCE_MM,
    CaseScore,
    Penalty,
    Scores,
    check_tolerance,
    score,
)
from rwloss.training.volumes import corners_mm
from rwloss.words import class_names, some
from rwloss.work.tasks import run_tasks


@dataclass(frozen=True)
class FailedPair:
    """A pair that could not be measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """The result of comparing predictions with labels. Tuples are sorted by case name.

    failed: pairs that could not be measured. unpredicted: cases with labels, without prediction;
    unlabelled: predictions without labels. None of these counts in `scores`, and neither do the
    regions of several labels that a dataset.json names. predictions, labels: the folders. scores:
    of all pairs that could be measured.
    """

    predictions: str
    labels: str
    scores: Scores
    ignore_label: int | None
    failed: tuple[FailedPair, ...] = ()
    unpredicted: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    tolerance_mm: float = TOLERANCE_MM

    @property
    def num_cases(self) -> int:
        """Number of cases with labels."""
        return len(self.scores.cases) + len(self.failed) + len(self.unpredicted)

    @property
    def is_complete(self) -> bool:
        """Whether every case with labels was measured."""
        return not self.failed and not self.unpredicted

    @property
    def in_voxels(self) -> tuple[str, ...]:
        """Cases without a spacing, whose distances are in voxels."""
        return tuple(case.name for case in self.scores.cases if case.spacing_mm is None)


def evaluate(
    predictions: str | Path,
    labels: str | Path,
    *,
    metrics: Iterable[str] = ("default",),
    part: DatasetPart | None = None,
    cases: Sequence[str] | None = None,
    num_classes: int | None = None,
    spacing_mm: Sequence[float] | None = None,
    ignore_label: int | None = None,
    tolerance_mm: float = TOLERANCE_MM,
    jobs: int | None = None,
    max_voxels: int = MAX_VOXELS,
    progress: Callable[[CaseScore | FailedPair, int], None] | None = None,
    counting: Callable[[int], None] | None = None,
) -> Evaluation:
    """Metrics per class and case.

    predictions: a folder (or glob, or file) of label maps. labels: the truth, given in the same
    way, or an nnU-Net raw folder, of which `part` names the labels; by default labelsTs if it
    exists. cases: only these, by name, from both parts of an nnU-Net raw folder; those of a run's
    split are `RunFolder(run).cases("test")`. By default all that have labels.
    num_classes: by default that of the dataset.json of labels or predictions, else the largest
    label of all pairs + 1. Impossible labels of a prediction (below 0, above 65535, or 255 alone)
    do not count; such a pair fails.
    spacing_mm: for formats without one. A pair has the spacing of its labels, or of its prediction
    if the labels have none.
    ignore_label: label of voxels in the truth to ignore; by default that of dataset.json.
    metrics, tolerance_mm: see `scores.score`.
    jobs: worker processes, by default one per core; 0 uses only this process.
    progress: called after each pair with its result and the number of pairs. counting: called
    after each file with their number, if all labels have to be read to count the classes.

    A pair that can't be measured does not stop the others. The scores do not depend on the number
    of jobs. Raises RWLossError for wrong use, and if no case is in both.

    >>> sample = data.sample_dir("hippocampus")
    >>> [_, posterior] = evaluate(sample / "labelsTs", sample, jobs=0).scores.summary()
    >>> posterior.name, posterior.dice.mean, posterior.hd95_mm.mean, posterior.missed
    ('posterior', 1.0, 0.0, 0)
    """
    names = select(metrics)
    require(names)
    check_tolerance(tolerance_mm)
    check_max_voxels(max_voxels)
    truth, found = _truth(labels, part, cases), data.find(predictions)
    predicted = {
        case.name: case.labels for case in found.cases if cases is None or case.name in cases
    }
    pairs = [(case, predicted[case.name]) for case in truth.cases if case.name in predicted]
    if not pairs:
        in_labels, in_predictions = (
            some([case.name for case in each.cases]) for each in (truth, found)
        )
        raise RWLossError(
            f"no case is in both: {str(labels)!r} has {in_labels}, {str(predictions)!r} has "
            f"{in_predictions}; the files of a case must have the same name"
        )
    ignored = truth.ignore_label if ignore_label is None else ignore_label
    if num_classes is None and (why := data.one_class_left(truth, ignored)):
        raise RWLossError(f"{why}; if that is meant, pass num_classes (--num-classes)")
    known = [k for k in (num_classes, truth.num_classes, found.num_classes) if k is not None]
    if known:
        k = data.count_classes(truth, known[0])
    else:
        k = _num_classes(truth, pairs, ignored, jobs, max_voxels, counting)
    tasks = [
        _Pair(
            case.name,
            prediction,
            case.labels,
            k,
            spacing_mm,
            ignored,
            max_voxels,
            names,
            tolerance_mm,
        )
        for case, prediction in pairs
    ]
    outcomes: list[CaseScore | FailedPair] = []
    for outcome in run_tasks(tasks, jobs=jobs):
        outcomes.append(outcome)
        if progress is not None:
            progress(outcome, len(tasks))
    outcomes.sort(key=lambda outcome: outcome.name)
    return Evaluation(
        predictions=str(predictions),
        labels=str(labels),
        scores=Scores(
            tuple(outcome for outcome in outcomes if isinstance(outcome, CaseScore)),
            class_names(k, truth.class_names or found.class_names or ("background",)),
        ),
        ignore_label=ignored,
        tolerance_mm=tolerance_mm,
        failed=tuple(outcome for outcome in outcomes if isinstance(outcome, FailedPair)),
        unpredicted=tuple(case.name for case in truth.cases if case.name not in predicted),
        unlabelled=tuple(sorted(predicted.keys() - {case.name for case in truth.cases})),
        regions=truth.regions or found.regions,
    )


def _truth(
    labels: str | Path, part: DatasetPart | None, names: Sequence[str] | None
) -> data.Dataset:
    """The cases to measure."""
    root, parts = Path(labels), [part or "train"]
    if part is None and (root / "dataset.json").is_file() and (root / "labelsTs").is_dir():
        parts = ["test"]
        if names is not None and (root / "labelsTr").is_dir():
            parts.append("train")
    truth, *others = [data.find(labels, part=each) for each in parts]
    if names is None:
        return truth
    known = {case.name: case for dataset in (truth, *others) for case in dataset.cases}
    if missing := [name for name in names if name not in known]:
        raise RWLossError(
            f"{str(labels)!r} has no labels of {some(missing)}: give the labels of all cases to "
            "measure"
        )
    return replace(truth, cases=tuple(known[name] for name in sorted(set(names))))


def _num_classes(
    truth: data.Dataset,
    pairs: Sequence[tuple[data.Case, Path]],
    ignored: int | None,
    jobs: int | None,
    max_voxels: int,
    counting: Callable[[int], None] | None,
) -> int:
    """The number of classes of all pairs together, from their labels."""
    of_truth = {case.labels for case, _ in pairs}
    files = [*of_truth, *(prediction for _, prediction in pairs)]
    in_truth: set[int] = set()
    in_predictions: set[int] = set()
    for path, counts in run_tasks([LabelCount(file, max_voxels) for file in files], jobs=jobs):
        if not isinstance(counts, RWLossError):  # else the pair fails and says so
            (in_truth if path in of_truth else in_predictions).update(counts.keys() - {ignored})
        if counting is not None:
            counting(len(files))
    # A prediction fails by itself if its labels are not among those of the truth.
    top = max(in_truth, default=0)
    while top + 1 in in_predictions:
        top += 1
    in_both = in_truth | {label for label in in_predictions if 0 <= label <= top}
    # Two folders of empty masks have one class, and nothing to measure; a mask has two.
    if in_both <= {0}:
        return 2
    return data.count_classes(truth, ignore_label=ignored, labels=in_both)


@dataclass(frozen=True)
class _Pair:
    """The files of one case, and the settings of their comparison."""

    name: str
    prediction: Path
    labels: Path
    num_classes: int
    spacing_mm: Sequence[float] | None
    ignore_label: int | None
    max_voxels: int
    metrics: tuple[str, ...]
    tolerance_mm: float

    def __call__(self) -> CaseScore | FailedPair:
        """Measure the pair; a failure is also returned."""
        try:
            truth, found = (
                data.read_labels(path, spacing_mm=self.spacing_mm, max_voxels=self.max_voxels)
                for path in (self.labels, self.prediction)
            )
            _check_geometry(found, truth)
            labels = _without(truth.labels, self.ignore_label, "the truth")
            predicted = _without(found.labels, self.ignore_label, "the prediction")
            spacing_mm = truth.spacing_mm or found.spacing_mm
            return score(
                predicted,
                labels,
                self.num_classes,
                spacing_mm,
                name=self.name,
                metrics=self.metrics,
                tolerance_mm=self.tolerance_mm,
            )
        except RWLossError as error:
            return FailedPair(self.name, str(error))
        except Exception as error:  # memory, or anything unforeseen in a library
            return FailedPair(self.name, f"{type(error).__name__}: {error}")

    def died(self) -> FailedPair:
        """The failure if a worker process died on this pair, also when it ran alone."""
        return FailedPair(self.name, "the worker process died: the pair may need more memory")


def _without(labels: NDArray[Any], ignored: int | None, whose: str) -> NDArray[Any]:
    """Labels (*s) with -1 for the ignored one, in a dtype that can hold it."""
    where = labels == ignored
    if (lowest := int(labels.min(initial=0, where=~where))) < 0:
        raise RWLossError(
            f"{whose} has the label {lowest}: expected 0 or more; to ignore these voxels, pass "
            f"ignore_label={lowest} (--ignore-label {lowest})"
        )
    if not where.any():
        return labels
    signed = labels.astype(np.int64)
    signed[where] = IGNORED
    return signed


def _check_geometry(found: data.LabelVolume, truth: data.LabelVolume) -> None:
    """Raise RWLossError unless both lie on the same voxels, in the same place."""
    shape = truth.labels.shape
    if found.labels.shape != shape:
        raise RWLossError(
            f"the prediction has the shape {found.labels.shape}, its labels {shape}: both must "
            "lie on the same voxels"
        )
    long = np.array(shape) > 1  # the spacing along one voxel says nothing
    if found.spacing_mm is not None and truth.spacing_mm is not None:
        ratios = np.divide(found.spacing_mm, truth.spacing_mm)[long]
        if not np.allclose(ratios, 1, rtol=0, atol=1e-3):
            raise RWLossError(
                f"the prediction has the spacing {found.spacing_mm} mm, its labels "
                f"{truth.spacing_mm}: fix the wrong header"
            )
    if found.affine is None or truth.affine is None:
        return
    places_mm = [corners_mm(affine, shape) for affine in (found.affine, truth.affine)]
    apart_mm = float(np.linalg.norm(places_mm[0] - places_mm[1], axis=1).max())
    lengths_mm = np.linalg.norm(truth.affine[:3, : len(shape)], axis=0)
    smallest_mm = float(lengths_mm.min(where=long, initial=np.inf))
    # Programs round affines differently, and float32 is less precise far from the origin.
    if apart_mm > 0.01 * smallest_mm + 1e-6 * float(np.abs(places_mm[1]).max()):
        raise RWLossError(
            f"the affines of prediction and labels place the image's corners up to "
            f"{apart_mm:.3g} mm "
            "apart: both must lie in the same place; fix the wrong header"
        )


def check_score_file(path: Path) -> None:
    """Raise RWLossError, before anything is measured, for a file that `write_scores` cannot
    write."""
    if path.suffix.lower() not in {".csv", ".json"}:
        raise RWLossError(f"expected a file that ends with .csv or .json, got {str(path)!r}")
    with naming_write_errors(path, "name a file elsewhere"):
        if not path.parent.is_dir():
            raise RWLossError(f"there is no folder {str(path.parent)!r} to write {path.name!r} to")
        if path.is_dir():
            raise RWLossError(f"{str(path)!r} is a folder: expected the name of a file")
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write_scores(evaluation: Evaluation, path: Path, penalty: Penalty = None) -> None:
    """Write all scores as a .csv or .json file, in one step; replace an existing one."""
    check_score_file(path)
    if path.suffix.lower() == ".csv":
        text = as_csv(evaluation)
    else:
        text = json.dumps(as_fields(evaluation, penalty), indent=1, allow_nan=False) + "\n"
    with naming_write_errors(path, "name a file elsewhere"), whole_file(path) as part:
        # File names that are not UTF-8 are escaped, as in JSON.
        part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")


def as_fields(evaluation: Evaluation, penalty: Penalty = None) -> dict[str, Any]:
    """Summary, cases and failures as plain values; None if there is nothing to measure."""
    scores = evaluation.scores
    return {
        "rwloss": __version__,
        "predictions": evaluation.predictions,
        "labels": evaluation.labels,
        "num_classes": len(scores.class_names),
        "ignore_label": evaluation.ignore_label,
        "penalty_mm": penalty,
        "tolerance_mm": evaluation.tolerance_mm,
        "counts": {
            "cases": evaluation.num_cases,
            "measured": len(scores.cases),
            "failed": len(evaluation.failed),
            "unpredicted": len(evaluation.unpredicted),
            "unlabelled": len(evaluation.unlabelled),
            "in_voxels": len(evaluation.in_voxels),
        },
        "metrics": list(scores.metrics),
        "summary": [each.as_fields() for each in scores.summary(penalty)],
        "failed": [asdict(failure) for failure in evaluation.failed],
        "unpredicted": list(evaluation.unpredicted),
        "unlabelled": list(evaluation.unlabelled),
        "regions_without_scores": list(evaluation.regions),
        "cases": [case.as_fields() for case in scores.cases],
    }


def as_csv(evaluation: Evaluation) -> str:
    """One row per case and class, and one per case that could not be measured."""
    rows: list[dict[str, Any]] = []
    names = evaluation.scores.class_names
    for case in evaluation.scores.cases:
        spacing = "" if case.spacing_mm is None else " ".join(map(str, case.spacing_mm))
        of_case = {"case": case.name, "spacing_mm": spacing, "diagonal_mm": case.diagonal_mm}
        for each in case.classes:
            rows.append({**of_case, "class": names[each.label], **each.as_fields()})
    for failure in evaluation.failed:
        rows.append({"case": failure.name, "state": "failed", "reason": failure.reason})
    for name in evaluation.unpredicted:
        rows.append({"case": name, "state": "unpredicted", "reason": "there is no prediction"})
    columns = (
        "case", "label", "class", "state", *evaluation.scores.metrics,
        "truth_voxels", "predicted_voxels", "spacing_mm", "diagonal_mm", "reason",
    )  # fmt: skip
    return csv_text(columns, rows)
