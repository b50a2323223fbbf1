"""What the report needs of the log of each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rwloss.study.plan import runs
from rwloss.study.results import Results
from rwloss.training.run_folder import RunFolder

Curve: TypeAlias = Sequence[tuple[int, float | None]]
"""Values over training steps; None where a value is not known."""


@dataclass(frozen=True)
class RunLog:
    """The log of one run. done: whether the run is done.

    dice: validation Dice of each foreground class; None where no case has it. wrong_way_mass:
    share of the push that went the wrong way. starts: hardware and versions of each start. test:
    test.json of a run that is done; that of another run may be of fewer steps.
    """

    map: str
    seed: int
    done: bool
    dice: Mapping[str, Curve]
    wrong_way_mass: Curve
    starts: tuple[Mapping[str, Any], ...]
    test: Mapping[str, Any] | None


def read_logs(results: Results, folder: Path) -> list[RunLog]:
    """The logs of all runs; an empty one for a damaged run.

    Raises RWLossError for a run folder that can't be read any more.
    """
    found = []
    for row, run in zip(results.runs, runs(results.study, folder), strict=True):
        place = RunFolder(run.folder)
        lines: dict[str, list[dict[str, Any]]] = {"validation": [], "record": [], "start": []}
        for line in () if row.damaged else place.lines():
            lines.setdefault(line["kind"], []).append(line)
        dice = [(line["step"], line["dice"]) for line in lines["validation"]]
        found.append(
            RunLog(
                map=run.name,
                seed=run.seed,
                done=row.status == "done",
                dice={
                    name: [(step, of[name]) for step, of in dice]
                    for name in (dice[0][1] if dice else ())
                },
                wrong_way_mass=[(line["step"], line["wrong_way_mass"]) for line in lines["record"]],
                starts=tuple(lines["start"]),
                test=place.read_test() if row.status == "done" else None,
            )
        )
    return found
