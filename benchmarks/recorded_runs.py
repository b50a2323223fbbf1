"""The table of recorded runs from which `rwloss.stability` estimates risks.

`python -m benchmarks.recorded_runs NAME=STUDY[=DATA] ... --out FILE.csv` reads the finished runs of
each study folder: a row per run and foreground class. NAME is that of the dataset, DATA its folder
where it is not where study.toml says. Of a folder without runs/ it reads runs.csv, which has no
signs of life.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rwloss.errors import RWLossError
from rwloss.files.csv_text import csv_text
from rwloss.stability import alarm
from rwloss.stability.recorded import LOOKS
from rwloss.study.indicators import indicators
from rwloss.study.outcomes import COLLAPSED_BELOW, read_outcome
from rwloss.study.plan import Study, runs
from rwloss.training import RunFolder, RunSettings

_SIGNS = ("own_probability", "trend")
_COLUMNS = (
    *("dataset", "map", "seed", "class", "learning_rate", "steps"),
    *("fraction", "pull", "pull_exponent", "lost", "end_dice", "birth_step"),
    *(f"{sign}_at_{round(100 * look)}" for look in LOOKS for sign in _SIGNS),
)


def main() -> None:
    """Write the table, and print how many rows each study gave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="+", metavar="NAME=STUDY[=DATA]")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for text in given.studies:
        name, _, rest = text.partition("=")
        folder, _, source = rest.partition("=")
        found = list(rows_of(name, Path(folder), source or None))
        lost = sum(row["lost"] for row in found)
        print(f"{name}: {len(found)} classes of runs in {folder}, {lost} lost", file=sys.stderr)
        rows += found
    given.out.write_text(csv_text(_COLUMNS, rows), encoding="utf-8", newline="")


def rows_of(dataset: str, folder: Path, source: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one study. Raises RWLossError where its data can't be read."""
    study = Study.read(folder / "study.toml")
    study = study.model_copy(update={"data": source}) if source else study
    before = indicators(study, folder)
    ends = _from_runs(study, folder) if (folder / "runs").is_dir() else _from_csv(study, folder)
    for end in ends:
        known, name = before[end.pop("name")], end["class"]
        pull, exponent = known.pull.get(name), known.pull_exponent.get(name)
        if end["end_dice"] is None or pull is None or exponent is None:
            continue
        yield {
            "dataset": dataset,
            "fraction": _short(known.fraction[name]),
            "pull": _short(pull),
            "pull_exponent": round(exponent, 3) + 0.0,
            "lost": int(end["end_dice"] < COLLAPSED_BELOW),
            **end,
            "end_dice": round(end["end_dice"], 4),
        }


def _from_runs(study: Study, folder: Path) -> Iterator[dict[str, Any]]:
    """The end of each class of each finished run, with the signs that its record has."""
    for run in runs(study, folder):
        outcome = read_outcome(run.folder)
        if not outcome.finished:
            continue
        lines = [line for line in RunFolder(run.folder).lines() if line["kind"] == "record"]
        for k, each in enumerate(outcome.classes, 1):
            yield {
                "name": run.map,
                "map": study.maps[run.map],
                "seed": run.settings.seed,
                "class": each.name,
                "learning_rate": run.settings.learning_rate,
                "steps": run.settings.steps,
                "end_dice": each.end_dice,
                "birth_step": each.birth_step or "",
                **_signs(lines, k, run.settings),
            }


def _signs(lines: Sequence[dict[str, Any]], k: int, settings: RunSettings) -> dict[str, Any]:
    """What `Alarms` would have seen of class k at each look, by column."""
    found: dict[str, Any] = {}
    if not lines or "own_probability" not in lines[0]:
        return found
    for look in LOOKS:
        # As `Alarms`: all samples up to the first one that is not before the look.
        after = [line["step"] for line in lines if line["step"] >= look * settings.steps]
        samples = [line for line in lines if line["step"] <= min(after)]
        for sign, value in (alarm.features_of(samples, k) or {}).items():
            found[f"{sign}_at_{round(100 * look)}"] = _short(value)
    return found


def _from_csv(study: Study, folder: Path) -> Iterator[dict[str, Any]]:
    """The same of runs.csv, without signs."""
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    default = study.training.get("learning_rate", RunSettings.model_fields["learning_rate"].default)
    for row in rows:
        if study.axes:
            raise RWLossError(f"{str(folder)!r} has axes: read it with its runs")
        yield {
            "name": row["map"],
            "map": study.maps[row["map"]],
            "seed": row["seed"],
            "class": row["class"],
            "learning_rate": row.get("learning_rate") or default,
            "steps": study.steps,
            "end_dice": float(row["end_dice"]) if row["end_dice"] else None,
            "birth_step": row["birth_step"],
        }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
