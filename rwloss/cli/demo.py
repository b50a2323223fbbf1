"""`rwloss demo`: real labels, two maps, two trained U-Nets, in minutes on the sample."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.steps import bars
from rwloss.cores import available_cores
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from rwloss.training import RunResult, Settings
    from rwloss.training.scores import ClassSummary

MAPS = ("boundary", "rectified")
LOST_BELOW = 0.05
"""A class whose mean Dice is below this counts as lost."""


def demo(
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the maps, the picture and the numbers.")
    ] = Path("rwloss-demo"),
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each network.")] = 800,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first weights and of the order of batches.")
    ] = 0,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Worker processes; one a core by default."),
    ] = None,
) -> None:
    """Show what a map does to training: two U-Nets that differ in nothing else.

    On the hippocampus volumes that ship with rwloss: makes the boundary and the rectified map,
    draws both, trains a small 2-D U-Net with each from the same weights on the same batches, and
    prints the Dice of each class on the test volumes. Run it again to do the training again.
    """
    from rwloss import data
    from rwloss.pictures import check_output
    from rwloss.training import require_training

    require_training()
    source = data.sample_dir("hippocampus")
    dataset, tests = data.find(source), data.find(source, part="test")
    picture, numbers = out / "maps.png", out / "demo.json"
    _make_folder(out)
    check_output(picture)
    typer.echo(
        f"Sample: {len(dataset.cases)} hippocampus volumes to train on, {len(tests.cases)} to "
        f"test on; classes {_listed(dataset.class_names[1:])}."
    )
    for name in MAPS:
        _make_maps(dataset, out / name, name, jobs)
    _draw(dataset, out, picture)
    typer.echo(f"Picture of both maps on {dataset.cases[0].name}: {picture}")

    runs = [_run(source, out, name, steps, seed) for name in MAPS]
    results = _train(runs, jobs or available_cores())
    findings = [
        *(sentence for result in results for sentence in what_was_seen(result)),
        "Both trainings began with the same weights and met the same batches: only the map "
        f"differs. One seed ({seed}) shows what can happen, not how often it does.",
        "The maps are those of whole volumes, cut into slices together with the images; maps made "
        "slice by slice, as in the boundary loss's own 2-D code, are others and may train "
        "differently.",
    ]
    _print_table(results)
    for sentence in findings:
        typer.echo(sentence)
    _write_numbers(numbers, runs, results, findings)
    typer.echo(
        f"\nNumbers and settings: {numbers}; maps: {_listed([str(out / m) for m in MAPS])}; runs: "
        f"{_listed([run.out for run in runs])}"
    )


def what_was_seen(result: RunResult) -> list[str]:
    """What the numbers of one training say, in sentences: which classes were lost, if any."""
    lost = [
        f"{each.name} (Dice {each.dice.mean:.2f}, missed in {each.missed} of {each.cases} volumes)"
        for each in result.scores.summary()
        if each.dice.mean is not None and each.dice.mean < LOST_BELOW
    ]
    unmeasured = [each.name for each in result.scores.summary() if each.dice.mean is None]
    sentences = []
    if lost:
        noun, were = ("class", "was") if len(lost) == 1 else ("classes", "were")
        sentences.append(
            f"With the {result.settings.map} map the {noun} {_listed(lost)} {were} lost."
        )
        first, last = _first_and_last_loss(result)
        if last < first:
            sentences.append(
                f"Its loss fell all the same, from {first:.3f} to {last:.3f}: "
                "the loss alone does not tell."
            )
    else:
        sentences.append(f"With the {result.settings.map} map no class was lost.")
    if unmeasured:
        sentences.append(f"No test volume has a Dice of {_listed(unmeasured)}.")
    return sentences


def _first_and_last_loss(result: RunResult) -> tuple[float, float]:
    """Mean loss of the first and the last twentieth of the steps: single batches scatter."""
    some = max(1, len(result.losses) // 20)
    return sum(result.losses[:some]) / some, sum(result.losses[-some:]) / some


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RWLossError(
            f"cannot make the folder {str(out)!r} ({error.strerror}): name another with --out"
        ) from error


def _make_maps(dataset: Any, folder: Path, expression: str, jobs: int | None) -> None:
    from rwloss.precompute import precompute

    summary = precompute(dataset, folder, expression, jobs=jobs)
    if summary.failed:
        first = summary.failed[0]
        raise RWLossError(f"the map of case {first.case} failed: {first.reason}")
    typer.echo(
        f"Maps of {expression}: {summary.made} made, {summary.kept} kept from an earlier run, "
        f"{summary.seconds:.1f} s"
    )


def _draw(dataset: Any, out: Path, picture: Path) -> None:
    from rwloss import data, maps, pictures, store

    case = dataset.cases[0]
    volume = data.read_labels(case.labels)
    pictures.draw(
        volume.labels,
        {name: store.open(out / name)[case.name] for name in MAPS},
        picture,
        image=data.read_image(case.images[0]),
        class_names=dataset.class_names,
        spacing_mm=volume.spacing_mm,
        affine=volume.affine,
        title=f"{case.name}: two maps of the same labels",
        units={name: maps.parse(name).unit for name in MAPS},
    )


def _run(source: Path, out: Path, name: str, steps: int, seed: int) -> Settings:
    """Settings of a run that learns from every training volume, and from nothing but them.

    No augmentation, and no validation: the weights of the last step are tested, as they are.
    """
    from rwloss.training import Settings

    run = out / f"{name}-run"
    if (run / "run.toml").is_file():
        shutil.rmtree(run)  # of an earlier demo
    return Settings(
        data=str(source),
        maps=str(out / name),
        out=str(run),
        steps=steps,
        seed=seed,
        learning_rate_schedule="constant",
        validation_fraction=0.0,
        test_part="folder",
        flip=0.0,
        turn=0.0,
        zoom=0.0,
        intensity=0.0,
        accelerator="cpu",
    )


def _train(runs: Sequence[Settings], jobs: int) -> list[RunResult]:
    from rwloss.training import train_all

    typer.echo(
        f"Training {len(runs)} U-Nets, {runs[0].steps} steps of {runs[0].batch_size} slices each, "
        f"{min(jobs, len(runs))} at a time ..."
    )
    with bars(MAPS, runs[0].steps) as (on_step, _):
        return train_all(runs, jobs=jobs, on_step=on_step)


def _print_table(results: Sequence[RunResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    volumes = len(results[0].scores.cases)
    table = Table(title=f"Dice on {volumes} test volumes", title_justify="left")
    table.add_column("map")
    for each in results[0].scores.summary():
        table.add_column(each.name, justify="right")
        table.add_column("missed", justify="right")
    table.add_column("training", justify="right")
    for result in results:
        cells = []
        for each in result.scores.summary():
            mean = each.dice.mean
            cells += ["-" if mean is None else f"{mean:.2f}", f"{each.missed}/{volumes}"]
        table.add_row(result.settings.map, *cells, f"{result.seconds:.0f} s")
    typer.echo()
    Console().print(table)


def _write_numbers(
    path: Path, runs: Sequence[Settings], results: Sequence[RunResult], findings: Sequence[str]
) -> None:
    from rwloss._version import __version__
    from rwloss.store.atomic import whole_file

    content = {
        "rwloss": __version__,
        "sample": "hippocampus",
        "settings": {
            **{name: getattr(runs[0], name) for name in ("steps", "seed", "batch_size")},
            "learning_rate": runs[0].learning_rate,
            "network": runs[0].preset,
            "parameters": results[0].parameters,
            "slice_size": results[0].settings.patch_size,
            "training_slices": results[0].num_items,
        },
        "test_cases": [case.name for case in results[0].scores.cases],
        "results": {str(result.settings.map): _numbers(result) for result in results},
        "findings": findings,
    }
    try:
        with whole_file(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RWLossError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _numbers(result: RunResult) -> dict[str, Any]:
    return {
        "dice": {each.name: _dice(result, each) for each in result.scores.summary()},
        "training_seconds": round(result.seconds, 1),
        "losses": [round(loss, 5) for loss in result.losses],
    }


def _dice(result: RunResult, of: ClassSummary) -> dict[str, Any]:
    return {
        "mean": of.dice.mean,
        "cases": [case.classes[of.label - 1].dice for case in result.scores.cases],
        "missed": of.missed,
        "invented": of.false_alarms,
        "absent": of.empty,
    }


def _listed(items: Sequence[str]) -> str:
    """Items in a sentence.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
