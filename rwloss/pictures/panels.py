"""What is in the axes: the image, the labels and their colours, the channels of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwloss.pictures.colours import CLASS_COLOURS, EMPTY, IGNORED, diverging, grey
from rwloss.pictures.lettering import DPI, INK, SMALL
from rwloss.pictures.picture import MapRow, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL, _SMALLEST_PANEL = 1.75, 0.7  # inches: the longer side of a panel, the least of either
_MAX_LEGEND = 12


def panel_size(picture: Picture) -> tuple[float, float]:
    """Width and height of a panel in inches, in the proportions of the slice in mm."""
    rows, columns = picture.labels.shape
    high, wide = rows * picture.step_mm[0], columns * picture.step_mm[1]
    scale = _PANEL / max(high, wide)
    return max(wide * scale, _SMALLEST_PANEL), max(high * scale, _SMALLEST_PANEL)


def draw_image(axes: Axes, picture: Picture) -> None:
    """The image alone, in grey."""
    _show(axes, picture, _ground(picture))


def draw_labels(axes: Axes, picture: Picture) -> None:
    """The classes in their colours, over the image if there is one."""
    from matplotlib.colors import to_rgba_array

    pixels = _ground(picture)
    opacity = 1.0 if picture.image is None else 0.55
    table = to_rgba_array([IGNORED, EMPTY, *_colours(len(picture.names))])[:, :3]
    covered = picture.labels != 0
    tint = table[picture.labels[covered] + 1]
    pixels[covered] = (1 - opacity) * pixels[covered] + opacity * tint
    _show(axes, picture, pixels)
    _draw_borders(axes, picture.labels, 0.5)


def draw_channels(panels: Sequence[Axes], bar: Axes, picture: Picture, row: MapRow) -> None:
    """The channels of a map, a panel for each class, and the bar of the scale that they share."""
    from matplotlib.colors import ListedColormap

    channels = row.channels[picture.classes]
    covered = (picture.labels >= 0) & np.isfinite(channels)
    values = np.where(covered, channels, 0.0)
    low, peak = float(values.min()), float(values.max())
    limit = max(-low, peak) or 1.0
    colours = ListedColormap(diverging(np.linspace(-1, 1, 255))).with_extremes(bad=IGNORED)
    for number, (k, axes) in enumerate(zip(picture.classes, panels, strict=True)):
        pixels = np.ma.masked_array(values[number], ~covered[number])
        shown = _show(axes, picture, pixels, cmap=colours, vmin=-limit, vmax=limit)
        _draw_borders(axes, picture.labels, 0.4)
        _draw_borders(axes, picture.labels == k, 1.0)
    bar.figure.colorbar(shown, cax=bar)
    if low < 0 or peak > 0:
        # The part of the scale that occurs says at a glance which signs the map has.
        bar.set_ylim(min(low, 0.0), max(peak, 0.0))
    bar.tick_params(labelsize=SMALL, width=0.5, length=2, colors=INK)
    bar.locator_params(axis="y", nbins=5)
    bar.yaxis.get_offset_text().set_fontsize(SMALL)
    bar.spines[:].set_linewidth(0.5)


def legend(picture: Picture) -> list[tuple[str, str]]:
    """Colour and name of what the labels panel shows, the background left out."""
    colours = _colours(len(picture.names))
    present = [int(k) for k in np.unique(picture.labels) if k > 0]
    lines = [(colours[k - 1], picture.names[k]) for k in present[:_MAX_LEGEND]]
    if len(present) > _MAX_LEGEND:
        lines.append(("none", f"and {len(present) - _MAX_LEGEND} more"))
    if (picture.labels < 0).any():
        lines.append((IGNORED, "ignored"))
    return lines


def _show(axes: Axes, picture: Picture, pixels: NDArray[Any], **scale: Any) -> Any:
    # A voxel has one value. Blend only where several share a pixel: thin structures would vanish.
    crowded = max(picture.labels.shape) > _PANEL * DPI
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
    """The image in grey, or an even ground without one. (rows columns 3)."""
    from matplotlib.colors import to_rgb

    if picture.image is None:
        return np.full((*picture.labels.shape, 3), to_rgb(EMPTY))
    return np.repeat(grey(picture.image)[..., None], 3, axis=-1)


def _colours(num_classes: int) -> list[str]:
    """A colour for each class but the background."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if num_classes - 1 <= len(CLASS_COLOURS):
        return list(CLASS_COLOURS[: num_classes - 1])
    # As many as wanted, ordered in brightness: told apart without colour vision too.
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0, 1, num_classes - 1))]


def _draw_borders(axes: Axes, classes: NDArray[Any], width: float) -> None:
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
    # Never as wide as a voxel: it would hide the small ones.
    width = min(width, 0.7 * 72 * _PANEL / max(classes.shape))
    drawn = LineCollection(lines, colors=INK, linewidths=width, capstyle="projecting")
    axes.add_collection(drawn, autolim=False)
