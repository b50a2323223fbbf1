"""`rwloss compare`: train and test every map with every seed, and compare the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_table, printable
from rwloss.cli.progress import watched
from rwloss.cli.report import write_if_possible
from rwloss.errors import RWLossError
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.study.execution import RunEnd
    from rwloss.study.plan import Run, Study
    from rwloss.study.results import Results
    from rwloss.study.statistics import Interval


def compare(
    source: Annotated[str, typer.Argument(metavar="STUDY.toml|DATA")],
    config: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    map_texts: Annotated[list[str] | None, typer.Option("--map", metavar="[NAME=]EXPR")] = None,
    baselines: Annotated[list[str] | None, typer.Option("--baseline", metavar="NAME")] = None,
    seeds: Annotated[str | None, typer.Option(metavar="N|N,N,...")] = None,
    learning_rates: Annotated[str | None, typer.Option(metavar="X,X,...")] = None,
    train_cases: Annotated[str | None, typer.Option(metavar="N,N,...")] = None,
    split_seeds: Annotated[str | None, typer.Option(metavar="N,N,...")] = None,
    axis: Annotated[list[str] | None, typer.Option(metavar="NAME=V,V,...")] = None,
    reference: Annotated[str | None, opt.OF_SETTINGS] = None,
    null: Annotated[bool, typer.Option("--null")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="STUDY")] = None,
    jobs: opt.Jobs = None,
    scheduler: opt.Scheduler = None,
    timeout: opt.Timeout = None,
    together: Annotated[str, typer.Option(metavar="N|auto", show_default=False)] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    as_json: opt.AsJson = False,
    **training: Annotated[Any, "data", "map", "maps", "out", "seed", "epochs"],
) -> None:
    """Train every map with every seed, and compare the results.

    All runs share data, split and settings, except settings with several values. Runs with the same
    seed start from the same weights and see the same batches. To resume an interrupted study, give
    the same command again. Maps, seeds and values can be added later; options that are not given
    are taken from the study. A failed run is named, and the other runs continue. docs/compare.md
    explains the results.

    source: study.toml of a study, or nnU-Net raw folder with images.
    config: TOML file with settings of `rwloss train`, such as those in docs/papers or the run.toml
    of a run; options override it, and its map and seed are not used.
    map_texts: Map to train with, and a name for its folder. Repeat it for more maps.
    baselines: Common map by its name, such as dice_ce or boundary_gdl_rebalance; an unknown name
    prints all names. Repeat it for more maps.
    seeds: Number of seeds, or the seeds separated by commas (3 means 0,1,2); by default those of
    the study, or 3.
    learning_rates: Learning rates; every map is trained with each of them.
    train_cases: Numbers of training cases to keep, such as 10,50,all.
    split_seeds: Seeds of the split; runs of a map with different splits count as repetitions.
    axis: Any setting with several values, such as preset=tiny,small. Repeat it for more axes.
    null: Train the reference a second time, under another name and with other seeds, to test the
    statistics: the differences between the two are chance.
    out: Folder of the study; by default that of study.toml. An existing study is resumed and
    extended.
    together: Number of runs to train as one model; auto, the default, is as many as fit into a
    GPU's memory, and 1 on the CPU.
    dry_run: Print what would be done, with memory and time, and write nothing.
    """
    from rwloss.study import assembly, plan
    from rwloss.training import require_training

    require_training()
    given = {
        "maps": assembly.columns(map_texts or (), baselines or ()),
        "seeds": None if seeds is None else _seeds(seeds),
        "steps": training.pop("steps", None),
        "reference": reference,
        "training": training,
        "axes": _axes(axis or (), learning_rates, train_cases, split_seeds),
    }
    note = partial(typer.echo, err=True)
    study, folder = assembly.assembled(source, out, given, config, note)
    if null:
        study = plan.with_null(study)
    workers: dict[str, Any] = {"jobs": jobs, "scheduler": scheduler, "together": _number(together)}
    if dry_run:
        from rwloss.study.execution import rehearsed

        for text in rehearsed(study, folder, **workers):
            typer.echo(printable(text))
        typer.echo("nothing was written")
        return
    workers["timeout_s"] = timeout
    run_and_print(study, folder, workers, as_json=as_json)


def run_and_print(
    study: Study,
    folder: Path,
    workers: dict[str, Any],
    *,
    as_json: bool = False,
) -> None:
    """Run a study, or the unfinished part of it, and print its results; exit code 1 if runs failed.

    workers: the options of `rwloss.study.execution.carry_out`.
    """
    from rwloss.study import results
    from rwloss.study.execution import conduct

    note = partial(typer.echo, err=True)
    collected = conduct(study, folder, _watched, note=note, **workers)
    if as_json:
        typer.echo(json.dumps(results.as_fields(collected), allow_nan=False))
    else:
        _print(collected)
    page = write_if_possible(collected, folder)
    if not as_json:
        report = "" if page is None else f"; the report: {page}"
        typer.echo(f"{folder}: study.toml, results.json, runs.csv, runs/{report}")
    failed = sum(row.status != "done" for row in collected.runs)
    if failed:
        typer.echo(f"{failed} of {count_of(len(collected.runs), 'run')} failed", err=True)
        raise typer.Exit(1)


@contextmanager
def _watched(runs: Sequence[Run]) -> Iterator[Callable[[RunEnd], None]]:
    """Progress of the runs of a study; yields the function to call when a run ends."""
    from rwloss.study.stacking import steps_done

    ended: set[tuple[str, int]] = set()
    steps = runs[0].settings.steps

    def look() -> int:
        """Steps done in all runs. A failed run counts as complete."""
        return sum(
            steps if (run.name, run.seed) in ended else min(steps_done(run), steps) for run in runs
        )

    left = "the same command resumes the study"
    with watched(count_of(len(runs), "run"), len(runs) * steps, look, left) as shown:

        def on_end(end: RunEnd) -> None:
            ended.add((end.name, end.seed))
            outcome = "done" if end.reason is None else f"failed: {printable(end.reason)}"
            shown.line(f"{len(ended)} of {len(runs)}: {end.name}, seed {end.seed}: {outcome}")

        yield on_end


def _axes(
    axis: Sequence[str],
    learning_rates: str | None,
    train_cases: str | None,
    split_seeds: str | None,
) -> dict[str, list[Any]]:
    """The given axes, by setting. Raises RWLossError for one that is given twice."""
    from rwloss.study import axes

    named = {
        "learning_rate": learning_rates, "train_cases": train_cases, "split_seed": split_seeds,
    }  # fmt: skip
    given = [(name, axes.read_values(text)) for name, text in named.items() if text is not None]
    given += map(axes.read_option, axis)
    found = dict(given)
    if len(found) < len(given):
        raise RWLossError(f"expected each axis once, got {', '.join(name for name, _ in given)}")
    return found


def _number(together: str) -> int | Literal["auto"]:
    if together == "auto":
        return "auto"
    if together.isdecimal() and int(together) > 0:
        return int(together)
    raise RWLossError(f"expected --together as a number of runs or auto, got {together!r}")


def _seeds(text: str) -> tuple[int, ...]:
    """Seeds, from their number or from a list.

    >>> _seeds("3"), _seeds("3,7"), _seeds("3,")
    ((0, 1, 2), (3, 7), (3,))
    """
    try:
        listed = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        listed = ()
    found = listed if "," in text else tuple(range(listed[0] if listed else 0))
    if not found or min(found) < 0:
        raise RWLossError(
            "expected --seeds as a number of 1 or more, or seeds of 0 or more separated by commas "
            f"such as 0,1,5, got {text!r}"
        )
    return found


def _print(collected: Results) -> None:
    from rwloss.study.axes import kept_apart, text_of
    from rwloss.study.figures import MINUS, mass
    from rwloss.study.wording import sentences

    usual = ["dice", "hd95_mm", "nsd"]  # all of a test by default would be too wide
    shown = [*usual, *collected.asked_for()]
    rows: list[tuple[str, ...]] = [
        (
            *("map", *kept_apart(collected.study.axes), "runs", "failed", "lost a class"),
            *("test Dice", *map(collected.titled, shown[1:]), "end Dice"),
            *("wrong way", "violating"),
        )
    ]
    for each in collected.whole.maps:
        rows.append(
            (
                each.map,
                *map(text_of, each.values.values()),
                str(each.done),
                str(each.failed),
                str(each.lost) if each.lost_known else "-",
                *(_mean(each.test.get(metric)) for metric in shown),
                _mean(each.end_dice),
                "-" if each.wrong_way_mass is None else mass(each.wrong_way_mass),
                f"{collected.indicators[each.map].violating:.2g}",
            )
        )
    print_table(rows)
    for text in sentences(collected):
        typer.echo(printable(text.replace(MINUS, "-")))


def _mean(found: Interval | None) -> str:
    """A mean with its bootstrap interval."""
    if found is None:
        return "-"
    bounds = "" if found.n == 1 else f" ({found.low:.3f}..{found.high:.3f})"
    return f"{found.mean:.3f}{bounds}"
