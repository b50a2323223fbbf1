"""Prints the tables of README.md from runs.csv: python docs/studies/record/tables.py [ARM ...]."""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rwloss.study.outcomes import COLLAPSED_BELOW
from rwloss.study.plan import Study
from rwloss.study.rates import Rate, compare_losses, rate
from rwloss.study.statistics import compare

HERE = Path(__file__).parent
REFERENCE = "dice_ce"
SCORES = ("test_dice_mean", "test_hd95_mm_mean", "test_nsd_mean")
BETTI = {"Betti-0 error": "test_betti_0_error_mean", "Betti-1 error": "test_betti_1_error_mean"}

Runs = dict[tuple[str, ...], dict[int, dict[str, Any]]]


def main() -> None:
    """Print the tables of the named arms, or of all."""
    arms = sys.argv[1:] or sorted(path.parent.name for path in HERE.glob("*/runs.csv"))
    for arm in arms:
        print(f"<!-- {arm} -->", *table(arm), "", sep="\n")


def table(arm: str) -> Iterator[str]:
    """The lines of the table of an arm, whose form follows from its axes."""
    study = Study.read(HERE / arm / "study.toml")
    axes = study.axes
    runs = runs_of(arm, tuple(axes))
    if "learning_rate" in axes:
        return by_learning_rate(runs, [str(value) for value in axes["learning_rate"]])
    if "map_of" in axes:
        return by_source(runs, [str(value) for value in axes["map_of"]])
    return against_reference({name: own for (name,), own in runs.items()}, study.null)


def runs_of(arm: str, axes: Sequence[str]) -> Runs:
    """Runs by map and values of axes, then by seed. A run that failed keeps no class."""
    with (HERE / arm / "runs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: Runs = {}
    for row in rows:
        own = found.setdefault((row["map"], *(row[axis] for axis in axes)), {})
        run = own.setdefault(int(row["seed"]), {"lost": False})
        run["lost"] |= row["status"] != "done" or float(row["end_dice"]) < COLLAPSED_BELOW
        read = (*SCORES, *BETTI.values(), "end_dice_mean")
        run |= {name: float(row[name]) for name in read if row.get(name)}
    return found


def against_reference(
    runs: Mapping[str, Mapping[int, dict[str, Any]]], null: str | None
) -> Iterator[str]:
    """Losses of classes and scores of each map, with differences paired by seed.

    null: the reference under another name, which is compared apart, as the report does.
    """
    reference = [*runs[REFERENCE].values()]
    betti = {name: score for name, score in BETTI.items() if any(score in run for run in reference)}
    columns = ["map", "runs that lost a class", "p", "test Dice", "minus Dice + CE", "p"]
    columns += ["HD95", "NSD", *betti]
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    others = [name for name in runs if name != REFERENCE]
    dices = {name: {s: run[SCORES[0]] for s, run in own.items()} for name, own in runs.items()}
    lost = {name: [own[seed]["lost"] for seed in runs[REFERENCE]] for name, own in runs.items()}
    losing, compared = {}, {}
    for group in (
        [name for name in others if name != null],
        [name for name in others if name == null],
    ):
        pairs = [(name, {}, [*zip(lost[name], lost[REFERENCE], strict=True)]) for name in group]
        losing |= {each.map: each.corrected_p for each in compare_losses(pairs)}
        found = compare({name: dices[name] for name in [REFERENCE, *group]}, REFERENCE)
        compared |= {each.map: each for each in found}
    for name in [REFERENCE, *sorted(others, key=lambda name: -_mean(runs[name], SCORES[0]))]:
        versus = compared.get(name)
        gap = versus.difference if versus else None
        means = [_mean(runs[name], score) for score in SCORES]
        cells = [f"`{name}`", _share(runs[name]), _p(losing.get(name)), f"{means[0]:.3f}"]
        cells += [f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})" if gap else ""]
        cells += [_p(versus.corrected_p if versus else None), f"{means[1]:.1f}", f"{means[2]:.3f}"]
        cells += [f"{_mean(runs[name], score):.1f}" for score in betti.values()]
        yield f"| {' | '.join(cells)} |"


def by_learning_rate(runs: Runs, rates: Sequence[str]) -> Iterator[str]:
    """Runs that lost a class at each rate; scores at the rate with the best validation."""
    number = max(map(len, runs.values()))
    yield f"| map | {' | '.join(rates)} | best rate | test Dice | HD95 |"
    yield f"|---|{'---|' * (len(rates) + 3)}"
    lines = []
    for name in dict.fromkeys(name for name, _ in runs):
        own = {value: runs[name, value] for value in rates}
        best = max(rates, key=lambda value: _mean(own[value], "end_dice_mean"))
        lost = [str(sum(run["lost"] for run in own[value].values())) for value in rates]
        assert all(len(each) == number for each in own.values())
        dice, hd95 = (_mean(own[best], score) for score in SCORES[:2])
        lines.append(
            (sum(map(int, lost)), -dice, [f"`{name}`", *lost, best, f"{dice:.3f}", f"{hd95:.1f}"])
        )
    yield from (f"| {' | '.join(cells)} |" for *_, cells in sorted(lines))


def by_source(runs: Runs, sources: Sequence[str]) -> Iterator[str]:
    """Runs that lost a class, and test Dice, by what the map is made of."""
    yield f"| map | {' | '.join(f'of a {source}' for source in sources)} |"
    yield f"|---|{'---|' * len(sources)}"
    for name in dict.fromkeys(name for name, _ in runs):
        own = [runs[name, source] for source in sources]
        cells = [f"{_share(each)}; {_mean(each, SCORES[0]):.3f}" for each in own]
        yield f"| `{name}` | {' | '.join(cells)} |"


def _mean(runs: Mapping[int, dict[str, Any]], score: str) -> float:
    return statistics.fmean(run[score] for run in runs.values() if score in run)


def _share(runs: Mapping[int, dict[str, Any]]) -> str:
    found = rate(sum(run["lost"] for run in runs.values()), len(runs))
    assert isinstance(found, Rate)
    return f"{found.count} of {found.of} ({100 * found.low:.0f} to {100 * found.high:.0f} %)"


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


if __name__ == "__main__":
    main()
