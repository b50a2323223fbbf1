"""Draws every map that ships on one slice, and writes docs/gallery.md around the pictures.

    .venv/bin/python docs/site/make_gallery.py          pictures and page: trains a network first
    .venv/bin/python docs/site/make_gallery.py --page   the page alone

The network is trained for `STEPS` steps on other cases of the sample, so that dynamic terms are
seen at a prediction that a training run really meets.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwloss import Regions, data, maps

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "gallery.md"
PICTURES = ROOT / "docs" / "images" / "gallery"
RUN = ROOT / "build" / "gallery" / "run"
LOSS, STEPS, AXIS = "dice + cross_entropy", 300, 0

INTRO = f"""# Gallery

Every built-in map, on one slice of a hippocampus that the network below has not seen in training. [make_gallery.py](site/make_gallery.py) draws the pictures and writes this page, so it lists what `rwloss maps` lists.

![The slice, its labels, and the prediction, which differs from the labels at some voxels of the border](images/gallery/case.webp)

- Each picture has one panel per class: background, anterior, posterior. The color is the value of the map: what it costs to put probability on that class, at that voxel. **Blue is below 0, white is 0, red is above 0.** Lines are the borders of the true classes.
- *Static* maps follow from the labels alone. *Dynamic* maps are the derivative of a loss by the probabilities, so they change during training. The row *uniform* is at equal probabilities, about where training begins. The row *trained* is at the prediction above, of a small U-Net after {STEPS} training steps with `{LOSS}`.
- Only differences between the classes of a voxel act: a voxel that has the same value in all three panels has no gradient after the softmax.
- Colors of dynamic maps end at the 99th percentile of the sizes of their values; those of static maps at the largest. The slice is taken as an image of its own, at 1 mm per voxel.

What each term is for: [which map](which-map.md). Its formula: [the tables](losses.md). The slice is from the Medical Segmentation Decathlon, Task04, so the pictures are under [CC BY-SA 4.0](../samples/LICENSE-CC-BY-SA-4.0.md).
"""  # noqa: E501, a line per paragraph


@dataclass(frozen=True)
class Slice:
    """What is drawn. labels (h w), image (h w), probs (k h w); step_mm between rows, columns."""

    labels: NDArray[np.int64]
    image: NDArray[np.float32]
    probs: NDArray[np.float32]
    step_mm: tuple[float, float]
    names: tuple[str, ...]


def page() -> str:
    """The text of docs/gallery.md."""
    parts = [INTRO]
    for title, is_static in (("Static maps", True), ("Dynamic maps", False)):
        parts.append(f"## {title}\n")
        for name in built_in():
            term = maps.get(name)
            if term.is_static == is_static:
                summary = " ".join(str(type(term).__doc__).split("\n\n")[0].split())
                unit = "" if term.unit == "unitless" else f" In {term.unit}."
                shown = "at the three classes" if is_static else "at two predictions"
                parts.append(
                    f"### {name}\n\n{summary}{unit}\n\n"
                    f"![The map {name} {shown}](images/gallery/{name}.webp)\n\n"
                    f"Source: {term.citation}\n"
                )
    return "\n".join(parts)


def built_in() -> list[str]:
    """Names of the terms that ship."""
    return [name for name in maps.names() if maps.load(name).__module__.startswith("rwloss.")]


def trained_slice() -> Slice:
    """The fullest slice of a test case, and what the trained network makes of it."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    from rwloss.pictures.view import choose_view
    from rwloss.training import RunFolder, RunSettings, load_network, read_volume, train

    sample = data.sample_dir("hippocampus")
    result = train(
        RunSettings(data=str(sample), map=LOSS, out=str(RUN), steps=STEPS, slice_axis=AXIS)
    )
    case = RunFolder(RUN).cases("test")[0]
    dataset = data.find(sample, part="test")
    [found] = [each for each in dataset.cases if each.name == case]
    volume = read_volume(found)
    view = choose_view(volume.labels, volume.spacing_mm, None, AXIS, None)
    trained = load_network(RUN)
    window = result.settings.patch_size
    image = torch.from_numpy(volume.image[:, view.index])[None]
    with torch.no_grad():
        logits = sliding_window_inference(image, window, 1, trained.network)
    for each in result.scores.summary():
        print(f"test Dice of {each.name}: {each.dice.mean:.3f}")
    affine = data.read_labels(found.labels).affine
    turned = replace(choose_view(volume.labels, volume.spacing_mm, affine, AXIS, None), axis=None)
    raw = data.read_case_image(found, volume.labels.shape)[0, view.index]
    names = tuple(f"{k} {name}" for k, name in enumerate(dataset.class_names))
    return Slice(
        labels=turned.cut(volume.labels[view.index]),
        image=turned.cut(raw),
        probs=turned.cut(logits.softmax(dim=1)[0].numpy()),
        step_mm=turned.step_mm,
        names=names,
    )


def draw(shown: Slice) -> None:
    """Write every picture."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_case(shown)
    k = len(shown.names)
    uniform = np.full_like(shown.probs, 1 / k)
    regions = Regions(shown.labels[None], k, shown.step_mm, image=shown.image[None, None])
    for name in built_in():
        term = maps.get(name)
        if term.is_static:
            rows = [("", term(regions))]
        else:
            given = {"uniform": uniform, "trained": shown.probs}
            rows = [(title, term(regions, probs[None])) for title, probs in given.items()]
        values = [(title, np.asarray(rwmap.dense()[0], np.float64)) for title, rwmap in rows]
        draw_map(shown, name, term.unit, values, scale="linear" if term.is_static else "robust")


def picture_of(shown: Slice, scale: Any = "linear") -> Any:
    """The slice as the panels of `rwloss show` take it."""
    from rwloss.pictures.panels import Picture

    labels = shown.labels.astype(np.int32)
    return Picture(labels, shown.image, [], shown.names, "", "", shown.step_mm, scale)


def draw_case(shown: Slice) -> None:
    """Image, labels and prediction."""
    from rwloss.pictures.panels import class_colours, draw_image, draw_labels

    picture = picture_of(shown)
    predicted = replace(picture, labels=shown.probs.argmax(axis=0).astype(np.int32))
    figure, axes, _ = sheet(shown, 1, bars=False)
    for at, title, put, given in zip(
        axes[0], ("image", "labels", "prediction"), (draw_image, draw_labels, draw_labels),
        (picture, picture, predicted), strict=True,
    ):  # fmt: skip
        put(at, given)
        at.set_title(title, loc="left", fontsize=13)
    for k, colour in enumerate(class_colours(len(shown.names)), 1):
        axes[0][k].set_xlabel(shown.names[k], fontsize=13, color=colour, loc="left", weight="bold")
    save(figure, "case")


def draw_map(
    shown: Slice, name: str, unit: str, rows: Sequence[tuple[str, NDArray[Any]]], scale: Any
) -> None:
    """One map: a row of classes at each prediction."""
    from rwloss.pictures.panels import MapRow, draw_channels

    figure, panels, bars = sheet(shown, len(rows))
    for (title, channels), axes, bar in zip(rows, panels, bars, strict=True):
        draw_channels(axes, bar, picture_of(shown, scale), MapRow(name, channels, unit))
        bar.tick_params(labelsize=11)
        bar.yaxis.get_offset_text().set_fontsize(11)
        for at, text in zip(axes, shown.names, strict=True) if axes is panels[0] else ():
            at.set_title(text, loc="left", fontsize=13)
        axes[0].set_ylabel(title, fontsize=13)
    save(figure, name)


def sheet(shown: Slice, rows: int, bars: bool = True) -> tuple[Any, list[Any], list[Any]]:
    """A figure with a panel per class and row, and a bar at the end of each row."""
    from matplotlib.figure import Figure

    high, wide = shown.labels.shape
    aspect = high * shown.step_mm[0] / (wide * shown.step_mm[1])
    left, right, gap, above = (0.05 if rows == 1 else 0.35), (1.0 if bars else 0.05), 0.08, 0.32
    width = 7.2
    panel = (width - left - right - 2 * gap) / 3
    below = 0.08 if bars else 0.35
    height = above + rows * (panel * aspect + gap) + below
    figure = Figure(figsize=(width, height), dpi=110)

    def place(row: int, x: float, w: float) -> Any:
        y = height - above - (row + 1) * panel * aspect - row * gap
        return figure.add_axes((x / width, y / height, w / width, panel * aspect / height))

    panels = [
        [place(row, left + k * (panel + gap), panel) for k in range(3)] for row in range(rows)
    ]
    at_end = [place(row, left + 3 * (panel + gap), 0.14) for row in range(rows) if bars]
    return figure, panels, at_end


def save(figure: Any, name: str) -> None:
    """As WebP of few colors, which is small and has sharp lines."""
    from PIL import Image

    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    drawn = Image.open(stream).convert("RGB")
    few = drawn.quantize(255, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).convert("RGB")
    few.save(PICTURES / f"{name}.webp", lossless=True, quality=100, method=6)


if __name__ == "__main__":
    if "--page" not in sys.argv:
        draw(trained_slice())
    PAGE.write_text(page(), encoding="utf-8")
