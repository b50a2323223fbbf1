"""Results and report of a study of 1,000 runs, whose folders are written by hand."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row, report
from rwloss.study import plan, results
from rwloss.study.report import export, write

MAPS = {
    "dice_ce": "dice + cross_entropy", "boundary": "boundary", "rectified": "rectified",
    "rectified_dice": "rectified + dice", "rebalance": "blend(dice, boundary)",
}  # fmt: skip
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
CLASSES = ("background", "organ", "lesion")
STEPS, CASES = 1500, 40


def main(seeds: int = 50) -> None:
    """Print and keep CPU seconds and sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        study = large_study(folder, seeds)
        runs = len(MAPS) * len(RATES) * seeds
        what = f"{runs:,} runs of {len(MAPS)} maps, {len(RATES)} learning rates, {seeds} seeds"
        collected, collecting = _timed(lambda: results.collect(study, folder))
        _, storing = _timed(lambda: results.write(collected, folder))
        page, drawing = _timed(lambda: write(collected, folder))
        _, exporting = _timed(lambda: export(collected, folder, folder / "figures"))
        size = page.stat().st_size / 1e6
        rows = [
            Row(what, "results: read the runs, test, write results.json and runs.csv",
                collecting + storing, "s", goal="≤ 10 s"),
            Row(what, "report.html, from the results", drawing, "s", goal="≤ 60 s with results"),
            Row(what, "size of report.html", size, "MB", goal="≤ 20 MB"),
            Row(what, "every chart as SVG and PDF, every table as CSV and LaTeX", exporting, "s"),
        ]  # fmt: skip
    report("report", rows, ["CPU seconds of one process. Pictures of cases are not part of it."])


def large_study(folder: Path, seeds: int) -> plan.Study:
    """A study of runs that never took place, with logs as training leaves them."""
    study = plan.make(
        data="D", maps=MAPS, seeds=range(seeds), steps=STEPS,
        axes={"learning_rate": RATES},
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for run in plan.runs(study, folder):
        run.folder.mkdir(parents=True)
        rate = run.values["learning_rate"]
        lost = rng.random() < {"boundary": 0.6, "rebalance": 0.3}.get(run.map, 0.02 + 20 * rate**2)
        lines, test = _log(rng, lost=bool(lost))
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (run.folder / "metrics.jsonl").write_text(text)
        (run.folder / "test.json").write_text(json.dumps(test, indent=1))
    study.write(folder / "study.toml")
    return study


def _log(rng: np.random.Generator, *, lost: bool) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Lines of metrics.jsonl and the content of test.json."""
    lines: list[dict[str, Any]] = [
        {"kind": "start", "step": 0, "hardware": "CPU: 1 thread", "distance_engine": "edt",
         "versions": {"rwloss": "0", "torch": "0"}, "notes": []}
    ]  # fmt: skip
    ends = np.array([0.85, 0.0 if lost else 0.7]) + 0.03 * rng.standard_normal(2) * [1, not lost]
    for step in np.linspace(STEPS / 30, STEPS, 30).astype(int).tolist():
        done = step / STEPS
        mass, norm = rng.random() * 0.01, float(np.exp(-3 * done + 0.2 * rng.standard_normal()))
        volume = [0.9, 0.08, 0.0 if lost else 0.02 * done]
        lines.append(
            {"kind": "record", "step": step, "seconds": 9.5 * done, "losses": [*rng.random(10)],
             "gradient_norm": norm, "wrong_way_mass": mass, "gradient_share": [0.5, 0.3, 0.2],
             "true_volume": [0.9, 0.08, 0.02], "predicted_volume": volume}
        )  # fmt: skip
        if step % (STEPS // 6) == 0:
            dice = (ends * (1 - np.exp(-4 * done))).tolist()
            named = dict(zip(CLASSES[1:], dice, strict=True))
            lines.append({"kind": "validation", "step": step, "dice": named})
    scores = np.clip(ends + 0.05 * rng.standard_normal((CASES, 2)) * (ends > 0), 0, 1)
    cases = [
        {"name": f"case_{n:03}", "diagonal_mm": 80.0, "spacing_mm": [1.0, 1.0, 1.0], "classes": [
            {"label": k, "dice": dice, "nsd": dice, "hd95_mm": 20 * (1 - dice) if dice else None,
             "assd_mm": 5 * (1 - dice) if dice else None, "state": "both" if dice else "missed"}
            for k, dice in enumerate(of_case, 1)
        ]}
        for n, of_case in enumerate(scores.tolist())
    ]  # fmt: skip
    means = scores.mean(axis=0).tolist()
    test = {
        "steps": STEPS, "step": STEPS, "rwloss": "0", "seconds": 9.5, "num_items": 200,
        "parameters": 100_000, "class_names": CLASSES, "cases": cases,
        "summary": [
            {"name": name, "dice": {"mean": mean}}
            for name, mean in zip(CLASSES[1:], means, strict=True)
        ],
    }  # fmt: skip
    return lines, test


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and its CPU seconds."""
    began = time.process_time()
    return call(), time.process_time() - began
