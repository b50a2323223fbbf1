"""`rwloss evaluate`: predictions against labels, per class; nothing is left out silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwloss.cli import options as opt
from rwloss.cli.listing import print_failures, print_in_voxels, print_scores, printable
from rwloss.cli.progress import progress
from rwloss.errors import RWLossError
from rwloss.words import count_of, length_unit

if TYPE_CHECKING:
    from rwloss.training.evaluation import Evaluation
    from rwloss.training.scores import Penalty


def evaluate(
    predictions: Annotated[str, typer.Argument(metavar="PRED")],
    labels: Annotated[str, typer.Argument(metavar="LABELS")],
    part: opt.Part = None,
    run: Annotated[Path | None, typer.Option(metavar="RUN")] = None,
    split: opt.SplitPart = None,
    out: Annotated[Path | None, opt.Out] = None,
    penalty: Annotated[str | None, typer.Option(metavar="MM|diagonal")] = None,
    metrics: opt.Metrics = None,
    tolerance: Annotated[list[float] | None, typer.Option(metavar="MM")] = None,
    num_classes: opt.NumClasses = None,
    spacing: opt.Spacing = None,
    ignore_label: opt.IgnoreLabel = None,
    jobs: opt.Jobs = None,
    max_voxels: opt.MaxVoxels = opt.MAX_VOXELS,
    as_json: opt.AsJson = False,
) -> None:
    """Score label maps by overlap, distances, topology and lesions.

    Scores each class except the background. Each mean is shown with its number of cases, and with
    the numbers of cases in which the class was missed, was a false alarm or was in neither. A case
    that cannot be evaluated is named, and the other cases are counted. docs/evaluate.md explains
    every number.

    predictions: Folder or glob of label maps, named CASE.ext.
    labels: True labels: folder or glob of label maps with the same names, or an nnU-Net raw folder.
    part: Labels of an nnU-Net raw folder; by default test if it has labelsTs.
    run: Evaluate only the test cases of this run of `rwloss train`, with its number of classes,
    spacing, ignore label, metrics and tolerance by default.
    split: Part of the split of --run; by default test.
    out: File for the scores of each case and class: .csv or .json. Overwrites the file.
    penalty: Distance that counts for missed classes and false alarms in the means of distances: a
    number of mm, or diagonal for that of the image. By default the means leave them out, and their
    numbers are shown.
    tolerance: Distance in mm (in voxels without a spacing) up to which surfaces agree, for nsd and
    surface_dice; by default 1. Repeat it to add columns such as nsd_at_2.
    """
    from rwloss.metrics import require, select
    from rwloss.training import evaluation
    from rwloss.training.scores import check_penalty, check_tolerance

    if out is not None:
        evaluation.check_score_file(out)
    distance = _parse_penalty(penalty)
    check_penalty(distance)
    if run is None and split is not None:
        raise RWLossError(f"--split {split} needs --run, the run with this split")
    spacing_mm, cases = spacing, None
    if run is not None:
        from rwloss.training import RunFolder

        folder = RunFolder(run)
        known = folder.data_settings()
        cases = folder.cases(split or "test")
        num_classes = known.num_classes if num_classes is None else num_classes
        spacing_mm = known.spacing if spacing_mm is None else spacing_mm
        ignore_label = known.ignore_label if ignore_label is None else ignore_label
        metrics = ("dice", *known.metrics) if metrics is None else metrics
        tolerance = tolerance or [known.nsd_tolerance]
    tolerance = tolerance or [1.0]
    for length in tolerance:
        check_tolerance(length)
    names = select(metrics or ("default",), tolerance[1:])
    require(names)
    with progress(lambda _: "nothing was written") as shown:
        result = evaluation.evaluate(
            predictions,
            labels,
            part=part,
            cases=cases,
            num_classes=num_classes,
            spacing_mm=spacing_mm,
            ignore_label=ignore_label,
            metrics=names,
            tolerance_mm=tolerance[0],
            jobs=jobs,
            progress=lambda outcome, total: shown.step(
                "evaluated", total, failed=isinstance(outcome, evaluation.FailedPair)
            ),
            counting=lambda total: shown.step("label maps read", total),
            max_voxels=max_voxels,
        )
    unwritten = None
    if out is not None:
        try:
            evaluation.write_scores(result, out, distance)
        except RWLossError as error:
            unwritten = error  # raised at the end: what was measured is shown first
    if as_json:
        typer.echo(json.dumps(evaluation.as_fields(result, distance), allow_nan=False))
    elif result.scores.cases:
        _tell(result, distance)
    if out is not None and unwritten is None:
        typer.echo(f"wrote {printable(str(out))}", err=as_json)
    _tell_problems(result)
    if unwritten is not None:
        raise unwritten
    if not result.is_complete:
        raise typer.Exit(1)


def _parse_penalty(text: str | None) -> Penalty:
    if text is None or text == "diagonal":
        return text  # type: ignore[return-value]
    try:
        return float(text)
    except ValueError as error:
        raise RWLossError(
            f"expected --penalty as a number of mm, or diagonal, got {text!r}"
        ) from error


def _tell(result: Evaluation, penalty: Penalty) -> None:
    """The table, and what its means include."""
    from rwloss.metrics import find

    cases = count_of(len(result.scores.cases), "case")
    if len(result.scores.cases) < result.num_cases:
        cases = f"{len(result.scores.cases):,} of {count_of(result.num_cases, 'case')}"
    typer.echo(f"{printable(result.predictions)} against {printable(result.labels)}: {cases}\n")
    unit = length_unit(case.spacing_mm is not None for case in result.scores.cases)
    summary = result.scores.summary(penalty)
    print_scores(summary, unit)
    typer.echo(
        "\nmissed: in the labels only; false alarms: in the prediction only. Shares such as Dice "
        "and NSD are 0 for both; a class that is in neither has none."
    )
    outside = sum(each.missed + each.false_alarms for each in summary)
    if not any(find(name).is_distance for name in result.scores.metrics):
        return
    if penalty is not None:
        length = "the image's diagonal" if penalty == "diagonal" else f"{penalty:g} {unit}"
        typer.echo(f"In the means of distances, both count as {length}.")
    elif outside:
        typer.echo(
            f"Distances leave out both ({outside:,} here), so a prediction that misses more "
            "can look better: read n, or give a --penalty."
        )
    print_in_voxels(len(result.in_voxels))


def _tell_problems(result: Evaluation) -> None:
    """Print what the means leave out, on standard error."""
    print_failures([(each.name, each.reason) for each in result.failed], result.num_cases)
    for names, what in (
        (result.unpredicted, "without a prediction"),
        (result.unlabelled, "predicted, without labels"),
    ):
        if names:
            listed = ", ".join(map(printable, names))
            typer.echo(f"{count_of(len(names), 'case')} {what}: {listed}", err=True)
    if result.regions:
        typer.echo(
            "scores are computed per label, not for the regions that dataset.json names: "
            f"{', '.join(map(printable, result.regions))}",
            err=True,
        )
