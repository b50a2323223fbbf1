"""Checks of what the tags say, beside the moves: none may claim too much."""

from __future__ import annotations

import numpy as np

from rwloss.maps.generator import MapGenerator, MapTags
from rwloss.maps.loss_term import LossTerm, Prediction
from rwloss.maps.registry import check_name
from rwloss.testing.trial import edge_cases, ordinary
from rwloss.testing.verdict import TOLERANCE, dense, fail, made

MOVES = frozenset({"flip", "rot90", "crop"})


def check_tags(generator: MapGenerator, num_classes: int = 4) -> None:
    """The tags are `MapTags` with known moves, and the name fits into an expression."""
    del num_classes
    assert isinstance(generator.tags, MapTags), f"{generator}: tags are {generator.tags!r}"
    unknown = sorted(generator.tags.commutes_with - MOVES)
    assert not unknown, f"{generator} commutes with {unknown}: known are {sorted(MOVES)}"
    check_name(generator.name, str(generator))


def check_stable(generator: MapGenerator, num_classes: int = 4) -> None:
    """At every voxel all wrong classes share one value, and the true class has no higher one."""
    for of in (*ordinary(num_classes), *edge_cases(num_classes)):
        values = dense(made(generator, of))
        slack = TOLERANCE * np.abs(values).max(initial=0)
        for k in range(num_classes):
            wrong = np.delete(values, k, axis=1)
            lowest, highest = wrong.min(axis=1), wrong.max(axis=1)
            here = of.labels == k
            uneven = here & (highest - lowest > slack)
            pushed = here & (values[:, k] > lowest + slack)
            for bad, reason in (
                (uneven, "wrong classes have different values"),
                (pushed, "the true class is higher than a wrong one"),
            ):
                if bad.any():
                    image, *voxel = np.argwhere(bad)[0]
                    found = values[(image, slice(None), *voxel)]
                    raise AssertionError(
                        f"{generator} promises stable=True, but {reason}\n"
                        f"  {found.tolist()} at image {image}, voxel {tuple(map(int, voxel))} of "
                        f"class {k}; {int(bad.sum())} voxels\n  input: {of}"
                    )


def check_never_below_zero(generator: MapGenerator, num_classes: int = 4) -> None:
    """A map that is tagged signed=False has no value below 0."""
    for of in (*ordinary(num_classes), *edge_cases(num_classes)):
        values = dense(made(generator, of))
        if (values < 0).any():
            place = np.unravel_index(int(values.argmin()), values.shape)
            claim = f"{generator} promises signed=False"
            fail(claim, place, "0 or more", values[place], int((values < 0).sum()), of)


def check_minimum(generator: MapGenerator, num_classes: int = 4) -> None:
    """A loss is nowhere below its `minimum`: not at any prediction, nor at the right one."""
    import torch

    assert isinstance(generator, LossTerm)
    for of in ordinary(num_classes):
        regions = of.regions()
        labels = torch.as_tensor(regions.labels)
        right = of.labels[:, None] == np.arange(num_classes).reshape(-1, *[1] * (labels.ndim - 1))
        for name, probs in (("any", of.probs), ("the right", np.where(right, 1.0, 1e-30))):
            log_probs = torch.as_tensor(probs).log()
            prediction = Prediction.of(log_probs, labels, regions.spacings_mm)
            value = float(generator.value(prediction))
            assert value >= generator.minimum - TOLERANCE, (
                f"{generator}: expected a loss of {generator.minimum} or more at {name} "
                f"prediction, got {value}\n  input: {of}"
            )
