"""`rwloss show`: draw one case with its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rwloss.cli import options as opt
from rwloss.errors import RWLossError
from rwloss.words import count_of


def show(
    source: Annotated[str, typer.Argument(metavar="CASE|STORE")],
    out: Annotated[Path, opt.Out],
    map_texts: Annotated[list[str] | None, opt.MapText] = None,
    case: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    image: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    axis: Annotated[int | None, typer.Option(min=0, max=2)] = None,
    slice_index: Annotated[int | None, typer.Option("--slice", min=0, metavar="N")] = None,
    scale: Annotated[Literal["linear", "symlog", "robust"], typer.Option()] = "linear",
    num_classes: opt.NumClasses = None,
    spacing: opt.Spacing = None,
    ignore_label: opt.IgnoreLabel = None,
) -> None:
    """Draw a case: image, labels, and the map of each class.

    Maps are computed for the whole case, then sliced; those of dynamic terms, such as dice, at
    uniform probabilities. NIfTI slices are rotated so that the patient's right, front and top point
    right or up; other formats are drawn as stored.

    source: Label file of a case: NIfTI, PNG, TIFF, NumPy, MHA or NRRD. In labelsTr or labelsTs of
    an nnU-Net raw folder, its image and the class names are found automatically. Or a store of
    maps (folder or URL).
    out: Picture to write: .png, .pdf or .svg. Overwrites the file.
    map_texts: Map to draw: a name such as rectified, or with parameters such as
    "boundary(convention='valverde')". Repeat it for more rows. `rwloss maps` lists the names. Not
    for a store, which has its own map.
    case: Case of a store; by default its first.
    image: Image of the case, with the same shape as its labels; by default its first channel; for a
    store, from the dataset of its latest run.
    axis: Axis perpendicular to the slice; by default the one of length 1, else the one with the
    largest spacing, the last if several are equal.
    slice_index: Slice along that axis, counted from 0; by default the one with the most classes,
    then the most foreground.
    scale: Scale of the colors: linear to the largest value; symlog, logarithmic above a thousandth
    of it; or robust, linear to the 99th percentile.
    """
    from rwloss import pictures, store
    from rwloss.pictures import cases

    pictures.check_output(out)
    if store.is_store(source):
        if map_texts or any(given is not None for given in (num_classes, spacing, ignore_label)):
            raise RWLossError(
                f"{source!r} is a store, which has its own map, classes and spacing: leave out "
                "--map, --num-classes, --spacing and --ignore-label"
            )
        stored = store.open(source)
        if case is None and stored:
            others = count_of(len(stored), "case")
            typer.echo(f"drawing the first of {others}; --case chooses another", err=True)
        drawing = cases.of_store(stored, case)
    elif case is not None:
        raise RWLossError(f"--case is for a store, and {source!r} has no map.json")
    elif not map_texts:
        raise RWLossError("no map to draw: give --map")
    else:
        drawing = cases.of_labels(
            Path(source),
            map_texts,
            num_classes=num_classes,
            spacing_mm=spacing,
            ignore_label=ignore_label,
        )
    drawing.draw(out, image=image, axis=axis, slice_index=slice_index, scale=scale)
    typer.echo(f"wrote {out}")
