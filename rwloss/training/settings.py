"""All that decides one training, and run.toml, the file that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, PositiveInt, ValidationError

from rwloss.data.splits import Seed, SplitSettings
from rwloss.errors import RWLossError
from rwloss.files import toml
from rwloss.files.atomic import whole_file
from rwloss.training.unet import PresetName

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
NotNegative = Annotated[FiniteFloat, Field(ge=0)]

MAY_DIFFER = frozenset({"out", "steps", "data"})
"""What a start in an existing run folder may change: where it lies, how long it goes on, and where
the data lie, which are known by their content."""


_EXAMPLES = {
    "data": ": name an nnU-Net raw folder, as in rwloss train DATA --map rectified --out RUN",
    "out": ": name a folder for the run, as in --out RUN",
}


class Settings(SplitSettings):
    """Settings of one training; with the data, all that decides its result on a CPU.

    Names are those of the options of `rwloss train`. What is None follows from the data, and
    run.toml holds what it became.

    data: nnU-Net raw folder with images. map: expression of the loss; None with `maps`: the
    store's. out: the run folder. maps: store of precomputed maps, in place of maps on the fly.
    dims: 2 trains on slices across the axis of largest spacing (`slice_axis`), 3 on volumes.
    patch_size: voxels an axis, of slices or volumes; what is smaller is padded.

    What decides the split is in `data.splits.SplitSettings`.

    steps_per_epoch: length of an epoch, for schedules of the map. learning_rate_schedule: constant,
    or falling to 0 over all steps ("poly": (1 - step / steps)^0.9, "cosine": half a wave).
    batch_size: for each device. balanced: every second example holds a class that was drawn first,
    all foreground classes alike.

    flip, turn, zoom, intensity: probability of each kind of augmentation, an image; see `augment`.
    Flips and turns are off, because classes may be told apart by their side: left and right,
    anterior and posterior. flip_axes: axes of the volume that may be flipped; None: all.

    num_classes, spacing (mm an axis), ignore_label: what the data do not say themselves.
    data_on_device_gib: data sets up to this size lie in the device's memory whole.
    """

    data: str
    map: str | None = None
    out: str
    maps: str | None = None
    dims: Literal[2, 3] = 2
    steps: PositiveInt = 1500
    batch_size: PositiveInt = 8
    learning_rate: Positive = 4e-3
    learning_rate_schedule: Literal["constant", "poly", "cosine"] = "poly"
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: NotNegative = 0.0
    gradient_clip: Positive | None = None
    seed: Seed = 0
    preset: PresetName = "tiny"
    patch_size: tuple[PositiveInt, ...] | None = None
    slice_axis: Literal[0, 1, 2] | None = None

    balanced: bool = False
    flip: Probability = 0.0
    flip_axes: tuple[Literal[0, 1, 2], ...] | None = None
    turn: Probability = 0.0
    zoom: Probability = 0.2
    intensity: Probability = 0.2

    steps_per_epoch: PositiveInt = 50
    record_every: PositiveInt = 50
    validate_every: PositiveInt = 250
    checkpoint_every: PositiveInt = 100

    num_classes: Annotated[int, Field(ge=2)] | None = None
    spacing: tuple[Positive, ...] | None = None
    ignore_label: int | None = None

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False
    data_on_device_gib: NotNegative = 8.0

    @property
    def num_epochs(self) -> int:
        """Epochs of the whole run, the last one maybe shorter."""
        return -(-self.steps // self.steps_per_epoch)

    def difference(self, other: Settings) -> list[str]:
        """What of this is not as in the other, in words; apart from MAY_DIFFER."""
        return [
            f"{name} {getattr(self, name)!r} (now {getattr(other, name)!r})"
            for name in Settings.model_fields
            if name not in MAY_DIFFER and getattr(self, name) != getattr(other, name)
        ]


def make(**values: Any) -> Settings:
    """Settings from options. Raises RWLossError that names the wrong one."""
    try:
        return Settings(**values)
    except ValidationError as error:
        raise _in_words("settings", error) from error


def read(path: Path, **changes: Any) -> Settings:
    """The settings of a TOML file, with changes. Raises RWLossError, naming the file."""
    content = toml.read(path)
    try:
        return Settings(**{**content, **changes})
    except ValidationError as error:
        raise _in_words(repr(str(path)), error) from error


def write(settings: Settings, path: Path) -> None:
    """Settings as a TOML file, whole or not at all; what is None is left out."""
    with whole_file(path) as part:
        part.write_text(as_toml(settings), encoding="utf-8")


def as_toml(settings: Settings) -> str:
    """One line for each setting that is not None.

    >>> print(as_toml(Settings(data="in", map="rectified", out="run"))[:35])
    test_part = "auto"
    test_fraction =
    """
    values = settings.model_dump(exclude_none=True).items()
    return "".join(f"{name} = {toml.as_text(value)}\n" for name, value in values)


def _in_words(where: str, error: ValidationError) -> RWLossError:
    problem = error.errors()[0]
    name = ".".join(map(str, problem["loc"])) or "settings"
    if problem["type"] == "extra_forbidden":
        from rwloss.words import nearest

        return RWLossError(
            f"{where}: there is no setting {name!r}{nearest(name, Settings.model_fields)}"
        )
    if problem["type"] == "missing":
        return RWLossError(f"{where}: {name} is missing{_EXAMPLES.get(name, '')}")
    return RWLossError(f"{where}: {name}: {problem['msg']}, got {str(problem['input'])[:80]!r}")
