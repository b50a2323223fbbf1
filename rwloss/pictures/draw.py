"""Draw labels and maps to a picture file: map values, or pushes in the wrong direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import words
from rwloss.errors import RWLossError
from rwloss.files.atomic import naming_write_errors, whole_file
from rwloss.pictures.panels import MAX_CLASSES, SCALES, MapRow, Picture, Scale
from rwloss.pictures.sheet import render
from rwloss.pictures.view import View, channels_of, choose_view, known_labels
from rwloss.rwmap import RWMap
from rwloss.stability.pushes import pushes
from rwloss.words import percent

FORMATS = ("png", "pdf", "svg")
_MEANING = (
    "Value of the map at each voxel: the cost of probability on the class (blue: below 0, white: "
    "0, red: above 0). Lines: borders of the classes."
)
_WRONG_MEANING = (
    "What a step of gradient descent would do wrong at {} probabilities. Red: the logit of this "
    "class is pushed up where the class is wrong; blue: it is pushed down where the class is true; "
    "white: no push, or the right way. A map without wrong pushes is shown with all its pushes: "
    "red up, blue down. Scale: the largest push of the map in this slice, in either direction, is "
    "1. Lines: borders of the classes."
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
    scale: Scale = "linear",
    note: str = "",
) -> None:
    """Write one picture of a case: image, labels, and a row of channels for each map.

    labels: (*s), 2-D or 3-D; values outside 0..K-1 are ignored voxels, drawn gray.
    rwmaps: by the text above their row; NumPy arrays, labels (1 *s), all of the same K.
    path: .png, .pdf or .svg; an existing file is replaced at the end, and kept if anything fails.
    image: (*s), shown from its 1st to its 99th percentile.
    class_names: of classes 0, 1, ...; a class without one is shown by its number.
    spacing_mm: millimeters per axis, 1 by default: the panels get their true proportions.
    affine: (4, 4) to RAS millimeters, as nibabel's: right, anterior and superior are then drawn
    to the right and up. Without it rows run down and columns to the right, as stored.
    axis, slice_index: which slice of a volume. By default the one with the most classes, then the
    most foreground, across the axis of length 1 or else of the largest spacing (the last of
    equals).
    units: of the values, by the text of their map.
    scale: of the colors. "symlog" is linear up to a thousandth of the largest value of a map, and
    logarithmic above; "robust" ends at the 99th percentile of the sizes of its values but 0.
    note: what the picture says below, beside its own explanation.

    Of more than MAX_CLASSES classes, the picture shows those with the most voxels in the slice and
    says so. Raises RWLossError for shapes that do not fit, a slice that does not exist, a path that
    cannot be written, and without matplotlib.
    """

    known, num_classes, spacing = _checked(labels, rwmaps, path, image, spacing_mm)
    view = choose_view(known, spacing, affine, axis, slice_index)
    rows = [
        MapRow(text, channels_of(rwmap, view), (units or {}).get(text, ""))
        for text, rwmap in rwmaps.items()
    ]
    names = _numbered(class_names, num_classes)
    said = " ".join(filter(None, [_MEANING, SCALES[scale], note]))
    picture = Picture(known, image, rows, names, title or "", said, scale=scale)
    _write(path, picture, view)


def draw_wrong_pushes(
    labels: NDArray[np.integer[Any]],
    rwmaps: Mapping[str, RWMap],
    path: str | Path,
    *,
    given: NDArray[np.floating[Any]] | None = None,
    probs: str = "uniform",
    image: NDArray[Any] | None = None,
    class_names: Sequence[str] = (),
    spacing_mm: Sequence[float] | None = None,
    affine: NDArray[Any] | None = None,
    title: str | None = None,
) -> None:
    """Write one picture of a case: image, labels, and a row of wrong-way pushes for each map.

    The row of a map that has none in the case shows all its pushes.

    given: probabilities (1 k *s) at which the gradient is taken, None for uniform ones; probs:
    what they are called. The other arguments are those of `draw`.

    Of a volume it shows the slice across the axis of the largest spacing in which the largest
    share of the maps' pushes goes the wrong way; where none does, the slice with the most classes.
    Raises RWLossError as `draw` does.
    """

    known, num_classes, spacing = _checked(labels, rwmaps, path, image, spacing_mm)
    view = choose_view(known, spacing, affine, None, None)
    shares = {text: _shares(rwmap, given, view.axis) for text, rwmap in rwmaps.items()}
    if view.axis is not None:
        each = [wrong / max(float(push.sum()), 1e-30) for wrong, push in shares.values()]
        by_slice = np.sum(each, axis=0)
        worst = int(np.argmax(by_slice))
        if by_slice[worst] > 0:
            view = choose_view(known, spacing, affine, view.axis, worst)
    rows = [
        MapRow(
            _heading(text, *shares[text], view.index),
            _pushed(rwmap, given, view, only_wrong=bool(shares[text][0].any())),
        )
        for text, rwmap in rwmaps.items()
    ]
    names, meaning = _numbered(class_names, num_classes), _WRONG_MEANING.format(probs)
    _write(path, Picture(known, image, rows, names, title or "", meaning), view)


def _numbered(class_names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    return words.class_names(num_classes, [f"{k} {name}" for k, name in enumerate(class_names)])


def _write(path: str | Path, picture: Picture, view: View) -> None:
    """Reduce the picture of a whole case to the slice of a view, and write it."""
    path, image = Path(path), picture.image
    shown = f"{MAX_CLASSES} of {len(picture.names)} classes: those with the most voxels."
    many = len(picture.names) > MAX_CLASSES
    cut = replace(
        picture,
        labels=view.cut(picture.labels),
        image=None if image is None else view.cut(np.asarray(image)),
        note=" ".join([picture.note, *[shown] * many, view.text]).strip(),
        step_mm=view.step_mm,
    )
    content = render(cut, check_output(path))
    fix = "free some space, or use another folder"
    with naming_write_errors(path, fix), whole_file(path) as part:
        part.write_bytes(content)


def check_output(path: Path) -> str:
    """The format of a picture file, from its suffix.

    Raises RWLossError for suffixes other than .png, .pdf and .svg, for a missing folder, for a path
    that is a folder, and without matplotlib.
    """
    file_format = path.suffix.lower().removeprefix(".")
    if file_format not in FORMATS:
        raise RWLossError(
            f"expected a picture that ends with .{', .'.join(FORMATS)}, got {str(path)!r}"
        )
    if path.is_dir() or not path.parent.is_dir():
        missing = f"there is no folder {str(path.parent)!r}; make it first"
        why = "it is a folder" if path.is_dir() else missing
        raise RWLossError(f"cannot write {str(path)!r}: {why}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise RWLossError(
            "pictures need matplotlib, which is not installed: pip install 'rwloss[report]'"
        ) from error
    return file_format


def _checked(
    labels: NDArray[Any],
    rwmaps: Mapping[str, RWMap],
    path: str | Path,
    image: NDArray[Any] | None,
    spacing_mm: Sequence[float] | None,
) -> tuple[NDArray[np.int32], int, tuple[float, ...]]:
    """Labels (*s) with -1 where ignored, the number of classes of all maps, spacing per axis."""
    check_output(Path(path))
    labels = np.asarray(labels)
    if labels.ndim not in {2, 3} or labels.size == 0 or labels.dtype.kind not in "biu":
        raise RWLossError(
            "expected whole labels (*s) of 2 or 3 axes, one image without the batch axis, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    if not rwmaps:
        raise RWLossError("expected at least one map to draw, got none")
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
    spacing = (1.0,) * labels.ndim if spacing_mm is None else tuple(map(float, spacing_mm))
    if len(spacing) != labels.ndim or not all(0 < mm < np.inf for mm in spacing):
        raise RWLossError(
            f"expected {labels.ndim} spacings above 0 mm, one per axis, got {spacing_mm!r}"
        )
    num_classes = numbers.pop()
    return known_labels(labels, num_classes), num_classes, spacing


def _shares(
    rwmap: RWMap, given: NDArray[Any] | None, axis: int | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Σ|g| of wrong-way pushes and of all pushes, per slice across the axis. (n) each."""
    wrong = push = np.zeros(1)
    others = tuple(i for i in range(rwmap.labels.ndim) if axis is None or i != axis + 1)
    for one in pushes(rwmap, given):
        size = np.abs(one.gradient)
        push = push + size.sum(axis=others, dtype=np.float64)
        wrong = wrong + size.sum(axis=others, dtype=np.float64, where=one.wrong_way)
    return np.atleast_1d(wrong), np.atleast_1d(push)


def _heading(text: str, wrong: NDArray[np.float64], push: NDArray[np.float64], index: int) -> str:
    if not wrong.any():
        return f"{text}: no push goes the wrong way"
    case = percent(float(wrong.sum() / push.sum()))
    if len(wrong) == 1:
        return f"{text}: {case} of the push goes the wrong way"
    here = percent(float(wrong[index] / max(push[index], 1e-30)))
    return f"{text}: {here} of the push in this slice goes the wrong way, {case} in the volume"


def _pushed(
    rwmap: RWMap, given: NDArray[Any] | None, view: View, *, only_wrong: bool
) -> NDArray[np.float64]:
    """Pushes in the slice, above 0 where up, divided by the largest there. (k rows cols)."""
    channels, largest = [], 0.0
    for one in pushes(rwmap, given):
        gradient = view.cut(one.gradient[0]).astype(np.float64)
        largest = max(largest, float(np.abs(gradient).max(initial=0)))
        shown = view.cut(one.wrong_way[0]) | (not only_wrong)
        channels.append(np.where(shown, -gradient, 0.0))
    return np.stack(channels) / (largest or 1.0)
