"""Scores of an evaluation as JSON, and as CSV with one row per case and class."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import tempfile
from pathlib import Path
from typing import Any

from rwloss._version import __version__
from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors, whole_file
from rwloss.training.evaluation import Evaluation
from rwloss.training.scores import CaseScore, ClassScore, Penalty

COLUMNS = (
    "case", "label", "class", "state", "dice", "hd95_mm", "assd_mm", "truth_voxels",
    "predicted_voxels", "spacing_mm", "diagonal_mm", "reason",
)  # fmt: skip
FORMATS = (".csv", ".json")
_FIX = "name a file elsewhere"


def check_score_file(path: Path) -> None:
    """Raise RWLossError for a file that `write_scores` can't write, before anything is measured."""
    if path.suffix.lower() not in FORMATS:
        raise RWLossError(f"expected a file that ends with .csv or .json, got {str(path)!r}")
    with naming_write_errors(path, _FIX):
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
    with naming_write_errors(path, _FIX), whole_file(path) as part:
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
        "counts": {
            "cases": evaluation.num_cases,
            "measured": len(scores.cases),
            "failed": len(evaluation.failed),
            "unpredicted": len(evaluation.unpredicted),
            "unlabelled": len(evaluation.unlabelled),
            "in_voxels": len(evaluation.in_voxels),
        },
        "summary": [dataclasses.asdict(each) for each in scores.summary(penalty)],
        "failed": [dataclasses.asdict(failure) for failure in evaluation.failed],
        "unpredicted": list(evaluation.unpredicted),
        "unlabelled": list(evaluation.unlabelled),
        "cases": [_case_fields(case) for case in scores.cases],
    }


def as_csv(evaluation: Evaluation) -> str:
    """One row per case and class, and one per case that could not be measured."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    names = evaluation.scores.class_names
    for case in evaluation.scores.cases:
        spacing = "" if case.spacing_mm is None else " ".join(map(str, case.spacing_mm))
        of_case = {"case": case.name, "spacing_mm": spacing, "diagonal_mm": case.diagonal_mm}
        for score in case.classes:
            table.writerow({**of_case, "class": names[score.label], **_score_fields(score)})
    for failure in evaluation.failed:
        table.writerow({"case": failure.name, "state": "failed", "reason": failure.reason})
    for name in evaluation.unpredicted:
        table.writerow({"case": name, "state": "unpredicted", "reason": "there is no prediction"})
    return text.getvalue()


def _case_fields(case: CaseScore) -> dict[str, Any]:
    return dataclasses.asdict(case) | {"classes": [_score_fields(each) for each in case.classes]}


def _score_fields(score: ClassScore) -> dict[str, Any]:
    return {**dataclasses.asdict(score), "state": score.state}
