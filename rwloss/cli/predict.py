"""`rwloss predict`: label maps of whole images from a trained run."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.evaluate import PartName, SplitName
from rwloss.cli.listing import print_table, printable
from rwloss.cli.options import AsJson, MaxVoxels
from rwloss.cli.progress import interruptible, progress
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.training.predicting import PredictedCase, Predictions


class CheckpointName(StrEnum):
    """Which weights of a run."""

    BEST = "best"
    LAST = "last"


def predict(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a run, as `rwloss train` writes it.")
    ],
    images: Annotated[
        str,
        typer.Argument(
            metavar="IMAGES",
            help="A folder of images: CASE_0000.ext, CASE_0001.ext, ..., a file a channel, or "
            "CASE.ext; or an nnU-Net raw folder, or one file.",
        ),
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder of the label maps, named CASE.ext.")
    ],
    checkpoint: Annotated[
        CheckpointName,
        typer.Option(help="Weights of the step that did best on validation, or of the last one."),
    ] = CheckpointName.BEST,
    part: Annotated[
        PartName | None,
        typer.Option(
            help="Images of an nnU-Net raw folder; by default imagesTs where it is there.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="Only the cases of this part of the run's own split; by default all images.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.99,
            help="By how much of their length windows overlap where an image is larger than the "
            "patches of the training.",
        ),
    ] = 0.5,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Windows or slices at a time: less needs less memory. By default about a million "
            "voxels.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, cuda:1, ...; by default a GPU where there is one.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make label maps again that are there already.")
    ] = False,
    max_voxels: MaxVoxels = None,
    as_json: AsJson = False,
) -> None:
    """Label images with the network of a run, each in its own format and place.

    Images are normalised and cut as in training. Label maps that are there already, of the same
    weights and the same images, are kept: run the same command again to go on. A case that fails
    is named, and the others are done.
    """
    from rwloss.training.predicting import predict_images

    limit = {} if max_voxels is None else {"max_voxels": max_voxels}
    done = 0
    notes: set[str] = set()

    def told() -> str:
        again = "the same command without --overwrite" if overwrite else "the same command"
        return f"{count_of(done, 'label map')} done; {again} goes on from there"

    with interruptible(told), progress() as shown:

        def through(outcome: PredictedCase, total: int) -> None:
            nonlocal done
            done += outcome.state != "failed"
            shown.step("label maps", total, failed=outcome.state == "failed")
            if outcome.note not in {"", *notes}:
                notes.add(outcome.note)
                typer.echo(outcome.note, err=True)

        made = predict_images(
            run,
            images,
            out,
            checkpoint=checkpoint.value,
            part=None if part is None else part.value,
            split=None if split is None else split.value,
            overlap=overlap,
            batch_size=batch_size,
            device=device,
            overwrite=overwrite,
            progress=through,
            **limit,
        )
    if as_json:
        typer.echo(json.dumps(_as_fields(made)))
    else:
        kept = f", {made.kept:,} kept from an earlier start" if made.kept else ""
        typer.echo(
            f"{count_of(made.made, 'label map')} by {printable(made.record.origin)} made{kept} in "
            f"{made.seconds:.1f} s: {printable(made.out)}"
        )
    if made.failed:
        failed = f"{len(made.failed):,} of {count_of(len(made.outcomes), 'case')} failed"
        typer.echo(f"{failed}:", err=True)
        print_table([(outcome.case, outcome.reason) for outcome in made.failed], err=True)
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
