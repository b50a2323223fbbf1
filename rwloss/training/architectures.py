"""The network of a run: one of MONAI's by name, or the user's own class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rwloss.errors import RWLossError
from rwloss.maps.parser import parse
from rwloss.maps.plugin_file import load_module
from rwloss.training.environment import require_monai
from rwloss.training.settings import PresetName, RunSettings
from rwloss.words import count_of, nearest

_MODULES = {
    "UNet": "unet", "DynUNet": "dynunet", "SegResNet": "segresnet", "AttentionUnet": "attentionunet"
}  # fmt: skip
_NAMED: dict[str, Callable[..., nn.Module]] = {}
"""Users' classes that this process has loaded, by the given name."""


@dataclass(frozen=True)
class NetworkPreset:
    """Channels of each level, from fine to coarse, and residual units per level."""

    channels: tuple[int, ...]
    residual_units: int = 2

    @property
    def multiple_of(self) -> int:
        """Every spatial length of the input is a multiple of this, as each level halves it."""
        return int(2 ** (len(self.channels) - 1))


PRESETS: dict[PresetName, NetworkPreset] = {
    "tiny": NetworkPreset((16, 32, 64, 128)),
    "small": NetworkPreset((32, 64, 128, 256)),
    "large": NetworkPreset((32, 64, 128, 256, 320)),
}
"""Networks by name: millions of parameters of the U-Net in 2-D and 3-D.

"tiny": 0.4, 1.2; trains on a CPU. "small": 1.6, 4.7. "large": 4.3, 12.9, one level deeper.
"""


def unet(
    dimensions: Literal[2, 3],
    in_channels: int,
    num_classes: int,
    *,
    preset: PresetName = "tiny",
    seed: int = 0,
) -> nn.Module:
    """MONAI's U-Net, images (b in_channels *s) -> logits (b num_classes *s), *s of `dimensions`.

    Lengths of *s must be multiples of PRESETS[preset].multiple_of. The same seed gives the same
    weights, independent of earlier random numbers; torch's random state is not changed.

    Raises RWLossError for other dimensions or presets, and if MONAI is not installed.

    dimensions: 2 or 3. preset: a name of PRESETS.
    """
    if dimensions not in {2, 3}:
        raise RWLossError(f"expected 2 or 3 dimensions, got {dimensions!r}")
    if preset not in PRESETS:
        raise RWLossError(f"expected a preset of {', '.join(PRESETS)}, got {preset!r}")
    chosen = {"data": "", "out": "", "dims": dimensions, "preset": preset, "seed": seed}
    return build(RunSettings.of("unet", chosen), in_channels, num_classes)


def is_code(name: str) -> bool:
    """Whether a network is the user's own class, by its name.

    >>> is_code("nets.py:Mine"), is_code("DynUNet")
    (True, False)
    """
    return name not in _MODULES


def network_class(name: str, *, files: bool = True) -> Callable[..., nn.Module]:
    """The class of MONAI with this name, or that of FILE.py:Class or module:Class.

    files: False refuses Python code that this process has not already loaded by the same name: text
    from a file must not choose which code runs.

    Raises RWLossError for an unknown name and for code that is refused or fails.
    """
    if name in _MODULES:
        require_monai()
        found: Callable[..., nn.Module] = getattr(
            import_module(f"monai.networks.nets.{_MODULES[name]}"), name
        )
        return found
    if name in _NAMED:
        return _NAMED[name]
    where, _, attribute = name.rpartition(":")
    if not where:
        raise RWLossError(
            f"there is no network {name!r}{nearest(name, _MODULES) or '.'} Expected one of "
            f"{', '.join(_MODULES)}, FILE.py:Class or module:Class"
        )
    if not files:
        raise RWLossError(
            f"the network {name!r} is Python code, and text from a file must not choose which "
            f"code runs: if you trust it, name it yourself, with --network {name!r}"
        )
    try:
        if where.endswith(".py"):
            path = Path(where).absolute()
            if not path.is_file():
                raise RWLossError(f"there is no file {where!r} to load a network from")
            module = load_module(path)
        else:
            module = import_module(where)
    except ImportError as error:
        raise RWLossError(f"cannot import {where!r} for the network {name!r}: {error}") from error
    if not callable(getattr(module, attribute, None)):
        raise RWLossError(f"{where} has no class {attribute!r} to make a network with")
    _NAMED[name] = getattr(module, attribute)
    return _NAMED[name]


def named_code(given: Mapping[str, Any]) -> None:
    """Load the Python code that options name, so that a settings file may name it too."""
    if given.get("map") is not None:
        parse(given["map"])
    if given.get("network") is not None:
        network_class(given["network"])


def options_of(settings: RunSettings) -> dict[str, Any]:
    """Keyword arguments of the network: those of the preset, and `network_options`.

    Options that give the levels, such as strides, replace all levels of the preset.
    """
    preset, given = PRESETS[settings.preset], settings.network_options
    below = len(preset.channels) - 1
    levels: dict[str, Any] = {"channels": preset.channels, "strides": (2,) * below}
    others: dict[str, Any] = {}
    if settings.network == "UNet":
        others = {"num_res_units": preset.residual_units}
    elif settings.network == "DynUNet":
        levels = {
            "filters": preset.channels,
            "kernel_size": (3,) * (below + 1),
            "strides": (1, *(2,) * below),
            "upsample_kernel_size": (2,) * below,
        }
    elif settings.network != "AttentionUnet":
        levels = {}
    return {**({} if levels.keys() & given.keys() else levels), **others, **given}


def multiples_of(settings: RunSettings) -> tuple[int, ...]:
    """The numbers that patch lengths must be multiples of, per axis of the network.

    For the user's own class, its attribute `multiple_of`, 1 by default.
    """
    options = options_of(settings)
    if settings.network == "SegResNet":
        return (2 ** (len(options.get("blocks_down", (1, 2, 2, 4))) - 1),) * settings.dims
    if is_code(settings.network):
        own = getattr(network_class(settings.network, files=False), "multiple_of", 1)
        return (int(own),) * settings.dims
    strides = [
        stride if isinstance(stride, (list, tuple)) else (stride,) * settings.dims
        for stride in options.get("strides", ())
    ]
    return tuple(math.prod(stride[axis] for stride in strides) for axis in range(settings.dims))


def build(settings: RunSettings, in_channels: int, num_classes: int) -> nn.Module:
    """The network of a run with its initial weights, which depend on the seed.

    The user's own code must have been loaded by `network_class`. Raises RWLossError if the network
    cannot be made with its options.
    """
    make, options = network_class(settings.network, files=False), options_of(settings)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        try:
            network = make(
                spatial_dims=settings.dims,
                in_channels=in_channels,
                out_channels=num_classes,
                **options,
            )
        except Exception as error:  # of the user's own class, or options that do not fit
            raise RWLossError(
                f"cannot make the network {settings.network} with spatial_dims, in_channels, "
                f"out_channels and {options} ({type(error).__name__}: {error}): change "
                "--network-options"
            ) from error
    return network


def outputs_of(made: Tensor | Sequence[Tensor], dims: int) -> list[Tensor]:
    """Each output (b k *s) of a network, from high to low resolution.

    made: one output, a list of them, or all in one tensor (b n k *s), as in DynUNet.
    """
    if not isinstance(made, Tensor):
        return list(made)
    return list(made.unbind(1)) if made.ndim == dims + 3 else [made]


def check_outputs(settings: RunSettings, in_channels: int, num_classes: int) -> None:
    """Raise RWLossError unless the network gives logits for patches, and there is one weight per
    output.

    Networks of MONAI are tested without memory or computation.
    """
    assert settings.patch_size is not None
    name, weights = settings.network, settings.deep_supervision_weights
    device = torch.device("cpu" if is_code(name) else "meta")
    with device:
        network = build(settings, in_channels, num_classes).train()
        images = torch.zeros(2, in_channels, *settings.patch_size)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = outputs_of(network(images), settings.dims)
        shapes = [tuple(output.shape) for output in outputs]
    except Exception as error:  # of the user's own class, or sizes that do not fit
        raise RWLossError(
            f"the network {name} fails for patches of {settings.patch_size} "
            f"({type(error).__name__}: {error}): change --network-options or --patch-size"
        ) from error
    wanted = (2, num_classes, *settings.patch_size)
    if shapes[:1] != [wanted]:
        raise RWLossError(
            f"the network {name} makes {shapes[:1]} of images {tuple(images.shape)}, expected "
            f"{wanted}: a value per class and voxel"
        )
    if weights is not None and len(weights) != len(shapes):
        raise RWLossError(
            f"the network {name} has {count_of(len(shapes), 'output')}, and "
            f"--deep-supervision-weights has {count_of(len(weights), 'number')}: give one per "
            "output"
        )
