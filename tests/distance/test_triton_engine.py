"""Triton's engine where tests must be quick, and what it alone has: tiles, launches, memory."""

import sys

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import anatomy, batch
from interpreted import fast_calls, large_tiles, needs_triton
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from rwloss import Regions, distance
from rwloss.distance import scipy_engine


@pytest.fixture
def engine(device):
    needs_triton(device)
    from rwloss.distance import triton_engine

    return triton_engine


@pytest.fixture
def by_triton(engine, device):
    """Gives a function that measures by Triton on this device, NumPy in and out."""

    def measured(measure, labels, *args):
        with large_tiles(labels):
            return (
                measure(torch.as_tensor(labels, device=device), *args, engine="triton")
                .cpu()
                .numpy()
            )

    return measured


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 0.8, 2.5)], ids=str)
def test_every_small_volume(by_triton, spacing):
    """All ways to part 2 x 2 x 2 voxels into three labels, against all pairs of voxels."""
    labels = plain.every_partition((2, 2, 2), 3)
    found = by_triton(distance.squared_to_other_label_mm2, labels, [spacing] * len(labels))
    np.testing.assert_allclose(found, plain.squared_to_other_label(labels, spacing), rtol=2e-7)


def test_anatomy_with_a_spacing_for_each_image(by_triton):
    labels = np.concatenate([batch(1, (9, 12, 11), size=2), np.full((1, 9, 12, 11), 2)])
    spacings = [(1.0, 4.0, 2.0), (0.8, 0.3, 2.5), (1.5, 2.0, 3.0)]
    found = by_triton(distance.squared_to_other_label_mm2, labels.astype(np.int16), spacings)
    wanted = scipy_engine.squared_to_other_label_mm2(labels, spacings)
    np.testing.assert_array_equal(found[0], wanted[0])  # whole spacings: to the last bit
    np.testing.assert_allclose(found, wanted, rtol=5e-7)
    depth = by_triton(distance.depth_mm, labels, spacings)
    np.testing.assert_array_equal(depth[:2], np.sqrt(found[:2]))
    assert (depth[2] == 1.5).all()


def test_depth_on_a_single_line(by_triton):
    """One axis only, and one voxel only; the second image has one label."""
    line = np.array([[[0, 0, 0, 1, 1]], [[1] * 5]], dtype=np.uint8)
    found = by_triton(distance.depth_mm, line, [(9.0, 0.5), (9.0, 2.0)])
    np.testing.assert_array_equal(found, [[[1.5, 1.0, 0.5, 0.5, 1.0]], [[2.0] * 5]])
    found = by_triton(distance.depth_mm, line[..., :1], [(9.0, 0.5), (1.0, 2.0)])
    np.testing.assert_array_equal(found, [[[0.5]], [[1.0]]])


@pytest.mark.parametrize(
    ("shape", "tile"), [((37, 3), None), ((5, 37), (4, 64)), ((3, 11, 10), (4, 128))], ids=str
)
def test_several_tiles_per_line(engine, device, monkeypatch, shape, tile):
    """Runs that begin tiles away, searches that end within a tile, tiles at the end of a line."""
    from rwloss.distance import triton_lines

    if tile:
        monkeypatch.setattr(triton_lines, "TILE", tile)
    monkeypatch.setattr(triton_lines, "LINES", (2, 16))
    labels = np.zeros((3, *shape), dtype=np.uint8)
    labels[0, -1], labels[1], labels[2, ..., 0] = 1, anatomy(3, shape), 1
    spacings = [(2.0, 1.0, 3.0)[: len(shape)]] * 3
    with fast_calls():
        found = distance.squared_to_other_label_mm2(
            torch.as_tensor(labels, device=device), spacings, engine="triton"
        )
    wanted = scipy_engine.squared_to_other_label_mm2(labels, spacings)
    np.testing.assert_array_equal(found.cpu(), wanted)


# --- Signed distances


@pytest.fixture
def signed(engine, device):
    """Gives a function that compares the signed distances by Triton with SciPy's."""

    def check(labels, num_classes, spacings, *, rtol=1e-6, large=True):
        with large_tiles(labels) if large else fast_calls():
            given = torch.as_tensor(labels).to(device)
            found = distance.signed_distances_mm(given, num_classes, spacings, engine="triton")
        assert found.is_contiguous()
        found = found.cpu().numpy()
        wanted = distance.signed_distances_mm(
            np.asarray(labels), num_classes, spacings, engine="scipy"
        )
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=0)
        assert not np.signbit(found[found == 0]).any()

    return check


@pytest.mark.parametrize(("shape", "spacing"), [((2, 2), (1.0, 3.0)), ((4,), (0.7,))], ids=str)
def test_signed_distances_of_every_small_image(signed, shape, spacing):
    """All ways to part four voxels into three classes and what is none of them."""
    labels = plain.every_partition(shape, 4).astype(np.int16)
    for k in range(4):  # each of the four is the one to ignore in some of the images
        labels[k::4] = (labels[k::4] + k) % 4
    labels[labels == 3] = np.where(np.arange(np.sum(labels == 3)) % 2, -1, 255)
    signed(labels, 3, [spacing] * len(labels))


def test_signed_distances_of_all_classes_at_once(signed):
    """Ignored voxels, an absent class, one that fills an image, and two that share one."""
    labels = np.stack([anatomy(8, (13, 9), 4), anatomy(9, (13, 9), 2) * 3, np.full((13, 9), 2)])
    labels = labels.astype(np.int8)
    labels[0, :3] = -1
    signed(labels, 5, [(1.0, 1.0), (0.8, 2.5), (2.0, 1.0)])


def test_signed_distances_of_a_volume(signed):
    """To the last bit at whole spacings; the labels are not in the order of their memory."""
    labels = torch.as_tensor(batch(4, (11, 7, 8), size=2, dtype=np.int64)).permute(0, 3, 1, 2)
    assert not labels.is_contiguous()
    signed(labels[:1], 4, [(1.0, 4.0, 2.0)], rtol=0)
    signed(labels[1:], 4, [(0.8, 0.3, 2.5)])


@pytest.mark.parametrize("shape", [(13, 9), (5, 6, 7)], ids=str)
def test_signed_distances_that_are_less_inside(engine, device, shape):
    """To the last bit as torch computes it afterwards; no -0, and 0 at voxels of the edge."""
    labels = np.stack([anatomy(8, shape, 4), anatomy(9, shape, 2) * 3, np.full(shape, 2)])
    labels = torch.as_tensor(labels.astype(np.int8), device=device)
    labels[0, :3] = -1
    spacings = [(0.8, 2.5, 0.3)[: len(shape)], (1.1, 0.7, 0.9)[: len(shape)], (2.0,) * len(shape)]
    with large_tiles(labels):
        found, wanted = (
            distance.signed_distances_mm(labels, 5, spacings, less, engine="triton")
            for less in (True, False)
        )
    less = torch.tensor([min(row) for row in spacings], device=device)
    distance.lessen_inside(wanted, less.reshape(-1, *[1] * labels.ndim))
    assert torch.equal(found, wanted)
    assert bool((found[0, 0][labels[0] == 0] == 0).any())
    assert not bool(found[found == 0].signbit().any())


def test_signed_distances_to_what_is_small(signed):
    """One voxel in a corner, some in one slice, and thirteen classes that are not there."""
    labels = np.zeros((1, 6, 5, 9), dtype=np.uint8)
    labels[0, 5, 4, 8], labels[0, 2, 1:3, 3] = 15, 7
    signed(labels, 16, [(2.0, 1.0, 3.0)], rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 1), (5, 1, 4), (4, 7, 1)], ids=str)
def test_signed_distances_without_an_axis(signed, shape):
    """No distance runs along an axis of length 1, whatever its spacing."""
    labels = np.zeros((2, *shape), dtype=bool)
    labels[0].flat[2:5] = True
    signed(labels, 2, [(0.5, 3.0, 2.0)] * 2)


@pytest.mark.parametrize("shape", [(11, 37), (5, 6, 7)], ids=str)
def test_signed_distances_in_several_programs(signed, monkeypatch, shape):
    """Rows in several blocks, searches that end within a tile, uneven ends everywhere."""
    from rwloss.distance import triton_lines, triton_signed

    monkeypatch.setattr(triton_lines, "TILE", (4, 16))
    monkeypatch.setattr(triton_lines, "LINES", (2, 16))
    monkeypatch.setattr(triton_signed, "BLOCK", 128)
    labels = anatomy(2, shape, 3)[None]
    labels[0, ..., -1] = 2
    signed(labels, 3, [(2.0, 1.0, 3.0)[: len(shape)]], rtol=0, large=False)


def test_a_row_just_beyond_a_tile(signed, monkeypatch):
    """All voxels of the tile are within 3 mm of class 1 on their line; one is 2 mm from a row."""
    from rwloss.distance import triton_lines

    monkeypatch.setattr(triton_lines, "TILE", (4, 16))
    labels = np.zeros((2, 8, 3), dtype=np.uint8)
    labels[..., 1] = labels[0, 4, 0] = labels[1, 3, 2] = 1
    signed(labels, 2, [(2.0, 3.0)] * 2, rtol=0, large=False)


def test_few_voxels_far_apart(engine, device, signed, monkeypatch):
    """Most blocks of rows are left out, and none that counts: all distances are those of SciPy."""
    from rwloss.distance import triton_lines

    monkeypatch.setattr(triton_lines, "TILE", (16, 32))
    random = np.random.default_rng(0)
    labels = (random.random((2, 100, 10)) < 0.006) * random.integers(1, 3, (2, 100, 10))
    spacings = [(1.0, 3.0), (3.0, 1.0)]
    with fast_calls():
        found = distance.squared_to_other_label_mm2(
            torch.as_tensor(labels, device=device), spacings, engine="triton"
        )
    wanted = scipy_engine.squared_to_other_label_mm2(labels, spacings)
    np.testing.assert_array_equal(found.cpu(), wanted)
    signed(labels, 3, spacings, rtol=0, large=False)


# --- Launches and memory


class Counted(TorchDispatchMode):
    """Notes operations that start work on a device, and how many numbers they allocate."""

    def __init__(self):
        super().__init__()
        self.launched, self.numbers = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name in {"empty", "new_empty", "zeros", "new_zeros"}:
            self.numbers += made.numel()
        # `_to_copy`: the spacings go to a GPU.
        if not function.is_view and name not in {"empty", "new_empty", "lift_fresh", "_to_copy"}:
            self.launched.append(name)
        return made


@pytest.fixture
def counted(engine, monkeypatch):
    """Notes launches of kernels too, which do not run."""
    from rwloss.distance import triton_classes, triton_signed

    mode = Counted()
    for launches in (engine._steps, triton_signed._steps, triton_classes._launch_of):
        launches.cache_clear()  # on a GPU they may have their kernels, and no longer ask for them

    def launch(kernel, grid):
        return lambda *_, **__: mode.launched.append(kernel.__name__)

    monkeypatch.setattr(type(engine.along_lines), "__getitem__", launch, raising=False)
    monkeypatch.setattr("rwloss.distance.engine_name", lambda *_, **__: "triton")
    monkeypatch.setattr("rwloss.regions.kernels_for", lambda labels: triton_classes)
    return mode


def test_launches_of_depth_and_its_peaks(counted, device):
    """Seven in 3-D, whatever the numbers of classes and images, and a copy of the spacings."""
    labels = torch.as_tensor(batch(1, (4, 5, 3), num_classes=5), device=device)
    regions = Regions(labels, 5)
    with counted:
        _ = regions.peak_depth_mm
    distances = ["along_lines", *["along_lines", "across_lines"] * 2]
    assert counted.launched == [*distances, "new_zeros", "of_each_class"]


def test_launches_and_memory_of_signed_distances(counted, device):
    """One set for all classes, and two arrays of the size of the result with one class more."""
    labels = torch.as_tensor(batch(1, (4, 5, 3), num_classes=16), device=device)
    with counted:
        found = distance.signed_distances_mm(labels, 16, [(1.0, 1.0, 1.0)] * 3)
    passes = ["along_rows", "across_rows", "across_rows"]
    assert counted.launched == ["zeros", "find_boxes", *passes, "fill_inside"]
    assert found.shape == (3, 16, 4, 5, 3)
    assert counted.numbers == 2 * 3 * 17 * 4 * 5 * 3 + 3 * 17 * 6


# --- When it is chosen


def test_for_tensors_on_cuda_where_installed(monkeypatch):
    pytest.importorskip("triton")
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_cuda = torch.empty(2, device="cuda")
    assert distance.engine_name(like=on_cuda) == "triton"
    assert distance.engine_name("torch", on_cuda) == "torch"
    assert distance.engine_name(like=torch.empty(2, device="meta")) == "torch"
    assert distance.engine_name(like=torch.empty(2)) != "triton"
    monkeypatch.setitem(sys.modules, "triton", None)
    assert distance.engine_name(like=on_cuda) == "torch"
    with pytest.raises(ValueError, match="'triton' is not installed: a CUDA build of torch"):
        distance.engine_name("triton")
