"""Studies of docs/studies as folders of runs: what their runs.csv holds, as `collect` reads it."""

import csv
import json
from itertools import groupby
from pathlib import Path

from rwloss.study.axes import checked
from rwloss.study.plan import Study, runs

METRICS = ("dice", "hd95_mm", "assd_mm", "nsd")
STUDIES = Path(__file__).parents[1] / "docs" / "studies"


def recorded_rows(name):
    """The rows of a runs.csv by the map, the seed, and the values of the axes of its runs."""
    study = Study.read(STUDIES / name / "study.toml")
    with (STUDIES / name / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def key(row):
        values = [checked({axis: [row[axis]]}, name)[axis][0] for axis in study.axes]
        return (row["map"], int(row["seed"]), *values)

    return {found: list(group) for found, group in groupby(rows, key)}


def write_recorded(name, folder):
    """The plan of a recorded study, whose runs that are done stand in the folder."""
    study, recorded = Study.read(STUDIES / name / "study.toml"), recorded_rows(name)
    for run in runs(study, folder):
        rows = recorded.get((run.map, run.seed, *run.values.values()), [])
        if rows and rows[0]["status"] == "done":
            _write(run, study.steps, rows)
    return study


def _write(run, steps, rows):
    run.folder.mkdir(parents=True)
    names, every = [row["class"] for row in rows], run.settings.validate_every
    lines = [
        {"kind": "record", "step": step, "wrong_way_mass": mass, "gradient_norm": 1.0,
         "gradient_share": [1.0] * (len(rows) + 1), "true_volume": [0] * (len(rows) + 1),
         "predicted_volume": [1] * (len(rows) + 1)}
        for step, mass in zip((1, steps), _masses(rows[0]), strict=True)
    ]  # fmt: skip
    lines += [
        {"kind": "validation", "step": step, "dice": dict(zip(names, dice, strict=True))}
        for step in range(every, steps + 1, every)
        for dice in [[_dice(row, step, step == steps) for row in rows]]
    ]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mean = {metric: f"test_{metric}" for metric in METRICS}
    test = {
        "step": steps, "steps": steps, "seconds": 60.0, "num_items": 500, "parameters": 1000,
        "class_names": ["background", *names],
        "summary": [{"name": row["class"], "dice": {"mean": _number(row["test_dice"])}}
                    for row in rows],
        "cases": [{"name": "mean", "diagonal_mm": 60.0, "spacing_mm": [1, 1, 1], "classes": [
            {"state": "both", **{metric: _number(row[column]) for metric, column in mean.items()}}
            for row in rows
        ]}],
    }  # fmt: skip
    (run.folder / "test.json").write_text(json.dumps(test))


def _number(text):
    return float(text) if text else None


def _masses(row):
    """Two wrong-way masses with the mean and the largest of a run."""
    mean, most = (float(row[name] or 0) for name in ("wrong_way_mass", "largest_wrong_way_mass"))
    return most, 2 * mean - most


def _dice(row, step, is_last):
    """Validation Dice with the birth and the end of a row."""
    if is_last:
        return _number(row["end_dice"])
    return 0.11 if row["birth_step"] and step >= int(row["birth_step"]) else 0.01
