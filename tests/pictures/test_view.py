"""Which slice is drawn, and which way up."""

from __future__ import annotations

import numpy as np
import pytest
from anatomy import anatomy
from drawn import drawn, note

from rwloss import RWLossError


def test_takes_the_slice_with_most_classes_then_most_foreground(tmp_path):
    labels = np.zeros((9, 20, 20), np.uint8)
    labels[2, 2:18, 2:18] = 1  # the most foreground, of one class
    labels[5, 2:6, 2:6], labels[5, 8:12, 8:12] = 1, 2
    labels[7, 2:6, 2:6], labels[7, 8:14, 8:14] = 1, 2
    options = {"axis": 0}
    chosen = drawn(tmp_path / "a.svg", labels, 3, "rectified", **options)
    assert "Slice 7 of 0..8 along axis 0." in note(chosen)
    same = drawn(tmp_path / "b.svg", labels, 3, "rectified", slice_index=7, **options)
    other = drawn(tmp_path / "c.svg", labels, 3, "rectified", slice_index=5, **options)
    assert chosen == same != other


@pytest.mark.parametrize(
    ("spacing_mm", "axis"), [(None, 2), ((1, 1, 1), 2), ((4, 1, 1), 0), ((1, 2, 1), 1)]
)
def test_cuts_across_the_largest_spacing(tmp_path, spacing_mm, axis):
    labels = anatomy(8, (8, 9, 10), 3)
    svg = drawn(tmp_path / "a.svg", labels, 3, "boundary", spacing_mm=spacing_mm)
    assert f"along axis {axis}." in note(svg)


def test_ignored_voxels_do_not_attract_the_slice(tmp_path):
    labels = np.zeros((4, 12, 12), np.uint8)
    labels[1], labels[2, 3:6, 3:6] = 255, 1
    svg = drawn(tmp_path / "a.svg", labels, 2, "boundary", axis=0, ignore_label=255)
    assert "Slice 2 of" in note(svg)


@pytest.mark.parametrize(
    ("directions", "as_seen"),
    [
        ([[1, 0], [0, 1], [0, 0]], lambda a: a.T[::-1]),  # right, anterior: an axial slice
        ([[-1, 0], [0, -1], [0, 0]], lambda a: a.T[:, ::-1]),  # left, posterior
        ([[0, 1], [1, 0], [0, 0]], lambda a: a[::-1]),  # anterior, right
        ([[0, 0], [0, 1], [-1, 0]], lambda a: a),  # inferior, anterior: a sagittal slice
    ],
    ids=["RA", "LP", "AR", "IA"],
)
def test_the_affine_puts_right_anterior_superior_right_and_up(tmp_path, directions, as_seen):
    labels = anatomy(9, (14, 17), 3)
    affine = np.eye(4)
    affine[:3, :2] = directions
    turned = drawn(tmp_path / "a.svg", labels, 3, "rectified", affine=affine)
    assert turned == drawn(tmp_path / "b.svg", as_seen(labels), 3, "rectified")


def test_the_spacing_turns_with_the_slice(tmp_path):
    labels = anatomy(9, (14, 17, 5), 3)
    options = {"axis": 2, "slice_index": 2}
    turned = drawn(
        tmp_path / "a.svg", labels, 3, "boundary", spacing_mm=(1, 2, 3), affine=np.eye(4), **options
    )
    by_hand = labels.transpose(1, 0, 2)[::-1]
    assert turned == drawn(
        tmp_path / "b.svg", by_hand, 3, "boundary", spacing_mm=(2, 1, 3), **options
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": 3}, "axis of 0..2, got 3"),
        ({"axis": 0, "slice_index": 4}, "slice of 0..3 along axis 0, got 4"),
        ({"slice_index": -1}, "slice of 0..5 along axis 2, got -1"),
    ],
)
def test_a_slice_that_is_not_there_is_an_error(tmp_path, options, message):
    with pytest.raises(RWLossError, match=message):
        drawn(tmp_path / "a.png", anatomy(10, (4, 5, 6), 2), 2, "boundary", **options)
