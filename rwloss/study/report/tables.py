"""The tables of a report: cells with what is shown, and what they sort by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rwloss.study.outcomes import Outcome
from rwloss.study.report.charts import class_names
from rwloss.study.report.logs import Log
from rwloss.study.report.wording import NOTHING, decimal, significant, without_paths
from rwloss.study.results import ClassTally, Part, Results
from rwloss.study.statistics import Interval
from rwloss.study.wording import mass
from rwloss.words import listed, percent


@dataclass(frozen=True)
class Column:
    """A column. term: of the definitions that its head links to, or empty."""

    title: str
    term: str = ""
    is_number: bool = True


@dataclass(frozen=True)
class Cell:
    """text, with detail below it in small letters; sort: what the column is sorted by."""

    text: str
    sort: float | str | None = None
    detail: str = ""
    is_bad: bool = False


@dataclass(frozen=True)
class Row:
    """A row, and what it is of: number of the map, number of the class, seed; None for all."""

    cells: tuple[Cell, ...]
    map_number: int
    class_number: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Table:
    """A table with its caption; part "without" leaves out seeds where the reference failed."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    part: str = ""


def maps_table(results: Results, part: Part, which: str) -> Table:
    """Every map, with what came of it and what was known before."""
    rows = []
    for number, each in enumerate(part.maps):
        found = results.indicators.get(each.map)
        promise = "ALARM: calls itself stable" if each.breaks_promise else ""
        rows.append(
            Row(
                (
                    Cell(each.map, each.map, detail=without_paths(each.expression)),
                    Cell(str(each.done), each.done, f"{each.failed} failed" if each.failed else "",
                         is_bad=bool(each.failed)),
                    _count(each.lost, each.lost_known, bad=each.lost > 0,
                           detail=_not_known(each.unknown) if each.lost_known else ""),
                    _interval(each.test_dice),
                    _interval(each.end_dice),
                    _mass(each.wrong_way_mass, promise),
                    _share(None if found is None else found.violating),
                    _share(None if found is None else found.pushed_up),
                    _number(None if found is None else found.least_pull),
                ),
                number,
            )
        )  # fmt: skip
    return Table(
        f"maps-{which}",
        f"Maps, over {_seeds(results, which)}. Means, with percentile bootstrap intervals over "
        "seeds below them.",
        (
            Column("map", is_number=False),
            Column("runs done", "done"),
            Column("lost a class", "lost"),
            Column("test Dice", "test-dice"),
            Column("end Dice", "end-dice"),
            Column("wrong-way mass", "wrong-way"),
            Column("violating voxels, before", "violating"),
            Column("pushed up, before", "pushed-up"),
            Column("least pull ratio, before", "pull"),
        ),
        tuple(rows),
        which,
    )


def comparisons_table(results: Results, part: Part, which: str) -> Table:
    """Every map against the reference."""
    names = list(results.study.maps)
    rows = []
    for each in part.comparisons:
        verdict = (
            "no test scores" if part.untested
            else "no common seed" if each.difference is None
            else "significant" if each.significant
            else "not significant" if each.can_claim
            else "too few seeds to claim anything"
        )  # fmt: skip
        rows.append(
            Row(
                (
                    Cell(each.map, each.map),
                    _interval(each.difference, signed=True),
                    Cell(str(len(each.seeds)), len(each.seeds)),
                    Cell(significant(each.p), each.p),
                    Cell(significant(each.corrected_p), each.corrected_p),
                    Cell(significant(each.least_corrected_p), each.least_corrected_p),
                    Cell(str(each.seeds_needed), each.seeds_needed),
                    Cell(verdict, verdict),
                ),
                names.index(each.map),
            )
        )
    return Table(
        f"comparisons-{which}",
        f"Test Dice less that of {results.reference}, paired by seed, over "
        f"{_seeds(results, which)}.",
        (
            Column("map", is_number=False),
            Column("difference", "difference"),
            Column("seeds"),
            Column("p", "p"),
            Column("corrected p", "corrected-p"),
            Column("least corrected p possible", "least-p"),
            Column("seeds needed", "seeds-needed"),
            Column("verdict", is_number=False),
        ),
        tuple(rows),
        which,
    )


def classes_table(results: Results) -> Table:
    """Birth, death and collapse of every class with every map."""
    numbers = {name: number for number, name in enumerate(class_names(results))}
    rows = []
    for number, each in enumerate(results.whole.maps):
        done = [row.outcome for row in results.runs if row.map == each.map and row.status == "done"]
        for tally in each.classes:
            residuals = [
                found.residual
                for outcome in done
                for found in outcome.classes
                if found.name == tally.name and found.residual is not None
            ]
            norms = [one.gradient_norm for one in residuals if one.gradient_norm is not None]
            rows.append(
                Row(
                    (
                        Cell(each.map, each.map),
                        Cell(tally.name, tally.name),
                        _count(tally.born, tally.known, bad=tally.born < tally.known),
                        _median_birth(tally),
                        _count(tally.died, tally.known, bad=tally.died > 0),
                        _count(tally.collapsed, tally.known, bad=tally.collapsed > 0),
                        _count(len(residuals), len(done), bad=False),
                        _number(statistics.fmean(norms) if norms else None),
                        _share(
                            statistics.fmean(one.push_share for one in residuals)
                            if residuals
                            else None
                        ),
                    ),
                    number,
                    numbers[tally.name],
                )
            )
    return Table(
        "classes",
        "Classes, over the runs that are done.",
        (
            Column("map", is_number=False),
            Column("class", is_number=False),
            Column("born", "born"),
            Column("birth step, median", "born"),
            Column("died", "died"),
            Column("lost", "lost"),
            Column("empty in a record", "residual"),
            Column("gradient left", "residual"),
            Column("push at the class", "residual"),
        ),
        tuple(rows),
    )


def runs_table(results: Results, logs: Sequence[Log]) -> Table:
    """Every run, failed ones with their reason."""
    names = list(results.study.maps)
    seconds = {(log.map, log.seed): log.test["seconds"] for log in logs if log.test is not None
               and "seconds" in log.test}  # fmt: skip
    rows = []
    for row in results.runs:
        outcome, time = row.outcome, seconds.get((row.map, row.seed))
        diverged = outcome.diverged_step
        detail = without_paths(row.reason)
        if row.status == "unfinished":
            detail = f"{outcome.step} of {results.study.steps} steps"
        elif diverged is not None and not detail:
            detail = f"loss not finite at step {diverged}"
        rows.append(
            Row(
                (
                    Cell(row.map, row.map),
                    Cell(str(row.seed), row.seed,
                         "reference failed" if row.seed in results.reference_failures else ""),
                    Cell(row.status, row.status, detail, is_bad=row.status != "done"),
                    Cell(decimal(outcome.test_dice), outcome.test_dice),
                    Cell(decimal(outcome.end_dice), outcome.end_dice),
                    _lost(outcome),
                    _mass(outcome.wrong_way_mass),
                    Cell(NOTHING if time is None else f"{time:.0f} s", time),
                ),
                names.index(row.map),
                seed=row.seed,
            )
        )  # fmt: skip
    return Table(
        "runs",
        "Every run. Only those that are done count in means and tests.",
        (
            Column("map", is_number=False),
            Column("seed"),
            Column("status", is_number=False),
            Column("test Dice", "test-dice"),
            Column("end Dice", "end-dice"),
            Column("lost classes", "lost", is_number=False),
            Column("wrong-way mass", "wrong-way"),
            Column("training time"),
        ),
        tuple(rows),
    )


def _seeds(results: Results, which: str) -> str:
    count = len(results.study.seeds)
    if which == "without":
        left = [str(s) for s in results.study.seeds if s not in results.reference_failures]
        return f"the seeds where the reference did not fail ({listed(left) or 'none'})"
    return "1 seed" if count == 1 else f"all {count} seeds"


def _interval(found: Interval | None, *, signed: bool = False) -> Cell:
    if found is None:
        return Cell(NOTHING)
    sign = "+" if signed else ""
    mean, low, high = (
        f"{value:{sign}.3f}".replace("-", "\N{MINUS SIGN}")
        for value in (found.mean, found.low, found.high)
    )
    return Cell(mean, found.mean, f"{low} to {high}" if found.n > 1 else "")


def _mass(value: float | None, detail: str = "") -> Cell:
    return Cell(NOTHING if value is None else mass(value), value, detail, is_bad=bool(detail))


def _share(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else percent(value), value)


def _number(value: float | None) -> Cell:
    # As JavaScript reads it.
    return Cell(significant(value), "Infinity" if value == math.inf else value)


def _median_birth(tally: ClassTally) -> Cell:
    """Over all runs of which it is known; never is later than every step."""
    if not tally.known:
        return Cell(NOTHING)
    median = statistics.median([*tally.birth_steps, *[math.inf] * (tally.known - tally.born)])
    return Cell("never", "Infinity") if median == math.inf else Cell(f"{median:g}", median)


def _count(count: int, of: int, *, bad: bool, detail: str = "") -> Cell:
    return Cell(f"{count} of {of}", count / of, detail, is_bad=bad) if of else Cell(NOTHING)


def _lost(outcome: Outcome) -> Cell:
    """Classes that a run lost, as far as validation tells."""
    if not outcome.knows_losses:
        return Cell(NOTHING)
    names, number = listed(outcome.lost) or "none", len(outcome.lost)
    return Cell(names, number, _not_known(outcome.unknown), is_bad=number > 0)


def _not_known(names: Sequence[str]) -> str:
    return f"not known of {listed(names)}" if names else ""


def all_tables(results: Results, make: Callable[[Results, Part, str], Table]) -> Iterable[Table]:
    """A table over all seeds, and one without those where the reference failed, if any."""
    yield make(results, results.whole, "whole")
    if results.without_failures is not None:
        yield make(results, results.without_failures, "without")
