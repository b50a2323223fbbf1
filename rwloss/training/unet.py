"""MONAI's U-Net in 2-D and 3-D, in named sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from rwloss.errors import RWLossError
from rwloss.training.environment import require_monai
from rwloss.training.settings import PresetName


@dataclass(frozen=True)
class NetworkPreset:
    """Channels of each level, from fine to coarse, and residual units per level."""

    channels: tuple[int, ...]
    residual_units: int

    @property
    def multiple_of(self) -> int:
        """Every spatial length of the input is a multiple of this, as each level halves it."""
        return int(2 ** (len(self.channels) - 1))


PRESETS: dict[PresetName, NetworkPreset] = {
    "tiny": NetworkPreset((16, 32, 64, 128), residual_units=2),
    "small": NetworkPreset((32, 64, 128, 256), residual_units=2),
    "large": NetworkPreset((32, 64, 128, 256, 320), residual_units=2),
}
"""Networks by name: millions of parameters in 2-D and 3-D.

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
    """U-Net from images (b in_channels *s) to logits (b num_classes *s), *s of `dimensions` axes.

    Lengths of *s must be multiples of PRESETS[preset].multiple_of. The same seed gives the same
    weights, whatever was drawn before; torch's own random state is left as it was.

    Raises RWLossError for other dimensions or presets, and where MONAI is not installed.
    """
    if dimensions not in {2, 3}:
        raise RWLossError(f"expected 2 or 3 dimensions, got {dimensions!r}")
    if preset not in PRESETS:
        raise RWLossError(f"expected a preset of {', '.join(PRESETS)}, got {preset!r}")
    require_monai()
    from monai.networks.nets.unet import UNet

    chosen = PRESETS[preset]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network: nn.Module = UNet(
            spatial_dims=dimensions,
            in_channels=in_channels,
            out_channels=num_classes,
            channels=chosen.channels,
            strides=(2,) * (len(chosen.channels) - 1),
            num_res_units=chosen.residual_units,
        )
    return network
