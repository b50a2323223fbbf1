"""Labels that Regions takes, and those that it refuses."""

import re

import numpy as np
import pytest
import torch
from anatomy import anatomy, batch

import rwloss
from rwloss import Regions, RWLossError
from rwloss.arrays import to_numpy

NUMBERS = ["int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def assert_equal(found, wanted):
    np.testing.assert_array_equal(to_numpy(found), to_numpy(wanted))


def test_types_of_labels():
    labels = batch(8, (6, 7))
    usual = Regions(labels, 4)
    wanted = [getattr(usual, name) for name in ("labels", "depth_mm", "counts", "peak_depth_mm")]
    boundary = rwloss.maps.get("boundary")
    given = [labels.astype(np.dtype(f"{n}").newbyteorder(o)) for n in NUMBERS for o in "<>"]
    given += [labels.astype(np.dtype(f"u{n}").newbyteorder(o)) for n in NUMBERS[:4] for o in "<>"]
    whole = torch.as_tensor(labels.astype(np.int64))
    given += [whole.to(getattr(torch, name)) for name in [*NUMBERS, "bfloat16"]]
    given += [whole.to(getattr(torch, f"u{name}")) for name in NUMBERS[:4]]
    for one in given:
        regions = Regions(one, 4)
        assert not str(regions.labels.dtype).removeprefix("torch.").startswith("f"), one.dtype
        assert not isinstance(one, np.ndarray) or regions.labels.dtype.isnative
        found = (regions.labels, regions.depth_mm, regions.counts, regions.peak_depth_mm)
        for part, expected in zip(found, wanted, strict=True):
            assert_equal(part, expected)
        assert_equal(boundary(regions).dense(), boundary(usual).dense())


def test_boolean_labels(kind):
    labels = batch(9, (6, 7), num_classes=2)
    regions = Regions(kind(labels.astype(bool)), 2)
    assert_equal(regions.labels, labels)
    assert_equal(regions.depth_mm, Regions(labels, 2).depth_mm)


def test_no_image(kind):
    regions = Regions(kind(np.zeros((0, 4, 5), dtype=np.int64)), 3, (1, 2))
    assert regions.depth_mm.shape == (0, 4, 5)
    assert regions.peak_depth_mm.shape == (0, 3)
    assert regions.counts.shape == (0, 3)
    assert regions.signed_distance_mm(1).shape == (0, 4, 5)
    for name in ("active_contour", "boundary", "class_weighted", "rectified"):
        assert tuple(rwloss.maps.get(name)(regions).dense().shape) == (0, 3, 4, 5), name


def test_single_adds_the_batch_axis(kind):
    volume = kind(anatomy(10, (5, 6, 7)))
    regions = Regions.single(volume, 4, (0.8, 0.8, 2.5))
    assert tuple(regions.labels.shape) == (1, 5, 6, 7)
    assert_equal(regions.depth_mm, Regions(volume[None], 4, (0.8, 0.8, 2.5)).depth_mm)


def test_input_stays_as_it_is():
    labels = batch(11, (6, 7))
    labels[0, 0, 0] = 255
    before = labels.copy()
    labels.flags.writeable = False
    regions = Regions(labels, 4, (1, 2), ignore_label=255)
    for name in ("active_contour", "boundary", "class_weighted", "rectified"):
        rwloss.maps.get(name)(regions)
    assert_equal(labels, before)


def test_whole_number_of_classes():
    for num_classes in (4, np.int64(4), 4.0):
        regions = Regions(batch(11, (6, 7)), num_classes)
        assert regions.num_classes == 4
        assert type(regions.num_classes) is int


# --- Labels: what is refused, and how


def refused(message, labels, num_classes=3, **more):
    with pytest.raises(RWLossError, match=re.escape(message)):
        Regions(labels, num_classes, **more)


def test_label_that_is_no_class(kind):
    for label, dtypes, instead in [
        (-3, ["i1", "i8", "f4"], "ignore_label=-3"),
        (3, ["u1", "i2", "f8"], "num_classes=4 or ignore_label=3"),
        (255, ["u1"], "num_classes=256 or ignore_label=255"),
    ]:
        message = f"label {label} found, but num_classes=3 allows 0..2: pass {instead} "
        for dtype in dtypes:
            refused(message, kind(np.array([[[0, 1], [label, 2]]], dtype=dtype)))


def test_a_mask_is_not_advised_to_ignore_its_foreground(kind):
    mask = kind(np.array([[[0, 255], [255, 0]]], dtype=np.uint8))
    with pytest.raises(RWLossError, match=r"label 255 found.*of a mask, store it as 1 \(to ignore"):
        Regions(mask, 2)
    with pytest.raises(RWLossError, match=r"if 255 is .* store it as 1; else pass num_classes=256"):
        Regions(mask, 3)
    with pytest.raises(RWLossError, match="pass num_classes=256 or ignore_label=255"):
        Regions(kind(np.array([[[0, 255], [1, 0]]], dtype=np.uint8)), 2)


def test_grey_values_and_gaps_are_not_advised_to_be_ignored(kind):
    grey = kind(np.array([[[0, 31], [255, 1]]], dtype=np.uint8))
    with pytest.raises(
        RWLossError, match=r"one of 2 .* num_classes=256; if they are gray values"
    ) as caught:
        Regions(grey, 2)
    assert "ignore" not in str(caught.value)
    with pytest.raises(RWLossError, match=r"fix the labels \(if .* a gap, number 4 as 3\)"):
        Regions(kind(np.array([[[0, 1], [4, 2]]], dtype=np.uint8)), 4)


def test_label_that_is_not_whole(kind):
    for value, shown in [(0.25, "0.25"), (np.nan, ""), (np.inf, ""), (-np.inf, ""), (1e30, "")]:
        refused(f"expected whole labels, got {shown}", kind(np.array([[[0, 1], [value, 2]]])))
    for dtype in (complex, "U1", object, "M8[s]"):
        refused("expected whole labels, got dtype", np.zeros((1, 2, 2), dtype=dtype))


def test_labels_of_other_shapes(kind):
    for shape in [(2, 2), (1, 1, 2, 2, 2)]:
        message = f"expected labels (b *s) with *s 2-D or 3-D, got shape {shape}: for one image "
        message += "without the batch axis use Regions.single"
        refused(message, kind(np.zeros(shape, int)))
    with pytest.raises(RWLossError, match=r"got shape \(1, 2, 2, 2\): for a batch use Regions"):
        Regions.single(kind(np.zeros((1, 2, 2, 2), int)), 2)
    for make in (Regions, Regions.single):
        with pytest.raises(RWLossError, match="expected a NumPy array or a torch tensor, got list"):
            make([[[0, 1], [1, 0]]], 2)


def test_number_of_classes_that_cannot_be():
    for number in (1, 0, -2):
        refused("expected num_classes of 2 or more", np.zeros((1, 2, 2), int), number)
    for number in (2.5, True):
        refused("expected a whole num_classes", np.zeros((1, 2, 2), int), number)
