"""Betti numbers against the ranks of boundary matrices, and against scikit-image's Euler number."""

import itertools

import numpy as np
import pytest

from rwloss.metrics import betti_numbers, measure


def cells_of(mask):
    """Cells of the closed voxels by dimension, as sets of points of the grid at half spacing."""
    found = [set() for _ in range(mask.ndim + 1)]
    for voxel in np.argwhere(mask):
        for step in itertools.product((-1, 0, 1), repeat=mask.ndim):
            found[step.count(0)].add(tuple(2 * voxel + step))
    return [sorted(each) for each in found]


def rank_of_boundary(cells, faces):
    """Rank over the field of two elements of the matrix that sends each cell to its faces."""
    place, rank, rows = {face: n for n, face in enumerate(faces)}, 0, []
    for cell in cells:
        row = 0
        for axis, at in enumerate(cell):
            if at % 2 == 0:  # the cell is wide along this axis: voxel centers are even
                for step in (-1, 1):
                    row ^= 1 << place[(*cell[:axis], at + step, *cell[axis + 1 :])]
        rows.append(row)
    while rows:
        pivot = rows.pop()
        if pivot:
            rank += 1
            low = pivot & -pivot
            rows = [row ^ pivot if row & low else row for row in rows]
    return rank


def plain_betti_numbers(mask):
    """The definition: cells of each dimension less the ranks of the boundaries on both sides."""
    cells = cells_of(mask)
    ranks = [0, *(rank_of_boundary(cells[n], cells[n - 1]) for n in range(1, mask.ndim + 1)), 0]
    return tuple(len(cells[n]) - ranks[n] - ranks[n + 1] for n in range(mask.ndim))


def test_every_mask_of_three_by_three():
    for bits in itertools.product((False, True), repeat=9):
        mask = np.reshape(bits, (3, 3))
        assert betti_numbers(mask) == plain_betti_numbers(mask), mask


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_random_volumes(density):
    for seed in range(6):
        mask = np.random.default_rng(seed).random((4, 3, 5)) < density
        assert betti_numbers(mask) == plain_betti_numbers(mask), mask


def solid(inside=()):
    """A cube of 5 voxels without these, at the border of its image."""
    mask = np.ones((5, 5, 5), bool)
    for place in inside:
        mask[place] = False
    return mask


@pytest.mark.parametrize(
    ("mask", "numbers"),
    [
        (solid(), (1, 0, 0)),
        (solid([(2, 2, 2)]), (1, 0, 1)),
        (solid([(slice(None), 2, 2)]), (1, 1, 0)),
        (solid([(slice(None), 2, 2), (2, slice(None), 2)]), (1, 3, 0)),
        (solid([(1, 1, 1), (3, 3, 3)]), (1, 0, 2)),
        (solid([(1, 1, 1), (2, 2, 2)]), (1, 0, 2)),  # holes that share a corner stay two
        (solid() & False, (0, 0, 0)),
        (np.eye(4, dtype=bool), (1, 0)),  # voxels that share a corner are one
        (1 - np.eye(2, dtype=int) > 0, (1, 0)),
    ],
)
def test_known_shapes(mask, numbers):
    assert betti_numbers(mask) == numbers


@pytest.mark.parametrize("shape", [(40, 50), (14, 12, 16)])
def test_alternating_sum_is_the_euler_number(shape):
    measured = pytest.importorskip("skimage.measure", reason="scikit-image is not installed")
    for seed in range(3):
        mask = np.random.default_rng(seed).random(shape) < 0.4
        numbers = betti_numbers(mask)
        total = sum((-1) ** n * number for n, number in enumerate(numbers))
        assert total == measured.euler_number(mask, connectivity=mask.ndim)


def test_errors():
    found = measure(solid([(slice(None), 2, 2)]), solid([(2, 2, 2)]), ["all"])
    assert [found[f"betti_{n}_error"] for n in range(3)] == [0, 1, 1]
