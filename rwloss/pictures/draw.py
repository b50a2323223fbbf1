"""From labels and maps to a picture in a file: the checks, and the one slice that is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import words
from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors, whole_file
from rwloss.pictures.picture import MapRow, Picture
from rwloss.pictures.sheet import render
from rwloss.pictures.view import View, choose_view
from rwloss.rwmap import RWMap

FORMATS = ("png", "pdf", "svg")
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

    def choose(
        known: NDArray[np.int32], spacing_mm: tuple[float, ...]
    ) -> tuple[View, list[MapRow]]:
        view = choose_view(known, spacing_mm, affine, axis, slice_index)
        return view, [
            MapRow(text, channels_of(rwmap, view), (units or {}).get(text, ""))
            for text, rwmap in rwmaps.items()
        ]

    write_picture(labels, rwmaps, path, choose, _MEANING, image, class_names, spacing_mm, title)


def write_picture(
    labels: NDArray[np.integer[Any]],
    rwmaps: Mapping[str, RWMap],
    path: str | Path,
    choose: Callable[[NDArray[np.int32], tuple[float, ...]], tuple[View, list[MapRow]]],
    meaning: str,
    image: NDArray[Any] | None,
    class_names: Sequence[str],
    spacing_mm: Sequence[float] | None,
    title: str | None,
) -> None:
    """Check all that is given, then draw the slice and the rows that `choose` picks for labels."""
    path, labels = Path(path), np.asarray(labels)
    file_format = check_output(path)
    num_classes = _check_arrays(labels, rwmaps, image)
    spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    if len(spacing) != labels.ndim or not all(0 < mm < np.inf for mm in spacing):
        raise RWLossError(
            f"expected {labels.ndim} spacings above 0 mm, one per axis, got {spacing_mm!r}"
        )
    known = known_labels(labels, num_classes)
    view, rows = choose(known, spacing)
    picture = Picture(
        labels=view.cut(known),
        image=None if image is None else view.cut(np.asarray(image)),
        rows=rows,
        names=words.class_names(num_classes, [f"{k} {name}" for k, name in enumerate(class_names)]),
        step_mm=view.step_mm,
        title=title or "",
        meaning=meaning,
        slice_text=view.text,
    )
    content = render(picture, file_format)
    fix = "free some space, or use another folder"
    with naming_write_errors(path, fix), whole_file(path) as part:
        part.write_bytes(content)


def check_output(path: Path) -> str:
    """The format of a picture to be written there.

    Raises RWLossError for suffixes other than .png, .pdf and .svg, for a missing folder, for a path
    that is a folder, and without matplotlib.
    """
    file_format = path.suffix.lower().removeprefix(".")
    if file_format not in FORMATS:
        raise RWLossError(
            f"expected a picture that ends with .{', .'.join(FORMATS)}, got {str(path)!r}"
        )
    if path.is_dir():
        raise RWLossError(f"cannot write {str(path)!r}: it is a folder")
    if not path.parent.is_dir():
        raise RWLossError(
            f"cannot write {str(path)!r}: there is no folder {str(path.parent)!r}; make it first"
        )
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise RWLossError(
            "pictures need matplotlib, which is not installed: pip install 'rwloss[report]'"
        ) from error
    return file_format


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
    return np.where((labels >= 0) & (labels < num_classes), labels.astype(np.int32), np.int32(-1))


def channels_of(rwmap: RWMap, view: View) -> NDArray[np.float64]:
    """Values (k rows columns) in the slice, which is cut first: a dense volume is large."""
    cut = rwmap.with_arrays(lambda array: view.cut(np.asarray(array)))
    return np.asarray(cut.dense()[0], dtype=np.float64)
