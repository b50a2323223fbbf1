"""All settings of one training run, and run.toml, the file that holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from rwloss.data.splits import Seed, SplitSettings
from rwloss.files import toml
from rwloss.losses.label_sets import LabelSets
from rwloss.maps.identity import is_same
from rwloss.metrics.registry import METRICS, select

PresetName = Literal["tiny", "small", "large"]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]
BelowOne = Annotated[FiniteFloat, Field(ge=0, lt=1)]
Constant = bool | int | FiniteFloat | str
Constants = Annotated[
    dict[str, Constant | list[Any] | dict[str, Any]], BeforeValidator(toml.inline_table)
]

LabelSetsTable = Annotated[
    dict[
        Annotated[str, Field(pattern="^[0-9]+$")],
        Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)],
    ],
    BeforeValidator(toml.inline_table),
]


def _metric_name(name: str) -> str:
    select((name,))
    return name


MetricName = Annotated[str, AfterValidator(_metric_name)]

MAY_DIFFER = frozenset({"out", "steps", "data"})
"""What may change when a run is resumed: the path of its folder, its number of steps, and the path
of the data, which are identified by their content."""


class RunSettings(SplitSettings):
    """Settings of one training run; with the data, they determine its result on a CPU.

    Each field is an option of `rwloss train` with the same name, and the field's description is the
    option's help text. A setting that is None is derived from the data; run.toml holds the derived
    value.

    poly and cosine fall to 0 over all steps: (1 - step / steps)^0.9, and half a wave. plateau is
    multiplied by `plateau_factor` after `plateau_patience` validations without a higher score.

    With `epochs`, an epoch is one pass over the training slices or volumes, unless
    `steps_per_epoch` is given, and each epoch ends with a validation, unless `validate_every` is
    given; run.toml then holds steps. `network_options` are constants. `flip`, `turn`, `zoom` and
    `intensity` are explained in `augment`. Flips and rotations are off by default, because classes
    may differ only by their side: left and right, anterior and posterior. `flip_axes` are axes of
    the volume.
    """

    data: str = Field(description="nnU-Net raw folder with images")
    map: str | None = Field(
        None,
        description='expression of the loss, such as "rectified + dice"; `rwloss maps` lists the '
        "terms; by default the expression of the maps in --maps",
    )
    maps: str | None = Field(
        None,
        description="store of maps from `rwloss precompute`; by default maps are made on the fly",
    )
    map_of: Literal["patch", "slice", "volume"] = Field(
        "patch",
        description="what maps are made from on the fly: each augmented patch, or, once at the "
        "start, each whole slice or volume, from which patches are cropped",
    )
    out: str = Field(description="folder of the run")
    dims: Literal[2, 3] = Field(2, description="2 to train on slices, 3 to train on volumes")
    steps: PositiveInt = Field(1500, description="training steps")
    epochs: PositiveInt | None = Field(
        None,
        description="training epochs, instead of steps; an epoch is one pass over the training "
        "slices or volumes unless --steps-per-epoch is given",
    )
    seed: Seed = Field(0, description="seed of initial weights, batches and augmentation")

    batch_size: PositiveInt = Field(8, description="patches per step on each device")
    learning_rate: Positive = Field(4e-3, description="initial learning rate")
    learning_rate_schedule: Literal["constant", "poly", "cosine", "plateau"] = Field(
        "poly",
        description="how the learning rate falls: over the run, or for plateau when the "
        "validation score no longer rises",
    )
    plateau_factor: Annotated[FiniteFloat, Field(gt=0, lt=1)] = Field(
        0.5, description="factor applied to the learning rate at a plateau"
    )
    plateau_patience: PositiveInt = Field(
        20, description="number of validations without a higher score that make a plateau"
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="optimizer")
    betas: tuple[BelowOne, BelowOne] = Field(
        (0.9, 0.999), description="decay rates of the two moments of Adam and AdamW"
    )
    momentum: BelowOne = Field(0.9, description="momentum of SGD")
    nesterov: bool = Field(False, description="Nesterov momentum for SGD")
    weight_decay: NotNegative = Field(0.0, description="weight decay of the optimizer")
    gradient_clip: Positive | None = Field(
        None, description="largest L2 norm of the gradient; no limit by default"
    )

    preset: PresetName = Field("tiny", description="size of the network")
    network: str = Field(
        "UNet",
        description="UNet, DynUNet, SegResNet or AttentionUnet of MONAI, or your own class as "
        "FILE.py:Class or module:Class",
    )
    network_options: Constants = Field(
        default_factory=dict,
        description="keyword arguments of the network, such as 'strides=[2,2], dropout=0.1'; by "
        "default "
        "those of --preset",
    )
    deep_supervision_weights: tuple[NotNegative, ...] | None = Field(
        None,
        description="weight per output of a network with several, from high to low resolution; by "
        "default 1/2^i scaled to a sum of 1",
    )
    patch_size: tuple[PositiveInt, ...] | None = Field(
        None,
        description="voxels per axis; by default large enough for each slice or volume, but at "
        "most 256 per axis in 2-D and 64 in 3-D",
    )
    slice_axis: Literal[0, 1, 2] | None = Field(
        None,
        description="axis perpendicular to the slices; by default the one with the largest spacing",
    )
    balanced: bool = Field(
        False,
        description="for every second patch, draw a foreground class and center the patch on it",
    )

    flip: Probability = Field(0.0, description="probability of a flip, per axis")
    flip_axes: tuple[Literal[0, 1, 2], ...] | None = Field(
        None, description="axes that may be flipped; by default all"
    )
    turn: Probability = Field(
        0.0, description="probability of a rotation by 90, 180 or 270 degrees"
    )
    zoom: Probability = Field(0.2, description="probability of a zoom")
    intensity: Probability = Field(
        0.2, description="probability of each of: gain and offset, gamma, noise"
    )

    normalization: Literal["zscore", "minmax", "percentile", "ct"] = Field(
        "zscore",
        description="gray values of each image and channel: mean 0 and standard deviation 1 "
        "(zscore); minimum 0 and maximum 1 (minmax); percentiles 0.5 and 99.5 as 0 and 1 "
        "(percentile); or one scale for all images, --ct-window (ct)",
    )
    ct_window: tuple[FiniteFloat, ...] | None = Field(
        None,
        description="lowest value, highest value, mean and standard deviation for ct, 4 numbers "
        "per channel; by default percentiles 0.5 and 99.5, mean and standard deviation of the "
        "foreground of the training cases",
    )
    num_classes: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="number of classes with the background; by default from dataset.json, "
        "else the largest label of the dataset + 1",
    )
    spacing: tuple[Positive, ...] | None = Field(
        None,
        description="voxel spacing in mm per axis, in array order, for formats without a spacing "
        "(PNG, TIFF, NumPy); by default 1 per axis",
    )
    ignore_label: int | None = Field(
        None,
        description="label of voxels that belong to no class, where maps are 0; by default from "
        "dataset.json",
    )

    label_sets: LabelSetsTable = Field(
        default_factory=dict,
        description="labels that mean one of several classes, such as '3=[1,2], 4=[0,2]'; their "
        "voxels do not count in validation and test",
    )

    nsd_tolerance: Positive = Field(
        1.0,
        description="distance in mm (in voxels without a spacing) up to which surfaces agree, for "
        "the normalized surface distance of the test",
    )

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = Field(
        ("default",),
        description="metrics of label maps, separated by commas: default, all, "
        f"{', '.join(METRICS)}; nsd and surface_dice may name a tolerance, such as nsd_at_2",
    )

    test_checkpoint: Literal["best", "last"] = Field(
        "best", description="weights to test: those of the best validation, or of the last step"
    )

    steps_per_epoch: PositiveInt = Field(
        50, description="steps per epoch, for --epochs and for maps with a schedule"
    )
    record_every: PositiveInt = Field(50, description="steps between records of the loss")
    validate_every: PositiveInt = Field(250, description="steps between validations")
    checkpoint_every: PositiveInt = Field(100, description="steps between checkpoints")

    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="kind of device")
    devices: PositiveInt = Field(1, description="number of devices, with one process each")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(
        "32-true",
        description="floating-point precision; 16-mixed, for GPUs, scales the loss and skips steps "
        "whose gradients overflow",
    )
    compile: bool = Field(False, description="compile the network with torch.compile")
    data_on_device_gib: NotNegative = Field(
        8.0, description="keep datasets of up to this many GiB in device memory"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError("epochs and steps both set the length of the run: give one")
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov needs optimizer sgd and a momentum above 0")
        numbers = self.ct_window or ()
        channels = zip(numbers[::4], numbers[1::4], numbers[3::4], strict=False)
        if len(numbers) % 4 or any(low >= high or spread <= 0 for low, high, spread in channels):
            raise ValueError(
                "ct_window needs 4 numbers per channel: lowest value, a higher one, mean, and a "
                "standard deviation above 0"
            )
        return self

    def __hash__(self) -> int:
        """By content, because a table is not hashable."""
        return hash(self.model_dump_json())

    @classmethod
    def read(cls, path: Path, **changes: Any) -> Self:
        """The settings of a file, with changes: steps replace epochs, and epochs steps.

        changes: settings that replace those of the file.
        """
        values, lengths = toml.read(path), {"steps", "epochs"}
        if lengths & changes.keys():
            values = {name: value for name, value in values.items() if name not in lengths}
        return cls.of(repr(str(path)), {**values, **changes})

    @property
    def sets(self) -> LabelSets | None:
        """`label_sets` as the loss takes them."""
        return LabelSets.of(self.label_sets) if self.label_sets else None

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run; the last one may be shorter."""
        return -(-self.steps // self.steps_per_epoch)

    def records(self, step: int) -> bool:
        """Whether a step is recorded."""
        return step % self.record_every == 0 or step in {1, self.steps}

    def validates(self, step: int) -> bool:
        """Whether the network is validated after a step."""
        return step % self.validate_every == 0 or step == self.steps

    def pauses_after(self, step: int) -> bool:
        """Whether a step is followed by a record, a validation or a checkpoint."""
        return self.records(step) or self.saves(step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after a step."""
        return self.validates(step) or step % self.checkpoint_every == 0

    def difference(self, other: RunSettings) -> list[str]:
        """The settings that differ from those of the other, in words; except MAY_DIFFER.

        other: settings of another run.
        """
        return [
            f"{name} {getattr(self, name)!r} (now {getattr(other, name)!r})"
            for name in RunSettings.model_fields
            if name not in MAY_DIFFER and getattr(self, name) != getattr(other, name)
            if name != "map" or not (self.map and other.map and is_same(self.map, other.map))
        ]
