"""The whole sheet: its size, and that no setting of matplotlib changes it."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from anatomy import anatomy
from drawn import drawn, pixels


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("with_image", [True, False], ids=["image", "no image"])
def test_a_picture_is_a_png_with_colours(tmp_path, num_classes, with_image):
    labels = anatomy(1, (30, 40), num_classes)
    image = labels + np.random.default_rng(0).normal(size=labels.shape) if with_image else None
    path = tmp_path / "case.png"
    drawn(path, labels, num_classes, "boundary", "rectified", image=image)
    rgb = pixels(path)
    assert 400 < rgb.shape[0] < 1500
    assert 600 < rgb.shape[1] < 2500
    assert len(np.unique(rgb @ (1, 256, 65536))) > 50
    assert (rgb == 255).all(axis=-1).mean() < 0.7


def test_every_map_adds_a_row_and_every_class_a_column(tmp_path):
    labels = anatomy(2, (30, 40), 3)
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    drawn(one, labels, 3, "active_contour")
    drawn(two, labels, 3, "active_contour", "rectified", "class_weighted")
    wide = tmp_path / "wide.png"
    drawn(wide, labels, 5, "active_contour")
    assert pixels(two).shape[0] > 2 * pixels(one).shape[0]
    assert pixels(wide).shape[1] > 1.4 * pixels(one).shape[1]


def test_settings_of_matplotlib_neither_matter_nor_change(tmp_path):
    labels = anatomy(11, (12, 12), 2)
    plain = drawn(tmp_path / "a.png", labels, 2, "boundary")
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "black", "font.size": 40}):
        before = dict(matplotlib.rcParams)
        assert drawn(tmp_path / "b.png", labels, 2, "boundary") == plain
        assert dict(matplotlib.rcParams) == before
