"""`rwloss demo`: real labels, two maps, two trained U-Nets, in minutes on the sample."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cores import available_cores
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from rwloss.training import ClassDice, Run, RunResult

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
    from rwloss.training import require_monai

    require_monai()
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

    from rwloss.training import Run

    runs = [Run(source, out / name, steps, seed) for name in MAPS]
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
    typer.echo(f"\nNumbers and settings: {numbers}; maps: {_listed([str(out / m) for m in MAPS])}")


def what_was_seen(result: RunResult) -> list[str]:
    """What the numbers of one training say, in sentences: which classes were lost, if any."""
    lost = [
        f"{name} (Dice {dice.mean:.2f}, missed in {dice.missed} of {len(dice.cases)} volumes)"
        for name, dice in _foreground(result)
        if dice.mean is not None and dice.mean < LOST_BELOW
    ]
    unmeasured = [name for name, dice in _foreground(result) if dice.mean is None]
    sentences = []
    if lost:
        noun, were = ("class", "was") if len(lost) == 1 else ("classes", "were")
        sentences.append(
            f"With the {result.expression} map the {noun} {_listed(lost)} {were} lost."
        )
        first, last = _first_and_last_loss(result)
        if last < first:
            sentences.append(
                f"Its loss fell all the same, from {first:.3f} to {last:.3f}: "
                "the loss alone does not tell."
            )
    else:
        sentences.append(f"With the {result.expression} map no class was lost.")
    if unmeasured:
        sentences.append(f"No test volume has a Dice of {_listed(unmeasured)}.")
    return sentences


def _foreground(result: RunResult) -> list[tuple[str, ClassDice]]:
    return list(zip(result.class_names, result.dice, strict=True))[1:]


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


def _train(runs: Sequence[Run], jobs: int) -> list[RunResult]:
    from rwloss.training import train_all

    typer.echo(
        f"Training {len(runs)} U-Nets, {runs[0].steps} steps of {runs[0].batch_size} slices each, "
        f"{min(jobs, len(runs))} at a time ..."
    )
    with _progress([run.maps.name for run in runs], runs[0].steps) as on_step:
        return train_all(runs, jobs=jobs, on_step=on_step)


@contextmanager
def _progress(names: Sequence[str], steps: int) -> Iterator[Callable[[int, int, float], None]]:
    """A bar for each training on a terminal, plain lines elsewhere; both on standard error."""
    if not sys.stderr.isatty():
        yield _PlainLines(names, steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = [bars.add_task(name, total=steps, loss="-") for name in names]
        yield lambda run, step, loss: bars.update(tasks[run], completed=step, loss=f"{loss:.3f}")


class _PlainLines:
    """A line for each quarter of each training: a log file is no place for a bar."""

    def __init__(self, names: Sequence[str], steps: int) -> None:
        self.names, self.steps = names, steps
        self.quarters = [0] * len(names)

    def __call__(self, run: int, step: int, loss: float) -> None:
        """Report one step of one training."""
        quarter = step * 4 // self.steps
        if quarter > self.quarters[run]:
            self.quarters[run] = quarter
            typer.echo(f"{self.names[run]}: step {step} of {self.steps}, loss {loss:.3f}", err=True)


def _print_table(results: Sequence[RunResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    volumes = len(results[0].test_cases)
    table = Table(title=f"Dice on {volumes} test volumes", title_justify="left")
    table.add_column("map")
    for name, _ in _foreground(results[0]):
        table.add_column(name, justify="right")
        table.add_column("missed", justify="right")
    table.add_column("training", justify="right")
    for result in results:
        cells = []
        for _, dice in _foreground(result):
            cells += ["-" if dice.mean is None else f"{dice.mean:.2f}", f"{dice.missed}/{volumes}"]
        table.add_row(result.expression, *cells, f"{result.seconds:.0f} s")
    typer.echo()
    Console().print(table)


def _write_numbers(
    path: Path, runs: Sequence[Run], results: Sequence[RunResult], findings: Sequence[str]
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
            "slice_size": results[0].size,
            "training_slices": results[0].num_slices,
        },
        "test_cases": results[0].test_cases,
        "results": {result.expression: _numbers(result) for result in results},
        "findings": findings,
    }
    try:
        with whole_file(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RWLossError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def _numbers(result: RunResult) -> dict[str, Any]:
    return {
        "dice": {
            name: {
                "mean": dice.mean,
                "cases": dice.cases,
                "missed": dice.missed,
                "invented": dice.invented,
                "absent": dice.absent,
            }
            for name, dice in _foreground(result)
        },
        "training_seconds": round(result.seconds, 1),
        "losses": [round(loss, 5) for loss in result.losses],
    }


def _listed(items: Sequence[str]) -> str:
    """Items in a sentence.

    >>> _listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
