"""What `rwloss report` says of TopoMortar's published scores, beside what its authors say.

    RWLOSS_TEST_DATA=DATA python -m benchmarks.topomortar

prints the table of docs/results-of-others.md. DATA/topomortar/published holds the score of each
test image for ten seeds of four losses (https://github.com/jmlipman/TopoMortar, results/), and the
authors' tables, which mark a loss in bold where it is better than CE + Dice.
"""

from __future__ import annotations

import csv
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from rwloss.study.differences import Difference
from rwloss.study.figures import MINUS, significant
from rwloss.study.score_tables.options import TableOptions
from rwloss.study.score_tables.results import TableResults, collect_table
from rwloss.study.statistics import Comparison

REFERENCE = "CEDiceLoss"
LOSSES = {"RegionWiseLoss": "RWLoss", "clDiceLoss": "clDice", "CESkeletonRecallLoss": "SkelRecall"}
"""Loss -> its name in the authors' tables, without the reference."""
METRICS = {
    "Dice_mortar": "Dice",
    "HD95_mortar": "HD95",
    "Betti0Error_mortar": "Betti0",
    "Betti1Error_mortar": "Betti1",
}
SETTINGS = {
    "supervised/accurate/large": "accurate, 50",
    "supervised/accurate/small": "accurate, 10",
    "supervised/noisy/large": "noisy, 50",
    "supervised/pseudo/large": "pseudo, 50",
    "selfdistillation/noisy/large": "noisy, 50, self-distillation",
    "selfdistillation/pseudo/large": "pseudo, 50, self-distillation",
    "randhue/accurate/large": "accurate, 50, RandHue",
}
"""Folder of a setting -> labels, number of training images, and what else was done."""
STUDY_CASES: dict[int, tuple[str, ...]] = {
    1: ("supervised/accurate/large",),
    2: ("supervised/accurate/large",),
    3: ("supervised/accurate/small",),
    4: ("supervised/pseudo/large",),
    5: ("supervised/noisy/large",),
    6: ("supervised/accurate/large", "randhue/accurate/large"),
    7: ("supervised/accurate/small", "supervised/accurate/large"),
    8: ("supervised/pseudo/large", "selfdistillation/pseudo/large"),
    9: ("supervised/noisy/large", "selfdistillation/noisy/large"),
}
"""Settings that each table of the authors shows side by side."""

PRINTED = ("Betti0", "Betti1", "Dice", "HD95")
"""Columns of the authors' tables."""

ALPHA = 0.05
PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Published:
    """A cell of the authors' tables: the mean as they print it, and whether it is bold."""

    mean: str
    is_bold: bool


Key = tuple[str, str, str, str]
"""setting, "ID" or "OOD", metric, loss; the last two as the authors' tables call them."""


@dataclass(frozen=True)
class Row:
    """One comparison with CE + Dice. their_p: of the authors' test, computed again. means: as they
    print them, of CE + Dice and of the loss. is_better: of the means in two decimals."""

    setting: str
    images: str
    metric: str
    loss: str
    means: tuple[str, str]
    is_bold: bool
    their_p: float
    is_better: bool
    difference: float
    low: float
    high: float
    p: float
    corrected_p: float
    verdict: str

    @property
    def their_claim(self) -> bool:
        """What the authors' code marks in bold."""
        return self.their_p < ALPHA and self.is_better

    @property
    def reason(self) -> str:
        """Why bold and our verdict differ; empty where they agree."""
        if self.is_bold == (self.verdict == "better"):
            return ""
        if not self.is_bold:
            return "rounding" if not self.is_better else "pooling"
        if self.p <= ALPHA:
            return "Holm"
        return "two sides" if self.p / 2 <= ALPHA else "seeds"


def published(folder: Path) -> dict[Key, Published]:
    """All cells of the authors' tables, by setting, images, metric and loss."""
    text = (folder / "PERFORMANCE_TABLES.md").read_text("utf-8").partition("# Results\n")[2]
    numbered = re.split(r"### Study case (\d)", text)[1:]
    found: dict[Key, Published] = {}
    for number, body in zip(map(int, numbered[::2]), numbered[1::2], strict=True):
        images = "OOD" if number == 2 else "ID"
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL):
            cells = re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)
            if cells and cells[0] in {"ID", "OOD"}:
                images, *cells = cells
            scores = [cell for cell in cells[1:] if cell]
            for place, setting in enumerate(STUDY_CASES[number] if cells else ()):
                of_setting = scores[4 * place : 4 * place + 4]
                for metric, cell in zip(PRINTED, of_setting, strict=True):
                    mean = re.sub("<.*?>", "", cell).partition(" ")[0]
                    one = Published(mean, "<b>" in cell)
                    # A setting stands in several tables, always with the same numbers.
                    assert found.setdefault((setting, images, metric, cells[0]), one) == one
    return found


@cache
def results(folder: Path, *, unpaired: bool = False) -> TableResults:
    """The report's results, with a setting for test images in and out of distribution."""
    with (folder / "groups.csv").open(newline="") as file:
        groups = list(csv.DictReader(file))
    with tempfile.TemporaryDirectory() as temporary:
        cases = Path(temporary) / "cases.csv"
        lines = [f"{row['ID']},{'ID' if row['group'] == 'indistr' else 'OOD'}" for row in groups]
        cases.write_text("\n".join(["ID,images", *lines, ""]))
        options = TableOptions(
            folder,
            dict.fromkeys(METRICS, False) | {"Dice_mortar": True},
            REFERENCE,
            columns_of={"case": "ID"},
            groups=("images",),
            pattern="{training}/{labels}/{size}/{method}/{seed}.csv",
            case_table=cases,
            unpaired=unpaired,
        )
        return collect_table(options)


def verdict(comparison: Comparison, *, higher: bool) -> str:
    """What the report says of a comparison."""
    if not comparison.significant or comparison.difference is None:
        return "not significant"
    return "better" if (comparison.difference.mean > 0) == higher else "worse"


def verdicts(found: Sequence[Difference]) -> dict[tuple[str, ...], str]:
    """Those of all comparisons, by metric, loss and settings."""
    return {
        (each.metric, each.comparison.map, *each.comparison.values.values()): verdict(
            each.comparison, higher=each.metric == "Dice_mortar"
        )
        for each in found
    }


def their_p_values(found: TableResults) -> dict[Key, tuple[float, bool]]:
    """The authors' test, and whether the loss is better in two decimals.

    As in compute_tables.py at commit f709b3c: each image of each seed is a pair; the means of
    random swaps that exceed the absolute difference are counted, on one side. Their swaps are
    drawn without a seed, ours with one.
    """
    rng = np.random.default_rng(0)
    gaps: dict[int, dict[Key, np.ndarray]] = {}
    better: dict[Key, bool] = {}
    for at in found.table.settings:
        setting = "/".join(at.settings[name] for name in ("training", "labels", "size"))
        for metric, short in METRICS.items():
            base = at.scores[metric][at.methods.index(REFERENCE)]
            for loss, name in LOSSES.items():
                own = at.scores[metric][at.methods.index(loss)]
                gap = (base - own).ravel()
                key = setting, at.settings["images"], short, name
                gaps.setdefault(gap.size, {})[key] = gap
                rounded = np.round(own.mean(), 2) - np.round(base.mean(), 2)
                better[key] = bool(rounded > 0 if short == "Dice" else rounded < 0)
    p = {}
    for size, of_size in gaps.items():
        table = np.stack([*of_size.values()], axis=1) / size  # (pairs comparisons)
        counts = np.zeros(len(of_size))
        for _ in range(PERMUTATIONS // 1000):
            signs = 2.0 * rng.integers(0, 2, (1000, size)) - 1
            counts += (signs @ table > np.abs(table.sum(axis=0))).sum(axis=0)
        p |= dict(zip(of_size, counts / PERMUTATIONS, strict=True))
    return {key: (float(p[key]), better[key]) for key in p}


@cache
def rows(folder: Path) -> tuple[Row, ...]:
    """Every comparison, in the order of SETTINGS."""
    marks, found = published(folder), results(folder)
    theirs = their_p_values(found)
    made = {}
    for each in found.whole.differences:
        comparison = each.comparison
        values = comparison.values
        setting = "/".join(values[name] for name in ("training", "labels", "size"))
        key = setting, values["images"], METRICS[each.metric], LOSSES[comparison.map]
        assert comparison.difference is not None
        made[key] = Row(
            *key,
            (marks[*key[:3], "CEDice"].mean, marks[key].mean),
            marks[key].is_bold,
            *theirs[key],
            comparison.difference.mean,
            comparison.difference.low,
            comparison.difference.high,
            comparison.p,
            comparison.corrected_p,
            verdict(comparison, higher=each.metric == "Dice_mortar"),
        )
    return tuple(
        made[setting, images, metric, loss]
        for setting in SETTINGS
        for images in ("ID", "OOD")
        for metric in METRICS.values()
        for loss in LOSSES.values()
    )


HEAD = (
    "| labels, training images | test images | score | loss | CE + Dice → loss | bold | their p | "
    "difference (95 % interval) | p | corrected p | our verdict | why |"
)


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [HEAD, "|" + "---|" * HEAD.count(" | ") + "---|"]
    for row in found:
        digits = 4 if row.metric == "Dice" else 2
        shown = [f"{value:+.{digits}f}" for value in (row.difference, row.low, row.high)]
        cells = (
            SETTINGS[row.setting],
            row.images,
            row.metric,
            row.loss,
            " → ".join(row.means),
            "**bold**" if row.is_bold else "",
            f"{row.their_p:.2f}" if row.their_p >= 0.005 else "< .005",
            f"{shown[0]} ({shown[1]} to {shown[2]})".replace("-", MINUS),
            significant(row.p),
            significant(row.corrected_p),
            row.verdict,
            row.reason,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(rows(Path(os.environ["RWLOSS_TEST_DATA"], "topomortar", "published"))))
