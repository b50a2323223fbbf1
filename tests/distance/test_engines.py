"""Every engine against all pairs of voxels and plain SciPy; which engine and how many threads."""

import multiprocessing
import os
import sys
from functools import cache
from importlib import import_module

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import anatomy, batch
from interpreted import large_tiles, needs_triton
from torch.utils._python_dispatch import TorchDispatchMode

from rwloss import distance
from rwloss.data import read_labels, sample_dir

RELATIVE = 1e-6


ON_THE_CPU = [
    pytest.param(name, marks=pytest.mark.slow if name == "triton" else ())
    for name in distance.ENGINES
]
ON_CUDA = [pytest.param(f"{name} on cuda", marks=pytest.mark.gpu) for name in ("torch", "triton")]


@pytest.fixture(params=[*ON_THE_CPU, *ON_CUDA])
def engine(request):
    """Each engine by name, and those that run on a GPU there.

    On the CPU Triton's slow interpreter runs its own: test_triton_engine.py is the quick part.
    """
    name, _, on_cuda = request.param.partition(" on ")
    if name == "edt":
        pytest.importorskip("edt")
    if name == "triton":
        needs_triton("cuda" if on_cuda else "cpu")
    if on_cuda and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(autouse=True)
def one_thread():
    """Starting more costs longer than a small image takes."""
    distance.set_num_threads(1)
    yield
    distance.set_num_threads(None)


def measured(measure, labels, *args, engine):
    """By this engine. NumPy in and out, or torch on the CPU."""
    name, _, on_cuda = engine.partition(" on ")
    if not on_cuda and name != "triton":
        return measure(labels, *args, engine=name)
    device = "cuda" if on_cuda else "cpu"
    with large_tiles(labels):
        if isinstance(labels, torch.Tensor):
            return measure(labels.to(device), *args, engine=name).cpu()
        wide = labels.dtype.str[1:] in {"u2", "u4", "u8"}  # torch compares few unsigned types there
        given = np.array(labels, dtype=np.int64 if wide else None, order="C")
        return measure(torch.as_tensor(given, device=device), *args, engine=name).cpu().numpy()


def squared(labels, spacing, engine):
    spacings = [tuple(spacing)] * len(labels)
    return measured(distance.squared_to_other_label_mm2, labels, spacings, engine=engine)


def assert_squared(labels, spacing, engine, wanted=None):
    """Exact at whole spacings; else 1e-6 relative, on distances. By default against all pairs."""
    found = squared(labels, spacing, engine)
    wanted = plain.squared_to_other_label(labels, spacing) if wanted is None else wanted
    said = f"{labels.shape} at {spacing}"
    if all(float(mm).is_integer() for mm in spacing):
        np.testing.assert_array_equal(found, np.rint(wanted), err_msg=said)
    else:
        roots = np.sqrt(found.astype(np.float64)), np.sqrt(wanted)
        np.testing.assert_allclose(*roots, rtol=RELATIVE, atol=0, err_msg=said)


# --- Every small input


def test_every_label_map_of_three_classes(engine):
    for shape in [*plain.shapes_up_to((3, 2)), (2, 3), (1, 3)]:
        assert_squared(plain.every_label_map(shape, 3), (1, 1), engine)


@cache
def every_partition(spacing):
    """Each label map of 3 x 3 voxels but for the numbers of its classes, and what is wanted."""
    labels = plain.every_partition((3, 3), 3)
    return labels, plain.squared_to_other_label(labels, spacing)


def test_every_partition(engine):
    for spacing in [(2, 3), (0.8, 2.5), (1.7, 0.123)]:
        labels, wanted = every_partition(spacing)
        assert_squared(labels, spacing, engine, wanted)


def test_every_small_volume(engine):
    for shape in plain.shapes_up_to((2, 2, 2)):
        for spacing in [(1, 1, 1), (2, 1, 3), (0.8, 0.8, 2.5)]:
            assert_squared(plain.every_partition(shape, 3), spacing, engine)


def test_every_mask(engine):
    for shape in [*plain.shapes_up_to((4, 3)), (3, 4), (2, 4), (1, 4)]:
        assert_squared(plain.every_label_map(shape, 2), (1, 1), engine)


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(1, 1), (3, 2)], ids=str)
def test_every_mask_of_4x4(engine, spacing):
    assert_squared(plain.every_label_map((4, 4), 2), spacing, engine)


# --- Anatomy

SIZES = [(13, 29), (31, 17), (9, 12, 11), (6, 21, 7)]
SPACINGS = {
    2: [(1, 1), (3, 2), (0.5, 0.5), (0.7, 0.7), (0.8, 2.5), (2.5, 0.8)],
    3: [(1, 1, 1), (1, 4, 2), (0.7, 0.7, 0.7), (0.8, 0.8, 2.5), (2.5, 0.8, 0.8), (0.3, 1.1, 0.9)],
}
LARGE = [((120, 97), (1, 1)), ((120, 97), (0.8, 2.5)), ((40, 51, 36), (0.8, 0.8, 2.5))]


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_anatomy_against_all_pairs(engine, shape):
    labels = batch(1, shape)
    for spacing in SPACINGS[len(shape)]:
        wanted = [plain.squared_to_other_label(one[None], spacing) for one in labels]
        assert_squared(labels, spacing, engine, np.concatenate(wanted))


def test_anatomy_against_scipy(engine):
    for seed, (shape, spacing) in enumerate(LARGE):
        labels = anatomy(seed, shape, 5)
        assert_squared(labels[None], spacing, engine, plain.depth(labels, spacing)[None] ** 2)


def test_long_rows_do_not_add_rounding_up(engine):
    """An engine that adds the spacing up voxel by voxel in float32 is off by 1e-5 here."""
    long = 150 if engine == "triton" else 1500  # its interpreter would take minutes
    for shape in [(3, long), (long, 3)]:
        labels = np.zeros((1, *shape), dtype=np.uint8)
        labels.flat[:2] = 1
        for spacing in [(0.3, 0.3), (1.0, 0.3), (0.3, 1.0), (0.7, 0.35)]:
            assert_squared(labels, spacing, engine, plain.depth(labels[0], spacing)[None] ** 2)


def of_pairs(labels, spacing, *, all_pairs=True):
    engine = import_module("rwloss.distance.torch_engine")
    spacings = [spacing] * len(labels)
    return engine.squared_to_other_label_mm2(torch.as_tensor(labels), spacings, all_pairs=all_pairs)


def test_both_minima_of_torch_are_the_same():
    """A GPU takes the one over all pairs."""
    for shape in SIZES:
        for spacing in SPACINGS[len(shape)][1::3]:
            labels = batch(1, shape)
            pairs, offsets = (of_pairs(labels, spacing, all_pairs=each) for each in (True, False))
            torch.testing.assert_close(pairs, offsets, rtol=1e-6, atol=0)


class Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor of any operation holds."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.numel = max(self.numel, made.numel())
        return made


def test_tables_of_pairs_are_bounded():
    """4 x 16384 took 4.4 GB for a table of 16384 x 16384; along a short axis all lines count."""
    labels = np.zeros((1, 1, 4200), dtype=np.uint8)
    labels[0, :, 5:] = 1
    with Largest() as largest:
        found = of_pairs(labels, (3.0, 1.0))
    assert found[0, 0, -1] == (4199 - 4) ** 2
    with Largest() as with_lines:
        of_pairs(np.indices((440, 200)).sum(axis=0)[None] % 7, (1.0, 1.0))
    assert max(largest.numel, with_lines.numel) <= 2**24


def test_half_space(engine):
    """Voxel i of 0..n-1 lies i + 1 voxels from the other half; exact far out at whole spacing."""
    labels = np.zeros((1, 2000, 3), dtype=np.uint8)
    labels[:, 1000:] = 1
    away = np.concatenate([np.arange(1000, 0, -1), np.arange(1, 1001)])
    assert_squared(labels, (4, 1), engine, (16.0 * away**2)[None, :, None] * np.ones(3))


def test_single_voxel_sees_all_others(engine):
    """Every voxel's other label is the one at the centre; its own is a neighbor."""
    labels = np.zeros((1, 9, 7, 5), dtype=np.uint8)
    labels[0, 4, 3, 2] = 1
    x, y, z = np.indices((9, 7, 5))
    wanted = (2 * (x - 4)) ** 2 + (3 * (y - 3)) ** 2 + (5 * (z - 2)) ** 2
    wanted[4, 3, 2] = 4
    assert_squared(labels, (2, 3, 5), engine, wanted[None])


def test_an_axis_of_length_one_does_not_count(engine):
    """Whatever its spacing: no distance runs along it, and a class that fills the image ..."""
    labels = anatomy(3, (13, 29))[None]
    wanted = squared(labels, (1.5, 2.5), engine)
    for axis in (1, 2, 3):
        for thin in (1e-9, 0.3, 1.0, 40.0):
            spacing = [1.5, 2.5]
            spacing.insert(axis - 1, thin)
            found = squared(np.expand_dims(labels, axis), spacing, engine)
            np.testing.assert_allclose(found.squeeze(axis), wanted, rtol=1e-6)
            full = np.expand_dims(np.ones_like(labels), axis)
            depth = measured(distance.depth_mm, full, [tuple(spacing)], engine=engine)
            assert (depth == 1.5).all()  # ... has the smallest spacing of the other axes


# --- Layout, type, threads

LAYOUTS = {
    "fortran": np.asfortranarray,
    "every second voxel": lambda a: np.repeat(np.repeat(a, 2, axis=1), 2, axis=2)[:, ::2, ::2],
    "reversed": lambda a: np.ascontiguousarray(a[:, ::-1, ::-1])[:, ::-1, ::-1],
    "axes moved": lambda a: np.ascontiguousarray(np.moveaxis(a, 1, -1)).transpose(
        0, a.ndim - 1, *range(1, a.ndim - 1)
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_changes_nothing(engine, layout):
    """No byte, but for edt's last bit: it works on volumes as they lie in memory."""
    for spacing in [(2.5, 0.8), (0.8, 1.3, 2.5), (1.0, 3.0, 2.0)]:
        for count in (1, 2):
            labels = batch(2, {2: (13, 29), 3: (9, 12, 11)}[len(spacing)])[:count]
            view = LAYOUTS[layout](labels)
            np.testing.assert_array_equal(view, labels)
            assert not view[0].flags.c_contiguous
            found, expected = squared(view, spacing, engine), squared(labels, spacing, engine)
            exact = engine != "edt" or all(float(length).is_integer() for length in spacing)
            np.testing.assert_allclose(found, expected, rtol=0 if exact else 3e-7)


def test_type_of_labels_changes_no_byte(engine):
    labels = batch(3, (13, 29))
    wanted = squared(labels, (0.8, 2.5), engine)
    for dtype in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]:
        found = squared(labels.astype(dtype), (0.8, 2.5), engine)
        assert found.dtype == np.float32
        assert found.tobytes() == wanted.tobytes(), dtype


def test_largest_label_does_not_wrap_around(engine):
    for dtype, top in [("u1", 255), ("i1", 127), ("u2", 65535), ("i2", 32767), ("i4", 70000)]:
        labels = np.zeros((1, 4, 5), dtype=dtype)
        labels[0, 1:3, 2:] = top
        labels[0, 3, 0] = top - 1
        assert_squared(labels, (1, 1), engine)
    assert np.isposinf(squared(np.full((1, 3, 3), 255, dtype=np.uint8), (1, 1), engine)).all()


def test_threads_change_no_byte(engine):
    labels = anatomy(4, (40, 51, 36))[None]
    for spacing in [(1, 1, 1), (0.8, 0.8, 2.5)]:
        found = set()
        for threads in (1, 2):
            distance.set_num_threads(threads)
            found.add(squared(labels, spacing, engine).tobytes())
        assert len(found) == 1


def test_each_image_has_its_spacing(engine):
    labels = batch(6, (13, 29), size=2)
    spacings = [(1.0, 1.0), (2.0, 3.0)]
    found = measured(distance.squared_to_other_label_mm2, labels, spacings, engine=engine)
    for i, spacing in enumerate(spacings):
        np.testing.assert_array_equal(found[i], squared(labels[i : i + 1], spacing, engine)[0])


def test_no_image(engine):
    for measure in (distance.squared_to_other_label_mm2, distance.depth_mm):
        for shape, spacings in [((0, 4, 5), []), ((2, 0, 5), [(1.0, 1.0)] * 2)]:
            empty = np.zeros(shape, dtype=np.uint8)
            assert measured(measure, empty, spacings, engine=engine).shape == shape


# --- Signed distances and distances to a mask


def test_signed_distance_of_every_mask(engine):
    masks = plain.every_label_map((3, 3), 2).astype(bool)
    for spacing in [(1, 1), (0.8, 2.5)]:
        spacings = [spacing] * len(masks)
        signed = np.stack([plain.signed_distance(mask, spacing) for mask in masks])
        found = measured(distance.signed_distance_mm, masks, spacings, engine=engine)
        np.testing.assert_allclose(found, signed, rtol=RELATIVE, atol=0)
        found = measured(distance.distance_to_mm, masks, spacings, engine=engine)
        np.testing.assert_allclose(found, np.maximum(signed, 0), rtol=RELATIVE, atol=0)
        assert not np.signbit(found).any()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_signed_distances_of_every_label_map(engine, kind):
    """Two classes and one that is ignored: where any two share the image, one edge serves both."""
    labels = plain.every_label_map((2, 2), 3).astype(np.int8) - 1
    spacings = [(0.8, 2.5)] * len(labels)
    found = measured(distance.signed_distances_mm, kind(labels), 2, spacings, engine=engine)
    assert found.dtype == kind(np.float32(0)).dtype
    assert tuple(found.shape) == (len(labels), 2, 2, 2)
    for k in range(2):
        alone = measured(distance.signed_distance_mm, kind(labels == k), spacings, engine=engine)
        np.testing.assert_array_equal(found[:, k], alone)
    assert not np.signbit(np.asarray(found)[np.asarray(found) == 0]).any()


def test_signed_distances_of_anatomy(engine):
    """Among four classes: images with all of them, with two, and with one."""
    labels = np.stack([anatomy(8, (40, 31), 4), anatomy(9, (40, 31), 2) * 3, np.full((40, 31), 2)])
    spacings = [(1.0, 1.0), (0.8, 2.5), (2.0, 1.0)]
    found = measured(distance.signed_distances_mm, labels, 4, spacings, engine=engine)
    for one, spacing, of_class in zip(labels, spacings, found, strict=True):
        wanted = np.stack([plain.signed_distance(one == k, spacing) for k in range(4)])
        np.testing.assert_allclose(of_class, wanted, rtol=RELATIVE, atol=0)


def test_what_is_known_is_not_computed_again(monkeypatch):
    """An absent class, one that fills the image, and the second of two that share it out."""
    edt, seen = pytest.importorskip("edt"), []
    transform = edt.edtsq
    monkeypatch.setattr(edt, "edtsq", lambda *a, **b: seen.append(1) or transform(*a, **b))
    labels = np.zeros((3, 8, 9), dtype=np.uint8)
    labels[1, 2:5, 3:6] = 1
    labels[2, 2:5, 3:6], labels[2, 6:, :2] = 1, 2
    distance.signed_distances_mm(labels, 4, [(1.0, 1.0)] * 3, engine="edt")
    assert len(seen) == 0 + 1 + 3


# --- Real labels

SHARED = [
    ("hrf_vessels", "labelsTr/*", 1, (0.8, 2.5)),
    pytest.param("ms_lesions", "labels_only/*", 2, (0.8, 0.8, 2.5), marks=pytest.mark.slow),
]


def assert_squared_of_file(path, spacings, engine):
    labels = read_labels(path).labels
    for spacing in spacings:
        if labels.min() == labels.max():
            assert np.isposinf(squared(labels[None], spacing, engine)).all()
        else:
            assert_squared(labels[None], spacing, engine, plain.depth(labels, spacing)[None] ** 2)


def test_sample(engine):
    for name, spacing in [("hippocampus", (2.5, 0.8, 0.8)), ("lung_patches", (2.5, 0.8))]:
        paths = sorted((sample_dir(name) / "labelsTr").glob("*"))[::6]
        assert len(paths) >= 2
        for path in paths:
            assert_squared_of_file(path, [(1,) * len(spacing), spacing], engine)


@pytest.mark.parametrize(("name", "pattern", "cases", "spacing"), SHARED)
def test_shared_data(engine, shared_data, name, pattern, cases, spacing):
    paths = sorted(path for path in shared_data(name).glob(pattern) if path.is_file())
    assert len(paths) >= cases
    for path in paths[:: len(paths) // cases][:cases]:
        assert_squared_of_file(path, [spacing], engine)


# --- Which engine


def test_edt_where_installed_else_scipy(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown distance engine 'cuda'.*'edt', 'scipy'"):
        distance.engine_name("cuda")
    pytest.importorskip("edt")
    assert distance.engine_name() == "edt"
    assert distance.engine_name("scipy") == "scipy"
    monkeypatch.setitem(sys.modules, "edt", None)
    assert distance.engine_name() == "scipy"
    with pytest.raises(ValueError, match=r"'edt' is not installed: pip install 'rwloss\[fast\]'"):
        distance.engine_name("edt")


# --- How many threads


@pytest.fixture
def no_setting(monkeypatch):
    monkeypatch.delenv("RWLOSS_NUM_THREADS", raising=False)
    distance.set_num_threads(None)


@pytest.mark.usefixtures("no_setting")
def test_number_of_threads(monkeypatch):
    """All cores of this process, else what the environment says, else what was set."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert distance.num_threads() == cores
    monkeypatch.setenv("RWLOSS_NUM_THREADS", "")
    assert distance.num_threads() == cores
    monkeypatch.setenv("RWLOSS_NUM_THREADS", " 3 ")
    assert distance.num_threads() == 3
    distance.set_num_threads(5)
    assert distance.num_threads() == 5
    distance.set_num_threads(None)
    assert distance.num_threads() == 3


@pytest.mark.usefixtures("no_setting")
def test_wrong_number_of_threads(monkeypatch):
    for text in ["0", "-1", "two", "1.5", "²"]:
        monkeypatch.setenv("RWLOSS_NUM_THREADS", text)
        with pytest.raises(ValueError, match="NUM_THREADS to be a whole number of 1 or more"):
            distance.num_threads()
    for count in [0, -2, 1.5, True]:
        with pytest.raises(ValueError, match="expected a number of threads of 1 or more"):
            distance.set_num_threads(count)


@pytest.mark.usefixtures("no_setting")
def test_threads_inside_a_worker_process(monkeypatch):
    """One, because the pool already uses the cores, unless the environment says otherwise."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(distance.num_threads) == 1
    monkeypatch.setenv("RWLOSS_NUM_THREADS", "2")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(distance.num_threads) == 2
