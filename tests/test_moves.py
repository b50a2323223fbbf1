"""Flips, turns and crops of maps and regions: by hand, against NumPy, and by the laws of moves."""

import copy
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from anatomy import batch
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, kinds, random_map, some_labels

from rwloss import Regions, RegionWiseLoss, RWLossError, RWMap, maps, moves
from rwloss.arrays import is_torch, namespace, to_numpy

forms = st.sampled_from(["compact", "dense"])


LABELS = np.array([[[0, 1, 2], [0, 0, -1]]], dtype=np.int8)


def parts(x):
    named = zip(x.part_names, x.parts, strict=True) if isinstance(x, RWMap) else ()
    return {"labels": x.labels, **dict(named)}


def assert_same(found, wanted):
    """The same bytes in every part, of the same type; the same spacing and ignored voxels."""
    assert type(found) is type(wanted)
    assert found.num_classes == wanted.num_classes
    assert parts(found).keys() == parts(wanted).keys()
    for name, part in parts(found).items():
        other = parts(wanted)[name]
        assert type(part) is type(other)
        assert getattr(part, "device", None) == getattr(other, "device", None)
        assert part.dtype == other.dtype
        assert part.shape == other.shape
        assert to_numpy(part).tobytes() == to_numpy(other).tobytes()
    assert found.spacing_mm == wanted.spacing_mm
    if isinstance(found, Regions):
        assert (found.ignored is None) == (wanted.ignored is None)


# --- By hand

# LABELS are [[0, 1, 2], [0, 0, ignored]]; these are their moves and those of 1..6.
BY_HAND = {
    "flip": (partial(moves.flip, axes=1), [[2, 1, 0], [-1, 0, 0]], [[3, 2, 1], [6, 5, 4]]),
    "turn": (moves.rot90, [[2, -1], [1, 0], [0, 0]], [[3, 6], [2, 5], [1, 4]]),
    "turn back": (
        partial(moves.rot90, axes=(1, 0)),
        [[0, 0], [0, 1], [-1, 2]],
        [[4, 1], [5, 2], [6, 3]],
    ),
    "crop": (partial(moves.crop, region=np.s_[:, 1:3]), [[1, 2], [0, -1]], [[2, 3], [5, 6]]),
    "crop from the end": (partial(moves.crop, region=np.s_[1:2, -2:-1]), [[0]], [[5]]),
    "crop beyond": (partial(moves.crop, region=np.s_[-9:9, 2:9]), [[2], [-1]], [[3], [6]]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_moves_by_hand(name, kind):
    """A compact map, a dense one, and regions with a spacing for each image; 7 is ignored."""
    move, labels, counting = BY_HAND[name]
    of_class = np.array([1.0, 100.0, -1.0]).reshape(1, 3, 1, 1)

    def both(labels, plane):
        labels, plane = kind(np.array(labels, np.int8)), np.array(plane, np.float32)
        yield RWMap.compact(labels, 3, true=kind(plane), other=kind(-10.0 * plane))
        yield RWMap.from_dense(labels, kind(of_class * plane[:, None]))

    before = both(LABELS, np.arange(1, 7).reshape(1, 2, 3))
    for rwmap, wanted in zip(before, both([labels], [counting]), strict=True):
        assert_same(move(rwmap), wanted)

    sevens, rows = np.concatenate([LABELS, LABELS]), [(1.0, 2.5), (0.5, 4.0)]
    sevens[sevens == -1] = 7
    found = move(Regions(kind(sevens), 3, rows, ignore_label=7))
    if name in {"turn", "turn back"}:
        rows = [(2.5, 1.0), (4.0, 0.5)]
    wanted = np.array([labels, labels], dtype=np.int8)
    assert_same(found, Regions(kind(wanted), 3, rows, ignore_label=-1))
    np.testing.assert_array_equal(to_numpy(found.ignored), wanted == -1)


def test_a_turn_takes_the_first_axis_to_the_second():
    """In 3-D, each pair: what lay along the first lies along the second, in the same order."""
    for first, second in itertools.permutations(range(3), 2):
        along = np.moveaxis(np.arange(1, 4, dtype=np.uint8).reshape(3, 1, 1), 0, first)
        found = moves.rot90(Regions(along[None], 4, (1, 2, 3)), axes=(first, second))
        assert found.labels.shape[1 + second] == 3
        assert found.labels.ravel().tolist() == [1, 2, 3]
        row = [1.0, 2.0, 3.0]
        row[first], row[second] = row[second], row[first]
        assert found.spacings_mm == (tuple(row),)


# --- Against NumPy


@st.composite
def moved_by_numpy(draw, shape):
    """A move of images (*s) of this shape, and what NumPy does to arrays (... *s)."""
    axes = len(shape)
    which = draw(st.sampled_from(["flip", "rot90", "crop"]))
    if which == "flip":
        chosen = draw(st.lists(st.integers(0, axes - 1), unique=True))
        chosen = [axis - draw(st.sampled_from([0, axes])) for axis in chosen]
        ours = [axis % axes - axes for axis in chosen]
        return partial(moves.flip, axes=chosen), partial(np.flip, axis=tuple(ours))
    if which == "rot90":
        pair = draw(st.permutations(range(axes)))[:2]
        times = draw(st.integers(-5, 5))
        ours = [axis - axes for axis in pair]
        return partial(moves.rot90, times=times, axes=pair), partial(np.rot90, k=times, axes=ours)
    box = []
    for length in shape:
        start = draw(st.integers(0, length - 1))
        box.append(slice(start, draw(st.integers(start + 1, length))))
    return partial(moves.crop, region=box), lambda array: array[(..., *box)]


@few
@given(
    some_labels(), forms, st.sampled_from([np.float16, np.float32, np.float64]), kinds, st.data()
)
def test_maps_and_regions_move_as_numpy_moves_their_arrays(case, form, dtype, kind, data):
    labels, num_classes, rng = case
    rwmap = random_map(labels, num_classes, form, rng, dtype, kind)
    rows = rng.uniform(0.1, 5, (len(labels), labels.ndim - 1))
    regions = Regions(kind(labels), num_classes, rows, ignore_label=-1)
    before = copy.deepcopy((rwmap, regions))
    move, by_numpy = data.draw(moved_by_numpy(labels.shape[1:]))
    found, moved = move(rwmap), move(regions)
    assert found.is_compact == rwmap.is_compact
    for name, part in parts(rwmap).items():
        np.testing.assert_array_equal(parts(found)[name], by_numpy(to_numpy(part)))
    np.testing.assert_array_equal(found.dense(), by_numpy(to_numpy(rwmap.dense())))
    assert found.dense().dtype == rwmap.dense().dtype
    np.testing.assert_array_equal(moved.labels, by_numpy(labels))
    np.testing.assert_array_equal(moved.ignored, by_numpy(labels == -1))
    order = list(range(labels.ndim - 1))
    if move.keywords.get("times", 0) % 2:
        a, b = move.keywords["axes"]
        order[a], order[b] = order[b], order[a]
    np.testing.assert_array_equal(moved.spacings_mm, rows[:, order])
    assert_same(rwmap, before[0])
    assert_same(regions, before[1])


def test_values_keep_every_bit(kind):
    for dtype in (np.float16, np.float32, np.float64):
        odd = [-0.0, 0.0, np.nan, -np.inf, np.finfo(dtype).smallest_subnormal, 1 / 3]
        odd = np.array(odd, dtype).reshape(1, 2, 3)
        rwmap = RWMap.compact(kind(LABELS), 3, kind(odd), kind(odd))
        assert to_numpy(moves.rot90(rwmap).true).tobytes() == np.rot90(odd[0]).tobytes()
        assert_same(moves.rot90(moves.rot90(rwmap), -1), rwmap)


def test_a_tensor_type_that_numpy_lacks(device):
    true = torch.arange(6, dtype=torch.bfloat16, device=device).reshape(1, 2, 3)
    labels = torch.as_tensor(LABELS, device=device)
    found = moves.rot90(RWMap.compact(labels, 3, true=true, other=-true))
    assert found.true.dtype == torch.bfloat16
    assert found.true.tolist() == [[[2, 5], [1, 4], [0, 3]]]


# --- Memory


def test_numpy_results_go_into_torch():
    """torch.from_numpy takes no negative strides."""
    labels = batch(3, (5, 6))
    for form in ("compact", "dense"):
        rwmap = random_map(labels, 4, form, np.random.default_rng(0), np.float32)
        for move in (moves.flip(rwmap, (0, 1)), moves.rot90(rwmap), moves.rot90(rwmap, 3)):
            for part in parts(move).values():
                np.testing.assert_array_equal(torch.from_numpy(part).numpy(), part)


def test_what_is_one_value_stays_one_value(kind):
    """Nobody has the memory to write these 4e10 voxels out."""
    shape = (1, 200_000, 200_000)
    labels, ones = kind(np.ones((), np.uint8)), kind(np.ones((), np.float32))
    labels, ones = (namespace(one).broadcast_to(one, shape) for one in (labels, ones))
    rwmap = RWMap.compact(labels, 2, true=ones, other=ones)
    found = [moves.flip(rwmap, (0, 1)), moves.crop(rwmap, np.s_[1:-1, :-4])]
    for moved in [*found, *(moves.rot90(rwmap, times) for times in (1, 2, 3))]:
        for part in parts(moved).values():
            strides = part.stride() if is_torch(part) else part.strides
            assert set(strides) == {0}
            assert part[0, 5, 7] == 1


def test_values_broadcast_along_one_axis(kind):
    """Along the other they differ."""
    ramp = np.broadcast_to(np.arange(6, dtype=np.float32), (1, 4, 6))
    one = kind(np.arange(6, dtype=np.float32))
    broadcast = namespace(one).broadcast_to(one, (1, 4, 6))
    rwmap = RWMap.compact(kind(np.zeros((1, 4, 6), np.uint8)), 2, broadcast, broadcast)
    for axes in [(1,), (2,), (1, 2)]:
        found = moves.flip(rwmap, [a - 1 for a in axes])
        np.testing.assert_array_equal(to_numpy(found.true), np.flip(ramp, axes))


def test_nothing_to_do_gives_the_same_object():
    """With its geometry, if it has been asked for."""
    regions = Regions(batch(3, (5, 6)), 4)
    assert moves.flip(regions, ()) is regions
    assert moves.rot90(regions, 8) is regions


def test_no_images_and_no_voxels(kind):
    for shape in [(0, 4, 5), (2, 0, 5)]:
        regions = Regions(kind(np.zeros(shape, dtype=np.int64)), 2, (1.0, 2.0))
        assert moves.flip(regions, 1).labels.shape == shape
        assert moves.rot90(regions).labels.shape == (shape[0], shape[2], shape[1])


# --- What follows from it


@pytest.mark.parametrize(
    ("shape", "spacing"), [((9, 14), (0.7, 2.0)), ((6, 8, 7), (0.7, 2.0, 1.1))]
)
def test_geometry_in_mm_turns_along_with_its_spacing(kind, shape, spacing):
    """And would not without: that is why regions turn as a whole."""
    labels = batch(3, shape)
    regions = Regions(kind(labels), 4, spacing)
    for first, second in itertools.combinations(range(len(shape)), 2):
        turned = moves.rot90(regions, axes=(first, second))
        on = (first + 1, second + 1)
        depth = np.rot90(to_numpy(regions.depth_mm), axes=on)
        np.testing.assert_allclose(to_numpy(turned.depth_mm), depth, rtol=1e-6)
        peaks = to_numpy(regions.peak_depth_mm)
        np.testing.assert_allclose(to_numpy(turned.peak_depth_mm), peaks, rtol=1e-6)
        old = Regions(turned.labels, 4, spacing).depth_mm
        assert np.abs(to_numpy(old) - depth).max() > 0.1


def test_masks_that_overlap_move_as_labels_of_their_own(kind):
    masks = np.random.default_rng(0).integers(0, 2, (2, 3, 4, 5))
    regions = Regions.from_masks(kind(masks), (1.0, 2.0))
    wanted = Regions.from_masks(kind(np.rot90(masks, axes=(2, 3)).copy()), (2.0, 1.0))
    assert_same(moves.rot90(regions), wanted)


@pytest.mark.parametrize("text", ["rectified + dice", "boundary + hausdorff_dt"])
def test_a_loss_takes_the_moved_map_with_the_moved_image_and_no_other(text, device):
    """Spacings that differ between images and axes; a flip, a turn and a crop after each other."""
    target = torch.as_tensor(batch(3, (12, 16)).astype(np.int64), device=device)
    logits = torch.as_tensor(np.random.default_rng(0).normal(size=(3, 4, 12, 16)), device=device)
    regions = Regions(target, 4, [(0.7, 2.0), (1.0, 3.0), (2.0, 1.0)])
    loss = RegionWiseLoss(text)
    rwmap = loss.expression.static_part(regions)
    before = loss(logits, target, rwmap, spacing_mm=regions.spacings_mm)

    rwmap, regions = (moves.rot90(moves.flip(x, 0)) for x in (rwmap, regions))
    turned = torch.rot90(logits.flip(2), dims=(2, 3))
    after = loss(turned, regions.labels, rwmap, spacing_mm=regions.spacings_mm)
    torch.testing.assert_close(after, before, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        loss(turned, regions.labels, spacing_mm=regions.spacings_mm), before, rtol=1e-6, atol=0
    )

    box = np.s_[4:12, 2:10]
    cropped = moves.crop(rwmap, box)
    assert loss(turned[:, :, *box], regions.labels[:, *box], cropped).isfinite()
    with pytest.raises(RWLossError, match="cropped, flipped and rotated together with the image"):
        loss(turned[:, :, *box], regions.labels[:, *box], moves.flip(cropped, 0))


def test_a_crop_of_the_map_is_not_the_map_of_the_crop():
    """An 8-voxel bar with its deepest voxels cut off: -1/4 becomes -1/2, then -1."""
    regions = Regions(np.array([[[0] + [1] * 8 + [0]] * 12]), 2)
    whole, box = maps.Rectified()(regions), np.s_[:, :3]
    assert moves.crop(whole, box).true[0, 0, 1:].tolist() == [-0.25, -0.5]
    assert maps.Rectified()(moves.crop(regions, box)).true[0, 0, 1:].tolist() == [-0.5, -1.0]


# --- Errors

WRONG = [
    (
        partial(moves.flip, axes=2),
        r"spatial axes of 0..1, or -2..-1 from the end, got 2: leave out",
    ),
    (partial(moves.flip, axes=(0, -3)), "got -3"),
    (partial(moves.flip, axes=(0, 0)), r"expected each axis once, got axes=\(0, 0\)"),
    (partial(moves.flip, axes=(1, -1)), r"expected each axis once, got axes=\(1, -1\)"),
    (partial(moves.flip, axes=None), "expected an integer axis, got None"),
    (partial(moves.flip, axes=1.0), "expected an integer axis, got 1.0"),
    (partial(moves.flip, axes=True), "expected an integer axis, got True"),
    (partial(moves.flip, axes=(True, False)), "expected an integer axis, got True"),
    (partial(moves.flip, axes="01"), "expected an integer axis, got '0'"),
    (partial(moves.rot90, axes=(0, 0)), "expected each axis once"),
    (partial(moves.rot90, axes=(0, -2)), "expected each axis once"),
    (partial(moves.rot90, times=0, axes=(1, 1)), "expected each axis once"),
    (partial(moves.rot90, axes=(0, 2)), "got 2: leave out batch and classes"),
    (partial(moves.rot90, axes=(0,)), r"expected two axes to rotate, got axes=\(0,\)"),
    (partial(moves.rot90, axes=1), "expected two axes to rotate, got axes=1"),
    (partial(moves.rot90, times=0.5), "expected an integer number of 90° rotations, got 0.5"),
    (partial(moves.crop, region=np.s_[1:2]), "a slice for each of 2 spatial axes, got slice"),
    (partial(moves.crop, region=np.s_[1:2,]), "a slice for each of 2 spatial axes"),
    (partial(moves.crop, region=np.s_[:, :, 1:2, 1:2]), "leave out batch and classes"),
    (partial(moves.crop, region=np.s_[..., 1:2]), "a slice for each of 2 spatial axes"),
    (partial(moves.crop, region=np.s_[0, 1:2]), "a slice for each of 2 spatial axes"),
    (partial(moves.crop, region=np.s_[::2, :]), r"slices of step 1, got slice\(None, None, 2\)"),
    (partial(moves.crop, region=np.s_[:, ::-1]), "to mirror, use flip"),
    (partial(moves.crop, region=np.s_[:, ::0]), "whole numbers in a slice of step 1"),
    (partial(moves.crop, region=np.s_[:, 0.5:2]), "whole numbers in a slice of step 1"),
    (partial(moves.crop, region=np.s_[:, 2:2]), r"slice\(2, 2, None\) of an axis of 3 voxels is"),
    (partial(moves.crop, region=np.s_[5:9, :]), "of an axis of 2 voxels is empty"),
    (partial(moves.crop, region=np.s_[1:-1, :]), "of an axis of 2 voxels is empty"),
]


def test_wrong_moves(kind):
    labels, ones = kind(LABELS), kind(np.ones(LABELS.shape))
    things = (Regions(labels, 3, ignore_label=-1), RWMap.compact(labels, 3, true=ones, other=ones))
    for x, (move, message) in itertools.product(things, WRONG):
        with pytest.raises(RWLossError, match=message):
            move(x)


def test_axes_may_be_of_arrays(kind):
    regions = Regions(kind(np.array([[[0, 1, 1]]])), 2)
    for axis in (np.int64(1), np.array(1), torch.tensor(1), np.array([1])):
        assert moves.flip(regions, axis).labels.tolist() == [[[1, 1, 0]]]


def test_only_maps_and_regions_move():
    for thing in (np.zeros((1, 2, 3)), torch.zeros(1, 2, 3), None, [[0]]):
        for move in (moves.rot90, partial(moves.flip, axes=0), partial(moves.crop, region=[])):
            with pytest.raises(RWLossError, match=r"expected an RWMap or Regions, got .*NumPy"):
                move(thing)


def test_what_a_map_cannot_follow_is_refused():
    """However it is called."""
    regions = Regions(batch(3, (5, 6)), 4)
    for name, x in itertools.product(("pad", "zoom", "warp"), (regions, maps.Rectified()(regions))):
        for arguments, settings in [((), {}), ((2,), {}), (((1, 1), 3), {"mode": "constant"})]:
            with pytest.raises(RWLossError) as caught:
                getattr(moves, name)(x, *arguments, **settings)
            assert str(caught.value).startswith(f"a map can't follow a {name}: ")
            assert "on the fly: RegionWiseLoss(expression)(logits, target)" in str(caught.value)
