"""Pictures of cases for a page: one pixel a voxel, which the browser enlarges without blurring."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rwloss.pictures.picture import MAX_CLASSES
from rwloss.study.report.cases import Choice, Slice
from rwloss.study.report.palette import CLASS_COLOURS

_IGNORED = (168, 168, 168)
_BLUE, _WHITE, _RED = (44, 110, 180), (250, 250, 250), (190, 40, 50)
_OPACITY = 0.6


@dataclass(frozen=True)
class Panel:
    """One picture with what stands above it. source: a data URI. class_number: of a map's channel,
    with the background as 0."""

    title: str
    alt: str
    source: str
    class_number: int | None = None


@dataclass(frozen=True)
class CasePicture:
    """One case: its panels, and their width by their height."""

    choice: Choice
    panels: tuple[Panel, ...]
    proportion: float
    limit: float
    text: str


def picture(each: Slice) -> CasePicture:
    """Image, labels, prediction and the map's channels of a slice."""
    rows, columns = each.labels.shape
    case, names = each.choice.case, each.class_names
    ground = _grey(each.image)
    limit = float(np.nanmax(np.abs(np.where(each.labels >= 0, each.channels, 0.0)))) or 1.0
    return CasePicture(
        choice=each.choice,
        panels=(
            Panel("image", f"Image of {case}", _png(ground)),
            Panel(
                "labels",
                f"Labels of {case}: {_amounts(each.labels, names)}",
                _png(_tinted(ground, each.labels)),
            ),
            Panel(
                "prediction",
                f"Prediction for {case}: {_amounts(each.prediction, names)}",
                _png(_tinted(ground, each.prediction)),
            ),
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


def _amounts(labels: NDArray[np.int32], names: tuple[str, ...]) -> str:
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    return ", ".join(f"{name} {counts[k]} pixels" for k, name in enumerate(names) if k > 0)


def _grey(image: NDArray[Any]) -> NDArray[np.float64]:
    """From the 1st to the 99th percentile as 0..255. (rows columns 3)."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
    low, high = np.percentile(values, (1, 99))
    scaled = np.clip((values - low) / (high - low if high > low else 1.0), 0, 1)
    return np.repeat(255 * scaled[..., None], 3, axis=-1)


def _tinted(ground: NDArray[np.float64], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Classes in their colours over the image; ignored voxels grey."""
    pixels = ground.copy()
    for k in range(1, int(labels.max(initial=0)) + 1):
        colour = np.array([int(class_colour(k)[i : i + 2], 16) for i in (1, 3, 5)])
        here = labels == k
        pixels[here] = (1 - _OPACITY) * pixels[here] + _OPACITY * colour
    pixels[labels < 0] = _IGNORED
    return pixels


def _diverging(values: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Blue at -1, white at 0, red at 1. (rows columns) -> (rows columns 3)."""
    colours = np.array([_BLUE, _WHITE, _RED], dtype=np.float64)
    pixels = np.stack([np.interp(values, (-1, 0, 1), colours[:, i]) for i in range(3)], axis=-1)
    pixels[~counted | ~np.isfinite(values)] = _IGNORED
    return pixels


def _png(pixels: NDArray[np.float64]) -> str:
    stream = io.BytesIO()
    Image.fromarray(np.round(pixels).astype(np.uint8)).save(stream, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"
