"""What a chart needs of the log of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwloss.study.plan import runs
from rwloss.study.results import Results
from rwloss.training.run_folder import RunFolder

MOST_POINTS = 150
"""Of a line: more than a chart of this width can show."""


@dataclass(frozen=True)
class Log:
    """Curves of one run over its steps, thinned alike in all runs.

    dice: of each foreground class (step, validation Dice; None where no case has it).
    wrong_way_mass: (step, part of the push that went the wrong way). starts: what each start ran
    on. test: test.json of a run that is done: that of another may be of fewer steps.
    """

    map: str
    seed: int
    dice: Mapping[str, tuple[tuple[int, float | None], ...]]
    wrong_way_mass: tuple[tuple[int, float], ...]
    starts: tuple[Mapping[str, Any], ...]
    test: Mapping[str, Any] | None


def read(results: Results, folder: Path) -> list[Log]:
    """The logs of all runs; of a damaged one, nothing.

    Raises RWLossError for a run folder that can't be read any more.
    """
    damaged = {(row.map, row.seed) for row in results.runs if row.damaged}
    done = {(row.map, row.seed) for row in results.runs if row.status == "done"}
    raw = []
    for run in runs(results.study, folder):
        place = RunFolder(run.folder)
        lines = [] if (run.name, run.seed) in damaged else list(place.lines())
        raw.append(
            (
                run,
                [line for line in lines if line["kind"] == "validation"],
                [line for line in lines if line["kind"] == "record"],
                tuple(line for line in lines if line["kind"] == "start"),
                place.read_test() if (run.name, run.seed) in done else None,
            )
        )
    few = _stride(max((len(validations) for _, validations, *_ in raw), default=0))
    some = _stride(max((len(records) for _, _, records, *_ in raw), default=0))
    return [
        Log(
            map=run.name,
            seed=run.seed,
            dice={
                name: tuple(
                    (line["step"], line["dice"][name]) for line in _thinned(validations, few)
                )
                for name in (validations[0]["dice"] if validations else ())
            },
            wrong_way_mass=tuple(
                (line["step"], line["wrong_way_mass"]) for line in _thinned(records, some)
            ),
            starts=starts,
            test=test,
        )
        for run, validations, records, starts, test in raw
    ]


def _stride(count: int) -> int:
    return max(1, -(-count // MOST_POINTS))


def _thinned(lines: Sequence[dict[str, Any]], stride: int) -> list[dict[str, Any]]:
    """Every so many lines, and the last: what came of it is never left out."""
    return [line for i, line in enumerate(lines) if i % stride == 0 or i == len(lines) - 1]
