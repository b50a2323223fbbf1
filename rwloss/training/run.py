"""One training run, from its settings to its scores on the test cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rwloss.errors import RWLossError
from rwloss.losses import RegionWiseLoss
from rwloss.regions import IGNORED, Regions
from rwloss.stability import effective_weights
from rwloss.training.environment import description, fabric_of
from rwloss.training.evaluation import Evaluation, as_fields
from rwloss.training.inference import mean_dice, score_volumes, selection_score
from rwloss.training.loop import Diverged, TrainingState, train_steps
from rwloss.training.network import (
    Checkpoint,
    build_network,
    load_checkpoint,
    num_parameters,
    restore_optimizer,
    restore_weights,
    save_checkpoint,
)
from rwloss.training.optimizers import optimizer_of
from rwloss.training.patches import PatchSampler, PatchSource, TrainingBatch, patch_sources
from rwloss.training.preparation import PreparedRun, prepare
from rwloss.training.run_folder import RunFolder, RunResult
from rwloss.training.scores import Scores
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import TrainingVolume
from rwloss.work.processes import end_with_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from rwloss.training.stacked import Given


class TrainingProgress:
    """Callbacks of a run, which do nothing. Override the methods you need in a subclass."""

    def note(self, text: str) -> None:
        """A note for the user, before the first step."""

    def begin(self, done: int, steps: int) -> None:
        """Training starts after step `done` of `steps`."""

    def step(self, step: int, loss: float | None) -> None:
        """A step is done. loss: of its batch, before the step; None if it has not been read from
        the GPU yet."""

    def validated(self, step: int, dice: Mapping[str, float | None], *, is_best: bool) -> None:
        """Mean Dice per foreground class over the validation cases.

        dice: by class name. is_best: whether no earlier step was better.
        """

    def testing(self, cases: int) -> None:
        """Training has ended; the test cases follow."""


def train(
    settings: RunSettings, progress: TrainingProgress | None = None, *, files: bool = True
) -> RunResult:
    """Train a network in the folder settings.out, or resume the run in it.

    Everything is checked before the first step. The final weights depend only on settings and data:
    on the CPU, with the same number of threads, bit for bit, no matter how often the run was killed
    and resumed. Runs that differ only in their map start from the same weights and see the same
    batches and augmentations.

    The tested checkpoint is the one with the highest mean foreground Dice on the validation cases
    (`selection_score`); without validation cases, or with test_checkpoint "last", the last one.

    With several devices, every process calls this, as started by Lightning Fabric (with the same
    command again), torchrun or SLURM.

    Raises RWLossError if data, maps, settings or folder are inconsistent, and `Diverged` if the
    loss is not finite; the last checkpoint is then kept.

    progress: callbacks for events. files: False refuses to execute a file that holds a map.
    """
    end_with_first_process()
    fabric = fabric_of(settings)
    notes: list[str] = []
    start = Start(fabric, prepare(settings, notes.append, files=files), notes)
    fabric.launch()
    if progress is not None and fabric.is_global_zero:
        start.progress = progress
    for note in notes:
        start.progress.note(note)
    with deterministic(fabric.device), _naming_lost_processes():
        done = start.is_done
        fabric.barrier()  # all have looked, before the first begins and removes an older test.json
        if not done:
            start()
    return start.folder.read_result()


@contextmanager
def _naming_lost_processes() -> Iterator[None]:
    """If another process has ended, say so; gloo and NCCL raise torch's own errors."""
    try:
        yield
    except RuntimeError as error:
        if not (
            _are_several() and re.search(r"gloo|nccl|Connection|DistBackend", str(error), re.I)
        ):
            raise
        raise RWLossError(
            "another process of this training run has ended: see its message; the same command "
            "resumes the run from its last checkpoint"
        ) from error


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_first_process() -> bool:
    """Whether this is the process that writes and reports, if several train together."""
    return not _are_several() or torch.distributed.get_rank() == 0


class Start:
    """One start of a run, in one of its processes."""

    def __init__(self, fabric: Fabric, prepared: PreparedRun, notes: Sequence[str]) -> None:
        """Build the network. Raises RWLossError if the folder does not fit, as its `check` does."""
        self.fabric, self.prepared, self.notes = fabric, prepared, notes
        self.settings, self.task = prepared.settings, prepared.task
        self.folder = RunFolder(self.settings.out)
        self.progress, self.state = TrainingProgress(), TrainingState()
        self.given: Given | None = None
        self.network = build_network(self.settings, self.task)
        checkpoint_bytes = 3 * 4 * num_parameters(self.network)
        self.folder.check(self.settings, prepared.split, checkpoint_bytes=checkpoint_bytes)

    @property
    def is_done(self) -> bool:
        """Whether the run has been tested after all its steps."""
        return self.folder.is_done(self.settings)

    def __call__(self) -> None:
        """Train to the end, and test."""
        sources = self.sources()
        batches = self.batches(sources)
        with self.opened(batches):
            self._train(batches)
            self._by_the_first(lambda: self.test(len(sources)))

    def sources(self, sharing: int = 1) -> list[PatchSource]:
        """The slices or volumes from which patches are cropped.

        sharing: how many such lists, each with another map, share the device's memory.
        """
        return patch_sources(
            self.prepared.train,
            self.prepared.whole_maps(),
            dims=self.settings.dims,
            slice_axis=self.settings.slice_axis,
            device=self.fabric.device,
            max_device_bytes=self.settings.data_on_device_gib * 2**30 / sharing,
        )

    def make_optimizer(self) -> None:
        """Move the network to its device, with an optimizer for it."""
        self.network = self.network.to(self.fabric.device)
        self.optimizer = optimizer_of(self.settings, self.network)

    @contextmanager
    def opened(self, batches: PatchSampler, **how: Any) -> Iterator[None]:
        """Lock the folder, and restore the run from its last checkpoint. how: for its log."""
        self.make_optimizer()
        with ExitStack() as opened:
            self._by_the_first(lambda: opened.enter_context(self.folder.held()))
            self._resume()
            # Only now, because `begin` removes test.json: if maps or a checkpoint do not fit, this
            # must not delete the earlier test.
            self._by_the_first(lambda: self._begin(batches(1), how))
            yield

    def _by_the_first(self, work: Callable[[], object]) -> None:
        """Do it only in the first process. If that fails, all fail, and none waits forever."""
        problem = None
        if self.fabric.is_global_zero:
            try:
                work()
            except RWLossError as error:
                problem = error
        words = self.fabric.broadcast(None if problem is None else str(problem))
        if words is not None:
            raise problem or RWLossError(words)

    def _resume(self) -> None:
        """Load last.pt, if there is one."""
        path, best = self.folder.last, self.folder.best
        if not path.exists():
            return
        checkpoint = self._load(path)
        if checkpoint.optimizer is None or checkpoint.state is None:
            raise RWLossError(
                f"{str(path)!r} holds only weights, like best.pt: put the run's own file "
                "back, or train in another folder"
            )
        restore_optimizer(self.optimizer, checkpoint.optimizer, path)
        self.state = checkpoint.state
        if checkpoint.scaler is not None:
            self.fabric.strategy.precision.load_state_dict(checkpoint.scaler)
        if self.state.best_step and not best.exists():
            raise RWLossError(
                f"{str(best)!r}, the best weights so far (step {self.state.best_step}), is "
                "missing: put the file back, or train in another folder"
            )

    def _begin(self, first: TrainingBatch, how: Mapping[str, Any]) -> None:
        step, device = self.state.step, description(self.fabric.device, self.fabric.world_size)
        self.folder.begin(self.settings, self.prepared.split, step)
        labels, images = first.labels, first.images
        labels = labels.masked_fill(labels >= self.task.num_classes, IGNORED)  # label sets
        regions = Regions(labels, self.task.num_classes, first.spacings_mm, IGNORED, images)
        weights = effective_weights(self.prepared.expression, regions)
        notes = list(self.notes)
        self._log("start", step, **device, **how, notes=notes, effective_weights=weights)

    def batches(self, sources: Sequence[PatchSource]) -> PatchSampler:
        """The batch of each step."""
        fabric, settings = self.fabric, self.settings
        assert settings.patch_size is not None  # filled in by prepare
        return PatchSampler(
            sources,
            self.prepared.map_classes,
            settings.patch_size,
            settings.batch_size,
            seed=settings.seed,
            augmentation=self.prepared.augmentation,
            balanced=settings.balanced,
            device=fabric.device,
            process=(fabric.global_rank, fabric.world_size),
        )

    def loss(self) -> RegionWiseLoss:
        """The loss of the run."""
        return RegionWiseLoss(
            self.prepared.expression,
            ignore_index=IGNORED,
            deep_supervision_weights=self.settings.deep_supervision_weights,
            label_sets=self._sets(),
        )

    def _sets(self) -> dict[int, tuple[int, ...]]:
        """Classes by label, with the numbers that the sets have in the labels of a batch."""
        return dict(enumerate(self.settings.label_sets.values(), start=self.task.num_classes))

    def _train(self, batches: PatchSampler) -> None:
        self.progress.begin(self.state.step, self.settings.steps)
        try:
            train_steps(
                self.fabric,
                self.network,
                self.loss(),
                batches,
                self.optimizer,
                self.settings,
                self.state,
                record=self.record,
                after_step=self.after_step,
            )
        except Diverged as error:
            self.log_failure(error)
            raise

    def record(self, step: int, figures: Mapping[str, Any]) -> None:
        """Log the figures of a step."""
        self._log("record", step, seconds=round(self.state.seconds, 3), **figures)

    def log_failure(self, error: Exception) -> None:
        """Log that the run has diverged, if that is the error."""
        if isinstance(error, Diverged):
            self._log("diverged", error.step, reason=str(error))

    def _log(self, kind: str, step: int, **fields: Any) -> None:
        if self.fabric.is_global_zero:
            self.folder.log(kind, step, **fields)

    def after_step(self, step: int, loss: float | None) -> None:
        """Validation and checkpoints, in the first process while the others wait."""
        self.progress.step(step, loss)
        validates = self.settings.validates(step)
        if self.settings.saves(step):
            self._by_the_first(lambda: self._keep(step, validates=validates))
        if validates:  # of the first process, which has validated
            self.state.plateaus = self.fabric.broadcast(self.state.plateaus)

    def give(self, given: Given | None) -> None:
        """What a stack has made for the next call of `after_step`."""
        self.given = given

    def _keep(self, step: int, *, validates: bool) -> None:
        if validates:
            self._validate(step)
        optimizer = self.given.optimizer if self.given else self.optimizer.state_dict()
        more = {"optimizer": optimizer, "state": asdict(self.state)}
        if scaler := self.fabric.strategy.precision.state_dict():
            more["scaler"] = scaler
        self._save(self.folder.last, **more)

    def _validate(self, step: int) -> None:
        """Score the validation cases; keep the weights if they are the best so far."""
        volumes, state = self.prepared.validation, self.state
        dice = self.given.dice if self.given else None
        if dice is None:
            with self.fabric.autocast():
                dice = mean_dice(self.network, volumes, self.settings, self.task.class_names)
        score_now = selection_score(dice)
        # Without validation cases the last checkpoint is the best.
        is_best = score_now > state.best_score or not volumes
        if is_best:
            state.best_step, state.best_score = step, score_now
            self._save(self.folder.best)
        state.follow(self.settings, is_best=is_best)
        self.folder.log("validation", step, dice=dice, mean_dice=score_now, is_best=is_best)
        self.progress.validated(step, dice, is_best=is_best)

    def _save(self, path: Path, **more: Any) -> None:
        weights = self.given.weights if self.given else self.network.state_dict()
        save_checkpoint(path, weights, self.settings, self.task, self.state.step, **more)

    def _load(self, path: Path) -> Checkpoint:
        """Load the weights of a checkpoint into the network. Returns its content."""
        checkpoint = load_checkpoint(path, self.settings, self.fabric.device)
        restore_weights(self.network, checkpoint, path)
        return checkpoint

    def test(self, num_items: int) -> None:
        """Score the test cases with the chosen checkpoint, and write test.json."""
        step = self.load_chosen()
        self.progress.testing(len(self.prepared.test))
        with self.fabric.autocast():
            scores = score_volumes(
                self.network, self.test_volumes(), self.settings, self.task.class_names
            )
        self.write_test(num_items, step, scores)

    @property
    def _chosen(self) -> Path:
        return self.folder.checkpoint(self.settings.test_checkpoint)

    def load_chosen(self) -> int:
        """Load the weights to be tested. Returns their step."""
        return self._load(self._chosen).step

    def test_volumes(self) -> Iterator[TrainingVolume]:
        """The test cases, which are read one by one."""
        return map(self.prepared.read, self.prepared.test)

    def write_test(self, num_items: int, step: int, scores: Scores) -> None:
        """Write test.json. step: of the weights."""
        evaluation = Evaluation(
            str(self._chosen),
            self.settings.data,
            scores,
            self.prepared.ignore_label,
            tolerance_mm=self.settings.nsd_tolerance,
        )
        self.folder.write_test(
            {
                "step": step,
                "steps": self.settings.steps,
                "class_names": list(self.task.class_names),
                "num_items": num_items,
                "parameters": num_parameters(self.network),
                "seconds": round(self.state.seconds, 1),
                **as_fields(evaluation),
            }
        )


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Use deterministic algorithms on the CPU. GPUs keep their faster ones."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
