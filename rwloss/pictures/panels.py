"""The content of a picture of one slice, and functions that draw its panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scale: TypeAlias = Literal["linear", "symlog", "robust"]
SCALES: dict[Scale, str] = {
    "linear": "",
    "symlog": "Colors are logarithmic above a thousandth of the largest value of a map.",
    "robust": "Colors end at the 99th percentile of the sizes of a map's values other than 0.",
}
"""How values become colors, each with what a picture says about it."""

MAX_CLASSES = 6
"""Channels of a map in one row; more would need a wider screen than most people have."""

# Okabe & Ito's colors, told apart with every common form of color blindness.
CLASS_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#F0E442")
"""Of foreground classes, from class 1 on."""

EMPTY, IGNORED, INK = "#ececec", "#a8a8a8", "#1a1a1a"
DPI = 150
SMALL = 7.5  # points

# ColorBrewer's RdBu without its dark ends, on which no line can be seen.
_BLUE_TO_RED = (
    *("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7"),
    *("#fddbc7", "#f4a582", "#d6604d", "#b2182b"),
)
# Inches: the longer side of a panel, of a large slice with few classes, and the least of either.
_PANEL, _LARGEST_PANEL, _SMALLEST_PANEL = 1.75, 3.5, 0.7
_ROW = 10.5  # inches that the panels of a row should fit in
_MAX_LEGEND = 12


@dataclass(frozen=True)
class MapRow:
    """One map: its text, its channels (k rows columns) in the slice, and its unit or ""."""

    text: str
    channels: NDArray[np.float64]
    unit: str = ""


@dataclass(frozen=True)
class Picture:
    """The content of the sheet.

    labels: (rows columns), -1 where ignored. names: of every class. step_mm: between rows and
    between columns. note: what readers need to know when they see such a picture for the first
    time. scale: of the colors of maps.
    """

    labels: NDArray[np.int32]
    image: NDArray[Any] | None
    rows: Sequence[MapRow]
    names: tuple[str, ...]
    title: str
    note: str
    step_mm: tuple[float, float] = (1.0, 1.0)
    scale: Scale = "linear"

    @property
    def panel(self) -> float:
        """The longer side of a panel in inches: a voxel per pixel, where the row has room."""
        room = min(_LARGEST_PANEL, _ROW / len(self.classes))
        return float(max(_PANEL, min(max(self.labels.shape) / DPI, room)))

    @property
    def classes(self) -> list[int]:
        """The classes that get a column."""
        return largest_classes(self.labels, len(self.names))


def largest_classes(labels: NDArray[np.int32], num_classes: int) -> list[int]:
    """All classes in order, or the MAX_CLASSES with the most voxels in the slice."""
    counts = np.bincount(labels[labels >= 0], minlength=num_classes)
    return sorted(np.argsort(-counts, kind="stable")[:MAX_CLASSES].tolist())


def diverging(values: NDArray[Any]) -> NDArray[np.float64]:
    """Blue at -1, white at 0, red at 1. (*s) -> (*s 3), of 0..1."""
    steps = np.linspace(-1, 1, len(_BLUE_TO_RED))
    colours = np.array([ImageColor.getrgb(colour) for colour in _BLUE_TO_RED]) / 255
    return np.stack([np.interp(values, steps, colours[:, i]) for i in range(3)], axis=-1)


def grey(image: NDArray[Any]) -> NDArray[np.float64]:
    """The image from its 1st to its 99th percentile as 0..1; black where it is not finite."""
    values = np.asarray(image, dtype=np.float64)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape)
    low, high = np.percentile(values[finite], (1, 99))
    scaled = (np.where(finite, values, low) - low) / (high - low if high > low else 1.0)
    return np.asarray(np.clip(scaled, 0.0, 1.0))


def panel_size(picture: Picture) -> tuple[float, float]:
    """Width and height of a panel in inches, in the proportions of the slice in mm."""
    rows, columns = picture.labels.shape
    high, wide = rows * picture.step_mm[0], columns * picture.step_mm[1]
    scale = picture.panel / max(high, wide)
    return max(wide * scale, _SMALLEST_PANEL), max(high * scale, _SMALLEST_PANEL)


def tinted(
    labels: NDArray[np.int32], ground: NDArray[np.float64], num_classes: int, opacity: float
) -> NDArray[np.float64]:
    """Classes in their colors, and ignored voxels in gray, over a ground of 0..1 (*s 3)."""
    table = [ImageColor.getrgb(each) for each in (IGNORED, EMPTY, *class_colours(num_classes))]
    tint, covered = np.array(table)[labels + 1] / 255, (labels != 0)[..., None]
    return np.where(covered, (1 - opacity) * ground + opacity * tint, ground)


def class_colours(num_classes: int) -> list[str]:
    """A color for each class but the background."""
    if num_classes - 1 <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[: num_classes - 1])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    # As many as wanted, ordered in brightness: told apart without color vision too.
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, num_classes - 1))]


def draw_image(axes: Axes, picture: Picture) -> None:
    """The image alone, in gray."""
    _show(axes, picture, _ground(picture))


def draw_labels(axes: Axes, picture: Picture) -> None:
    """The classes in their colors, over the image if there is one."""
    opacity = 1.0 if picture.image is None else 0.55
    _show(axes, picture, tinted(picture.labels, _ground(picture), len(picture.names), opacity))
    _draw_borders(axes, picture, picture.labels, 0.5)


def draw_channels(panels: Sequence[Axes], bar: Axes, picture: Picture, row: MapRow) -> None:
    """The channels of a map, a panel for each class, and the bar of the scale that they share."""
    from matplotlib.colors import ListedColormap, Normalize, SymLogNorm

    channels = row.channels[picture.classes]
    covered = (picture.labels >= 0) & np.isfinite(channels)
    values = np.where(covered, channels, 0.0)
    low, peak = float(values.min()), float(values.max())
    size = np.abs(values[values != 0])
    limit = float(np.percentile(size, 99 if picture.scale == "robust" else 100)) if size.size else 1
    norm = Normalize(-limit, limit)
    if picture.scale == "symlog":
        norm = SymLogNorm(limit / 1000, vmin=-limit, vmax=limit)
    colours = ListedColormap(diverging(np.linspace(-1, 1, 255))).with_extremes(bad=IGNORED)
    for number, (k, axes) in enumerate(zip(picture.classes, panels, strict=True)):
        pixels = np.ma.masked_array(values[number], ~covered[number])
        shown = _show(axes, picture, pixels, cmap=colours, norm=norm)
        _draw_borders(axes, picture, picture.labels, 0.4)
        _draw_borders(axes, picture, picture.labels == k, 1.0)
    bar.figure.colorbar(shown, cax=bar)
    if picture.scale == "symlog":
        # Powers of ten that are far enough from 0 to be read.
        decades = 10.0 ** np.arange(np.ceil(np.log10(limit / 500)), np.floor(np.log10(limit)) + 1)
        bar.set_yticks([*-decades, 0, *decades])
        bar.minorticks_off()
    else:
        bar.locator_params(axis="y", nbins=5)
    if low < 0 or peak > 0:
        # The part of the scale that occurs says at a glance which signs the map has.
        bar.set_ylim(max(min(low, 0.0), -limit), min(max(peak, 0.0), limit))
    bar.tick_params(labelsize=SMALL, width=0.5, length=2, colors=INK)
    bar.yaxis.get_offset_text().set_fontsize(SMALL)
    bar.spines[:].set_linewidth(0.5)


def legend(picture: Picture) -> list[tuple[str, str]]:
    """Color and name of each foreground class in the labels panel."""
    colours = class_colours(len(picture.names))
    present = [int(k) for k in np.unique(picture.labels) if k > 0]
    lines = [(colours[k - 1], picture.names[k]) for k in present[:_MAX_LEGEND]]
    if len(present) > _MAX_LEGEND:
        lines.append(("none", f"and {len(present) - _MAX_LEGEND} more"))
    if (picture.labels < 0).any():
        lines.append((IGNORED, "ignored"))
    return lines


def _show(axes: Axes, picture: Picture, pixels: NDArray[Any], **scale: Any) -> Any:
    # A voxel has one value. Blend only where several share a pixel: thin structures would vanish.
    crowded = max(picture.labels.shape) > picture.panel * DPI
    shown = axes.imshow(
        pixels,
        aspect=picture.step_mm[0] / picture.step_mm[1],
        interpolation="antialiased" if crowded else "nearest",
        **scale,
    )
    axes.set(anchor="NW", xticks=[], yticks=[])
    axes.spines[:].set(linewidth=0.5, edgecolor=IGNORED)
    return shown


def _ground(picture: Picture) -> NDArray[np.float64]:
    """The image in gray, or an even ground without one. (rows columns 3)."""
    from matplotlib.colors import to_rgb

    if picture.image is None:
        return np.full((*picture.labels.shape, 3), to_rgb(EMPTY))
    return np.repeat(grey(picture.image)[..., None], 3, axis=-1)


def _draw_borders(axes: Axes, picture: Picture, classes: NDArray[Any], width: float) -> None:
    """A line along every edge between two pixels of different classes, width in points."""
    from matplotlib.collections import LineCollection

    row, column = np.nonzero(classes[1:] != classes[:-1])
    across = np.stack([column - 0.5, row + 0.5, column + 0.5, row + 0.5], axis=-1)
    row, column = np.nonzero(classes[:, 1:] != classes[:, :-1])
    down = np.stack([column + 0.5, row - 0.5, column + 0.5, row + 0.5], axis=-1)
    edges = np.concatenate([across, down]).reshape(-1, 2, 2)
    # Lines of many edges with gaps of NaN: one line an edge takes seconds in a large slice.
    broken = np.pad(edges, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    lines = [broken[i : i + 500].reshape(-1, 2) for i in range(0, len(broken), 500)]
    # Never as wide as a voxel, which would hide the small ones, nor so wide that the lines on both
    # sides of a vessel hide it. A strip has two edges for each voxel of its length.
    most = np.unique(classes, return_counts=True)[1].max()
    thickness = 2 * (classes.size - most) / max(len(edges), 1)
    voxel = 72 * picture.panel / max(classes.shape)
    width = min(width, 0.7 * voxel, 0.15 * thickness * voxel)
    drawn = LineCollection(lines, colors=INK, linewidths=width, capstyle="projecting")
    axes.add_collection(drawn, autolim=False)
