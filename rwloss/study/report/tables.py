"""The tables of a report: content and sort keys of their cells, without folders of this machine."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rwloss.study.axes import AxisValues, kept_apart, named, text_of, unit
from rwloss.study.figures import NOTHING, bounds, decimal, left_open, mass, significant
from rwloss.study.outcomes import mean_of
from rwloss.study.plan import Study
from rwloss.study.results import Results
from rwloss.study.statistics import Interval
from rwloss.study.summaries import StudyPart
from rwloss.words import count_of, listed, percent

_TEXT = {"map", "method", "class", "score", "status", "lost classes", "verdict"}
"""Columns that hold no numbers."""

# The last part of an absolute path says which file; the other parts say whose machine it was.
_QUOTED = re.compile(r"""(["'])(?:[A-Za-z]:)?[/\\](?:[^"'\n]*[/\\])?([^"'/\\\n]*)[/\\]*\1""")
_BARE = re.compile(
    r"(?<![\w.:/\\'\"<~-])(?:/|[A-Za-z]:[/\\])(?:[^\s/\\'\":;,]+[/\\])*([^\s/\\'\":;,]+)"
)


@dataclass(frozen=True)
class Cell:
    """text, with detail below it in small letters; sort: the sort key of the cell."""

    text: str
    sort: float | str | None = None
    detail: str = ""
    is_bad: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row, and its map, class and seed, by number; None for all."""

    cells: tuple[Cell, ...]
    map_number: int
    class_number: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Table:
    """A table. columns: title -> the definition that the head links to, or an empty text.

    part: "whole" or "without" where there is a table of each, else empty.
    """

    id: str
    caption: str
    columns: Mapping[str, str]
    rows: tuple[TableRow, ...]
    part: str = ""

    def is_number(self, index: int) -> bool:
        """Whether a column holds numbers."""
        return list(self.columns)[index] not in _TEXT


def of_parts(results: Results, make: Callable[[Results, StudyPart, str], Table]) -> Iterator[Table]:
    """A table over all seeds, and one without the seeds on which the reference failed, if any."""
    yield make(results, results.whole, "whole")
    if results.without_failures is not None:
        yield make(results, results.without_failures, "without")


def scores_table(results: Results) -> Table:
    """The main table: scores of each map, and how often it lost a class."""
    rows, names = [], list(results.study.maps)
    shown = ["dice", "hd95_mm", *results.asked_for()]
    tested = {
        (each.map, named(each.values)): f"; corrected p = {significant(each.corrected_p)}"
        for each in results.whole.losses
        if each.more or each.fewer
    }
    test = ", and p of the exact McNemar test of losses, with Holm's correction" * bool(tested)
    for each in results.whole.maps:
        found = each.lost_rate
        p = tested.get((each.map, named(each.values)), "")
        cells = (
            Cell(each.map, each.map),
            *axis_cells(results.study, each.values),
            *(interval_cell(each.test.get(name)) for name in shown),
            Cell(NOTHING)
            if found is None
            else Cell(
                percent(found.share),
                found.share,
                f"{found.count} of {found.of}, {left_open(found)}{p}",
                is_bad=found.count > 0,
            ),
        )
        rows.append(TableRow(cells, names.index(each.map)))
    return Table(
        "scores",
        f"Scores on the test cases, and the share of runs that lost a class, over "
        f"{_seeds(results, 'whole')}. Small: intervals{test}.",
        {
            "map": "", **_axes(results), "test Dice": "test-dice",
            **{results.titled(name): "score" for name in shown[1:]},
            "runs that lost a class": "lost",
        },
        tuple(rows),
    )  # fmt: skip


def maps_table(results: Results, part: StudyPart, which: str) -> Table:
    """Every map: outcomes, and what was known before training."""
    rows, names = [], list(results.study.maps)
    for each in part.maps:
        found = results.indicators.get(each.map)
        failed = f"{each.failed} failed" if each.failed else ""
        details = [left_open(rate)] if (rate := each.lost_rate) else []
        details += [_not_known(each.unknown)] * bool(details and each.unknown)
        alarm = "ALARM: declared stable" if each.breaks_promise else ""
        cells = (
            Cell(each.map, each.map, without_paths(each.expression)),
            *axis_cells(results.study, each.values),
            Cell(str(each.done), each.done, failed, is_bad=bool(failed)),
            _count(each.lost, each.lost_known, is_bad=each.lost > 0, detail="; ".join(details)),
            *(interval_cell(each.test.get(metric)) for metric in results.directions()),
            interval_cell(each.end_dice),
            Cell(mass(each.wrong_way_mass), each.wrong_way_mass, alarm, is_bad=bool(alarm)),
            _share(found.violating if found else None),
            _share(found.pushed_up if found else None),
            _number(found.least_pull if found else None),
            _number(found.largest_exponent if found else None),
        )
        rows.append(TableRow(cells, names.index(each.map)))
    return Table(
        f"maps-{which}",
        f"Maps, over {_seeds(results, which)}. Means, with percentile bootstrap intervals over "
        "seeds below them.",
        {
            "map": "", **_axes(results), "runs done": "done", "lost a class": "lost",
            "test Dice": "test-dice",
            **{results.titled(name): "score" for name in results.directions() if name != "dice"},
            "end Dice": "end-dice",
            "wrong-way mass": "wrong-way",
            "violating voxels, before": "violating", "pushed up, before": "pushed-up",
            "least pull ratio, before": "pull", "pull exponent, before": "pull-exponent",
        },
        tuple(rows),
        which,
    )  # fmt: skip


def comparisons_table(results: Results, part: StudyPart, which: str) -> Table:
    """Every map against the reference."""
    names, of = list(results.study.maps), unit(results.study.axes)
    rows = []
    for each in part.comparisons:
        if part.untested:
            verdict = "no test scores"
        elif each.difference is None:
            verdict = f"no common {of}"
        elif not each.can_claim:
            verdict = f"too few {of}s to claim anything"
        else:
            verdict = "significant" if each.significant else "not significant"
        cells = (
            Cell(each.map, each.map),
            *axis_cells(results.study, each.values),
            interval_cell(each.difference, signed=True),
            Cell(str(len(each.seeds)), len(each.seeds)),
            *(_number(p) for p in (each.p, each.corrected_p, each.least_corrected_p)),
            Cell(str(each.seeds_needed or "no number is enough"), each.seeds_needed or "Infinity"),
            Cell(verdict, verdict),
        )
        rows.append(TableRow(cells, names.index(each.map)))
    return Table(
        f"comparisons-{which}",
        f"Difference in test Dice from {results.reference}, paired by {of}, over "
        f"{_seeds(results, which)}.",
        {
            "map": "", **_axes(results), "difference": "difference", f"{of}s": "", "p": "p",
            "corrected p": "corrected-p", "least corrected p possible": "least-p",
            f"{of}s needed": "seeds-needed", "verdict": "",
        },
        tuple(rows),
        which,
    )  # fmt: skip


def classes_table(results: Results) -> Table:
    """Birth, death and collapse of every class with every map."""
    rows, names = [], list(results.study.maps)
    for each in results.whole.maps:
        done = results.done(each.map, each.values)
        for tally in each.classes:
            known = tally.known
            found = [one for row in done for one in row.outcome.classes if one.name == tally.name]
            residuals = [one.residual for one in found if one.residual is not None]
            births = tally.births
            cells = (
                Cell(each.map, each.map),
                *axis_cells(results.study, each.values),
                Cell(tally.name, tally.name),
                _count(tally.born, known, is_bad=tally.born < known),
                Cell(NOTHING)
                if births is None
                else Cell(
                    _step(births.median),
                    births.median or "Infinity",
                    f"{_step(births.median_low)} to {_step(births.median_high)}"
                    if births.median_low
                    else "",
                ),
                _count(tally.died, known, is_bad=tally.died > 0),
                _count(
                    tally.collapsed,
                    known,
                    is_bad=tally.collapsed > 0,
                    detail=left_open(tally.rate) if tally.rate else "",
                ),
                _count(len(residuals), len(done)),
                _number(mean_of(one.gradient_norm for one in residuals)),
                _share(mean_of(one.push_share for one in residuals)),
            )
            label = results.class_names.index(tally.name)
            rows.append(TableRow(cells, names.index(each.map), label))
    return Table(
        "classes",
        "Classes, over the finished runs.",
        {
            "map": "", **_axes(results), "class": "", "born": "born",
            "birth step, median": "born", "died": "died",
            "lost": "lost", "empty in a record": "residual", "remaining gradient": "residual",
            "push at the class": "residual",
        },
        tuple(rows),
    )  # fmt: skip


def runs_table(results: Results) -> Table:
    """Every run; failed ones with their reason."""
    names = list(results.study.maps)
    rows = []
    for row in results.runs:
        outcome, time = row.outcome, (row.tested or {}).get("seconds")
        detail = without_paths(row.reason)
        if row.status == "unfinished":
            detail = f"{outcome.step} of {results.study.steps} steps"
        of_seed = ["reference failed"] if row.reference_failed else []
        if row.trained_seed not in (None, row.seed):
            of_seed.append(f"trained with {row.trained_seed:,}")
        lost = Cell(NOTHING)  # as far as validation shows
        if outcome.knows_losses:
            names_lost, unknown = listed(outcome.lost) or "none", _not_known(outcome.unknown)
            lost = Cell(names_lost, len(outcome.lost), unknown, is_bad=bool(outcome.lost))
        cells = (
            Cell(row.map, row.map),
            *axis_cells(results.study, row.values),
            Cell(str(row.seed), row.seed, "; ".join(of_seed)),
            Cell(row.status, row.status, detail, is_bad=row.status != "done"),
            Cell(decimal(outcome.test_dice), outcome.test_dice),
            Cell(decimal(outcome.end_dice), outcome.end_dice),
            lost,
            Cell(mass(outcome.wrong_way_mass), outcome.wrong_way_mass),
            Cell(NOTHING if time is None else f"{time:.0f} s", time),
        )
        rows.append(TableRow(cells, names.index(row.map), seed=row.seed))
    return Table(
        "runs",
        "Every run. Only finished runs count in means and tests.",
        {
            "map": "", **axis_titles(results.study.axes), "seed": "", "status": "",
            "test Dice": "test-dice", "end Dice": "end-dice", "lost classes": "lost",
            "wrong-way mass": "wrong-way", "training time": "",
        },
        tuple(rows),
    )  # fmt: skip


def _step(step: float | None) -> str:
    return "never" if step is None else f"{step:g}"


def _axes(results: Results) -> dict[str, str]:
    return axis_titles(kept_apart(results.study.axes))


def axis_titles(names: Iterable[str]) -> dict[str, str]:
    """A column per axis, with its definition."""
    return {name.replace("_", " "): "axis" for name in names}


def axis_cells(study: Study, values: AxisValues) -> list[Cell]:
    """Values of axes, in the order of the study."""
    return [Cell(text_of(value), study.axes[name].index(value)) for name, value in values.items()]


def _seeds(results: Results, which: str) -> str:
    seeds = results.repeats
    if which == "without" and len(results.conditions) > 1:
        return "the seeds on which the reference with the same values did not fail"
    if which == "without":
        left = [str(seed) for seed in seeds if seed not in results.reference_failures]
        return f"the seeds on which the reference did not fail ({listed(left) or 'none'})"
    return "1 seed" if len(seeds) == 1 else f"all {count_of(len(seeds), 'seed')}"


def interval_cell(found: Interval | None, *, signed: bool = False) -> Cell:
    """A mean, with its interval below it if there are several values."""
    if found is None:
        return Cell(NOTHING)
    detail = bounds(found, signed=signed) if found.n > 1 else ""
    return Cell(decimal(found.mean, signed=signed), found.mean, detail)


def share_cell(found: Interval | None) -> Cell:
    """A probability or a share, with its interval below it."""
    if found is None:
        return Cell(NOTHING)
    return Cell(percent(found.mean), found.mean, f"{percent(found.low)} to {percent(found.high)}")


def _share(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else percent(value), value)


def _number(value: float | None) -> Cell:
    # As JavaScript reads it.
    return Cell(significant(value), "Infinity" if value == math.inf else value)


def _count(count: int, of: int, *, is_bad: bool = False, detail: str = "") -> Cell:
    return Cell(f"{count} of {of}", count / of, detail, is_bad=is_bad) if of else Cell(NOTHING)


def _not_known(names: Sequence[str]) -> str:
    return f"not known for {listed(names)}" if names else ""


def without_paths(text: str, *known: str | Path) -> str:
    """A text with only the last part of every absolute path.

    known: files and folders that are shortened everywhere. Other paths are found between quotation
    marks, or up to the next space. The home folder becomes ~.

    >>> without_paths("cannot read '/srv/ann/data/a b.nii' or /tmp/x/y.txt; 1/2 of it")
    "cannot read 'a b.nii' or y.txt; 1/2 of it"
    """
    names: dict[str, str] = {}
    for path in map(Path, known):
        names |= {str(each): each.name for each in (path, path.absolute(), path.resolve())}
    names |= {str(Path.home()): "~"}
    # Paths inside another are shortened first. A single part, such as DATA, reveals nothing.
    for whole, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
        if name and whole != name:
            for written in {whole, repr(whole)[1:-1]}:  # as errors write it
                pattern = rf"(?<![\w.~-]){re.escape(written)}(?![\w-]|\.\w)"
                text = f"/{name}".join(re.split(pattern, text))
    return _BARE.sub(r"\1", _QUOTED.sub(r"\1\2\1", text))
