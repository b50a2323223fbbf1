"""One training from its settings to its scores on the test cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from rwloss.errors import RWLossError
from rwloss.losses import RegionWiseLoss
from rwloss.regions import IGNORED
from rwloss.training import checkpoint, loop, surroundings
from rwloss.training.batches import Batches, Item
from rwloss.training.checkpoint import build
from rwloss.training.divergence import Diverged
from rwloss.training.evaluation import Evaluation
from rwloss.training.extras import require_training
from rwloss.training.items import items_of, num_bytes, stored_maps
from rwloss.training.loop import State
from rwloss.training.metrics import score
from rwloss.training.preparation import Prepared, prepare
from rwloss.training.progress import Progress
from rwloss.training.run_folder import RunFolder
from rwloss.training.score_file import as_fields
from rwloss.training.scores import CaseScore, ClassScore, Scores
from rwloss.training.settings import RunSettings
from rwloss.training.validation import label_map, mean_dice, selection_score

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class RunResult:
    """What came of a training; read from its folder, so that it is the same at each start.

    settings: with what followed from the data. scores: of the test cases, with the weights of
    best_step. losses: of the batch of each step. num_items: slices or volumes that were trained on.
    seconds: wall-clock time of the training steps.
    """

    settings: RunSettings
    scores: Scores
    losses: tuple[float, ...]
    best_step: int
    num_items: int
    parameters: int
    seconds: float


def train(settings: RunSettings, progress: Progress | None = None) -> RunResult:
    """Train a U-Net in the folder settings.out, or go on where an earlier start was stopped.

    Everything is checked before the first step. Weights at the end depend on settings and data
    alone: on the CPU, with the same number of threads, bit for bit, however often the training was
    killed and started again. Runs that differ in their map alone begin with the same weights and
    meet the same batches and augmentations.

    The checkpoint that is tested is that with the highest mean foreground Dice on the validation
    cases (`selection_score`); without validation cases, the last.

    With several devices every process calls this, as Lightning Fabric starts them: by the same
    command again, or by torchrun or SLURM.

    Raises RWLossError where data, maps, settings or folder do not fit together, and `Diverged`
    where the loss is not finite; the last checkpoint is kept then.
    """
    fabric = fabric_of(settings)
    notes: list[str] = []
    prepared = prepare(settings, notes.append)
    settings = prepared.settings
    folder = RunFolder(Path(settings.out))
    network = build(settings, prepared.task)
    parameters = sum(weight.numel() for weight in network.parameters())
    folder.check(settings, prepared.split, checkpoint_bytes=3 * 4 * parameters)
    fabric.launch()
    if progress is None or not fabric.is_global_zero:
        progress = Progress()
    for note in notes:
        progress.note(note)
    with _deterministic(fabric.device):
        done = folder.is_done(settings)
        fabric.barrier()  # all have looked, before the first begins and removes an older test.json
        if not done:
            _Training(fabric, prepared, folder, network, progress, notes)()
    return result(settings.out)


def fabric_of(settings: RunSettings) -> Fabric:
    """The devices to train on. Raises RWLossError where this machine has none like these."""
    require_training()
    from lightning_fabric import Fabric
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            precision=settings.precision,
            strategy="ddp" if settings.devices > 1 else "auto",
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        raise RWLossError(
            f"this machine has no --accelerator {settings.accelerator} with --devices "
            f"{settings.devices} and --precision {settings.precision} ({error}): try "
            "--accelerator cpu, or fewer --devices"
        ) from error


def result(run: str | Path) -> RunResult:
    """The result of a finished run. Raises RWLossError where it has none yet."""
    from rwloss.training import settings as settings_file

    folder = RunFolder(Path(run))
    content = folder.read_test()
    return RunResult(
        settings=settings_file.read(folder.settings),
        scores=Scores(
            cases=tuple(_case_score(case) for case in content["cases"]),
            class_names=tuple(content["class_names"]),
        ),
        losses=tuple(
            loss for line in folder.lines() if line["kind"] == "record" for loss in line["losses"]
        ),
        best_step=content["step"],
        num_items=content["num_items"],
        parameters=content["parameters"],
        seconds=content["seconds"],
    )


def is_first_process() -> bool:
    """Whether this is the process that writes and reports, of several that train together."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )


class _Training:
    """One start of a run, in one of its processes."""

    def __init__(
        self,
        fabric: Fabric,
        prepared: Prepared,
        folder: RunFolder,
        network: nn.Module,
        progress: Progress,
        notes: Sequence[str],
    ) -> None:
        self.fabric, self.prepared, self.folder, self.notes = fabric, prepared, folder, notes
        self.settings, self.task, self.progress = prepared.settings, prepared.task, progress
        self.network = network.to(fabric.device)
        chosen = torch.optim.AdamW if self.settings.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = chosen(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
        )
        self.state = State()

    def __call__(self) -> None:
        """Train to the end, and test."""
        items = self._items()
        with ExitStack() as opened:
            self._by_the_first(lambda: opened.enter_context(self.folder.held()))
            self._restore()
            # Not before: maps or a checkpoint that don't fit must not cost the test of fewer steps.
            self._by_the_first(self._begin)
            self._train_and_test(items)

    def _by_the_first(self, work: Callable[[], object]) -> None:
        """What the first process does alone. Where it fails, all do: none waits for it forever."""
        problem = None
        if self.fabric.is_global_zero:
            try:
                work()
            except RWLossError as error:
                problem = error
        words = self.fabric.broadcast(None if problem is None else str(problem))
        if words is not None:
            raise problem or RWLossError(words)

    def _begin(self) -> None:
        self.folder.begin(self.settings, self.prepared.split)
        self.folder.rewind(self.state.step)
        self.folder.log(
            "start",
            self.state.step,
            hardware=surroundings.hardware(self.fabric.device, self.fabric.world_size),
            distance_engine=surroundings.engine(self.fabric.device),
            versions=surroundings.versions(),
            notes=list(self.notes),
        )

    def _train_and_test(self, items: list[Item]) -> None:
        fabric, settings = self.fabric, self.settings
        assert settings.map is not None
        assert settings.patch_size is not None
        batches = Batches(
            items,
            self.task.num_classes,
            settings.patch_size,
            settings.batch_size,
            seed=settings.seed,
            augmentation=self.prepared.augmentation,
            balanced=settings.balanced,
            device=fabric.device,
            process=(fabric.global_rank, fabric.world_size),
        )
        self.progress.begin(self.state.step, settings.steps)
        try:
            loop.train(
                fabric,
                self.network,
                RegionWiseLoss(settings.map, ignore_index=IGNORED),
                batches,
                self.optimizer,
                settings,
                self.state,
                record=self._record,
                after_step=self._after_step,
            )
        except Diverged as error:
            if fabric.is_global_zero:
                self.folder.log("diverged", error.step, reason=str(error))
            raise
        self._by_the_first(lambda: self._test(len(items)))

    def _restore(self) -> None:
        """Go on from last.pt, if there is one."""
        path = self.folder.last
        if path.exists():
            content = checkpoint.load(path, self.fabric.device)
            checkpoint.check_settings(content, self.settings, path)
            checkpoint.restore(self.network, content["weights"], path)
            if not {"optimizer", "state"} <= content.keys():
                raise RWLossError(
                    f"{str(path)!r} holds weights alone, as best.pt does: put the run's own file "
                    "back, or train in another folder"
                )
            self.optimizer.load_state_dict(content["optimizer"])
            self.state = State(**content["state"])
            if self.state.best_step and not self.folder.best.exists():
                raise RWLossError(
                    f"{str(self.folder.best)!r} is gone, the weights of step "
                    f"{self.state.best_step}, which were the best: put the file back, or train in "
                    "another folder"
                )

    def _items(self) -> list[Item]:
        """What patches are cut from: on the device, if all of it fits there."""
        volumes, settings = self.prepared.train, self.settings
        stored = list(stored_maps(volumes, self.prepared.maps))
        is_dense = any(rwmap is not None and not rwmap.is_compact for rwmap in stored)
        map_values = 0 if stored[0] is None else self.task.num_classes if is_dense else 2
        fits = num_bytes(volumes, map_values=map_values) <= settings.data_on_device_gib * 2**30
        return [
            item
            for volume, rwmap in zip(volumes, stored, strict=True)
            for item in items_of(
                volume,
                rwmap,
                dims=settings.dims,
                slice_axis=settings.slice_axis,
                device=self.fabric.device if fits else "cpu",
            )
        ]

    def _record(self, step: int, figures: dict[str, Any]) -> None:
        if self.fabric.is_global_zero:
            seconds = round(self.state.seconds, 3)
            self.folder.log("record", step, seconds=seconds, **figures)

    def _after_step(self, step: int, loss: float) -> None:
        """Validation and checkpoints. The others wait for the first process, which does both."""
        settings = self.settings
        self.progress.step(step, loss)
        is_last = step == settings.steps
        validates = is_last or step % settings.validate_every == 0
        if validates or step % settings.checkpoint_every == 0:
            self._by_the_first(lambda: self._keep(step, validates=validates))

    def _keep(self, step: int, *, validates: bool) -> None:
        if validates:
            self._validate(step)
        self._save(self.folder.last)

    def _validate(self, step: int) -> None:
        """Score the validation cases; keep the weights if none were better."""
        volumes, state = self.prepared.validation, self.state
        with self.fabric.autocast():
            dice = mean_dice(self.network, volumes, self.settings, self.task.class_names)
        score_now = selection_score(dice)
        # Without validation cases there is nothing to choose by: the last.
        is_best = score_now > state.best_score or not volumes
        if is_best:
            state.best_step, state.best_score = step, score_now
            self._save(self.folder.best)
        self.folder.log("validation", step, dice=dice, mean_dice=score_now, is_best=is_best)
        self.progress.validated(step, dice, is_best=is_best)

    def _save(self, path: Path) -> None:
        more = (
            {"optimizer": self.optimizer.state_dict(), "state": dataclasses.asdict(self.state)}
            if path == self.folder.last
            else {}
        )
        checkpoint.save(path, self.network, self.settings, self.task, self.state.step, **more)

    def _test(self, num_items: int) -> None:
        """Score the test cases with the chosen checkpoint: test.json."""
        content = checkpoint.load(self.folder.best, self.fabric.device)
        checkpoint.check_settings(content, self.settings, self.folder.best)
        checkpoint.restore(self.network, content["weights"], self.folder.best)
        self.progress.testing(len(self.prepared.test))
        cases = []
        for case in self.prepared.test:
            volume = self.prepared.read(case)
            with self.fabric.autocast():
                found = label_map(self.network, volume, self.settings)
            cases.append(
                score(
                    found,
                    volume.labels,
                    self.task.num_classes,
                    volume.spacing_mm,
                    name=volume.name,
                )
            )
        evaluation = Evaluation(
            predictions=str(self.folder.best),
            labels=self.settings.data,
            scores=Scores(tuple(cases), self.task.class_names),
            failed=(),
            unpredicted=(),
            unlabelled=(),
            ignore_label=self.prepared.ignore_label,
        )
        self.folder.write_test(
            {
                "step": content["step"],
                "steps": self.settings.steps,
                "class_names": list(self.task.class_names),
                "num_items": num_items,
                "parameters": sum(weight.numel() for weight in self.network.parameters()),
                "seconds": round(self.state.seconds, 1),
                **as_fields(evaluation),
            }
        )


def _case_score(fields: dict[str, Any]) -> CaseScore:
    """A case of test.json."""
    spacing_mm = fields["spacing_mm"]
    return CaseScore(
        name=fields["name"],
        spacing_mm=None if spacing_mm is None else tuple(spacing_mm),
        diagonal_mm=fields["diagonal_mm"],
        classes=tuple(
            ClassScore(**{name: value for name, value in each.items() if name != "state"})
            for each in fields["classes"]
        ),
    )


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, the same bits each time. GPUs keep their faster algorithms."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
