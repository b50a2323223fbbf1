"""Both engines against all pairs of voxels, and against plain SciPy."""

from importlib import import_module

import numpy as np
import plain_formulas as plain
import pytest
import torch
from anatomy import anatomy, batch

from rwloss import distance
from rwloss.data import read_labels, sample_dir
from rwloss.distance import dispatch

WHOLE = [(1, 1), (2, 3), (5, 1)]
FRACTIONS = [(0.8, 2.5), (0.3, 0.3), (1.7, 0.123)]
RELATIVE = 1e-6


@pytest.fixture(params=[*distance.ENGINES, pytest.param("cuda", marks=pytest.mark.gpu)])
def engine(request):
    """Each engine, and torch's on a GPU as "cuda"."""
    if request.param == "edt":
        pytest.importorskip("edt")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture(autouse=True)
def threads():
    """One thread: starting more costs longer than a small image takes."""
    distance.set_num_threads(1)
    yield distance.set_num_threads
    distance.set_num_threads(None)


def measured(measure, labels, *args, engine):
    """By this engine. NumPy in and out, or torch on the CPU."""
    if engine != "cuda":
        return measure(labels, *args, engine=engine)
    if isinstance(labels, torch.Tensor):
        return measure(labels.cuda(), *args).cpu()
    wide = labels.dtype.str[1:] in {"u2", "u4", "u8"}  # torch compares few unsigned types there
    given = np.array(labels, dtype=np.int64 if wide else None, order="C")
    return measure(torch.as_tensor(given, device="cuda"), *args).cpu().numpy()


def squared(labels, spacing, engine):
    spacings = [tuple(spacing)] * len(labels)
    return measured(distance.squared_to_other_label_mm2, labels, spacings, engine=engine)


def assert_distances_equal(squared_found, squared_wanted):
    """1e-6 relative, on distances; infinite in the same places."""
    np.testing.assert_allclose(
        np.sqrt(squared_found.astype(np.float64)), np.sqrt(squared_wanted), rtol=RELATIVE, atol=0
    )


# --- Every small input


@pytest.mark.parametrize("shape", [*plain.shapes_up_to((3, 2)), (2, 3), (1, 3)], ids=str)
def test_every_label_map_of_three_classes(engine, shape):
    labels = plain.every_label_map(shape, 3)
    found = squared(labels, (1, 1), engine)
    np.testing.assert_array_equal(found, plain.squared_to_other_label(labels, (1, 1)))


@pytest.mark.parametrize("spacing", [*WHOLE, *FRACTIONS], ids=str)
def test_every_partition(engine, spacing):
    """Exact at whole spacings."""
    labels = plain.every_partition((3, 3), 3)
    equal = np.testing.assert_array_equal if spacing in WHOLE else assert_distances_equal
    equal(squared(labels, spacing, engine), plain.squared_to_other_label(labels, spacing))


@pytest.mark.parametrize("shape", plain.shapes_up_to((2, 2, 2)), ids=str)
def test_every_small_volume(engine, shape):
    labels = plain.every_partition(shape, 3)
    for spacing in [(1, 1, 1), (2, 1, 3)]:
        found = squared(labels, spacing, engine)
        np.testing.assert_array_equal(found, plain.squared_to_other_label(labels, spacing))
    found = squared(labels, (0.8, 0.8, 2.5), engine)
    assert_distances_equal(found, plain.squared_to_other_label(labels, (0.8, 0.8, 2.5)))


@pytest.mark.parametrize("shape", [*plain.shapes_up_to((4, 3)), (3, 4), (2, 4), (1, 4)], ids=str)
def test_every_mask(engine, shape):
    masks = plain.every_label_map(shape, 2)
    found = squared(masks, (1, 1), engine)
    np.testing.assert_array_equal(found, plain.squared_to_other_label(masks, (1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(1, 1), (3, 2)], ids=str)
def test_every_mask_of_4x4(engine, spacing):
    masks = plain.every_label_map((4, 4), 2)
    found = squared(masks, spacing, engine)
    np.testing.assert_array_equal(found, plain.squared_to_other_label(masks, spacing))


# --- Anatomy

SIZES = [(13, 29), (31, 17), (9, 12, 11), (6, 21, 7)]
SPACINGS = {
    2: [(1, 1), (3, 2), (0.5, 0.5), (0.7, 0.7), (0.8, 2.5), (2.5, 0.8)],
    3: [(1, 1, 1), (1, 4, 2), (0.7, 0.7, 0.7), (0.8, 0.8, 2.5), (2.5, 0.8, 0.8), (0.3, 1.1, 0.9)],
}
ANATOMY = [(shape, spacing) for shape in SIZES for spacing in SPACINGS[len(shape)]]


@pytest.mark.parametrize(("shape", "spacing"), ANATOMY, ids=str)
def test_anatomy_against_all_pairs(engine, shape, spacing):
    labels = batch(1, shape)
    found = squared(labels, spacing, engine)
    wanted = np.concatenate([plain.squared_to_other_label(one[None], spacing) for one in labels])
    if all(float(s).is_integer() for s in spacing):
        np.testing.assert_array_equal(found, wanted)
    else:
        assert_distances_equal(found, wanted)


LARGE = [((120, 97), (1, 1)), ((120, 97), (0.8, 2.5)), ((40, 51, 36), (0.8, 0.8, 2.5))]


@pytest.mark.parametrize(("shape", "spacing"), LARGE, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_anatomy_against_scipy(engine, shape, spacing, seed):
    labels = anatomy(seed, shape, 5)
    found = squared(labels[None], spacing, engine)[0]
    assert_distances_equal(found, plain.depth(labels, spacing) ** 2)


@pytest.mark.parametrize("spacing", [(0.3, 0.3), (1.0, 0.3), (0.3, 1.0), (0.7, 0.35)], ids=str)
@pytest.mark.parametrize("shape", [(3, 1500), (1500, 3)], ids=str)
def test_long_rows_do_not_add_rounding_up(engine, shape, spacing):
    """An engine that adds the spacing up voxel by voxel in float32 is off by 1e-5 here."""
    labels = np.zeros((1, *shape), dtype=np.uint8)
    labels.flat[:2] = 1
    found = squared(labels, spacing, engine)[0]
    assert_distances_equal(found, plain.depth(labels[0], spacing) ** 2)


@pytest.mark.parametrize(("shape", "spacing"), ANATOMY, ids=str)
def test_both_minima_of_torch_are_the_same(shape, spacing):
    """A GPU takes the one over all pairs."""
    engine = import_module("rwloss.distance.torch_engine")
    labels, spacings = torch.as_tensor(batch(1, shape)), [spacing] * 3
    pairs, offsets = (
        engine.squared_to_other_label_mm2(labels, spacings, all_pairs=all_pairs)
        for all_pairs in (True, False)
    )
    torch.testing.assert_close(pairs, offsets, rtol=1e-6, atol=0)


def test_half_space(engine):
    """Voxel i of 0..n-1 lies i + 1 voxels from the other half; exact far out at whole spacing."""
    labels = np.zeros((1, 2000, 3), dtype=np.uint8)
    labels[:, 1000:] = 1
    away = np.concatenate([np.arange(1000, 0, -1), np.arange(1, 1001)])
    found = squared(labels, (4, 1), engine)
    np.testing.assert_array_equal(found[0], (16.0 * away**2)[:, None] * np.ones(3))


def test_single_voxel_sees_all_others(engine):
    """Every voxel's other label is the one at the centre; its own is a neighbour."""
    labels = np.zeros((1, 9, 7, 5), dtype=np.uint8)
    labels[0, 4, 3, 2] = 1
    x, y, z = np.indices((9, 7, 5))
    wanted = (2 * (x - 4)) ** 2 + (3 * (y - 3)) ** 2 + (5 * (z - 2)) ** 2
    wanted[4, 3, 2] = 4
    np.testing.assert_array_equal(squared(labels, (2, 3, 5), engine)[0], wanted)


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
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((13, 29), (2.5, 0.8)), ((9, 12, 11), (0.8, 1.3, 2.5)), ((9, 12, 11), (1.0, 3.0, 2.0))],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2])
def test_memory_layout_changes_nothing(engine, layout, shape, spacing, count):
    """No byte, but for edt's last bit: it works on volumes as they lie in memory."""
    labels = batch(2, shape)[:count]
    view = LAYOUTS[layout](labels)
    np.testing.assert_array_equal(view, labels)
    assert not view[0].flags.c_contiguous
    found, expected = squared(view, spacing, engine), squared(labels, spacing, engine)
    if engine == "edt" and not all(float(length).is_integer() for length in spacing):
        np.testing.assert_allclose(found, expected, rtol=3e-7)
    else:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_type_of_labels_changes_no_byte(engine, dtype):
    labels = batch(3, (13, 29))
    found = squared(labels.astype(dtype), (0.8, 2.5), engine)
    assert found.dtype == np.float32
    assert found.tobytes() == squared(labels, (0.8, 2.5), engine).tobytes()


@pytest.mark.parametrize(
    ("dtype", "top"), [("u1", 255), ("i1", 127), ("u2", 65535), ("i2", 32767), ("i4", 70000)]
)
def test_largest_label_does_not_wrap_around(engine, dtype, top):
    labels = np.zeros((1, 4, 5), dtype=dtype)
    labels[0, 1:3, 2:] = top
    labels[0, 3, 0] = top - 1
    found = squared(labels, (1, 1), engine)
    np.testing.assert_array_equal(found, plain.squared_to_other_label(labels, (1, 1)))


def test_image_filled_by_the_largest_label(engine):
    labels = np.full((1, 3, 3), 255, dtype=np.uint8)
    assert np.isposinf(squared(labels, (1, 1), engine)).all()


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.8, 0.8, 2.5)], ids=str)
def test_threads_change_no_byte(engine, spacing, threads):
    labels = anatomy(4, (40, 51, 36))[None]
    alone = squared(labels, spacing, engine)
    threads(2)
    assert squared(labels, spacing, engine).tobytes() == alone.tobytes()


def test_input_stays_as_it_is(engine):
    labels = batch(5, (13, 29))
    before = labels.copy()
    labels.flags.writeable = False
    squared(labels, (1, 1), engine)
    np.testing.assert_array_equal(labels, before)


def test_each_image_has_its_spacing(engine):
    labels = batch(6, (13, 29), size=2)
    found = measured(
        distance.squared_to_other_label_mm2, labels, [(1.0, 1.0), (2.0, 3.0)], engine=engine
    )
    np.testing.assert_array_equal(found[:1], squared(labels[:1], (1, 1), engine))
    np.testing.assert_array_equal(found[1:], squared(labels[1:], (2, 3), engine))


def test_no_image(engine):
    assert squared(np.zeros((0, 4, 5), dtype=np.uint8), (1, 1), engine).shape == (0, 4, 5)


# --- Signed distances and distances to a mask


@pytest.mark.parametrize("spacing", [(1, 1), (0.8, 2.5)], ids=str)
def test_signed_distance_of_every_mask(engine, spacing):
    masks = plain.every_label_map((3, 3), 2).astype(bool)
    spacings = [spacing] * len(masks)
    signed = np.stack([plain.signed_distance(mask, spacing) for mask in masks])
    found = measured(distance.signed_distance_mm, masks, spacings, engine=engine)
    np.testing.assert_allclose(found, signed, rtol=RELATIVE, atol=0)
    found = measured(distance.distance_to_mm, masks, spacings, engine=engine)
    np.testing.assert_allclose(found, np.maximum(signed, 0), rtol=RELATIVE, atol=0)
    assert not np.signbit(found).any()


@pytest.mark.parametrize(("shape", "spacing"), LARGE, ids=str)
def test_signed_distance_of_anatomy(engine, shape, spacing):
    mask = anatomy(7, shape, 2).astype(bool)
    found = measured(distance.signed_distance_mm, mask[None], [spacing], engine=engine)[0]
    np.testing.assert_allclose(found, plain.signed_distance(mask, spacing), rtol=RELATIVE, atol=0)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_signed_distances_of_every_label_map(engine, kind):
    """Two classes and one that is ignored: where any two share the image, one edge serves both."""
    labels = plain.every_label_map((2, 3), 3).astype(np.int8) - 1
    spacings = [(0.8, 2.5)] * len(labels)
    found = measured(distance.signed_distances_mm, kind(labels), 2, spacings, engine=engine)
    assert found.dtype == kind(np.float32(0)).dtype
    assert tuple(found.shape) == (len(labels), 2, 2, 3)
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
    edt_engine = pytest.importorskip("rwloss.distance.edt_engine")
    seen = []
    one_image = edt_engine._of_image
    monkeypatch.setattr(
        edt_engine, "_of_image", lambda *given: seen.append(given) or one_image(*given)
    )
    labels = np.zeros((3, 8, 9), dtype=np.uint8)
    labels[1, 2:5, 3:6] = 1
    labels[2, 2:5, 3:6], labels[2, 6:, :2] = 1, 2
    distance.signed_distances_mm(labels, 4, [(1.0, 1.0)] * 3, engine="edt")
    assert len(seen) == 0 + 1 + 3


# --- Real labels

SAMPLES = [
    path
    for name in ("hippocampus", "lung_patches")
    for folder in ("labelsTr", "labelsTs")
    for path in sorted((sample_dir(name) / folder).glob("*"))
]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_sample(engine, path):
    labels = read_labels(path).labels
    for spacing in [(1, 1, 1)[: labels.ndim], (2.5, 0.8, 0.8)[: labels.ndim]]:
        found = squared(labels[None], spacing, engine)[0]
        if labels.min() == labels.max():
            assert np.isposinf(found).all()
        elif spacing[0] == 1:
            np.testing.assert_array_equal(found, np.rint(plain.depth(labels, spacing) ** 2))
        else:
            assert_distances_equal(found, plain.depth(labels, spacing) ** 2)


SHARED = [
    ("hippocampus", "labelsTr/*", 3, (0.8, 0.8, 2.5)),
    ("lung_patches", "labelsTr/*", 20, (2, 2)),
    ("hrf_vessels", "labelsTr/*", 1, (0.8, 2.5)),
    pytest.param("ms_lesions", "labels_only/*", 2, (0.8, 0.8, 2.5), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "pattern", "cases", "spacing"), SHARED)
def test_shared_data(engine, shared_data, name, pattern, cases, spacing):
    paths = sorted(path for path in shared_data(name).glob(pattern) if path.is_file())
    assert len(paths) >= cases
    for path in paths[:: len(paths) // cases][:cases]:
        labels = read_labels(path).labels
        found = squared(labels[None], spacing, engine)[0]
        if labels.min() == labels.max():
            assert np.isposinf(found).all()
        else:
            assert_distances_equal(found, plain.depth(labels, spacing) ** 2)


# --- Which engine


def test_edt_where_installed_else_scipy(monkeypatch):
    monkeypatch.setattr(dispatch, "_edt_installed", lambda: True)
    assert distance.engine_name() == "edt"
    monkeypatch.setattr(dispatch, "_edt_installed", lambda: False)
    assert distance.engine_name() == "scipy"


def test_engine_that_is_asked_for():
    assert distance.engine_name("scipy") == "scipy"


def test_unknown_engine():
    with pytest.raises(ValueError, match=r"unknown distance engine 'cuda'.*'edt', 'scipy'"):
        distance.engine_name("cuda")


def test_engine_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(dispatch, "_edt_installed", lambda: False)
    with pytest.raises(ValueError, match=r"'edt' is not installed: pip install 'rwloss\[fast\]'"):
        distance.engine_name("edt")
