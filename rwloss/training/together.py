"""Runs that are trained as one stacked model, each in its own folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from rwloss.training.environment import fabric_of
from rwloss.training.network import PRESETS
from rwloss.training.patches import PatchSource
from rwloss.training.preparation import PreparedRun, prepare
from rwloss.training.run import Start, deterministic
from rwloss.training.settings import RunSettings
from rwloss.training.stacked import Member, train_stack

MAY_DIFFER = ("out", "seed", "map", "learning_rate", "learning_rate_schedule")
"""Settings that may differ between the runs of a stack."""

_STACKED = {
    "preset": (*PRESETS,),
    "optimizer": ("adam", "adamw"),
    "learning_rate_schedule": ("constant", "poly", "cosine"),
    "compile": (False,),
    "devices": (1,),
    "maps": (None,),
}
"""Values with which runs can be stacked."""


def reasons_apart(settings: RunSettings) -> list[str]:
    """Settings with which a run can't be trained in a stack, such as "compile=True"."""
    return [
        f"{name}={getattr(settings, name)!r}"
        for name, known in _STACKED.items()
        if getattr(settings, name) not in known
    ]


def train_together(runs: Sequence[RunSettings], *, files: bool = True) -> list[Exception | None]:
    """Train runs as one stacked model, or what is left of them, and test each in its own folder.

    They agree in all settings but MAY_DIFFER. Each has the initial weights, batches and
    augmentations that it has alone, and leaves the same files; its weights are the same but for
    rounding. The line "start" of its log says how many were trained together. Any of them can be
    resumed alone, and runs that were begun alone can be resumed together.

    Returns the error that ended each run, or None. One that fails or diverges stops no other.
    """
    return _Together(runs, files=files)()


class _Together:
    def __init__(self, runs: Sequence[RunSettings], *, files: bool) -> None:
        self.runs, self.files = runs, files
        self.failures: list[Exception | None] = [None] * len(runs)
        self.prepared: PreparedRun | None = None
        self.sources: dict[str, list[PatchSource]] = {}

    def __call__(self) -> list[Exception | None]:
        self.fabric = fabric_of(self.runs[0])
        self.fabric.launch()
        with deterministic(self.fabric.device), ExitStack() as opened:
            starts = self._each(dict(enumerate(self.runs)), self._start)
            starts = {index: start for index, start in starts.items() if not start.is_done}
            own = self._each(starts, self._sources)
            starts = {index: starts[index] for index in own}

            def open_folder(start: Start, index: int) -> Start:
                opened.enter_context(start.opened(together=len(starts)))
                return start

            starts = self._each(starts, open_folder)
            self._train(starts, own)
            self._each(starts, lambda start, index: start.test(len(own[index])))
        return self.failures

    def _each(self, given: dict[int, Any], call: Callable[[Any, int], Any]) -> dict[int, Any]:
        """The results of a call per run that has not failed. An error becomes its failure."""
        found = {}
        for index, value in given.items():
            try:
                if self.failures[index] is None:
                    found[index] = call(value, index)
            except Exception as error:
                self.failures[index] = error
        return found

    def _start(self, settings: RunSettings, index: int) -> Start:
        notes: list[str] = []
        if self.prepared is None:
            self.prepared = made = prepare(settings, notes.append, files=self.files)
        else:
            made = self.prepared.for_run(settings, notes.append, files=self.files)
        return Start(self.fabric, made, notes)

    def _sources(self, start: Start, index: int) -> list[PatchSource]:
        """What patches are cut from: the same for all, unless whole maps are cut with them."""
        key = "" if start.settings.map_of == "patch" else str(start.prepared.expression)
        if key not in self.sources:
            self.sources[key] = start.sources()
        return self.sources[key]

    def _train(self, starts: dict[int, Start], sources: dict[int, list[PatchSource]]) -> None:
        """Train all as one model. Batches are made once per seed, losses once per map."""
        batches: dict[Any, Any] = {}
        losses: dict[str, Any] = {}

        def member(start: Start, index: int) -> Member:
            seed = start.settings.seed, id(sources[index])
            if seed not in batches:
                batches[seed] = start.batches(sources[index])
            text = str(start.prepared.expression)
            if text not in losses:
                losses[text] = start.loss()

            def on_failure(error: Exception) -> None:
                self.failures[index] = error
                start.log_failure(error)

            return Member(
                start.network,
                losses[text],
                batches[seed],
                start.optimizer,
                start.settings,
                start.state,
                record=start.record,
                after_step=start.after_step,
                on_failure=on_failure,
            )

        train_stack(self.fabric, list(self._each(starts, member).values()))
