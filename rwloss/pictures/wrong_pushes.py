"""A picture of where a map pushes the wrong way, in the slice of a case where it does so most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss.pictures.draw import write_picture
from rwloss.pictures.picture import MapRow
from rwloss.pictures.view import View, choose_view
from rwloss.rwmap import RWMap
from rwloss.stability.pushes import pushes
from rwloss.words import percent

_MEANING = (
    "What a step of gradient descent would do wrong at {} probabilities. Red: the logit of this "
    "class is pushed up where the class is wrong; blue: it is pushed down where the class is true; "
    "white: no push, or the right way. Scale: the largest push of the map in this slice, in either "
    "direction, is 1. Lines: borders of the classes."
)


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

    given: probabilities (1 k *s) at which the gradient is taken, None for uniform ones; probs:
    what they are called. The other arguments are those of `draw`.

    Of a volume it shows the slice across the axis of the largest spacing in which the largest
    share of the maps' pushes goes the wrong way; where none does, the slice with the most classes.
    Raises RWLossError as `draw` does.
    """

    def choose(
        known: NDArray[np.int32], spacing_mm: tuple[float, ...]
    ) -> tuple[View, list[MapRow]]:
        view = choose_view(known, spacing_mm, affine, None, None)
        shares = {text: _shares(rwmap, given, view.axis) for text, rwmap in rwmaps.items()}
        if view.axis is not None:
            each = [wrong / max(float(push.sum()), 1e-30) for wrong, push in shares.values()]
            by_slice = np.sum(each, axis=0)
            worst = int(np.argmax(by_slice))
            if by_slice[worst] > 0:
                view = choose_view(known, spacing_mm, affine, view.axis, worst)
        return view, [
            MapRow(_heading(text, *shares[text], view.index), _wrong(rwmap, given, view))
            for text, rwmap in rwmaps.items()
        ]

    meaning = _MEANING.format(probs)
    write_picture(labels, rwmaps, path, choose, meaning, image, class_names, spacing_mm, title)


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


def _wrong(rwmap: RWMap, given: NDArray[Any] | None, view: View) -> NDArray[np.float64]:
    """Wrong-way pushes in the slice, above 0 where up, of the largest push there. (k rows cols)."""
    channels, largest = [], 0.0
    for one in pushes(rwmap, given):
        gradient = view.cut(one.gradient[0]).astype(np.float64)
        largest = max(largest, float(np.abs(gradient).max(initial=0)))
        channels.append(np.where(view.cut(one.wrong_way[0]), -gradient, 0.0))
    return np.stack(channels) / (largest or 1.0)
