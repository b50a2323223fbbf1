"""`rwloss demo`: maps, a small study and its report on the sample data, in minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rwloss.cli import options as opt
from rwloss.cli.compare import run_and_print
from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors

MAPS = {
    "boundary": "boundary",
    "rectified": "rectified",
    "rectified_dice": "rectified + dice",
    "dice_ce": "dice + cross_entropy",
}
DRAWN = ("boundary", "rectified")
NEXT = """
Next: open {page} in a browser. With your own DATA (an nnU-Net raw folder, or label files):
  rwloss check DATA --map rectified --map "rectified + dice"   what a loss will do to your labels
  rwloss precompute DATA my_maps --map rectified               maps for your own training loop
  rwloss compare DATA --map rectified --baseline dice_ce --seeds 6 --steps 2000 --out study
In your loop, rwloss.RegionWiseLoss("rectified + dice") takes logits and labels."""


def demo(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("rwloss-demo"),
    steps: Annotated[int, typer.Option(min=1)] = 400,
    seeds: Annotated[int, typer.Option(min=1)] = 2,
    jobs: opt.Jobs = None,
) -> None:
    """Try everything on sample data: maps, a small study, its report.

    Uses the hippocampus volumes that come with rwloss. Computes and draws the boundary and the
    rectified map; then trains small 2-D U-Nets with four maps, from the same initial weights and on
    the same batches, and writes a report to open in a browser. To resume an interrupted demo, give
    the same command again.

    out: Folder for the maps, the picture and the study.
    steps: Training steps of each run.
    seeds: Number of seeds; each map is trained once per seed.
    """
    from rwloss import data
    from rwloss.pictures import cases, check_output
    from rwloss.study import plan
    from rwloss.study.report import require_report
    from rwloss.training import require_training

    require_training()
    require_report()
    source = data.sample_dir("hippocampus")
    dataset, tests = data.find(source), data.find(source, part="test")
    picture = out / "maps.png"
    with naming_write_errors(out, "name another folder with --out"):
        out.mkdir(parents=True, exist_ok=True)
    check_output(picture)
    classes = " and ".join(dataset.class_names[1:])
    typer.echo(
        f"Sample: {len(dataset.cases)} hippocampus volumes to train on, {len(tests.cases)} to "
        f"test on; classes {classes}."
    )
    for name in DRAWN:
        _make_maps(dataset, out / name, name, jobs)
    case = cases.of_labels(dataset.cases[0].labels, DRAWN)
    case.draw(picture)
    typer.echo(f"Picture of both maps of the volume {dataset.cases[0].name}: {picture}")

    study = plan.make(
        data=str(source),
        maps=MAPS,
        seeds=list(range(seeds)),
        steps=steps,
        training={
            "test_part": "folder",
            "validate_every": 30,
            "record_every": 30,
            "accelerator": "cpu",
        },
    )
    typer.echo(f"Training {len(MAPS) * seeds} U-Nets, {steps} steps each ...")
    run_and_print(study, out / "study", {"jobs": jobs})
    typer.echo(NEXT.format(page=out / "study" / "report.html"))


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
