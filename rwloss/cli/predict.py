"""`rwloss predict`: predict label maps of images with a trained run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_failures, printable
from rwloss.cli.progress import progress
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.training.predicting import PredictedCase, Predictions


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN")],
    images: Annotated[str, typer.Argument(metavar="IMAGES")],
    out: Annotated[str | None, typer.Argument(metavar="OUT")] = None,
    out_option: opt.OutOption = None,
    *,
    checkpoint: Annotated[Literal["best", "last"], typer.Option()] = "best",
    network: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    part: opt.Part = None,
    split: opt.SplitPart = None,
    overlap: Annotated[float, typer.Option(min=0, max=0.99)] = 0.5,
    batch_size: Annotated[int | None, typer.Option(min=1, metavar="N")] = None,
    device: Annotated[str | None, typer.Option()] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite")] = False,
    max_voxels: opt.MaxVoxels = opt.MAX_VOXELS,
    as_json: opt.AsJson = False,
) -> None:
    """Predict label maps of images with a trained run.

    Images are normalized and cropped as in training; each label map has the format and geometry of
    its image. To resume an interrupted run, give the same command again: it keeps label maps that
    were made with the same weights and images. A failed case is named, and the other cases are
    completed.

    run: Folder of a run of `rwloss train`.
    images: Folder of images, named CASE_0000.ext, CASE_0001.ext, ... with one file per channel, or
    CASE.ext; or an nnU-Net raw folder, or one file.
    out: Folder of the label maps, named CASE.ext.
    checkpoint: Weights of the best step on the validation cases, or of the last step.
    network: Your own network class, if the run was trained with one, as FILE.py:Class or
    module:Class. It is never taken from RUN, because RUN must not choose which code runs.
    part: Images of an nnU-Net raw folder; by default test if it has imagesTs.
    split: Predict only this part of the run's split; by default all images.
    overlap: Overlap of neighboring windows, as a fraction of their length, for images that are
    larger than the patches of the run.
    batch_size: Windows or slices per batch; a smaller number needs less memory. By default about a
    million voxels.
    device: cpu, cuda, cuda:1, ...; by default a GPU if there is one.
    overwrite: Overwrite existing label maps.
    """
    from rwloss.training.predicting import predict_images

    notes: set[str] = set()
    again = "the same command without --overwrite" if overwrite else "the same command"
    maps = "label maps"
    with progress(
        lambda shown: f"{count_of(shown.done(maps), 'label map')} done; {again} resumes"
    ) as shown:

        def on_case(outcome: PredictedCase, total: int) -> None:
            shown.step(maps, total, failed=outcome.state == "failed")
            if outcome.note not in {"", *notes}:
                notes.add(outcome.note)
                shown.line(outcome.note)

        made = predict_images(
            run,
            images,
            opt.place_of(out, out_option),
            checkpoint=checkpoint,
            network=network,
            part=part,
            split=split,
            overlap=overlap,
            batch_size=batch_size,
            device=device,
            overwrite=overwrite,
            progress=on_case,
            max_voxels=max_voxels,
        )
    if as_json:
        typer.echo(json.dumps(_as_fields(made)))
    else:
        kept = f", {made.kept:,} kept from an earlier run" if made.kept else ""
        typer.echo(
            f"{count_of(made.made, 'label map')} by {printable(made.record.origin)} made{kept} in "
            f"{made.seconds:.1f} s: {printable(made.out)}"
        )
    print_failures([(each.case, each.reason) for each in made.failed], len(made.outcomes))
    if made.failed:
        raise typer.Exit(1)


def _as_fields(made: Predictions) -> dict[str, Any]:
    """What --json prints."""
    return {
        "out": made.out,
        "record": made.record.model_dump(mode="json"),
        "counts": {"made": made.made, "kept": made.kept, "failed": len(made.failed)},
        "seconds": round(made.seconds, 3),
        "failures": [{"case": outcome.case, "reason": outcome.reason} for outcome in made.failed],
    }
