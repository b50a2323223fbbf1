"""From labels and maps to a picture in a file: the checks, and the one slice that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import words
from rwloss.errors import RWLossError
from rwloss.pictures.output import check_output, write
from rwloss.pictures.picture import MapRow, Picture
from rwloss.pictures.sheet import render
from rwloss.pictures.view import View, choose_view
from rwloss.rwmap import RWMap

_MEANING = (
    "Value of the map at each voxel: what it costs to put probability on the class (blue: below 0, "
    "white: 0, red: above 0). Lines: borders of the classes."
)


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
    rwmaps: by the text above their row; NumPy arrays, labels (1 *s), all of the same K.
    path: .png, .pdf or .svg; an existing file is replaced at the end, and kept if anything fails.
    image: (*s), shown from its 1st to its 99th percentile.
    class_names: of classes 0, 1, ...; a class without one is shown by its number.
    spacing_mm: millimetres per axis, 1 by default: the panels get their true proportions.
    affine: (4, 4) to RAS millimetres, as nibabel's: right, anterior and superior are then drawn
    to the right and up. Without it rows run down and columns to the right, as stored.
    axis, slice_index: which slice of a volume. By default the one with the most classes, then the
    most foreground, across the axis of the largest spacing (the last of equals).
    units: of the values, by the text of their map.

    Of more than MAX_CLASSES classes, the picture shows those with the most voxels in the slice and
    says so. Raises RWLossError for shapes that do not fit, a slice that does not exist, a path that
    cannot be written, and without matplotlib.
    """
    case = DrawnCase.checked(path, labels, rwmaps, image, spacing_mm)
    view = choose_view(case.labels, case.spacing_mm, affine, axis, slice_index)
    rows = [
        MapRow(text, channels_of(rwmap, view), (units or {}).get(text, ""))
        for text, rwmap in rwmaps.items()
    ]
    case.write(view, rows, class_names, title, _MEANING)


@dataclass(frozen=True)
class DrawnCase:
    """A case that can be drawn. labels: (*s), -1 where ignored."""

    path: Path
    file_format: str
    labels: NDArray[np.int32]
    num_classes: int
    image: NDArray[Any] | None
    spacing_mm: tuple[float, ...]

    @classmethod
    def checked(
        cls,
        path: str | Path,
        labels: NDArray[np.integer[Any]],
        rwmaps: Mapping[str, RWMap],
        image: NDArray[Any] | None,
        spacing_mm: Sequence[float] | None,
    ) -> DrawnCase:
        """The case, if its parts fit each other and the file can be written."""
        path, labels = Path(path), np.asarray(labels)
        file_format = check_output(path)
        num_classes = _check_arrays(labels, rwmaps, image)
        spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
        if len(spacing) != labels.ndim or not all(0 < mm < np.inf for mm in spacing):
            raise RWLossError(
                f"expected {labels.ndim} spacings above 0 mm, one per axis, got {spacing_mm!r}"
            )
        known = known_labels(labels, num_classes)
        image = None if image is None else np.asarray(image)
        return cls(path, file_format, known, num_classes, image, spacing)

    def write(
        self,
        view: View,
        rows: Sequence[MapRow],
        class_names: Sequence[str],
        title: str | None,
        meaning: str,
    ) -> None:
        """Draw one slice."""
        numbered = [f"{k} {name}" for k, name in enumerate(class_names)]
        picture = Picture(
            labels=view.cut(self.labels),
            image=None if self.image is None else view.cut(self.image),
            rows=tuple(rows),
            names=words.class_names(self.num_classes, numbered),
            step_mm=view.step_mm,
            title=title or "",
            meaning=meaning,
            slice_text=view.text,
        )
        write(self.path, render(picture, self.file_format))


def _check_arrays(
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
            f"maps of {sorted(numbers)} classes cannot share columns: draw one picture for each"
        )
    if image is not None and np.shape(image) != labels.shape:
        raise RWLossError(f"the image has shape {np.shape(image)}, its labels {labels.shape}")
    return numbers.pop()


def known_labels(labels: NDArray[Any], num_classes: int) -> NDArray[np.int32]:
    """The labels that are classes; -1, which is drawn grey, for all others. (*s)."""
    known = np.where((labels >= 0) & (labels < num_classes), labels.astype(np.int32), -1)
    return known.astype(np.int32, copy=False)


def channels_of(rwmap: RWMap, view: View) -> NDArray[np.float64]:
    """Values (k rows columns) in the slice, which is cut first: a dense volume is large."""
    cut = rwmap.with_arrays(lambda array: view.cut(np.asarray(array)))
    return np.asarray(cut.dense()[0], dtype=np.float64)
