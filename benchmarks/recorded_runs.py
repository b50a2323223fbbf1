"""The table of recorded runs, the models that ship, and how good they are.

`python -m benchmarks.recorded_runs NAME=STUDY[=DATA] ...` adds the finished runs of each study
folder to the table, a row per run and foreground class; a run that is in it already is replaced.
NAME is the source of the images: what shares a source is left out together. DATA is the dataset
where it is not where study.toml says. Of a folder without runs/ it reads runs.csv, which has no
signs of life. Then it fits the models to the whole table, writes rwloss/stability/fitted.json, and
prints how well they do on datasets and maps that are left out. Without a study it only refits.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.recorded import TABLE, RecordedClass, read_table
from benchmarks.risk import CANDIDATES, AlarmQuality, Quality, fitted_content, quality
from rwloss.stability import VANISHES_BELOW, alarm
from rwloss.stability.alarm import LOOKS
from rwloss.stability.prediction import Calibration
from rwloss.study.axes import AxisValues, checked, combinations, named
from rwloss.study.indicators import INFLUENCE, indicators
from rwloss.study.outcomes import COLLAPSED_BELOW, read_outcome
from rwloss.study.plan import Study, runs
from rwloss.training import RunFolder, RunSettings
from rwloss.words import listed

FITTED = Path(__file__).parents[1] / "rwloss" / "stability" / "fitted.json"

_SIGNS = tuple(name for name in CANDIDATES if name != "pull")
_RUN = ("dataset", "study", "axes", "map", "seed", "class", "learning_rate", "steps")
_COLUMNS = (
    *_RUN,
    *("fraction", "pull", "pull_exponent", "lost", "end_dice", "birth_step"),
    *(f"{sign}_at_{round(100 * look)}" for look in LOOKS for sign in _SIGNS),
)


def main() -> None:
    """Extend the table, refit, and print how many rows each study gave and how good it all is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", metavar="NAME=STUDY[=DATA]")
    parser.add_argument("--table", type=Path, default=TABLE, help="the table to extend")
    parser.add_argument("--out", type=Path, default=FITTED, help="the fitted models")
    given = parser.parse_args()
    for text in given.studies:
        name, _, rest = text.partition("=")
        folder, _, source = rest.partition("=")
        found = list(rows_of(name, Path(folder), source or None))
        lost = sum(row["lost"] for row in found)
        print(f"{name}: {len(found)} classes of runs in {folder}, {lost} lost", file=sys.stderr)
        extend(given.table, found)
    table = read_table(given.table)
    judged = quality(table)
    content = json.dumps(fitted_content(table, judged), indent=1) + "\n"
    given.out.write_text(content, encoding="utf-8")
    for line in told(table, judged):
        print(line)


def extend(file: Path, found: Sequence[dict[str, Any]]) -> None:
    """Write rows into a table; a row of the same class and run is replaced."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    before = file.read_text(encoding="utf-8").splitlines() if file.exists() else ()
    for row in (*csv.DictReader(before), *found):
        rows[tuple(str(row[name]) for name in _RUN)] = row
    with file.open("w", encoding="utf-8", newline="") as lines:
        table = csv.DictWriter(lines, _COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows.values())


def told(table: Sequence[RecordedClass], found: Quality) -> Iterator[str]:
    """How good risks and alarms fitted on a table are, where they have not seen it."""
    yield from _title("risk before training", table)
    lost, kept = (
        f"{sum(row.pull < VANISHES_BELOW for row in rows)} of {len(rows)}"
        for rows in ([row for row in table if row.lost is end] for end in (True, False))
    )
    yield f"  pull ratio below {VANISHES_BELOW:g}: {lost} of the lost classes, {kept} of the others"
    for by, parts in found.risk.items():
        yield f"  left out by {by}:"
        for name, each in parts.items():
            yield from (f"    {name}: {line}" for line in _of_risk(each))
    yield from _title("alarm", [row for row in table if row.signs])
    for by, looks in found.alarm.items():
        yield f"  left out by {by}:"
        for name, at in looks.items():
            yield from (f"    {name}, {_of_alarm(each)}" for each in at)
        for name, signs in found.signs[by].items():
            yield f"    signs for {name}: {listed(signs)}"


def _title(what: str, rows: Sequence[RecordedClass]) -> Iterator[str]:
    runs_of, lost = len({row.run for row in rows}), sum(row.lost for row in rows)
    yield f"{what}: {len(rows)} classes of {runs_of} runs, {lost} lost"


def _of_risk(each: Calibration) -> Iterator[str]:
    for name, area, (low, high) in (
        ("model", each.area, each.interval),
        ("pull ratio alone", each.pull_area, each.pull_interval),
    ):
        yield f"{name}: area {area:.3f} ({low:.3f} to {high:.3f})"
    yield f"mean risk {each.expected:.1%}, lost {each.lost / each.rows:.1%} of {each.rows}"


def _of_alarm(each: AlarmQuality) -> str:
    shares = [
        f"{count} of {of} ({low:.0%} to {high:.0%})"
        for count, of, (low, high) in (
            (each.hits, each.lost, each.recall_interval),
            (each.false, each.kept, each.false_interval),
        )
    ]
    low, high = each.area_interval
    return (
        f"up to {each.look:.0%} of the steps: recall {shares[0]}, false alarms {shares[1]}, "
        f"area {each.area:.3f} ({low:.3f} to {high:.3f})"
    )


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
    """The end of each class of each finished run, with the signs that its record has.

    A seed of which a run is not done yet is left out, so that a run's length does not choose.
    """
    read = [(run, read_outcome(run.folder)) for run in runs(study, folder)]
    diverged = {run.folder for run, outcome in read if outcome.diverged_step is not None}
    begun = {run.seed for run, end in read if not (end.finished or run.folder in diverged)}
    print(f"{folder}: {len(begun)} seeds not done, {len(diverged)} runs diverged", file=sys.stderr)
    for run, outcome in read:
        if run.seed in begun or not outcome.finished:
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
