"""Pictures of cases for a page: one pixel per voxel, which the browser enlarges without blur."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwloss.pictures.colours import CLASS_COLOURS, IGNORED, diverging, grey, rgb
from rwloss.pictures.picture import MAX_CLASSES
from rwloss.study.report.cases import Choice, Slice

_OPACITY = 0.6


@dataclass(frozen=True)
class Panel:
    """One picture with its title. source: a data URI. class_number: of a channel of the map, where
    the background is 0."""

    title: str
    alt: str
    source: str
    class_number: int | None = None


@dataclass(frozen=True)
class CasePicture:
    """One case. proportion: width of its panels divided by their height. limit: of the map."""

    choice: Choice
    panels: tuple[Panel, ...]
    proportion: float
    limit: float
    text: str


def picture(each: Slice) -> CasePicture:
    """Image, labels, prediction and the map's channels of a slice."""
    rows, columns = each.labels.shape
    case, names = each.choice.case, each.class_names
    ground = np.repeat(255 * grey(each.image)[..., None], 3, axis=-1)
    limit = float(np.nanmax(np.abs(np.where(each.labels >= 0, each.channels, 0.0)))) or 1.0
    return CasePicture(
        choice=each.choice,
        panels=(
            Panel("image", f"Image of {case}", _png(ground)),
            _class_panel("labels", f"Labels of {case}", each.labels, ground, names),
            _class_panel("prediction", f"Prediction for {case}", each.prediction, ground, names),
            *_map_panels(each, limit),
        ),
        proportion=columns * each.step_mm[1] / (rows * each.step_mm[0]),
        limit=limit,
        text=" ".join(filter(None, (each.text, _left_out(names)))),
    )


def class_colour(number: int) -> str:
    """Colour of a foreground class, from 1 on.

    >>> class_colour(1)
    '#E69F00'
    """
    return CLASS_COLOURS[(number - 1) % len(CLASS_COLOURS)]


def _left_out(names: tuple[str, ...]) -> str:
    if len(names) <= MAX_CLASSES:
        return ""
    return f"Map at {MAX_CLASSES} of {len(names)} classes: those with the most voxels here."


def _class_panel(
    title: str,
    what: str,
    labels: NDArray[np.int32],
    ground: NDArray[np.float64],
    names: tuple[str, ...],
) -> Panel:
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    amounts = [f"{name} {counts[k]} pixels" for k, name in enumerate(names) if k > 0]
    return Panel(title, f"{what}: {', '.join(amounts)}", _png(_tinted(ground, labels)))


def _map_panels(each: Slice, limit: float) -> Iterator[Panel]:
    counts = np.bincount(each.labels[each.labels >= 0], minlength=len(each.class_names))
    shown = sorted(int(k) for k in np.argsort(-counts, kind="stable")[:MAX_CLASSES])
    for k in shown:
        values = each.channels[k]
        inside = values[each.labels >= 0]
        low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 0.0)
        yield Panel(
            f"map at {each.class_names[k]}",
            f"Map at {each.class_names[k]}, from {low:.3g} to {high:.3g}",
            _png(_diverging(values / limit, each.labels >= 0)),
            class_number=k,
        )


def _tinted(ground: NDArray[np.float64], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Classes in their colours over the image; ignored voxels grey."""
    pixels = ground.copy()
    for k in range(1, int(labels.max(initial=0)) + 1):
        here = labels == k
        pixels[here] = (1 - _OPACITY) * pixels[here] + _OPACITY * rgb(class_colour(k))
    pixels[labels < 0] = rgb(IGNORED)
    return pixels


def _diverging(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Blue at -1, white at 0, red at 1. (rows columns) -> (rows columns 3)."""
    pixels = 255 * diverging(values)
    pixels[~counted | ~np.isfinite(values)] = rgb(IGNORED)
    return pixels


def _png(pixels: NDArray[np.float64]) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.round(pixels).astype(np.uint8)).save(stream, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
