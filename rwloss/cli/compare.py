"""`rwloss compare`: maps by seeds, trained alike, tested, and what the difference proves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.listing import print_table, printable
from rwloss.cli.options import OF_SETTINGS, AsJson, Jobs, Scheduler, without
from rwloss.cli.progress import stoppable
from rwloss.cli.report import write_if_possible
from rwloss.cli.watch import watched
from rwloss.errors import RWLossError
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.study.indicators import Indicators
    from rwloss.study.plan import Study
    from rwloss.study.results import Results
    from rwloss.study.statistics import Interval


@without("data", "map", "maps", "out", "seed")
def compare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="STUDY.toml|DATA",
            help="A study's file, or an nnU-Net raw folder with images.",
        ),
    ],
    map_texts: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="[NAME=]EXPR",
            help="A column: an expression, with a name for its folder. Repeat it.",
            show_default=False,
        ),
    ] = None,
    baselines: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline",
            metavar="NAME",
            help="A usual column by its name, such as dice_ce or boundary_gdl_rebalance; a wrong "
            "name lists them all. Repeat it.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N|N,N,...",
            help="How many seeds, from 0, or which ones with commas; by default those of the "
            "study, or 3.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[str | None, OF_SETTINGS] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="STUDY",
            help="Folder of the study; by default that of STUDY.toml. One that holds this study "
            "goes on, with what is new.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    **training: Any,
) -> None:
    """Train every map with every seed, and say what the differences prove.

    All runs share data, splits and settings; runs of one seed begin with the same weights and meet
    the same batches. Stopped at any moment, the same command goes on. Maps and seeds may be added
    later; what is not given is then as the study has it. A run that fails is named, and the others
    go on. All other settings of `rwloss train` stand under [training] in STUDY.toml;
    docs/compare.md explains the results.
    """
    from rwloss.study import plan
    from rwloss.training import require_training

    require_training()
    given = {
        "maps": plan.columns(map_texts or (), baselines or ()),
        "seeds": None if seeds is None else _seeds(seeds),
        "steps": training.pop("steps", None),
        "reference": reference,
        "training": training,
    }
    folder, study = _study(source, out, given)
    carry_out_and_tell(study, folder, jobs=jobs, scheduler=scheduler, as_json=as_json)


def carry_out_and_tell(
    study: Study,
    folder: Path,
    *,
    jobs: int | None = None,
    scheduler: str | None = None,
    as_json: bool = False,
) -> None:
    """Run a study in its folder, or what is left of it; write and print what came of it.

    Ends with exit code 1 where runs have failed. Raises RWLossError for wrong use, and where
    another process is at work in the folder: it would take each run of the other for a failed one.
    """
    from rwloss.files.lock import hold
    from rwloss.study import indicators, plan
    from rwloss.training.environment import fabric_of
    from rwloss.work.dask import expect_scheduler

    study = plan.placed(study, folder)
    _tell_of_more_steps(study, folder)
    if scheduler is not None:
        expect_scheduler(scheduler)
    if scheduler in {None, "local"}:  # the workers of others may have what this machine lacks
        fabric_of(next(plan.runs(study, folder)).settings)
    typer.echo(f"reading {count_of(_cases(study, folder), 'case')} ...", err=True)
    found = indicators.indicators(study, folder)  # reads all files: what is wrong is said now
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        if plan.placed(study, folder) != study:
            raise RWLossError(f"the study in {str(folder)!r} has just been changed: start again")
        plan.write(study, folder / "study.toml")
        _carry_out(study, folder, found, jobs=jobs, scheduler=scheduler, as_json=as_json)


def _cases(study: Study, folder: Path) -> int:
    """How many cases will be read: those to train on, and those of a test folder if it is used."""
    from rwloss import data
    from rwloss.study import plan
    from rwloss.training.preparation import test_cases

    settings = next(plan.runs(study, folder)).settings
    return len(data.find(study.data).cases) + len(test_cases(settings) or ())


def _tell_of_more_steps(study: Study, folder: Path) -> None:
    """Every run takes longer, those too that were done: nobody should learn that afterwards."""
    from rwloss.study import plan

    file = folder / "study.toml"
    before = plan.read(file).steps if file.exists() else study.steps
    if before != study.steps:
        typer.echo(
            f"steps grow from {before:,} to {study.steps:,}, in every run of the study", err=True
        )


def _carry_out(
    study: Study,
    folder: Path,
    found: Mapping[str, Indicators],
    *,
    jobs: int | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    from rwloss.study import plan, results
    from rwloss.study.execution import carry_out

    todo = list(plan.runs(study, folder))
    with (
        stoppable(lambda: "the same command goes on from there"),
        watched(todo, study.steps) as on_end,
    ):
        carry_out(todo, jobs=jobs, scheduler=scheduler, on_end=on_end)
    collected = results.collect(study, folder, found)
    results.write(collected, folder)
    if as_json:
        typer.echo(json.dumps(results.as_fields(collected), allow_nan=False))
    else:
        _tell(collected)
    page = write_if_possible(collected, folder)
    if not as_json:
        report = "" if page is None else f"; the report: {page}"
        typer.echo(f"{folder}: study.toml, results.json, runs.csv, runs/{report}")
    failed = sum(row.status != "done" for row in collected.runs)
    if failed:
        typer.echo(f"{failed} of {count_of(len(todo), 'run')} failed", err=True)
        raise typer.Exit(1)


def _study(source: str, out: Path | None, given: dict[str, Any]) -> tuple[Path, Study]:
    """The folder, and the study: of its study.toml, with what a file says, with what was given.

    What is not said is as the folder has it: defaults would change a study that has begun.
    """
    from rwloss.study import plan

    path = Path(source)
    if path.suffix.lower() == ".toml":
        said, folder = plan.read(path).model_dump(exclude_unset=True), out or path.parent
        if not (folder / "study.toml").exists() and out is None:
            raise RWLossError(
                f"{str(path)!r} lies in no study: rename it to study.toml, so that its folder is "
                "the study's, or give --out STUDY"
            )
    elif out is None:
        raise RWLossError("where to? Give --out STUDY, the folder of the study")
    else:
        said, folder = {"data": source}, out
    file = folder / "study.toml"
    layers = [plan.read(file).model_dump()] if file.exists() else []
    content: dict[str, Any] = {"maps": {}, "training": {}}
    for layer in (*layers, said, given):
        for name, value in layer.items():
            if isinstance(value, dict):
                content[name] = content[name] | value
            elif value is not None:
                content[name] = value
    if not content["maps"]:
        raise RWLossError(
            "which maps? Give --map or --baseline, such as --map rectified --baseline dice_ce"
        )
    return folder, plan.make(**content)


def _seeds(text: str) -> tuple[int, ...]:
    """Seeds from how many there are, or from the seeds themselves.

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
            "expected --seeds as a number of 1 or more, or seeds of 0 or more with commas such as "
            f"0,1,5, got {text!r}"
        )
    return found


def _tell(collected: Results) -> None:
    from rwloss.study.wording import mass, sentences

    rows: list[tuple[str, ...]] = [
        ("map", "runs", "failed", "lost a class", "test Dice", "end Dice", "wrong way", "violating")
    ]
    for each in collected.whole.maps:
        rows.append(
            (
                each.map,
                str(each.done),
                str(each.failed),
                str(each.lost) if each.lost_known else "-",
                _mean(each.test_dice),
                _mean(each.end_dice),
                "-" if each.wrong_way_mass is None else mass(each.wrong_way_mass),
                f"{collected.indicators[each.map].violating:.2g}",
            )
        )
    print_table(rows)
    for text in sentences(collected):
        typer.echo(printable(text))


def _mean(found: Interval | None) -> str:
    """A mean with its bootstrap interval."""
    if found is None:
        return "-"
    bounds = "" if found.n == 1 else f" ({found.low:.3f}..{found.high:.3f})"
    return f"{found.mean:.3f}{bounds}"
