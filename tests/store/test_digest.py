"""Digests: equal for equal content, another for any other."""

import hashlib
import itertools

import numpy as np
import pytest

from rwloss.store import labels_digest
from rwloss.store.digest import files_digest

LABELS = np.arange(24).reshape(2, 3, 4) % 5


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", ">i4", "uint32", "int64"])
@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_same_content_same_digest(dtype, order):
    if order == "strided":
        other = np.repeat(LABELS, 2, axis=1).astype(dtype)[:, ::2]
    else:
        other = np.array(LABELS, dtype=dtype, order=order)
    assert labels_digest(other, (1, 2, 3)) == labels_digest(LABELS, (1.0, 2.0, 3.0))


@pytest.mark.parametrize("shift", [-3, 250, 2**15 - 3, 2**31])
def test_values_of_every_size_count(shift):
    labels = LABELS + shift
    assert labels_digest(labels, (1, 1, 1)) != labels_digest(LABELS, (1, 1, 1))
    assert labels_digest(labels, (1, 1, 1)) == labels_digest(np.asfortranarray(labels), (1, 1, 1))


def test_each_voxel_counts():
    labels = np.zeros((2, 3), np.uint8)
    digests = {labels_digest(labels, (1, 1))}
    for at in itertools.product(range(2), range(3)):
        other = labels.copy()
        other[at] = 1
        digests.add(labels_digest(other, (1, 1)))
    assert len(digests) == 7


def test_other_labels_shape_or_spacing_give_another_digest():
    changed = LABELS.copy()
    changed[0, 0, 0] = 4
    cases = [
        (LABELS, (1, 1, 1)),
        (changed, (1, 1, 1)),
        (LABELS.reshape(2, 4, 3), (1, 1, 1)),
        (LABELS.reshape(4, 3, 2), (1, 1, 1)),
        (LABELS.transpose(2, 1, 0), (1, 1, 1)),
        (LABELS.reshape(6, 4), (1, 1)),
        (LABELS, (1, 1, 2)),
        (LABELS, (2, 1, 1)),
        (LABELS, (1, 1, np.nextafter(1, 2))),
        (LABELS + 2**15, (1, 1, 1)),
        # The low byte of each is that of the first.
        (LABELS + 2**8, (1, 1, 1)),
        # Stores keep the affine of the file.
        (LABELS, (1, 1, 1), np.eye(4)),
        (LABELS, (1, 1, 1), np.diag([-1.0, 1.0, 1.0, 1.0])),
    ]
    assert len({labels_digest(*case) for case in cases}) == len(cases)


def test_a_file_alone_is_known_by_its_bytes():
    assert files_digest({"": b"abc"}) == hashlib.sha256(b"abc").hexdigest()


def test_files_are_known_by_names_and_bytes():
    files = {"a": b"xy", "b/c": b"z"}
    assert files_digest(files) == files_digest(dict(reversed(files.items())))
    others = [
        files,
        {"a": b"xy"},
        {"a": b"xy", "b/c": b"Z"},
        {"a": b"xy", "b/d": b"z"},
        {"a": b"xyb/c", "": b"z"},
        {"a": b"x", "b/c": b"yz"},
        {"a": b"xy", "b/c": b"z", "d": b""},
    ]
    assert len(set(map(files_digest, others))) == len(others)
