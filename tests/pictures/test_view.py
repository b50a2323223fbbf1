"""Which slice is looked at, and which way up."""

import numpy as np
import pytest
from anatomy import anatomy

from rwloss import RWLossError
from rwloss.pictures.view import choose_view


def chosen(labels, spacing_mm=None, affine=None, axis=None, index=None):
    return choose_view(labels, spacing_mm or (1.0,) * labels.ndim, affine, axis, index)


def test_takes_the_slice_with_most_classes_then_most_foreground():
    labels = np.zeros((9, 20, 20), np.int32)
    labels[2, 2:18, 2:18] = 1  # the most foreground, of one class
    labels[5, 2:6, 2:6], labels[5, 8:12, 8:12] = 1, 2
    labels[7, 2:6, 2:6], labels[7, 8:14, 8:14] = 1, 2
    view = chosen(labels, axis=0)
    assert (view.axis, view.index, view.text) == (0, 7, "Slice 7 of 0..8 along axis 0.")
    np.testing.assert_array_equal(view.cut(labels), labels[7])
    np.testing.assert_array_equal(chosen(labels, axis=0, index=5).cut(labels), labels[5])
    labels[1] = -1  # ignored voxels do not attract the slice
    assert chosen(labels, axis=0).index == 7


def test_cuts_across_the_largest_spacing():
    labels = anatomy(8, (8, 9, 10), 3, np.int32)
    for spacing_mm, axis in (((1, 1, 1), 2), ((4, 1, 1), 0), ((1, 2, 1), 1)):
        assert chosen(labels, spacing_mm).axis == axis
    for axis in range(3):  # a single slice, whatever its spacing
        one = np.zeros(np.insert((48, 56), axis, 1), np.int32)
        view = chosen(one, (1.5, 1.5, 1.5) if axis else (1.0, 1.5, 1.5))
        assert (view.axis, view.cut(one).shape) == (axis, (48, 56))


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
def test_the_affine_puts_right_anterior_superior_right_and_up(directions, as_seen):
    labels = anatomy(9, (14, 17), 3, np.int32)
    affine = np.eye(4)
    affine[:3, :2] = directions
    np.testing.assert_array_equal(chosen(labels, affine=affine).cut(labels), as_seen(labels))


def test_the_spacing_turns_with_the_slice():
    labels = anatomy(9, (14, 17, 5), 3, np.int32)
    view = chosen(labels, (1, 2, 3), np.eye(4), 2, 2)
    assert view.step_mm == (2, 1)
    np.testing.assert_array_equal(view.cut(labels), labels[..., 2].T[::-1])


def test_a_slice_that_is_not_there_is_an_error():
    for shape, options, message in (
        ((4, 5, 6), {"axis": 3}, r"axis of 0\.\.2, got 3"),
        ((4, 5, 6), {"axis": 0, "index": 4}, r"slice of 0\.\.3 along axis 0, got 4"),
        ((4, 5, 6), {"index": -1}, r"slice of 0\.\.5 along axis 2, got -1"),
        ((4, 5), {"axis": 0}, "have no slices"),
        ((4, 5), {"index": 0}, "have no slices"),
    ):
        with pytest.raises(RWLossError, match=message):
            chosen(anatomy(10, shape, 2, np.int32), **options)
