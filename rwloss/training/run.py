"""One training run, from its settings to its scores on the test cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

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
from rwloss.training.patches import PatchSampler, patch_sources
from rwloss.training.preparation import PreparedRun, prepare
from rwloss.training.run_folder import RunFolder, RunResult
from rwloss.training.settings import RunSettings
from rwloss.work.processes import end_with_first_process

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class TrainingProgress:
    """Called at each step; does nothing. Override the methods you need in a subclass."""

    def note(self, text: str) -> None:
        """A sentence worth knowing, before the first step."""

    def begin(self, done: int, steps: int) -> None:
        """Training starts after step `done` of `steps`."""

    def step(self, step: int, loss: float | None) -> None:
        """A step is done. loss: of its batch, before the step; None where a GPU still has it."""

    def validated(self, step: int, dice: Mapping[str, float | None], *, is_best: bool) -> None:
        """Mean Dice per foreground class over the validation cases."""

    def testing(self, cases: int) -> None:
        """Training has ended; the test cases follow."""


def train(
    settings: RunSettings, progress: TrainingProgress | None = None, *, files: bool = True
) -> RunResult:
    """Train a U-Net in the folder settings.out, or resume the run that is there.

    Everything is checked before the first step. The final weights depend on settings and data
    alone: on the CPU, with the same number of threads, bit for bit, however often the run was
    killed and resumed. Runs that differ only in their map start from the same weights and see the
    same batches and augmentations.

    The tested checkpoint is the one with the highest mean foreground Dice on the validation cases
    (`selection_score`); without validation cases, or with test_checkpoint "last", the last one.

    With several devices, every process calls this, as Lightning Fabric starts them: by the same
    command again, or by torchrun or SLURM.

    Raises RWLossError if data, maps, settings or folder do not fit together, and `Diverged` if the
    loss is not finite; the last checkpoint is then kept.
    """
    end_with_first_process()
    fabric = fabric_of(settings)
    notes: list[str] = []
    prepared = prepare(settings, notes.append, files=files)
    settings = prepared.settings
    folder = RunFolder(settings.out)
    network = build_network(settings, prepared.task)
    checkpoint_bytes = 3 * 4 * num_parameters(network)
    folder.check(settings, prepared.split, checkpoint_bytes=checkpoint_bytes)
    fabric.launch()
    if progress is None or not fabric.is_global_zero:
        progress = TrainingProgress()
    for note in notes:
        progress.note(note)
    with _deterministic(fabric.device), _naming_lost_processes():
        done = folder.is_done(settings)
        fabric.barrier()  # all have looked, before the first begins and removes an older test.json
        if not done:
            _Start(fabric, prepared, folder, network, progress, notes)()
    return folder.read_result()


@contextmanager
def _naming_lost_processes() -> Iterator[None]:
    """A process whose partner has ended says so; gloo and NCCL raise errors of torch's own."""
    try:
        yield
    except RuntimeError as error:
        if not (
            _are_several() and re.search(r"gloo|nccl|Connection|DistBackend", str(error), re.I)
        ):
            raise
        raise RWLossError(
            "another process of this training run has ended: see what it said; the same command "
            "resumes the run from its last checkpoint"
        ) from error


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_first_process() -> bool:
    """Whether this is the process that writes and reports, of several that train together."""
    return not _are_several() or torch.distributed.get_rank() == 0


@dataclass(eq=False)
class _Start:
    """One start of a run, in one of its processes."""

    fabric: Fabric
    prepared: PreparedRun
    folder: RunFolder
    network: nn.Module
    progress: TrainingProgress
    notes: Sequence[str]
    state: TrainingState = field(default_factory=TrainingState)

    def __call__(self) -> None:
        """Train to the end, and test."""
        settings = self.settings = self.prepared.settings
        self.task, self.network = self.prepared.task, self.network.to(self.fabric.device)
        self.optimizer = optimizer_of(settings, self.network)
        sources = patch_sources(
            self.prepared.train,
            self.prepared.whole_maps(),
            dims=settings.dims,
            slice_axis=settings.slice_axis,
            device=self.fabric.device,
            max_device_bytes=settings.data_on_device_gib * 2**30,
        )
        assert settings.patch_size is not None  # filled in by prepare
        self.batches = PatchSampler(
            sources,
            self.task.num_classes,
            settings.patch_size,
            settings.batch_size,
            seed=settings.seed,
            augmentation=self.prepared.augmentation,
            balanced=settings.balanced,
            device=self.fabric.device,
            process=(self.fabric.global_rank, self.fabric.world_size),
        )
        with ExitStack() as opened:
            self._by_the_first(lambda: opened.enter_context(self.folder.held()))
            self._resume()
            # Only now, because begin removes test.json: maps or a checkpoint that do not fit must
            # not cost the test after fewer steps.
            self._by_the_first(self._begin)
            self._train()
            self._by_the_first(lambda: self._test(len(sources)))

    def _by_the_first(self, work: Callable[[], object]) -> None:
        """Do it in the first process alone. If that fails, all fail, and none waits forever."""
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
                f"{str(path)!r} holds weights alone, as best.pt does: put the run's own file "
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

    def _begin(self) -> None:
        step, device = self.state.step, description(self.fabric.device, self.fabric.world_size)
        self.folder.begin(self.settings, self.prepared.split, step)
        first = self.batches(1)
        regions = Regions(first.labels, self.task.num_classes, first.spacings_mm, IGNORED)
        weights = effective_weights(self.prepared.expression, regions)
        self._log("start", step, **device, notes=list(self.notes), effective_weights=weights)

    def _train(self) -> None:
        fabric, settings = self.fabric, self.settings
        self.progress.begin(self.state.step, settings.steps)
        try:
            train_steps(
                fabric,
                self.network,
                RegionWiseLoss(
                    self.prepared.expression,
                    ignore_index=IGNORED,
                    deep_supervision_weights=settings.deep_supervision_weights,
                ),
                self.batches,
                self.optimizer,
                settings,
                self.state,
                record=lambda step, figures: self._log(
                    "record", step, seconds=round(self.state.seconds, 3), **figures
                ),
                after_step=self._after_step,
            )
        except Diverged as error:
            self._log("diverged", error.step, reason=str(error))
            raise

    def _log(self, kind: str, step: int, **fields: Any) -> None:
        if self.fabric.is_global_zero:
            self.folder.log(kind, step, **fields)

    def _after_step(self, step: int, loss: float | None) -> None:
        """Validation and checkpoints, in the first process while the others wait."""
        self.progress.step(step, loss)
        validates = self.settings.validates(step)
        if validates or step % self.settings.checkpoint_every == 0:
            self._by_the_first(lambda: self._keep(step, validates=validates))
        if validates:  # of the first process, which has validated
            self.state.plateaus = self.fabric.broadcast(self.state.plateaus)

    def _keep(self, step: int, *, validates: bool) -> None:
        if validates:
            self._validate(step)
        more = {"optimizer": self.optimizer.state_dict(), "state": asdict(self.state)}
        if scaler := self.fabric.strategy.precision.state_dict():
            more["scaler"] = scaler
        self._save(self.folder.last, **more)

    def _validate(self, step: int) -> None:
        """Score the validation cases; keep the weights if they are the best so far."""
        volumes, state = self.prepared.validation, self.state
        with self.fabric.autocast():
            dice = mean_dice(self.network, volumes, self.settings, self.task.class_names)
        score_now = selection_score(dice)
        # Without validation cases there is nothing to choose by: the last is the best.
        is_best = score_now > state.best_score or not volumes
        if is_best:
            state.best_step, state.best_score = step, score_now
            self._save(self.folder.best)
        state.follow(self.settings, is_best=is_best)
        self.folder.log("validation", step, dice=dice, mean_dice=score_now, is_best=is_best)
        self.progress.validated(step, dice, is_best=is_best)

    def _save(self, path: Path, **more: Any) -> None:
        save_checkpoint(path, self.network, self.settings, self.task, self.state.step, **more)

    def _load(self, path: Path) -> Checkpoint:
        """Put the weights of a checkpoint into the network. Returns its content."""
        checkpoint = load_checkpoint(path, self.settings, self.fabric.device)
        restore_weights(self.network, checkpoint, path)
        return checkpoint

    def _test(self, num_items: int) -> None:
        """Score the test cases with the chosen checkpoint, and write test.json."""
        tested = self.folder.checkpoint(self.settings.test_checkpoint)
        step = self._load(tested).step
        self.progress.testing(len(self.prepared.test))
        volumes = map(self.prepared.read, self.prepared.test)
        with self.fabric.autocast():
            scores = score_volumes(self.network, volumes, self.settings, self.task.class_names)
        evaluation = Evaluation(
            str(tested),
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
def _deterministic(device: torch.device) -> Iterator[None]:
    """Use deterministic algorithms on the CPU. GPUs keep their faster ones."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
