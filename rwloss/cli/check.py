"""`rwloss check`: what maps do to training, known from the labels alone."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rwloss.cli.listing import print_table
from rwloss.cli.options import IgnoreLabel, NumClasses, Spacing
from rwloss.cli.progress import progress
from rwloss.errors import RWLossError

if TYPE_CHECKING:
    from rwloss import Regions
    from rwloss.data import Case, Dataset, LabelVolume
    from rwloss.maps import Expression
    from rwloss.stability import StabilityReport


class Rule(StrEnum):
    """Where the gradient is looked at."""

    UNIFORM = "uniform"
    RANDOM = "random"


def check(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="An nnU-Net raw folder, or a folder or glob of label files (NIfTI, PNG, TIFF, "
            "NumPy; MHA and NRRD with SimpleITK).",
        ),
    ],
    map_texts: Annotated[
        list[str],
        typer.Option(
            "--map",
            metavar="EXPR",
            help="Map to check: a name such as rectified, or an expression such as "
            "\"boundary(convention='valverde') + dice\". Repeat it for a column each. "
            "`rwloss maps` lists the names.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Picture of where the maps push the wrong way, in the case and slice where they "
            "do so most: .png, .pdf or .svg. An existing file is replaced.",
            show_default=False,
        ),
    ] = None,
    probs: Annotated[
        Rule,
        typer.Option(
            "--probs",
            help="Probabilities at which the gradient is looked at: the same for every class, or "
            "random ones at each voxel.",
        ),
    ] = Rule.UNIFORM,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random probabilities.")] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Look at the first N cases only.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all figures as JSON instead of a table.")
    ] = False,
    num_classes: NumClasses = None,
    spacing: Spacing = None,
    ignore_label: IgnoreLabel = None,
) -> None:
    """Tell from the labels alone what maps will do to training.

    How many voxels obey the stability principle, how much is pushed the wrong way and where, and
    whether a rare class can come back once it has died. A case that cannot be read is named, and
    the others count. docs/stability.md explains every figure.
    """
    from rwloss import maps, pictures
    from rwloss.data import count_classes, find

    if output is not None:
        pictures.check_output(output)
    expressions = {text: maps.parse(text) for text in map_texts}
    dataset = find(source)
    survey = _Survey(
        dataset,
        expressions,
        count_classes(dataset, num_classes, ignore_label=ignore_label),
        spacing,
        dataset.ignore_label if ignore_label is None else ignore_label,
        probs.value,
        seed,
    )
    survey.resolve()
    cases = dataset.cases[:limit]
    with progress() as told:
        for case in cases:
            survey.add(case)
            told.step("checked", len(cases), failed=case.name in survey.failed)
    if output is not None and survey.reports:
        survey.draw(output)
        typer.echo(f"wrote {output}", err=as_json)
    if survey.reports and as_json:
        typer.echo(json.dumps(survey.content(source), indent=1, allow_nan=False))
    elif survey.reports:
        typer.echo(survey.text())
    if survey.failed:
        print_table([*survey.failed.items()], err=True)
        others = "the figures are of the others" if survey.reports else "none is left to check"
        typer.echo(f"{len(survey.failed)} of {len(cases)} cases failed; {others}", err=True)
        raise typer.Exit(1)


class _Survey:
    """The reports of a data set, case by case: no case stays in memory."""

    def __init__(
        self,
        dataset: Dataset,
        expressions: dict[str, Expression],
        num_classes: int,
        spacing_mm: tuple[float, ...] | None,
        ignore_label: int | None,
        probs: str,
        seed: int,
    ) -> None:
        self.dataset, self.expressions, self.num_classes = dataset, expressions, num_classes
        self.spacing_mm, self.ignore_label = spacing_mm, ignore_label
        self.probs, self.seed = probs, seed
        self.reports: dict[str, StabilityReport] = {}
        self.failed: dict[str, str] = {}
        self._number = 0  # of the cases met, for their random probabilities
        self._worst: tuple[float, int, Case] | None = None

    def resolve(self) -> None:
        """Put numbers in place of class weights that follow from all cases."""
        from rwloss.data.formats import MAX_VOXELS
        from rwloss.precompute.survey import label_counts

        if not any(each.needs_class_counts for each in self.expressions.values()):
            return
        seen = label_counts(self.dataset, MAX_VOXELS, jobs=0)
        if self.ignore_label is not None:
            seen.pop(self.ignore_label, None)
        counts = [seen.get(k, 0) for k in range(self.num_classes)]
        self.expressions = {text: each.resolved(counts) for text, each in self.expressions.items()}

    def add(self, case: Case) -> None:
        """Count one case in every report, or in none."""
        from rwloss.stability import check_expression

        number, self._number = self._number, self._number + 1
        try:
            _, regions = self._read(case)
            found = {
                text: check_expression(
                    expression, regions, self.probs, seed=self.seed, first_image=number
                )
                for text, expression in self.expressions.items()
            }
        except Exception as error:  # a plug-in may raise anything; the other cases go on
            known = isinstance(error, RWLossError)
            self.failed[case.name] = str(error) if known else f"{type(error).__name__}: {error}"
            return
        self.reports = {
            text: self.reports[text] + report if self.reports else report
            for text, report in found.items()
        }
        wrong = sum(report.wrong_way_mass for report in found.values())
        if self._worst is None or wrong > self._worst[0]:
            self._worst = wrong, number, case

    def text(self) -> str:
        """Table and verdicts."""
        from rwloss.stability import CAUTION
        from rwloss.stability.table import table

        some = next(iter(self.reports.values()))
        head = (
            f"{some.num_images} cases, {some.total.voxels} voxels, {self.num_classes} classes; "
            f"{self.probs} probabilities"
        )
        cells = table(self.reports, self.dataset.class_names)
        verdicts = [f"{text}: {said}" for text, said in self._verdicts().items()]
        return "\n".join([head, "", cells, "", CAUTION, "", *verdicts])

    def content(self, source: str) -> dict[str, Any]:
        """What --json prints."""
        from rwloss._version import __version__
        from rwloss.stability import CAUTION

        said = self._verdicts()
        return {
            "rwloss": __version__,
            "data": source,
            "probabilities": self.probs,
            "seed": self.seed,
            "num_classes": self.num_classes,
            "failed": self.failed,
            "maps": {
                text: {
                    "is_static": self.expressions[text].is_static,
                    **report.figures(self.dataset.class_names),
                    "verdict": said[text],
                }
                for text, report in self.reports.items()
            },
            "caution": CAUTION,
        }

    def draw(self, output: Path) -> None:
        """The picture of the case in which the largest share of the push goes the wrong way."""
        from rwloss.data import read_image
        from rwloss.pictures.wrong_pushes import draw_wrong_pushes
        from rwloss.stability.pushes import full_probabilities, probabilities

        assert self._worst is not None
        _, number, case = self._worst
        volume, regions = self._read(case)
        labels, k = regions.labels, regions.num_classes
        given = probabilities(self.probs, labels, k, seed=self.seed, first_image=number)
        draw_wrong_pushes(
            labels[0],
            {
                text: expression(
                    regions,
                    None if expression.is_static else full_probabilities(given, labels, k),
                )
                for text, expression in self.expressions.items()
            },
            output,
            given=given,
            probs=self.probs,
            image=read_image(case.images[0]) if case.images else None,
            class_names=self.dataset.class_names,
            spacing_mm=volume.spacing_mm,
            affine=volume.affine,
            title=case.name,
        )

    def _read(self, case: Case) -> tuple[LabelVolume, Regions]:
        from rwloss import Regions
        from rwloss.data import read_labels

        volume = read_labels(case.labels, spacing_mm=self.spacing_mm)
        spacing = volume.spacing_mm
        return volume, Regions.single(volume.labels, self.num_classes, spacing, self.ignore_label)

    def _verdicts(self) -> dict[str, str]:
        from rwloss.stability import verdict

        return {
            text: verdict(
                report,
                self.dataset.class_names,
                probs=self.probs,
                is_static=self.expressions[text].is_static,
            )
            for text, report in self.reports.items()
        }
