"""What maps do to training on a dataset, from its labels alone, case by case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rwloss import maps, stability
from rwloss._version import __version__
from rwloss.data import Case, Dataset, LabelVolume, count_classes, read_channels, read_labels
from rwloss.data.formats import MAX_VOXELS
from rwloss.errors import RWLossError
from rwloss.precompute.cases import label_counts
from rwloss.regions import Regions
from rwloss.stability import StabilityReport
from rwloss.stability.pushes import full_probabilities, probabilities


class Diagnosis:
    """The stability reports of maps over the cases that were added. No case stays in memory.

    reports: by the text of the map. failed: the reason by the name of the case.
    """

    def __init__(
        self,
        dataset: Dataset,
        map_texts: list[str],
        *,
        num_classes: int | None = None,
        spacing_mm: tuple[float, ...] | None = None,
        ignore_label: int | None = None,
        probs: str = "uniform",
        seed: int = 0,
    ) -> None:
        """Parse the maps, and give them the class weights of the dataset where they need them.

        num_classes, ignore_label: by default those of the dataset. probs, seed: probabilities at
        which the gradient is looked at; see `rwloss.stability.check_expression`.
        """
        expressions = {text: maps.parse(text) for text in map_texts}
        self.dataset, self.spacing_mm, self.probs, self.seed = dataset, spacing_mm, probs, seed
        self.num_classes = count_classes(dataset, num_classes, ignore_label=ignore_label)
        self.ignore_label = dataset.ignore_label if ignore_label is None else ignore_label
        self.expressions = self._with_class_weights(expressions)
        self.reports: dict[str, StabilityReport] = {}
        self.failed: dict[str, str] = {}
        self._number = 0  # of the cases added, for their random probabilities
        self._worst: tuple[float, int, Case] | None = None

    def _with_class_weights(
        self, expressions: Mapping[str, maps.Expression]
    ) -> dict[str, maps.Expression]:
        if not any(each.needs_class_counts for each in expressions.values()):
            return dict(expressions)
        seen = label_counts(self.dataset, MAX_VOXELS, jobs=0)
        if self.ignore_label is not None:
            seen.pop(self.ignore_label, None)
        counts = [seen.get(k, 0) for k in range(self.num_classes)]
        return {text: each.resolved(counts) for text, each in expressions.items()}

    def add(self, case: Case) -> bool:
        """Count one case in every report, or in none where it fails. Returns whether it counts."""
        number, self._number = self._number, self._number + 1
        try:
            _, regions = self._read(case)
            found = {
                text: stability.check_expression(
                    expression, regions, self.probs, seed=self.seed, first_image=number
                )
                for text, expression in self.expressions.items()
            }
        except Exception as error:  # a plug-in may raise anything; the other cases continue
            known = isinstance(error, RWLossError)
            self.failed[case.name] = str(error) if known else f"{type(error).__name__}: {error}"
            return False
        self.reports = {
            text: self.reports[text] + report if self.reports else report
            for text, report in found.items()
        }
        wrong = sum(report.wrong_way_mass for report in found.values())
        if self._worst is None or wrong > self._worst[0]:
            self._worst = wrong, number, case
        return True

    def verdicts(self) -> dict[str, str]:
        """A sentence per map."""
        return {
            text: stability.verdict(
                report,
                self.dataset.class_names,
                probs=self.probs,
                is_static=self.expressions[text].is_static,
            )
            for text, report in self.reports.items()
        }

    def as_fields(self, source: str) -> dict[str, Any]:
        """All figures, as `rwloss check --json` prints them. source: where the dataset is."""
        verdicts = self.verdicts()
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
                    "verdict": verdicts[text],
                }
                for text, report in self.reports.items()
            },
            "caution": stability.CAUTION,
        }

    def draw(self, output: Path) -> None:
        """A picture of the case in which the largest share of the push goes the wrong way."""
        from rwloss.pictures.draw import draw_wrong_pushes

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
            image=read_channels(case.images[:1])[0].values if case.images else None,
            class_names=self.dataset.class_names,
            spacing_mm=volume.spacing_mm,
            affine=volume.affine,
            title=case.name,
        )

    def _read(self, case: Case) -> tuple[LabelVolume, Regions]:
        volume = read_labels(case.labels, spacing_mm=self.spacing_mm)
        spacing = volume.spacing_mm
        return volume, Regions.single(volume.labels, self.num_classes, spacing, self.ignore_label)
