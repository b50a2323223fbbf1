"""Settings completed with values derived from the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rwloss import data, maps
from rwloss.errors import RWLossError
from rwloss.training.architectures import multiples_of
from rwloss.training.normalization import ct_window
from rwloss.training.settings import RunSettings
from rwloss.training.volumes import TrainingVolume, slice_axis_of

LARGEST_PATCH = {2: 256, 3: 64}
"""Largest length of the default patch in voxels, by number of dimensions."""

Note = Callable[[str], None]


def completed(
    settings: RunSettings,
    train: Sequence[TrainingVolume],
    num_classes: int,
    expression: maps.Expression,
    note: Note,
) -> RunSettings:
    """Settings with the values derived from the data."""
    axes = train[0].labels.ndim
    if settings.dims == 3 and axes == 2:
        raise RWLossError("the images have 2 axes: train on them with --dims 2")
    slice_axis = None
    if settings.dims == 2 and axes == 3:
        slice_axis = slice_axis_of(train) if settings.slice_axis is None else settings.slice_axis
    if axes == 2 and settings.slice_axis is not None:
        note("no slice axis: the images have 2 axes")
    zoom, map_of = settings.zoom, settings.map_of
    if map_of != "patch" and settings.maps is not None:
        raise RWLossError(
            f"--map-of {map_of} is for maps on the fly, and --maps is for stored ones: give one"
        )
    if map_of == "slice" and slice_axis is None and axes == 3:
        raise RWLossError("--map-of slice needs slices to train on, with --dims 2")
    if map_of != "patch" and expression.static_part is None:
        note(f"no maps of a {map_of}: {expression} depends on the prediction, patch by patch")
    elif zoom and (settings.maps is not None or map_of != "patch"):
        of = "stored maps" if settings.maps is not None else f"maps of a {map_of}"
        note(f"no zoom: {of} can follow flips, rotations by 90° and crops, but not a zoom")
        zoom = 0.0
    changes = {
        "map": str(expression),
        "num_classes": num_classes,
        "slice_axis": slice_axis,
        "patch_size": _patch_size(settings, train, slice_axis),
        "zoom": zoom,
        **_length(settings, train, slice_axis),
    }
    return settings.model_copy(update=changes)


def _length(
    settings: RunSettings, train: Sequence[TrainingVolume], slice_axis: int | None
) -> dict[str, int | None]:
    """The steps of a run with `epochs`, and of an epoch; empty without `epochs`."""
    if settings.epochs is None:
        return {}
    lengths = [1 if slice_axis is None else each.labels.shape[slice_axis] for each in train]
    found = {"steps_per_epoch": -(-sum(lengths) // (settings.batch_size * settings.devices))}
    found = {name: _given(settings, name, value) for name, value in found.items()}
    found["validate_every"] = _given(settings, "validate_every", found["steps_per_epoch"])
    return {**found, "steps": settings.epochs * found["steps_per_epoch"], "epochs": None}


def _given(settings: RunSettings, name: str, otherwise: int) -> int:
    """A setting, if the user gave it."""
    value: int = getattr(settings, name)
    return value if name in settings.model_fields_set else otherwise


def with_ct_window(
    settings: RunSettings,
    train: Sequence[data.Case],
    num_channels: int | None,
    ignored: int | None,
    note: Note,
) -> RunSettings:
    """Settings with the scale of CT gray values; notes the consequences of the normalization."""
    if settings.normalization != "ct":
        if settings.ct_window is not None:
            note(f"no --ct-window: --normalization is {settings.normalization}")
        if settings.normalization != "zscore" and settings.intensity:
            note(
                "--intensity shifts gray values by up to 0.2 and adds noise of up to 0.15 standard "
                f"deviations of a zscore image; with --normalization {settings.normalization} that "
                "is a fifth of the whole range: consider --intensity 0"
            )
        return settings.model_copy(update={"ct_window": None})
    if settings.ct_window is not None:
        return settings
    window = ct_window(train, num_channels=num_channels, ignore_label=ignored)
    return settings.model_copy(update={"ct_window": window})


def _patch_size(
    settings: RunSettings, train: Sequence[TrainingVolume], slice_axis: int | None
) -> tuple[int, ...]:
    """The patch size as given, or large enough for every training image, up to LARGEST_PATCH.

    One length is two voxels at the coarsest level of the network, because instance normalization
    needs two values at least.
    """
    multiples = multiples_of(settings)
    size = settings.patch_size
    if size is None:
        shapes = np.array([volume.labels.shape for volume in train]).max(axis=0)
        lengths = [int(length) for axis, length in enumerate(shapes) if axis != slice_axis]
        largest = LARGEST_PATCH[settings.dims]
        size = tuple(
            -(-min(length, largest) // multiple) * multiple
            for length, multiple in zip(lengths, multiples, strict=True)
        )
        if size == multiples:
            size = tuple(2 * multiple for multiple in multiples)
    if (
        len(size) != settings.dims
        or any(length % multiple for length, multiple in zip(size, multiples, strict=True))
        or (size == multiples and max(multiples) > 1)
    ):
        named = settings.preset if settings.network == "UNet" else settings.network
        raise RWLossError(
            f"expected --patch-size as {settings.dims} multiples of "
            f"{','.join(map(str, sorted({*multiples})))} (the network {named!r} halves them at "
            f"each level), one of them {2 * max(multiples)} or more, got {','.join(map(str, size))}"
        )
    return size
