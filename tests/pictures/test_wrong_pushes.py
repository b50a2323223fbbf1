"""Pictures of what is pushed the wrong way."""

import numpy as np
import pytest
from anatomy import anatomy
from drawn import pixels, words

from rwloss import Regions, RWLossError, RWMap
from rwloss.pictures.draw import draw_wrong_pushes


def uniform_map(labels, num_classes, changes):
    """0 at the true class and 1 at the others, but for the changes {(k, *place): value}."""
    values = np.ones((1, num_classes, *labels.shape))
    for k in range(num_classes):
        values[0, k][labels == k] = 0
    for at, value in changes.items():
        values[(0, *at)] = value
    return RWMap.from_dense(labels[None], values)


def picture(path, labels, rwmaps, **options):
    draw_wrong_pushes(labels, rwmaps, path, **options)
    return path


def reds_and_blues(path):
    """Number of pixels that are clearly red, and clearly blue."""
    red, _, blue = (pixels(path)[..., i].astype(int) for i in range(3))
    return int((red - blue > 90).sum()), int((blue - red > 90).sum())


def test_red_where_a_wrong_class_is_raised(tmp_path):
    labels = np.zeros((8, 8), dtype=int)
    labels[:, 4:] = 1
    block = {(2, row, column): -5.0 for row in range(3) for column in range(3)}
    right = uniform_map(labels, 3, {})
    wrong = uniform_map(labels, 3, block)
    options = {"spacing_mm": (1, 1), "title": "x"}
    red, blue = reds_and_blues(picture(tmp_path / "a.png", labels, {"m": wrong}, **options))
    # Red and blue of the labels and of the bar of the scale; the bar shows what occurs.
    clean = reds_and_blues(picture(tmp_path / "b.png", labels, {"m": right}, **options))
    assert red > clean[0] + 1000
    assert blue < clean[1]


def test_blue_where_the_true_class_is_lowered(tmp_path):
    labels = np.zeros((8, 8), dtype=int)
    labels[:, 4:] = 1
    block = {(1, row, column): 9.0 for row in range(3) for column in range(5, 8)}
    wrong, right = uniform_map(labels, 3, block), uniform_map(labels, 3, {})
    _, blue = reds_and_blues(picture(tmp_path / "a.png", labels, {"m": wrong}))
    _, clean = reds_and_blues(picture(tmp_path / "b.png", labels, {"m": right}))
    assert blue > clean + 1000


def test_shows_the_slice_with_the_most_and_says_how_much(tmp_path):
    labels = anatomy(3, (6, 10, 12), 3).astype(int)
    wrong = uniform_map(labels, 3, {(2, 1, 4, 5): -50.0, (1, 1, 4, 6): -50.0})
    path = picture(
        tmp_path / "a.svg", labels, {"broken": wrong}, spacing_mm=(3, 1, 1), probs="uniform"
    )
    found = " ".join(words(path.read_bytes()))
    assert "Slice 1 of 0..5 along axis 0." in found
    assert "of the push in this slice goes the wrong way" in found
    assert "at uniform probabilities" in found


def test_nothing_wrong_says_so_and_shows_the_fullest_slice(tmp_path):
    labels = np.zeros((4, 9, 9), dtype=int)
    labels[2, 2:5, 2:5], labels[2, 6:, 6:] = 1, 2
    fine = uniform_map(labels, 3, {})
    path = picture(tmp_path / "a.svg", labels, {"fine": fine}, spacing_mm=(5, 1, 1))
    found = " ".join(words(path.read_bytes()))
    assert "fine: no push goes the wrong way" in found
    assert "Slice 2 of 0..3 along axis 0." in found


def test_given_probabilities_ignored_voxels_and_many_classes(tmp_path):
    rng = np.random.default_rng(0)
    regions = Regions.single(anatomy(3, (12, 14), 9), 9, ignore_label=8)
    values = rng.normal(0, 1, (1, 9, 12, 14)) * (regions.labels >= 0)[:, None]
    probs = rng.dirichlet(np.ones(9), (1, 12, 14)).transpose(0, 3, 1, 2)
    rwmap = RWMap.from_dense(regions.labels, values)
    path = picture(tmp_path / "a.svg", regions.labels[0], {"m": rwmap}, given=probs, probs="random")
    found = " ".join(words(path.read_bytes()))
    assert "ignored" in found
    assert "6 of 9 classes" in found
    assert "at random probabilities" in found


def test_wrong_input_is_an_error(tmp_path):
    labels = np.zeros((8, 8), dtype=int)
    rwmap = uniform_map(labels, 2, {})
    with pytest.raises(RWLossError, match="one map or more"):
        draw_wrong_pushes(labels, {}, tmp_path / "a.png")
    with pytest.raises(RWLossError, match=r"\.png"):
        draw_wrong_pushes(labels, {"m": rwmap}, tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())
