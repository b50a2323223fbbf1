"""All settings of one training run, and run.toml, the file that holds them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, PositiveInt

from rwloss.data.splits import Seed, SplitSettings
from rwloss.maps.identity import is_same

PresetName = Literal["tiny", "small", "large"]
Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]

MAY_DIFFER = frozenset({"out", "steps", "data"})
"""What may change when a run is resumed: the place of its folder, its number of steps, and the
place of the data, which are known by their content."""


class RunSettings(SplitSettings):
    """Settings of one training run; with the data, they decide its result on a CPU.

    Each field is an option of `rwloss train` with the same name, and the field's description is the
    option's help text. What is None follows from the data; run.toml holds the value it took.

    A learning rate that is not constant falls to 0 over all steps: poly (1 - step / steps)^0.9,
    cosine half a wave. `flip`, `turn`, `zoom` and `intensity` are explained in `augment`. Flips and
    turns are off by default, because the side may tell classes apart: left and right, anterior and
    posterior. `flip_axes` are axes of the volume.
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
        description="what a map on the fly is made of: each augmented patch, or, once at the "
        "start, each whole slice or volume, from which patches are cut",
    )
    out: str = Field(description="folder of the run")
    dims: Literal[2, 3] = Field(2, description="2 to train on slices, 3 to train on volumes")
    steps: PositiveInt = Field(1500, description="training steps")
    seed: Seed = Field(0, description="seed of initial weights, batches and augmentation")

    batch_size: PositiveInt = Field(8, description="patches per step on each device")
    learning_rate: Positive = Field(4e-3, description="initial learning rate")
    learning_rate_schedule: Literal["constant", "poly", "cosine"] = Field(
        "poly", description="how the learning rate falls over the run"
    )
    optimizer: Literal["adam", "adamw"] = Field("adam", description="optimizer")
    weight_decay: NotNegative = Field(0.0, description="weight decay of the optimizer")
    gradient_clip: Positive | None = Field(
        None, description="largest L2 norm of the gradient; no limit by default"
    )

    preset: PresetName = Field("tiny", description="size of the U-Net")
    patch_size: tuple[PositiveInt, ...] | None = Field(
        None,
        description="voxels per axis; by default large enough for each slice or volume, but at "
        "most 256 per axis in 2-D and 64 in 3-D",
    )
    slice_axis: Literal[0, 1, 2] | None = Field(
        None, description="axis to slice across; by default the one with the largest spacing"
    )
    balanced: bool = Field(
        False,
        description="draw a foreground class for every second patch, and cut the patch around it",
    )

    flip: Probability = Field(0.0, description="probability of a flip, per axis")
    flip_axes: tuple[Literal[0, 1, 2], ...] | None = Field(
        None, description="axes that may be flipped; by default all"
    )
    turn: Probability = Field(0.0, description="probability of a turn by 90, 180 or 270 degrees")
    zoom: Probability = Field(0.2, description="probability of a zoom")
    intensity: Probability = Field(
        0.2, description="probability of each of: gain and offset, gamma, noise"
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
        description="label of voxels that belong to no class; maps are 0 there; by default from "
        "dataset.json",
    )

    nsd_tolerance: Positive = Field(
        1.0,
        description="distance in mm (in voxels without a spacing) up to which surfaces agree, for "
        "the normalized surface distance of the test",
    )

    steps_per_epoch: PositiveInt = Field(
        50, description="steps per epoch, for maps with a schedule"
    )
    record_every: PositiveInt = Field(50, description="steps between records of the loss")
    validate_every: PositiveInt = Field(250, description="steps between validations")
    checkpoint_every: PositiveInt = Field(100, description="steps between checkpoints")

    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="kind of device")
    devices: PositiveInt = Field(1, description="number of devices, with one process each")
    precision: Literal["32-true", "bf16-mixed"] = Field(
        "32-true", description="floating-point precision"
    )
    compile: bool = Field(False, description="compile the network with torch.compile")
    data_on_device_gib: NotNegative = Field(
        8.0, description="keep datasets of up to this many GiB in the memory of the device"
    )

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, the last one maybe shorter."""
        return -(-self.steps // self.steps_per_epoch)

    def records(self, step: int) -> bool:
        """Whether a step is recorded."""
        return step % self.record_every == 0 or step in {1, self.steps}

    def validates(self, step: int) -> bool:
        """Whether the network is validated after a step."""
        return step % self.validate_every == 0 or step == self.steps

    def pauses_after(self, step: int) -> bool:
        """Whether a step is followed by a record, a validation or a checkpoint."""
        return self.records(step) or self.validates(step) or step % self.checkpoint_every == 0

    def difference(self, other: RunSettings) -> list[str]:
        """The settings that differ from those of the other, in words; apart from MAY_DIFFER."""
        return [
            f"{name} {getattr(self, name)!r} (now {getattr(other, name)!r})"
            for name in RunSettings.model_fields
            if name not in MAY_DIFFER and getattr(self, name) != getattr(other, name)
            if name != "map" or not (self.map and other.map and is_same(self.map, other.map))
        ]
