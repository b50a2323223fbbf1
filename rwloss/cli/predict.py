"""`rwloss predict`: label maps of images from a trained run."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.evaluate import PartName, SplitName
from rwloss.cli.listing import print_failures, printable
from rwloss.cli.options import MAX_VOXELS, AsJson, MaxVoxels, OutOption, place_of
from rwloss.cli.progress import interruptible, progress
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.training.predicting import PredictedCase, Predictions


class CheckpointName(StrEnum):
    """Which weights of a run."""

    BEST = "best"
    LAST = "last"


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run of `rwloss train`.")],
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="Folder of images, named CASE_0000.ext, CASE_0001.ext, ... with one file per "
            "channel, or CASE.ext; or an nnU-Net raw folder, or one file.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Argument(
            metavar="OUT", help="Folder of the label maps, named CASE.ext.", show_default=False
        ),
    ] = None,
    out_option: OutOption = None,
    *,
    checkpoint: Annotated[
        CheckpointName,
        typer.Option(help="Weights of the best step on the validation cases, or of the last step."),
    ] = CheckpointName.BEST,
    part: Annotated[
        PartName | None,
        typer.Option(
            help="Images of an nnU-Net raw folder; by default test if it has imagesTs.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="Predict only this part of the run's split; by default all images.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99,
            help="Overlap of neighbouring windows, as a fraction of their length, for images that "
            "are larger than the patches of the run.",
        ),
    ] = 0.5,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Windows or slices per batch; fewer need less memory. By default about a million "
            "voxels.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, ...; by default a GPU if there is one.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite existing label maps.")
    ] = False,
    max_voxels: MaxVoxels = MAX_VOXELS,
    as_json: AsJson = False,
) -> None:
    """Predict label maps of images with a trained run.

    Images are normalised and cut as in training; each label map has the format and geometry of its
    image. To resume an interrupted run, give the same command again: it keeps label maps of the
    same weights and images. A failed case is named, and the other cases are done.
    """
    from rwloss.training.predicting import predict_images

    done = 0
    notes: set[str] = set()

    def what_is_left() -> str:
        again = "the same command without --overwrite" if overwrite else "the same command"
        return f"{count_of(done, 'label map')} done; {again} resumes"

    with interruptible(what_is_left), progress() as shown:

        def on_case(outcome: PredictedCase, total: int) -> None:
            nonlocal done
            done += outcome.state != "failed"
            shown.step("label maps", total, failed=outcome.state == "failed")
            if outcome.note not in {"", *notes}:
                notes.add(outcome.note)
                shown.line(outcome.note)

        made = predict_images(
            run,
            images,
            place_of(out, out_option),
            checkpoint=checkpoint.value,
            part=None if part is None else part.value,
            split=None if split is None else split.value,
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
