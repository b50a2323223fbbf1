"""Train runs as one stacked model, each in its own folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

from rwloss.errors import RWLossError
from rwloss.losses import RegionWiseLoss
from rwloss.training.environment import fabric_of
from rwloss.training.inference import Dice, Networks, mean_dice_of_each, score_each
from rwloss.training.patches import PatchSampler, PatchSource
from rwloss.training.preparation import PreparedRun, prepare
from rwloss.training.run import Start, deterministic
from rwloss.training.scores import Scores
from rwloss.training.settings import RunSettings
from rwloss.training.stacked import Member, train_stack
from rwloss.training.stacked_networks import networks_of, stacked_weights
from rwloss.words import listed

_logger = logging.getLogger("rwloss")

T = TypeVar("T")
Result = TypeVar("Result")

MAY_DIFFER = ("out", "seed", "map", "learning_rate", "learning_rate_schedule")
"""Settings that may differ between the runs of a stack."""

_STACKED: dict[str, tuple[Any, ...]] = {
    "network": ("UNet",),
    "network_options": ({},),
    "optimizer": ("adam", "adamw"),
    "learning_rate_schedule": ("constant", "poly", "cosine"),
    "precision": ("32-true", "bf16-mixed"),
    "compile": (False,),
    "devices": (1,),
    "maps": (None,),
}
"""Values with which runs can be stacked; the first is a default. Other networks may have buffers,
dropout or several outputs, which a stack does not support."""


def reasons_apart(settings: RunSettings) -> list[str]:
    """Settings with which a run cannot be trained in a stack, such as "compile=True"."""
    return [
        f"{name}={value!r}"
        for name, known in _STACKED.items()
        if (value := getattr(settings, name, known[0])) not in known
    ]


def train_together(runs: Sequence[RunSettings], *, files: bool = True) -> list[Exception | None]:
    """Train runs (or their unfinished parts) as one stacked model, and test each in its own folder.

    Their settings are equal, except MAY_DIFFER. Each has the same initial weights, batches and
    augmentations as alone, and writes the same files; its weights are the same except for rounding.
    The line "start" of its log says how many were trained together. Any of them can be resumed
    alone, and runs that were begun alone can be resumed together.

    Returns the error that ended each run, or None. A run that fails or diverges does not stop
    others. Raises RWLossError for runs that cannot be trained together.
    """
    first, *others = runs
    differing = [
        name
        for name in RunSettings.model_fields
        if name not in MAY_DIFFER
        and any(getattr(run, name) != getattr(first, name) for run in others)
    ]
    apart = dict.fromkeys(reason for run in runs for reason in reasons_apart(run))
    if reasons := [*(f"several {name}" for name in differing), *apart]:
        raise RWLossError(f"runs with {listed(reasons)} cannot be trained together")
    return Together(runs, files=files)()


class Together:
    """The runs of a stack, by their index in the list, and the error that ended each."""

    def __init__(self, runs: Sequence[RunSettings], *, files: bool = True) -> None:
        """files: as for `prepare`. Raises RWLossError if this machine lacks the device."""
        self.runs, self.files = dict(enumerate(runs)), files
        self.failures: list[Exception | None] = [None] * len(runs)
        self.prepared: PreparedRun | None = None
        self.sources: dict[str, list[PatchSource]] = {}
        self.batches: dict[tuple[int, str], PatchSampler] = {}
        self.losses: dict[str, RegionWiseLoss] = {}
        self.fabric = fabric_of(runs[0])
        self.fabric.launch()

    def __call__(self) -> list[Exception | None]:
        """Train and test the unfinished runs."""
        with deterministic(self.fabric.device), ExitStack() as opened:
            starts = self.each(self.runs, self.start)
            starts = {index: start for index, start in starts.items() if not start.is_done}
            number = len(self.each(starts, lambda _, start: self.sources_of(start)))

            def opened_member(index: int, start: Start) -> Member:
                opened.enter_context(start.opened(self.batches_of(start), together=number))
                return self.member(index, start)

            members = self.each(starts, opened_member)
            train_stack(self.fabric, list(members.values()), self.validate)
            self.test(starts)
        return self.failures

    def each(self, given: Mapping[int, T], call: Callable[[int, T], Result]) -> dict[int, Result]:
        """The results of a call for each run that has not failed. An error becomes its failure."""
        found = {}
        for index, value in given.items():
            try:
                if self.failures[index] is None:
                    found[index] = call(index, value)
            except Exception as error:
                self.failures[index] = error
        return found

    def start(self, index: int, settings: RunSettings) -> Start:
        """The start of a run. Cases are read only for the first one."""
        del index
        notes: list[str] = []
        if self.prepared is None:
            self.prepared = made = prepare(settings, notes.append, files=self.files)
        else:
            made = self.prepared.for_run(settings, notes.append, files=self.files)
        return Start(self.fabric, made, notes)

    def sources_of(self, start: Start) -> list[PatchSource]:
        """The sources of patches: the same for all runs, unless they also hold maps."""
        key = self._key(start)
        if key not in self.sources:
            maps = {settings.map for settings in self.runs.values()}
            self.sources[key] = start.sources(sharing=len(maps) if key else 1)
        return self.sources[key]

    def batches_of(self, start: Start) -> PatchSampler:
        """The batches of a run: the same for all runs with the same seed and patches."""
        seed = start.settings.seed, self._key(start)
        if seed not in self.batches:
            self.batches[seed] = start.batches(self.sources_of(start))
        return self.batches[seed]

    def member(self, index: int, start: Start) -> Member:
        """A run as a member of the stack. Runs with the same map share one loss, if it has no
        state."""
        loss = start.loss()
        loss.set_epoch(0, start.settings.num_epochs)
        if loss.share is None:
            loss = self.losses.setdefault(str(start.prepared.expression), loss)

        def on_failure(error: Exception) -> None:
            self.failures[index] = error
            start.log_failure(error)

        return Member(
            start.network,
            loss,
            self.batches_of(start),
            start.optimizer,
            start.settings,
            start.state,
            record=start.record,
            after_step=start.after_step,
            on_failure=on_failure,
            give=start.give,
        )

    def validate(self, networks: Networks) -> list[Dice]:
        """The mean Dice of each network over the validation cases."""
        assert self.prepared is not None
        settings, names = self.prepared.settings, self.prepared.task.class_names
        return mean_dice_of_each(networks, self.prepared.validation, settings, names)

    def test(self, starts: Mapping[int, Start]) -> None:
        """Test all runs, each with its chosen checkpoint: together, or alone if that fails."""
        steps = self.each(starts, lambda _, start: start.load_chosen())
        scores = self.scores([starts[index] for index in steps])

        def test(index: int, start: Start) -> None:
            num_items = len(self.sources_of(start))
            if index in scores_of:
                start.write_test(num_items, steps[index], scores_of[index])
            else:
                start.test(num_items)

        scores_of = dict(zip(steps, scores, strict=False))
        self.each({index: starts[index] for index in steps}, test)

    def scores(self, starts: Sequence[Start]) -> list[Scores]:
        """The scores of each network on the test cases; none if they cannot be tested together."""
        if not starts:
            return []
        first, weights = starts[0], stacked_weights(start.network for start in starts)
        networks = networks_of(self.fabric, first.network, weights)
        names = first.task.class_names
        try:
            return score_each(networks, first.test_volumes(), first.settings, names)
        except Exception as error:
            _logger.warning("runs cannot be tested together (%s): they take turns", error)
            return []

    def _key(self, start: Start) -> str:
        """Runs with the same key use the same patches."""
        return "" if start.settings.map_of == "patch" else str(start.prepared.expression)
