"""`rwloss check`: how maps affect training, predicted from the labels alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_in_voxels, print_table, printable
from rwloss.cli.progress import progress

if TYPE_CHECKING:
    from rwloss.study.indicators import Diagnosis


def check(
    source: opt.Labels,
    map_texts: Annotated[list[str], opt.MapText],
    out: Annotated[Path | None, opt.Out] = None,
    probs: Annotated[Literal["uniform", "random"], typer.Option()] = "uniform",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    num_classes: opt.NumClasses = None,
    spacing: opt.Spacing = None,
    ignore_label: opt.IgnoreLabel = None,
    label_sets: opt.LabelSets = None,
    as_json: opt.AsJson = False,
) -> None:
    """Predict from the labels alone how maps affect training.

    Prints the most important numbers first: how much of the gradient goes in the wrong direction,
    how strongly a rare class is pulled up, whether it can come back after it has died, and the
    effective weight of each term of a sum. Then how many voxels obey the stability principle, and
    where. A case that cannot be read is named, and the other cases are counted. docs/stability.md
    explains every number.

    map_texts: Map to check: a name such as rectified, or an expression such as
    "boundary(convention='valverde') + dice". Repeat it for more columns. `rwloss maps` lists the
    names.
    out: Picture of where the maps push the wrong way, in the case and slice where they do so most;
    for a map without wrong pushes, of all its pushes: .png, .pdf or .svg. Overwrites the file.
    probs: Probabilities at which the gradient is computed: the same for every class, or random at
    each voxel.
    seed: Seed of the random probabilities.
    limit: Check only the first N cases.
    """
    from rwloss import data, pictures
    from rwloss.study.indicators import Diagnosis

    if out is not None:
        pictures.check_output(out)
    dataset = data.find(source)
    diagnosis = Diagnosis(
        dataset,
        map_texts,
        num_classes=num_classes,
        spacing_mm=spacing,
        ignore_label=ignore_label,
        label_sets=label_sets,
        probs=probs,
        seed=seed,
    )
    cases = dataset.cases[:limit]
    with progress(lambda _: "nothing was written") as shown:
        for case in cases:
            shown.step("checked", len(cases), failed=not diagnosis.add(case))
    if diagnosis.reports:
        if out is not None:
            diagnosis.draw(out)
            typer.echo(f"wrote {out}", err=as_json)
        if as_json:
            typer.echo(json.dumps(diagnosis.as_fields(source), indent=1, allow_nan=False))
        else:
            _print(diagnosis)
    if dataset.doubts:
        typer.echo(printable(dataset.doubts), err=True)
    if num_classes is not None and (doubt := data.one_class_left(dataset, diagnosis.ignore_label)):
        typer.echo(printable(doubt), err=True)
    if diagnosis.failed:
        print_table([*diagnosis.failed.items()], err=True)
        others = "the numbers are for the others" if diagnosis.reports else "no case is left"
        typer.echo(f"{len(diagnosis.failed)} of {len(cases)} cases failed; {others}", err=True)
        raise typer.Exit(1)


def _print(diagnosis: Diagnosis) -> None:
    """Table and verdicts."""
    from rwloss.stability import CAUTION
    from rwloss.stability.wording import table

    some = next(iter(diagnosis.reports.values()))
    typer.echo(
        f"{some.num_images} cases, {some.total.voxels} voxels, {diagnosis.num_classes} classes; "
        f"maps of {diagnosis.maps_of}; {diagnosis.probs} probabilities\n\n"
        f"{table(diagnosis.reports, diagnosis.dataset.class_names)}\n\n{CAUTION}\n"
    )
    for text, verdict in diagnosis.verdicts().items():
        typer.echo(f"{text}: {verdict}")
    print_in_voxels(diagnosis.in_voxels)
