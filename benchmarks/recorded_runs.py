"""The table of recorded runs from which `rwloss.stability` estimates risks, and how good it is.

`python -m benchmarks.recorded_runs NAME=STUDY[=DATA] ... --out FILE.csv` reads the finished runs of
each study folder: a row per run and foreground class. NAME is that of the dataset, the same for all
studies of it; DATA is its folder where it is not where study.toml says. Of a folder without runs/
it reads runs.csv, which has no signs of life. Then it says how well risks and alarms do on datasets
and maps that are left out, and which signs an alarm should look at. Without a study it says so of
the table that ships.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rwloss.files.csv_text import csv_text
from rwloss.stability import alarm
from rwloss.stability.alarm import SIGNS
from rwloss.stability.alarm_quality import (
    CANDIDATES,
    Group,
    alarm_quality,
    can_judge,
    chosen_signs,
)
from rwloss.stability.prediction import calibration
from rwloss.stability.recorded import LOOKS, RecordedClass, read_table, recorded_classes
from rwloss.study.axes import AxisValues, checked, combinations, named
from rwloss.study.indicators import INFLUENCE, indicators
from rwloss.study.outcomes import COLLAPSED_BELOW, read_outcome
from rwloss.study.plan import Study, runs
from rwloss.training import RunFolder, RunSettings
from rwloss.words import listed

_GROUPS: tuple[Group, ...] = ("dataset", "map")
_SIGNS = tuple(name for name in CANDIDATES if name != "pull")
_COLUMNS = (
    *("dataset", "study", "axes", "map", "seed", "class", "learning_rate", "steps"),
    *("fraction", "pull", "pull_exponent", "lost", "end_dice", "birth_step"),
    *(f"{sign}_at_{round(100 * look)}" for look in LOOKS for sign in _SIGNS),
)


def main() -> None:
    """Write the table, with how many rows each study gave, and print how good it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", metavar="NAME=STUDY[=DATA]")
    parser.add_argument("--out", type=Path, help="the table of these studies")
    given = parser.parse_args()
    if bool(given.studies) != bool(given.out):
        parser.error("studies and --out go together")
    table = recorded_classes()
    if given.out:
        rows = []
        for text in given.studies:
            name, _, rest = text.partition("=")
            folder, _, source = rest.partition("=")
            found = list(rows_of(name, Path(folder), source or None))
            lost = sum(row["lost"] for row in found)
            print(f"{name}: {len(found)} classes of runs in {folder}, {lost} lost", file=sys.stderr)
            rows += found
        content = csv_text(_COLUMNS, rows)
        given.out.write_text(content, encoding="utf-8", newline="")
        table = read_table(content)
    for line in told(table):
        print(line)


def told(table: Sequence[RecordedClass]) -> Iterator[str]:
    """How good risks and alarms fitted on a table are, where they have not seen it."""
    yield from _title("risk before training", table)
    for by in _GROUPS:
        if len({getattr(row, by) for row in table if row.lost}) > 1:
            yield f"  left out by {by}:"
            found = calibration(by, table)
            for name, area, (low, high) in (
                ("model", found.area, found.interval),
                ("pull ratio alone", found.pull_area, found.pull_interval),
            ):
                yield f"    {name}: area {area:.3f} ({low:.3f} to {high:.3f})"
            yield f"    mean risk {found.expected:.1%}, lost {found.lost / found.rows:.1%}"
    signs = [row for row in table if row.signs]
    yield from _title("alarm", signs)
    for by in _GROUPS:
        if can_judge(signs, by):
            yield f"  left out by {by}:"
            quality, chosen = alarm_quality(by, signs)
            yield from (f"    {each}" for each in quality)
            yield from (f"    signs for {name}: {listed(names)}" for name, names in chosen.items())
    if can_judge(signs, "dataset"):
        chosen_from_all = listed(chosen_signs(signs))
        yield f"  signs chosen from all: {chosen_from_all}; alarm.SIGNS: {listed(SIGNS)}"


def _title(what: str, rows: Sequence[RecordedClass]) -> Iterator[str]:
    runs_of, lost = len({row.run for row in rows}), sum(row.lost for row in rows)
    yield f"{what}: {len(rows)} classes of {runs_of} runs, {lost} lost"


def rows_of(dataset: str, folder: Path, source: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one study. Raises RWLossError where its data can't be read.

    What is known before training is that of the cell: axes may change the cases or their maps.
    """
    study = Study.read(folder / "study.toml")
    study = study.model_copy(update={"data": source}) if source else study
    looked_at = {name: values for name, values in study.axes.items() if name in INFLUENCE}
    before = {
        named(values): indicators(_with(study, values), folder)
        for values in combinations(looked_at)
    }
    ends = _from_runs(study, folder) if (folder / "runs").is_dir() else _from_csv(study, folder)
    for end in ends:
        values = end.pop("values")
        at = named({name: values[name] for name in looked_at})
        known, name = before[at][end.pop("name")], end["class"]
        pull, exponent = known.pull.get(name), known.pull_exponent.get(name)
        if end["end_dice"] is None or pull is None or exponent is None:
            continue
        yield {
            "dataset": dataset,
            "study": folder.name,
            "axes": named({axis: values[axis] for axis in values if axis != "learning_rate"}),
            "fraction": _short(known.fraction[name]),
            "pull": _short(pull),
            "pull_exponent": round(exponent, 3) + 0.0,
            "lost": int(end["end_dice"] < COLLAPSED_BELOW),
            **end,
            "end_dice": round(end["end_dice"], 4),
        }


def _with(study: Study, values: AxisValues) -> Study:
    """The study with one value of each of these axes."""
    axes = {name: (values[name],) if name in values else study.axes[name] for name in study.axes}
    return study.model_copy(update={"axes": axes})


def _from_runs(study: Study, folder: Path) -> Iterator[dict[str, Any]]:
    """The end of each class of each finished run, with the signs that its record has."""
    for run in runs(study, folder):
        outcome = read_outcome(run.folder)
        if not outcome.finished:
            if outcome.diverged_step is not None:
                print(f"{run.folder} diverged: not in the table", file=sys.stderr)
            continue
        lines = [line for line in RunFolder(run.folder).lines() if line["kind"] == "record"]
        for k, each in enumerate(outcome.classes, 1):
            yield {
                "name": run.map,
                "values": run.values,
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
        values = {name: checked({name: [row[name]]}, "runs.csv")[name][0] for name in study.axes}
        yield {
            "name": row["map"],
            "values": values,
            "map": study.maps[row["map"]],
            "seed": row.get("trained_seed") or row["seed"],
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
