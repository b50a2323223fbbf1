"""`rwloss precompute`: compute and store the maps of a dataset."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_failures, print_in_voxels, printable, size_of
from rwloss.cli.progress import Progress, progress
from rwloss.words import count_of

if TYPE_CHECKING:
    from rwloss.maps import Expression
    from rwloss.precompute import Summary


def precompute(
    source: opt.Labels,
    out: Annotated[str | None, typer.Argument(metavar="OUT")] = None,
    out_option: opt.OutOption = None,
    *,
    map_text: Annotated[str, opt.MapText],
    num_classes: opt.NumClasses = None,
    spacing: opt.Spacing = None,
    ignore_label: opt.IgnoreLabel = None,
    label_sets: opt.LabelSets = None,
    file_format: Annotated[Literal["nifti", "zarr"], typer.Option("--format")] = "nifti",
    dtype: Annotated[Literal["auto", "int16", "float16", "float32"], typer.Option()] = "auto",
    jobs: opt.Jobs = None,
    scheduler: opt.Scheduler = None,
    timeout: opt.Timeout = None,
    max_voxels: opt.MaxVoxels = opt.MAX_VOXELS,
    dry_run: Annotated[bool, typer.Option("--dry-run")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Compute the maps of a dataset and store them for training.

    To resume an interrupted run, give the same command again: it keeps the maps that are complete
    and belong to the same labels. A failed case is named, and the other cases are completed.

    out: Folder of the maps; with --format zarr also a URL in an object store, such as
    s3://bucket/maps.
    map_text: Map to make: a name such as rectified, or with parameters such as
    "boundary(convention='valverde')". `rwloss maps` lists the names.
    file_format: nifti: files for any viewer; zarr: chunks, so that a patch can be read separately.
    dtype: Type of the stored values. auto: 16 bits if that is within 3e-4 of each value, else
    float32. int16 is for nifti, float16 for zarr.
    dry_run: Print what would be done and how large it would be.
    """
    from rwloss import maps
    from rwloss.precompute import plan
    from rwloss.precompute import precompute as run

    phase = "cases" if dry_run else "maps"
    with progress(_what_is_left) as shown:
        summary = (plan if dry_run else run)(
            source,
            opt.place_of(out, out_option),
            map_text,
            num_classes=num_classes,
            spacing_mm=spacing,
            ignore_label=ignore_label,
            label_sets=label_sets,
            format=file_format,
            dtype=dtype,
            jobs=jobs,
            scheduler=scheduler,
            timeout_s=timeout,
            progress=lambda outcome, total: shown.step(
                phase, total, failed=outcome.state == "failed"
            ),
            counting=lambda total: shown.step("labels read", total),
            max_voxels=max_voxels,
        )
    if as_json:
        typer.echo(json.dumps(as_fields(summary, planned=dry_run)))
    else:
        _print(summary, maps.parse(map_text), planned=dry_run)
    if summary.doubts:
        typer.echo(printable(summary.doubts), err=True)
    print_failures([(each.case, each.reason) for each in summary.failed], len(summary.outcomes))
    if summary.failed:
        raise typer.Exit(1)


def _what_is_left(shown: Progress) -> str:
    if "maps" not in shown.paces:
        return "no map was made; run the same command to start again"
    cases = count_of(shown.paces["maps"].total, "case")
    return f"{shown.done('maps'):,} of {cases} are done; the same command resumes the run"


def as_fields(summary: Summary, *, planned: bool = False) -> dict[str, Any]:
    """A summary as --json prints it."""
    return {
        "store": summary.store,
        "expression": summary.expression,
        "asked": summary.asked,
        "num_classes": summary.num_classes,
        "planned": planned,
        "counts": summary.counts,
        "voxels": summary.voxels,
        "seconds": round(summary.seconds, 3),
        "stored_bytes": summary.stored_bytes,
        "dense_bytes": summary.dense_bytes,
        "ratio": _ratio(summary),
        "failures": [
            {"case": outcome.case, "reason": outcome.reason} for outcome in summary.failed
        ],
    }


def _print(summary: Summary, asked: Expression, *, planned: bool) -> None:
    counts, of = summary.counts, f"of {printable(summary.expression)}"
    seconds, store = f"{summary.seconds:.1f} s", printable(summary.store)
    if planned:
        kept = f", {counts['kept']:,} kept" if counts["kept"] else ""
        typer.echo(
            f"Dry run: {count_of(counts['missing'], 'map')} {of} would be made{kept} in {store}"
        )
    else:
        kept = f", {counts['kept']:,} kept from an earlier run" if counts["kept"] else ""
        typer.echo(f"{count_of(counts['made'], 'map')} {of} made{kept} in {seconds}: {store}")
    cases = f"{count_of(summary.voxels, 'voxel')}, {count_of(summary.num_classes, 'class')}"
    ratio = _ratio(summary)
    smaller = "" if ratio is None else f", {ratio:.3g} times smaller than dense float32"
    about = "about " if planned else ""
    typer.echo(f"{cases}: {about}{size_of(summary.stored_bytes)}{smaller}")
    if asked.has_mm:
        print_in_voxels(sum(outcome.in_voxels for outcome in summary.outcomes))
    static = asked.static_part
    if str(static) != str(asked):
        typer.echo(
            f"This is the static part of {printable(summary.asked)}: links, schedules and terms "
            "that depend on the prediction are computed during training"
        )
    if static is not None and static.needs_class_counts:
        typer.echo("The class weights were computed from the whole dataset")


def _ratio(summary: Summary) -> float | None:
    """How many times smaller the store is than dense float32."""
    if not summary.stored_bytes:
        return None
    return round(summary.dense_bytes / summary.stored_bytes, 2)
