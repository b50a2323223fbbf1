"""Panels: their proportions, their colours, and values that are hard to draw."""

import re

import numpy as np
import pytest
from anatomy import anatomy
from drawn import GREY, ORANGE, drawn, largest_patch, pixels, words

from rwloss import RWMap, pictures
from rwloss.pictures.panels import diverging


def test_ignored_voxels_are_grey_and_named(tmp_path):
    labels = anatomy(6, (30, 30), 3)
    labels[:10] = 255
    path = tmp_path / "a.png"
    drawn(path, labels, 3, "boundary", ignore_label=255)
    height, width = largest_patch(path, GREY)
    assert width / height == pytest.approx(3, rel=0.1)
    svg = drawn(tmp_path / "a.svg", labels, 3, "boundary", ignore_label=255)
    assert "ignored" in words(svg)
    assert "ignored" not in words(drawn(tmp_path / "b.svg", labels % 3, 3, "boundary"))


def test_proportions_follow_the_spacing(tmp_path):
    path, labels = tmp_path / "a.png", np.zeros((40, 40), np.uint8)
    labels[5:35, 5:35] = 1
    for spacing_mm in ((3, 1), (1, 2.5)):
        drawn(path, labels, 2, "active_contour", spacing_mm=spacing_mm)
        height, width = largest_patch(path, ORANGE)
        assert height / width == pytest.approx(spacing_mm[0] / spacing_mm[1], rel=0.04)
    # A very long slice keeps its proportions too.
    drawn(path, np.ones((2, 30), np.uint8), 2, "rectified", spacing_mm=(2, 1))
    height, width = largest_patch(path, ORANGE)
    assert width / height == pytest.approx(7.5, rel=0.12)


def share(path, value):
    """Share of the pixels in the color of a value, of a scale from -1 to 1."""
    color = np.round(255 * diverging(np.array(value)))
    return (np.abs(pixels(path) - color).max(axis=-1) <= 4).mean()


def test_a_scale_shows_what_one_large_value_hides(tmp_path):
    """Of 1s beside a 1000: white, about a quarter of the way to red, or all the way."""
    labels, path = np.zeros((20, 20), np.uint8), tmp_path / "a.png"
    values = np.full((1, 2, 20, 20), 1.0)
    values[0, 0, 0, 0] = 1000.0
    rwmaps = {"m": RWMap.from_dense(labels[None], values)}
    for scale, value in (("linear", 0.0), ("symlog", 0.27), ("robust", 1.0)):
        pictures.draw(labels, rwmaps, path, scale=scale)
        shares = {each: share(path, each) for each in (0.0, 0.27, 1.0)}
        assert max(shares, key=lambda each: shares[each]) == value
        assert shares[value] > 0.3


def test_borders_leave_vessels_to_be_seen(tmp_path):
    """The lines on both sides of a strip take at most a third of its width."""
    labels = np.zeros((600, 600), np.uint8)
    labels[:, 300:303] = 1
    svg = drawn(tmp_path / "a.svg", labels, 2, "active_contour").decode()
    lines = svg.split('id="LineCollection')[1:]
    widths = [float(re.search(r"stroke-width: ([\d.]+)", each)[1]) for each in lines]
    panels = [float(width) for width in re.findall(r'<image [^>]*width="([\d.]+)"', svg)]
    assert len(widths) == 6  # labels; all borders and those of the class in two channels; the bar
    assert 2 * max(widths[:5]) <= 3 * min(panels[:3]) / 600 / 3


def test_any_values_and_images_can_be_drawn(tmp_path):
    labels, path = anatomy(7, (12, 12), 2), tmp_path / "a.png"
    rwmaps = {
        str(value): RWMap.from_dense(labels[None], np.full((1, 2, 12, 12), value, np.float32))
        for value in (0.0, 1.0, -1e-30, 1e30, 3e38, np.nan)
    }
    for value in (0.0, 7.0, np.nan, np.inf):
        pictures.draw(labels, rwmaps, path, image=np.full(labels.shape, value))
        assert len(np.unique(pixels(path))) > 5
        rwmaps = {"1.0": rwmaps["1.0"]}
