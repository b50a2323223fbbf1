"""The whole sheet: its size, its words, and that no setting of matplotlib changes it."""

import matplotlib
import numpy as np
import pytest
from anatomy import anatomy
from drawn import drawn, note, pixels, words

from rwloss import pictures


@pytest.mark.parametrize(("num_classes", "with_image"), [(2, False), (5, True)])
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
    labels, path = anatomy(2, (12, 16), 3), tmp_path / "a.png"

    def size(num_classes, *texts):
        drawn(path, labels, num_classes, *texts)
        return pixels(path).shape

    one = size(3, "active_contour")
    assert size(3, "active_contour", "rectified", "class_weighted")[0] > 2 * one[0]
    assert size(5, "active_contour")[1] > 1.4 * one[1]


def test_many_classes_are_limited_and_counted(tmp_path):
    labels = np.repeat(np.arange(16), 5)[None].repeat(30, axis=0)
    labels[:, :40] = 3
    svg = drawn(tmp_path / "a.svg", labels, 16, "rectified")
    assert f"{pictures.MAX_CLASSES} of 16 classes" in note(svg)
    # Six columns, of the largest and the first of equals; the legend names the present ones.
    found = [words(svg).count(f"class {k}") for k in (3, 8, 14, 1)]
    assert found == [2, 2, 1, 0]


def test_settings_of_matplotlib_neither_matter_nor_change(tmp_path):
    labels = anatomy(11, (12, 12), 2)
    plain = drawn(tmp_path / "a.png", labels, 2, "boundary")
    with matplotlib.rc_context({"text.usetex": True, "figure.facecolor": "black", "font.size": 40}):
        before = dict(matplotlib.rcParams)
        assert drawn(tmp_path / "b.png", labels, 2, "boundary") == plain
        assert dict(matplotlib.rcParams) == before


def test_any_text_can_be_a_title_a_class_and_a_unit(tmp_path):
    path, labels = tmp_path / "a.svg", anatomy(5, (9, 9), 2)
    dollar = "$x^2$ cost $5 and \\alpha_{"
    for title in (dollar, "a--b <&> 名前 случай \udcff\x1b[1m", "  ", "w" * 5000):
        options = {"class_names": ("background", title), "units": {"rectified": title}}
        svg = drawn(path, labels, 2, "rectified", title=title, **options)
        assert float(svg.decode().split('width="')[1].split("pt")[0]) < 900
        assert title != dollar or dollar in words(svg)  # a letter, never the start of a formula
