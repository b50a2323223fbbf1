"""From labels and maps to a picture in a file: the checks, and the one slice that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.errors import RWLossError
from rwloss.pictures.layout import render
from rwloss.pictures.output import check_output, write
from rwloss.pictures.picture import Picture, Row
from rwloss.pictures.view import View, choose_view
from rwloss.rwmap import RWMap


def draw(
    labels: NDArray[np.integer[Any]],
    rwmaps: Mapping[str, RWMap],
    path: str | Path,
    *,
    image: NDArray[Any] | None = None,
    class_names: Sequence[str] = (),
    spacing_mm: Sequence[float] | None = None,
    affine: NDArray[Any] | None = None,
    axis: int | None = None,
    slice_index: int | None = None,
    title: str | None = None,
    units: Mapping[str, str] | None = None,
) -> None:
    """Write one picture of a case: image, labels, and a row of channels for each map.

    labels: (*s), 2-D or 3-D; values outside 0..K-1 are ignored voxels, drawn grey.
    rwmaps: by the text above their row; NumPy arrays, labels (1 *s), all of one K.
    path: .png, .pdf or .svg; an existing file is replaced whole, and kept if anything fails.
    image: (*s), shown from its 1st to its 99th percentile.
    class_names: of classes 0, 1, ...; a class without one gets its number alone.
    spacing_mm: millimetres for each axis, 1 by default: the panels get their true proportions.
    affine: (4, 4) to RAS millimetres, as nibabel's: right, anterior and superior are then drawn
    to the right and up. Without it rows run down and columns to the right, as stored.
    axis, slice_index: which slice of a volume. By default that with the most classes, then the
    most foreground, across the axis of the largest spacing (the last of equals).
    units: of the values, by the text of their map.

    Of more than MAX_CLASSES classes, the picture shows those with the most voxels in the slice and
    says so. Raises RWLossError for shapes that do not fit, a slice that is not there, a path that
    cannot be written, and without matplotlib.
    """
    path = Path(path)
    file_format = check_output(path)
    labels = np.asarray(labels)
    num_classes = check_arrays(labels, rwmaps, image)
    spacing = checked_spacing(spacing_mm, labels.ndim)
    known = known_labels(labels, num_classes)
    view = choose_view(known, spacing, affine, axis, slice_index)
    picture = Picture(
        labels=view.cut(known),
        image=None if image is None else view.cut(np.asarray(image)),
        rows=tuple(
            Row(text, _channels(rwmap, view), (units or {}).get(text, ""))
            for text, rwmap in rwmaps.items()
        ),
        names=captions(class_names, num_classes),
        step_mm=view.step_mm,
        title=title or "",
        slice_text=view.text,
    )
    write(path, render(picture, file_format))


def check_arrays(
    labels: NDArray[Any], rwmaps: Mapping[str, RWMap], image: NDArray[Any] | None
) -> int:
    """The number of classes that all maps share."""
    if labels.ndim not in {2, 3} or labels.size == 0 or labels.dtype.kind not in "biu":
        raise RWLossError(
            "expected whole labels (*s) of 2 or 3 axes, one image without the batch axis, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    if not rwmaps:
        raise RWLossError("expected one map or more to draw, got none")
    for text, rwmap in rwmaps.items():
        if tuple(rwmap.labels.shape) != (1, *labels.shape):
            raise RWLossError(
                f"map {text!r} is of labels {tuple(rwmap.labels.shape)}, the picture of "
                f"{labels.shape}: expected {(1, *labels.shape)}"
            )
    if len(numbers := {rwmap.num_classes for rwmap in rwmaps.values()}) > 1:
        raise RWLossError(
            f"maps of {sorted(numbers)} classes cannot share columns: draw each alone"
        )
    if image is not None and np.shape(image) != labels.shape:
        raise RWLossError(f"the image has shape {np.shape(image)}, its labels {labels.shape}")
    return numbers.pop()


def known_labels(labels: NDArray[Any], num_classes: int) -> NDArray[np.int32]:
    """The labels that are classes; -1, which is drawn grey, for all others. (*s)."""
    known = np.where((labels >= 0) & (labels < num_classes), labels.astype(np.int32), -1)
    return known.astype(np.int32, copy=False)


def captions(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """What stands above the channel of each class: its number, and its name if it has one."""
    return tuple(
        f"{k} {class_names[k]}" if k < len(class_names) else f"class {k}"
        for k in range(num_classes)
    )


def checked_spacing(spacing_mm: Sequence[float] | None, axes: int) -> tuple[float, ...]:
    """Voxel spacing in mm, 1 by default."""
    spacing = (1.0,) * axes if spacing_mm is None else tuple(float(mm) for mm in spacing_mm)
    if len(spacing) != axes or not all(0 < mm < np.inf for mm in spacing):
        raise RWLossError(f"expected {axes} spacings above 0 mm, one an axis, got {spacing_mm!r}")
    return spacing


def _channels(rwmap: RWMap, view: View) -> NDArray[np.float64]:
    """Values (k rows columns) in the slice, which is cut first: a dense volume is large."""
    cut = rwmap.with_arrays(lambda array: view.cut(np.asarray(array)))
    return np.asarray(cut.dense()[0], dtype=np.float64)
